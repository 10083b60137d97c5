"""The verbs and adverbs beyond calls and blocks, as transcripts on the pure machine."""

from __future__ import annotations

import pytest

from backend_core.errors import AuthorError
from core_runtime.rules.flow import asking
from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.flow.model import Layer
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow
from tests.support.flows import Fails, Playbook, Takes

ECHO = {"echo": lambda args: args, "boom": lambda _args: (_ for _ in ()).throw(Fails("acme/broken"))}


def book(steps: str, *, words: str = "", handlers=None, **options) -> Playbook:
    return Playbook(f"flow: a.b\n{words}\nsteps:\n{steps}", {**ECHO, **(handlers or {})}, **options)


# --- flow -------------------------------------------------------------------------------------------------------------

INNER = """
flow: inner
input: {type: object, required: [n], properties: {n: {type: integer}}}
output: "${got.n}"
steps: [{id: x, call: echo, with: "${input}", as: got}]
"""


def test_a_flow_runs_another_with_its_own_variables():
    play = book("  - {id: a, flow: inner, with: {n: 7}, as: n}\n  - {id: b, call: echo, with: {seen: '${got}', n: '${n}'}}",
                words="output: '${n}'", flows={"inner": INNER})  # fmt: skip
    outcome = play.run()
    assert (outcome.status, outcome.output) == (RunStatus.OK, 7)
    assert play.calls == [("echo", {"n": 7}), ("echo", {"seen": None, "n": 7})]


@pytest.mark.parametrize(
    ("steps", "options", "kind", "said"),
    [
        ("{id: a, flow: nowhere}", {}, "missing", "no flow nowhere"),
        ("{id: a, flow: inner, with: {n: text}}", {}, "schema", "integer"),
        ("{id: a, flow: inner, with: {n: 1}}", {"may_run": lambda _actors, _flow: False}, "denied", "may not run inner"),
        ("{id: a, flow: again}", {}, "limit", "deeper than 3"),
    ],
)
def test_a_flow_that_can_not_be_run_is_an_error_of_the_step(steps, options, kind, said):
    again = "flow: again\nsteps: [{id: r, flow: again}]"
    play = book(f"  - {steps}", words="limits: {depth: 3}", flows={"inner": INNER, "again": again}, **options)
    play.run()
    error = play.results["a"].error
    assert (error.type, said in error.title) == (kind, True)


def test_a_flow_fails_its_step_only_when_it_really_fails():
    soft = "flow: soft\nsteps: [{id: x, call: boom}, {id: y, call: echo}]"
    hard = "flow: hard\nsteps: [{id: x, call: boom, on_error: fail}]"
    play = book("  - {id: s, flow: soft}\n  - {id: h, flow: hard}", flows={"soft": soft, "hard": hard})
    assert play.run().status is RunStatus.DEGRADED
    assert (play.status("s"), play.status("h"), play.results["h"].error.type) == ("ok", "failed", "acme/broken")


# --- wait, emit, yield, return, fail ---------------------------------------------------------------------------------


def test_wait_for_a_time_an_instant_and_an_event():
    play = book("""
  - {id: t, wait: 5s}
  - {id: u, wait: {until: "${input.at}"}}
  - {id: e, wait: {event: acme.done, match: {id: "${input.id}"}}, as: got}
""", words="output: '${got.value}'", values={"at": 20, "id": 2})  # fmt: skip
    play.happens(3, "acme.done", {"id": 2, "value": "too early"})
    play.happens(30, "acme.done", {"id": 1, "value": "another's"}).happens(31, "acme.done", {"id": 2, "value": "mine"})
    assert (play.run().output, play.now) == ("mine", 31)


def test_waiting_for_an_event_ends_with_its_timeout():
    play = book("  - {id: e, wait: {event: never}, timeout: 4s}")
    play.run()
    assert (play.status("e"), play.now) == ("timeout", 4.0)


def test_emit_and_yield_leave_the_run_in_order():
    play = book("""
  - {id: e, emit: "acme.${input.kind}", with: {n: 1}}
  - {id: y, each: {in: "${input.items}"}, do: [{id: out, yield: {item: "${item}"}}]}
""", values={"kind": "begun", "items": [1, 2]})  # fmt: skip
    assert play.run().status is RunStatus.OK
    assert (play.published, play.produced) == ([("acme.begun", {"n": 1})], [{"item": 1}, {"item": 2}])


