"""Documents are understood completely or refused with the place of each problem."""

from typing import Any

import pytest

from backend_core.errors import AuthorError
from backend_core.parsing import parse_yaml
from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse import parse_flow


def parse(text: str) -> model.Flow:
    document = parse_yaml(text.encode(), source="t.flow.yaml")

    def where(path):
        position = document.position(path)
        return position.line, position.column

    return parse_flow(document.value, source="t.flow.yaml", where=where)


def problems(text: str) -> list[dict[str, Any]]:
    with pytest.raises(AuthorError) as caught:
        parse(text)
    assert caught.value.code == "flow_invalid"
    return list(caught.value.fields["problems"])


def test_a_flow_of_every_verb_and_adverb_is_read():
    flow = parse(
        """
flow: acme.answer
version: 2
about: everything once
phases: [first, {name: last, sealed: true, on_error: fail}]
defaults: {on_error: continue, on_missing: wait, timeout: 500ms, retry: 2}
limits: {wall: 1h, steps: 100}
vars: {a: 1}
output: {x: "${a}"}
tags: [t]
steps:
  - id: c
    phase: first
    order: 3
    call: some.key
    with: {x: "${a}", y: ["${b.c}"]}
    as: r.part
    default: []
    timeout: {total: 3s}
    retry: {max: 3, delay: 1s, backoff: 2, jitter: 0.3, when: "${error.retryable}"}
    on_error: fail
    on_missing: skip
    catch: [{error: "limit*", as: e, do: [{set: {s: "${e.type}"}}]}]
    finally: [{call: other.key}]
    tags: [x]
  - {id: s, phase: first, set: {a.b: 1}}
  - {id: p, phase: first, needs: [s], parallel: {branches: {x: [{call: k}], y: [{call: k}]}, wait: {min: 1}, max: 1}}
  - {id: h, phase: last, choose: [{when: "${a}", do: [{call: k}]}, {default: [{call: l}]}]}
  - {id: e, phase: last, each: {in: "${a}", as: i, at: n, parallel: 2, collect: "${i}"}, do: [{call: k}]}
  - {id: l, phase: last, loop: {while: "${a}", until: "${b}", max: 3}, do: [{call: k}]}
  - {id: d, phase: last, enabled: false, do: [{call: k}]}
"""
    )
    call = flow.steps[0]
    assert (flow.id, flow.version, flow.defaults.timeout_s, flow.limits.wall_s) == ("acme.answer", "2", 0.5, 3600.0)
    assert flow.phase("last") == model.Phase("last", model.OnError.FAIL, sealed=True)
    assert flow.is_sealed()
    assert call.action == model.Call("some.key")
    assert call.bind == ("r", "part")
    assert call.retry is not None
    assert (call.retry.max, call.retry.delay_s, call.retry.backoff) == (3, 1.0, 2.0)
    assert call.catch[0].error == "limit*"
    assert call.finally_[0].path == "c/finally/step0"
    assert [type(step.action).__name__ for step in flow.steps] == [
        "Call",
        "Set",
        "Parallel",
        "Choose",
        "Each",
        "Loop",
        "Do",
    ]
    assert call.origin.line == 12


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("{id: a, cal: k}", "'cal' is not a word of a step. Did you mean 'call'?"),
        ("{id: a, call: k, timout: 3s}", "Did you mean 'timeout'?"),
        ("{id: a}", "exactly one verb"),
        ("{id: a, call: k, set: {x: 1}}", "has call and set"),
        ("{id: a, flow: B C}", "the id of a flow"),
        ("{id: a, wait: soon}", "expected a duration such as"),
        ("{id: a, wait: {event: e, until: 5}}", "wait expects a duration, {event, match} or {until}"),
        ("{id: a, wait: {match: {x: 1}}}", "wait expects a duration"),
        ("{id: a, fail: timeout}", "a type of your own"),
        ("{id: a, fail: {title: x}}", "a type of your own"),
        ("{id: a, do: [{call: k}], stream: {}}", "only a handler has items"),
        ("{id: a, call: k, stream: {yeld: x}}", "Did you mean 'yield'?"),
        ("{id: a, call: k, timeout: {idle: 3s}}", "this step has none"),
        ('{id: a, "Acme:spin": {}}', "expected <pack>:<construct>"),
        ('{id: a, "acme:spin": {}, call: k}', "has call and acme:spin"),
        ("{id: a, call: k, when: x == 1}", "expects a reference"),
        ("{id: a, loop: {max: 2, until: done}, do: [{call: k}]}", "expects a reference"),
        ("{id: a, call: k, timeout: 3}", "expected a duration such as"),
        ("{id: a, call: k, timeout: 3 weeks}", "expected a duration such as"),
        ("{id: a, call: k, on_error: contineu}", "Did you mean 'continue'?"),
        ('{id: a, call: k, when: "${a == 1}"}', "anything richer needs the expression"),
        ('{id: a, call: k, with: "${a"}', "closing brace"),
        ("{id: a, call: k, as: input}", "belongs to the kernel"),
        ("{id: a, call: k, as: 9x}", "expected the name of a variable"),
        ("{id: A, call: k}", "lower-case letters"),
        ("{id: a, call: [k]}", "call expects the name of a handler"),
        ("{id: a, loop: {}, do: [{call: k}]}", "loop needs a bound"),
        ("{id: a, each: {in: x}}", "each needs its steps"),
        ("{id: a, each: {}, do: [{call: k}]}", "each needs the list"),
        ("{id: a, parallel: {branches: {}}}", "at least one branch"),
        ("{id: a, parallel: {branches: {x: [{call: k}]}, wait: {min: 2}}}", "wait expects all, any"),
        ("{id: a, choose: [{do: [{call: k}]}]}", "an arm of choose"),
        ("{id: a, call: k, retry: {max: 1000}}", "whole number from 0 to 100"),
        ("{id: a, call: k, retry: {jitter: 2}}", "number from 0 to 1"),
        ("{id: a, call: k, enabled: maybe}", "true or false"),
        ("text", "expected a step, a map with one verb, got text"),
    ],
)
def test_each_problem_is_named_with_its_line(step, said):
    found = problems(f"flow: a.b\nsteps:\n  - {step}\n")
    assert any(said in problem["text"] for problem in found), found
    assert {problem["line"] for problem in found} == {3}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("flow: A B\nsteps: [{call: k}]", "dotted lower-case words"),
        ("flow: a\nstep: [{call: k}]", "Did you mean 'steps'?"),
        ("flow: a\nsteps: []", "at least one step"),
        ("flow: a\non: [{event: e, every: 5s}]\nsteps: [{call: k}]", "one of event, every and cron"),
        ("flow: a\non: [{every: 5ms}]\nsteps: [{call: k}]", "one second at the least"),
        ("flow: a\non: [{cron: '61 * * * *'}]\nsteps: [{call: k}]", "the minute is a number from 0 to 59"),
        ("flow: a\nconcurrency: {mode: twice}\nsteps: [{call: k}]", "single or restart or queue or parallel"),
        ("flow: a\njournal: disk\nsteps: [{call: k}]", "none or memory or file or sync"),
        (
            "flow: a\nphases: [{name: p, sealed: true, on_error: continue}]\nsteps: [{phase: p, call: k}]",
            "fails closed",
        ),
        ("flow: a\nsteps: [{id: x, call: k}, {id: x, call: k}]", "used twice"),
        ("- 1", "expected a map with the words flow and steps, got a list"),
    ],
)
def test_problems_of_the_flow_itself(document, said):
    assert any(said in problem["text"] for problem in problems(document))


