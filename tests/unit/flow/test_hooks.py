"""Hooks around steps: what they may say, what comes of it, and which steps they never hear of."""

from __future__ import annotations

import pytest
import yaml

from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.flow.hooks import MAX_RETRIES, Hook, closed_steps, word_of
from core_runtime.rules.flow.parse import parse_flow
from tests.support.flows import Fails, Playbook

PLAIN = """
flow: t.flow
steps:
  - {id: one, call: t.one, as: one}
  - {id: two, call: t.two, with: "${one}", as: two}
  - {id: three, set: {x: 3}}
"""
BEFORE, AFTER, ERROR = (hook.value for hook in Hook)


def fails(_args):
    raise Fails("t/broken", retryable=True)


def play(document=PLAIN, hooks=None, **handlers):
    book = Playbook(document, {"t.one": lambda _a: 1, "t.two": lambda _a: 2, **handlers}, hooks=hooks or {})
    return book, book.run()


def test_hooks_are_told_of_every_step_with_its_variables_and_its_result():
    seen = []
    book, outcome = play(hooks={BEFORE: seen.append, AFTER: seen.append})
    assert outcome.status is RunStatus.OK
    assert book.consulted == [
        (word, path) for path in ("one", "two", "three") for word in ("before_step", "after_step")
    ]
    assert (seen[2]["ctx"]["one"], seen[3]["result"], seen[3]["status"]) == (1, 2, "ok")
    assert (seen[0]["step"]["handler"], seen[4]["step"]["type"]) == ("t.one", "set")


def test_a_hook_skips_a_step_and_what_needs_it_does_not_run_on_null():
    book, outcome = play(hooks={BEFORE: lambda told: {"_skip": told["step"]["id"] == "one"}})
    assert [book.status(path) for path in ("one", "two", "three")] == ["skipped", "skipped", "ok"]
    assert (book.results["one"].reason, outcome.status) == ("skipped by a hook", RunStatus.DEGRADED)


def test_a_hook_ends_the_run_and_finally_still_runs():
    document = PLAIN + "finally: [{id: last, call: t.last}]\n"
    abort = {BEFORE: lambda told: {"_abort": True} if told["step"]["id"] == "two" else None}
    book, outcome = play(document, abort, **{"t.last": lambda _a: None})
    assert (outcome.status, outcome.error.type) == (RunStatus.FAILED, "aborted")
    assert [name for name, _ in book.calls] == ["t.one", "t.last"]


@pytest.mark.parametrize(
    ("says", "calls", "status"),
    [("retry", 1 + MAX_RETRIES, "failed"), ("continue", 1, "failed"), ("abort", 1, "failed"), (None, 1, "failed"),
     ("anything", 1, "failed"), ({"_skip": True}, 1, "failed")],
)  # fmt: skip
def test_an_error_handler_decides_after_retries_and_catches(says, calls, status):
    book, outcome = play(hooks={ERROR: lambda _told: says}, **{"t.one": fails})
    assert [name for name, _ in book.calls].count("t.one") == calls
    assert book.status("one") == status
    assert outcome.status is (RunStatus.FAILED if says == "abort" else RunStatus.DEGRADED)
    assert ("three" in book.results) is (says != "abort")


def test_an_error_handler_has_a_step_tried_again_until_it_works():
    answers = iter([Fails("t/broken"), Fails("t/broken"), None])

    def shaky(_args):
        problem = next(answers)
        if problem:
            raise problem
        return 5

    _, outcome = play(hooks={ERROR: lambda _told: "retry"}, **{"t.one": shaky})
    assert (outcome.status, outcome.variables["one"]) == (RunStatus.OK, 5)


def test_continue_goes_before_the_documents_on_error():
    document = PLAIN.replace("as: one", "as: one, on_error: stop")
    assert play(document, **{"t.one": fails})[1].status is RunStatus.FAILED
    assert play(document, {ERROR: lambda _told: "continue"}, **{"t.one": fails})[1].status is RunStatus.DEGRADED


def test_a_steps_own_catch_comes_before_error_handlers():
    document = PLAIN.replace("as: one", "as: one, catch: [{do: [{set: {one: 9}}]}]")
    book, outcome = play(document, {ERROR: lambda _told: "abort"}, **{"t.one": fails})
    assert (book.consulted, outcome.variables["one"]) == ([], 9)


SEALED = """
flow: t.flow
phases: [open, {name: shut, sealed: true}]
steps:
  - {id: need, phase: open, call: t.one}
  - {id: free, phase: open, call: t.one}
  - {id: holds, phase: open, do: [{id: guard, call: t.one, sealed: true}, {id: beside, call: t.one}]}
  - {id: act, phase: shut, needs: [], do: [{id: below, call: t.two}]}
  - {id: other, phase: open, call: t.one, needs: [need]}
  - {id: last, phase: open, call: t.two, needs: [other], sealed: true}
"""


def test_no_hook_hears_of_what_is_sealed_holds_it_or_is_needed_by_it():
    flow = parse_flow(yaml.safe_load(SEALED), source="t")
    assert closed_steps(flow) == {"need", "holds", "holds/guard", "act", "act/below", "other", "last"}
    book, outcome = play(SEALED, {BEFORE: lambda _told: {"_skip": True}})
    assert outcome.status is RunStatus.OK
    assert book.consulted == [("before_step", "free"), ("before_step", "holds/beside")]
    everything = parse_flow({**yaml.safe_load(SEALED), "sealed": True}, source="t")
    assert {"free", "holds/beside"} <= closed_steps(everything)


@pytest.mark.parametrize("said", [None, True, "skip", "_skip", [], {}, {"_skip": 1}, {"_skip": "true"}, 7, b"\xff"])
def test_what_means_nothing_says_nothing(said):
    assert word_of(Hook.BEFORE, said) == ""
    assert word_of(Hook.AFTER, {"_abort": True}) == ""
