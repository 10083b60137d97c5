"""Conditions without an engine of expressions, and the words by which a flow runs on null, stops and counts."""

from __future__ import annotations

import pytest

from core_runtime.rules.flow.conditions import compile_condition
from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.flow.values import ValueProblem, walk
from tests.support.flows import Fails, Playbook, Takes

VARIABLES = {"n": 5, "text": "5", "yes": True, "nothing": None, "deep": {"list": [1, 2]}, "evil": "${n} == 5"}
ECHO = {"echo": lambda args: args, "boom": lambda _args: (_ for _ in ()).throw(Fails("acme/broken"))}


def holds(condition) -> bool:
    return bool(compile_condition(condition).get(lambda path: walk(VARIABLES, path)))


@pytest.mark.parametrize(
    ("left", "operator", "right", "expected"),
    [
        ("${n}", "==", 5, True),
        ("${n}", "==", 5.0, True),
        ("${text}", "==", 5, False),
        ("${text}", "==", "5", True),
        ("${yes}", "==", 1, False),
        ("${yes}", "==", True, True),
        ("${gone}", "==", None, True),
        ("${gone}", "!=", None, False),
        ("${n}", "!=", 6, True),
        ("${n}", ">", 4, True),
        ("${n}", "<=", "5", False),
        ("${n}", ">=", "5", False),
        ("${text}", ">=", "5", True),
        ("${yes}", ">", 0, False),
        ("${gone}", "<", 1, False),
        ("${deep.list.1}", "<", 3, True),
        ("${deep.list}", "==", [1, 2], True),
        ("${deep.list}", "<", [3], False),
        ("${evil}", "==", "${n} == 5", False),
        ("n is ${n}", "==", "n is 5", True),
    ],
)
def test_a_comparison_holds_or_not_and_never_fails(left, operator, right, expected):
    assert holds({"compare": [left, operator, right]}) is expected
    assert holds({"not": {"compare": [left, operator, right]}}) is not expected


@pytest.mark.parametrize(
    "condition",
    [
        {"compare": ["${n}", "=", 5]},
        {"compare": ["${n}", 5, 5]},
        {"compare": ["${n}", "=="]},
        {"compare": "${n} == 5"},
        {"compare": [1, "==", 1]},
        {"compare": ["${n}", "==", 5], "not": True},
        {"not": "text"},
        {"equal": 1},
        {},
        "text",
    ],
)
def test_what_decides_nothing_is_no_condition(condition):
    with pytest.raises(ValueProblem):
        compile_condition(condition)


def test_a_map_of_parts_stays_one_where_parts_are_asked_for():
    assert compile_condition({"id": 7}, parts=True).get(lambda _path: None) == {"id": 7}


def book(text: str, values=None, **options) -> Playbook:
    return Playbook(f"flow: a.b\n{text}", ECHO | options.pop("handlers", {}), values=values, **options)


def test_each_entry_of_the_input_is_a_variable():
    play = book("vars: '${input}'\noutput: ['${name}', '${input.input}', '${run.id}']\nsteps: [{call: echo}]",
                {"name": "Ada", "input": 1, "run": 2})  # fmt: skip
    assert play.run().output == ["Ada", 1, "run"]
    assert book("vars: '${input}'\nsteps: [{call: echo, with: '${name}'}]", [1]).run().status is RunStatus.OK


def test_a_flow_may_run_on_null():
    steps = "steps: [{id: a, call: boom, as: x}, {id: b, call: echo, with: {x: '${x}'}, as: y}]\noutput: '${y}'"
    assert book(steps).run().output is None
    play = book(f"defaults: {{on_absent: run}}\n{steps}")
    assert (play.run().status, play.machine.outcome.output) == (RunStatus.DEGRADED, {"x": None})


def test_a_loop_counts_its_passes_before_it_asks():
    text = """
steps:
  - {id: l, loop: {max: 9, at: n, while: {compare: ["${n}", "<", 3]}}, do: [{id: a, call: echo, with: "${n}"}]}
output: "${n}"
"""
    play = book(text)
    assert play.run().output == 3
    assert play.calls == [("echo", 0), ("echo", 1), ("echo", 2)]


STOP = {"stop": lambda _args: {"__flow_control": "abort", "reason": "enough"}}
INNER = """
flow: inner
defaults: {flow_control: true}
finally: [{id: f, call: echo, with: tidy}]
catch: [{do: [{id: c, call: echo, with: caught}]}]
steps:
  - {id: side, parallel: {branches: {x: [{id: a, call: stop, on_error: continue}], y: [{id: slow, call: slow}]}}}
  - {id: b, call: echo, with: after}
"""


def test_a_handler_ends_the_flow_that_listens_to_it_and_only_that():
    handlers = {**STOP, "slow": lambda _args: Takes(5)}
    play = book("steps: [{id: i, flow: inner}, {id: n, call: echo, with: next}]", flows={"inner": INNER}, handlers=handlers)
    outcome = play.run()
    assert outcome.status is RunStatus.DEGRADED
    assert [args for name, args in play.calls if name == "echo"] == ["tidy", "next"]
    assert (play.status("a" if "a" in play.results else "side/x/a"), play.results["i"].error.title) == ("failed", "enough")
    assert play.now == 0, "the other branch was ended"
    assert book("steps: [{call: stop, as: x}]\noutput: '${x.reason}'", handlers=STOP).run().output == "enough"


def test_a_flow_says_how_often_it_may_run_within_itself():
    again = "flow: again\nlimits: {recursion: 1}\nsteps: [{id: s, call: echo}, {id: r, flow: again, catch: [{error: limit, do: [{id: c, call: echo, with: end}]}]}]"
    play = book("steps: [{id: a, flow: again}]", flows={"again": again})
    assert play.run().status is RunStatus.OK
    assert [args for _, args in play.calls] == [{}, {}, "end"]