def test_return_ends_the_flow_past_every_block_and_finally_runs():
    play = book("""
  - id: outer
    do:
      - {id: loop, loop: {max: 5}, do: [{id: r, return: {n: "${input.n}"}, when: "${input.n}"}], on_error: continue}
    catch: [{error: "*", do: [{id: never, call: echo}]}]
    finally: [{id: after, call: echo, with: {closed: true}}]
  - {id: later, call: echo}
""", values={"n": 3}, words="output: unused\nfinally: [{id: last, call: echo, with: {flow: over}}]")  # fmt: skip
    outcome = play.run()
    assert (outcome.status, outcome.output) == (RunStatus.OK, {"n": 3})
    assert play.calls == [("echo", {"closed": True}), ("echo", {"flow": "over"})]


def test_return_of_an_inner_flow_is_its_output_and_ends_nothing_else():
    inner = "flow: inner\nsteps: [{id: r, return: 5}, {id: never, call: boom}]"
    play = book("  - {id: a, flow: inner, as: five}\n  - {id: b, call: echo, with: '${five}'}", flows={"inner": inner})
    assert play.run().status is RunStatus.OK
    assert play.calls == [("echo", 5)]


def test_fail_is_an_error_of_the_documents_own():
    play = book("  - {id: f, fail: {type: quota/day, title: 'Only ${input.left} left', retryable: true}}", values={"left": 0})
    play.run()
    error = play.results["f"].error
    assert (error.type, error.title, error.retryable) == ("quota/day", "Only 0 left", True)


def test_the_flows_own_catch_stands_in_for_the_rest():
    play = book("  - {id: x, call: boom, on_error: fail}\n  - {id: y, call: echo}",
                words="output: '${said}'\ncatch: [{error: 'acme/*', as: e, do: [{id: c, set: {said: '${e.type}'}}]}]")  # fmt: skip
    outcome = play.run()
    assert (outcome.status, outcome.output, play.calls) == (RunStatus.DEGRADED, "acme/broken", [("boom", {})])


# --- streams ---------------------------------------------------------------------------------------------------------

STREAM = """
  - id: s
    call: parts
    stream: {yield: "${item.delta}", collect: "${item}", start: {}, as: reply.last}
    timeout: {idle: 5s, total: 60s}
    retry: {max: 3, delay: 1s}
"""


def test_items_leave_one_by_one_and_are_collected():
    items = [{"delta": "a"}, Takes(2, {"delta": "b"})]
    play = book(STREAM, handlers={"parts": lambda _args: items}, words="output: '${reply}'")
    assert play.run().output == {"last": {"delta": "b"}}
    assert (play.produced, play.now, play.closed) == (["a", "b"], 2.0, [])


def test_a_stream_that_stalls_times_out_and_is_closed_and_not_begun_again():
    play = book(STREAM, handlers={"parts": lambda _args: [{"delta": "a"}, Takes(9, {"delta": "b"})]})
    play.run()
    assert (play.status("s"), play.produced, len(play.calls), len(play.closed)) == ("timeout", ["a"], 1, 1)


def test_a_stream_that_fails_before_its_first_item_is_tried_again():
    tries = iter([[Fails("acme/busy", retryable=True)], [{"delta": "a"}]])
    play = book(STREAM, handlers={"parts": lambda _args: next(tries)})
    assert play.run().status is RunStatus.OK
    assert (play.produced, len(play.calls)) == (["a"], 2)


def test_a_plain_answer_counts_as_one_item():
    play = book(STREAM, handlers={"parts": lambda _args: {"delta": "whole"}}, words="output: '${reply.last}'")
    assert (play.run().output, play.produced) == ({"delta": "whole"}, ["whole"])


def test_what_a_failed_stream_should_have_left_is_owed():
    play = book(STREAM + "  - {id: n, call: echo, with: '${reply.last}'}\n", handlers={"parts": lambda _a: [Fails("acme/no")]})
    play.run()
    assert play.results["n"].reason.startswith("upstream")


# --- once ------------------------------------------------------------------------------------------------------------

def test_once_acts_once_for_each_key_of_a_run():
    play = book("""
  - {id: e, each: {in: [1, 2, 1, 1], parallel: 1}, do: [{id: o, call: echo, with: "${item}", once: "key/${item}", as: got}]}
  - {id: u, call: echo, with: "${got}"}
""")  # fmt: skip
    play.run()
    assert [args for _, args in play.calls] == [1, 2, 1]


def test_once_that_fails_may_act_again():
    answers = iter([Fails("acme/no"), None])

    def pay(_args):
        failure = next(answers)
        if failure:
            raise failure
        return "paid"

    play = book("  - {id: l, loop: {max: 3}, do: [{id: o, call: pay, once: k}]}", handlers={"pay": pay})
    play.run()
    assert len(play.calls) == 2