def test_all_problems_are_reported_at_once():
    found = problems("flow: a\nsteps:\n  - {cal: k}\n  - {call: k, whne: x}\n  - {call: k, timeout: soon}\n")
    assert {problem["line"] for problem in found} == {3, 4, 5}


def test_nesting_and_size_are_bounded():
    deep = "{call: k}"
    for _ in range(10):
        deep = f"{{do: [{deep}]}}"
    assert parse(f"flow: a\nsteps: [{deep}]").steps
    body: dict[str, Any] = {"call": "k"}
    for _ in range(60):
        body = {"do": [body]}
    with pytest.raises(AuthorError, match="nested deeper"):
        parse_flow({"flow": "a", "steps": [body]}, source="t")
    with pytest.raises(AuthorError, match="at most 10000 steps"):
        parse_flow({"flow": "a", "steps": [{"call": "k"}] * 10_001}, source="t")


@pytest.mark.parametrize("word", list(model.Journal))
def test_the_journal_is_the_one_that_is_named(word):
    assert parse(f"flow: a.b\njournal: {word.value}\nsteps: [{{call: a.b}}]").journal is word
    assert parse("flow: a.b\nsteps: [{call: a.b}]").journal is model.Journal.NONE


@pytest.mark.parametrize(
    ("wait", "least"),
    [("all", 0), ("any", 1), ("{min: 1}", 1), ("{min: 2}", 2), ("{min: 3}", None), ("{min: 0}", None),
     ("{min: true}", None), ("{min: 1, max: 2}", None), ("some", None), ("2", None)],
)  # fmt: skip
def test_how_many_branches_are_waited_for(wait, least):
    text = f"flow: a.b\nsteps: [{{parallel: {{branches: {{x: [{{call: a.b}}], y: [{{call: a.c}}]}}, wait: {wait}}}}}]"
    if least is None:
        assert "wait expects all, any or {min: 1…2}" in problems(text)[0]["text"]
    else:
        action = parse(text).steps[0].action
        assert isinstance(action, model.Parallel)
        assert action.wait == least


@pytest.mark.parametrize(
    ("phase", "said"),
    [("{name: one, on_error: continue, sealed: true}", "fails closed"), ("5", "a phase's name"), ("{name: One}", "lower-case"),
     ("{name: one, extra: 1}", "extra")],
)  # fmt: skip
def test_what_is_no_phase(phase, said):
    found = problems(f"flow: a.b\nphases: [{phase}]\nsteps: [{{call: a.b}}]")
    assert {problem["line"] for problem in found if said in problem["text"]} == {2}, found