@pytest.mark.parametrize("key", ["''", "'${nothing}'", "'${input}'"])
def test_once_needs_a_key(key):
    play = book(f"  - {{id: o, call: echo, once: {key}}}", values={"id": 4})
    play.run()
    assert play.results["o"].error.type == "value"


# --- constructs ------------------------------------------------------------------------------------------------------


def test_a_packs_construct_runs_the_block_with_variables_of_its_own():
    play = book("""
  - id: c
    "acme:thrice": {times: 2}
    do: [{id: x, call: echo, with: "${round}"}, {id: s, set: {last: "${round}"}}]
    as: answers
""", handlers={"flow.construct.thrice": lambda args: [{"round": n} for n in range(args["config"]["times"])]},
        words="output: {answers: '${answers}', last: '${last}', leaked: '${round}'}")  # fmt: skip
    outcome = play.run()
    assert outcome.status is RunStatus.OK
    assert outcome.output["last"] in {0, 1}
    assert (len(outcome.output["answers"]), outcome.output["leaked"]) == (2, None)
    assert [args for name, args in play.calls if name == "echo"] == [0, 1]


def test_a_construct_that_nobody_supplies_is_missing():
    play = book('  - {id: c, "acme:spin": {}, do: [{call: echo}]}')
    play.run()
    assert play.results["c"].error.type == "missing"


def test_ending_a_construct_ends_its_blocks_first():
    play = book("""
  - id: c
    "acme:run": {}
    do: [{id: x, call: late, finally: [{id: f, call: echo, with: cleaned}]}]
""", handlers={"flow.construct.run": lambda _args: [{}], "late": lambda _args: Takes(100)})  # fmt: skip
    outcome = play.run(cancel_at=3)
    assert outcome.status is RunStatus.CANCELLED
    assert ("echo", "cleaned") in play.calls
    assert play.status("c/x") == "cancelled"


STREAMED = """
flow: t.flow
steps:
  - id: every
    each: {in: {call: t.items, with: {n: 1}}, as: one, at: place, parallel: %d, while: "${one.go}", collect: "${got}"}
    do: [{id: act, call: t.act, with: {n: "${one.n}", at: "${place}"}, as: got}]
    as: all
"""


def items(*numbers, stop=None):
    return [{"n": number, "go": number != stop} for number in numbers]


@pytest.mark.parametrize("parallel", [1, 2, 3])
@pytest.mark.parametrize(("stop", "want"), [(None, [1, 2, 3, 4, 5]), (4, [1, 2, 3])])
def test_each_goes_through_a_stream_as_its_items_come(parallel, stop, want):
    book = Playbook(
        STREAMED % parallel, {"t.items": lambda _a: items(1, 2, 3, 4, 5, stop=stop), "t.act": lambda args: args["n"]}
    )
    outcome = book.run()
    assert outcome.variables["all"] == want
    assert [args for name, args in book.calls if name == "t.act"] == [{"n": n, "at": n - 1} for n in want]
    assert len(book.closed) == (stop is not None), "a stream that nobody reads on is closed"


def test_a_stream_that_fails_midway_fails_the_step_and_a_plain_answer_is_one_item():
    broken = [*items(1, 2), Fails("t/broken")]
    book = Playbook(STREAMED % 1, {"t.items": lambda _a: broken, "t.act": lambda args: args["n"]})
    assert book.run().status is RunStatus.DEGRADED
    assert (book.results["every"].error.type, len(book.calls)) == ("t/broken", 3)
    book = Playbook(STREAMED % 2, {"t.items": lambda _a: {"n": 7, "go": True}, "t.act": lambda args: args["n"]})
    assert book.run().variables["all"] == [7]


def test_each_over_a_stream_is_bounded_by_the_runs_steps():
    document = STREAMED.replace("steps:", "limits: {steps: 20}\nsteps:", 1) % 1
    endless = ({"n": n, "go": True} for n in range(10**9))
    book = Playbook(document, {"t.act": lambda args: args["n"], "t.items": lambda _a: None})
    book._on_open = lambda request: book._due.append((book.now, request.token, asking.Opened(endless), None))
    outcome = book.run()
    assert (outcome.status, outcome.error.type) == (RunStatus.FAILED, "limit")


def test_a_handler_of_the_host_is_no_stream_for_others():
    document = {"flow": "a.b", "steps": [{"each": {"in": {"call": "kernel:x"}}, "do": [{"call": "k"}]}]}
    with pytest.raises(AuthorError, match="official flows only"):
        plan_flow(parse_flow(document, source="t", layer=Layer.USER))
