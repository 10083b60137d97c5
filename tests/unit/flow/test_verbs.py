"""What verbs ask for, word by word: events that match, flows below, own errors, keys, streams, constructs."""

from __future__ import annotations

from typing import Any

import pytest

from core_runtime.rules.flow import asking
from core_runtime.rules.flow.endings import RunStatus
from tests.support.flows import Fails, Playbook

HANDLERS = {"echo": lambda args: args}


class Watched(Playbook):
    """Keeps each request as it was asked."""

    def __init__(self, document: str, handlers: Any = None, **words: Any) -> None:
        self.asked: list[Any] = []
        super().__init__(document, HANDLERS | (handlers or {}), **words)

    def _take(self, effects: list[asking.Effect]) -> None:
        self.asked += effects
        super()._take(effects)

    def of(self, kind: type[Any]) -> list[Any]:
        return [one for one in self.asked if isinstance(one, kind)]


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "taken"),
    [
        ("", {"a": 0}),
        (", match: {a: 1, b: 2}", {"a": 1, "b": 2, "more": True}),
        (', match: "${event.wanted}"', {"wanted": True}),
    ],
    ids=["any", "every part is equal", "a condition over the event"],
)
def test_a_wait_takes_the_first_event_that_matches(match: str, taken: Any) -> None:
    book = Playbook(f"flow: t\nsteps: [{{id: w, wait: {{event: e{match}}}, as: got}}]\noutput: ${{got}}", {})
    sent = [{"a": 0}, "no map", {"a": 1, "b": 3}, {"a": 3, "b": 2}, {"wanted": False}, {"a": 1, "b": 2, "more": True}, {"wanted": True}]
    for at, payload in enumerate(sent, 1):
        book.happens(float(at), "e", payload)
    assert book.run().output == taken


# --- flows below ------------------------------------------------------------------------------------------------------


def below(name: str, calls: str = "") -> str:
    steps = f"{{id: down, flow: {calls}, on_error: fail, as: down}}" if calls else "{id: end, set: {x: 1}}"
    return f'flow: {name}\nsteps: [{steps}]\noutput: {{id: "${{run.id}}", flow: "${{run.flow}}"}}'


def test_a_flow_below_knows_the_run_and_its_own_name_and_is_asked_for_by_who_acts() -> None:
    asked: list[Any] = []
    book = Playbook(
        "flow: t\nsteps: [{id: s, flow: inner, as: got}]\noutput: ${got}", {}, flows={"inner": below("inner")},
        may_run=lambda actors, flow: asked.append((actors, flow)) or True,
    )  # fmt: skip
    assert book.run().output == {"id": "run", "flow": "inner"}
    assert asked == [((), "inner")]


@pytest.mark.parametrize("deep", [1, 2, 3])
def test_flows_run_each_other_as_deep_as_the_limit_and_no_deeper(deep: int) -> None:
    def run(levels: int) -> Any:
        flows = {f"f{n}": below(f"f{n}", f"f{n + 1}" if n < levels else "") for n in range(1, levels + 1)}
        return Playbook(f"flow: t\nlimits: {{depth: {deep}}}\nsteps: [{{id: s, flow: f1}}]", {}, flows=flows).run()

    assert run(deep).status is RunStatus.OK
    ended = run(deep + 1)
    assert (ended.status, ended.error.type) == (RunStatus.FAILED, "limit")
    assert f"deeper than {deep} levels" in ended.error.title


@pytest.mark.parametrize(("often", "title"), [(0, "t would run within itself"), (2, "t would run within itself more than 2 times")])
def test_how_often_a_flow_runs_within_itself_is_said_as_it_is(often: int, title: str) -> None:
    document = f"flow: t\nlimits: {{recursion: {often}}}\nsteps: [{{id: s, flow: t, on_error: fail}}]"
    ended = Playbook(document, {}, flows={"t": document}).run()
    assert (ended.error.type, ended.error.title) == ("limit", title)


# --- own errors and words of handlers ---------------------------------------------------------------------------------


def test_an_error_of_the_operators_flow_names_no_pack() -> None:
    ended = Playbook("flow: t\nsteps: [{id: f, fail: {type: quota/day, title: Enough}, on_error: fail}]", {}).run()
    assert (ended.error.type, ended.error.title, ended.error.pack) == ("quota/day", "Enough", "")


@pytest.mark.parametrize(
    ("reason", "title"),
    [("Enough", "Enough"), ("x" * 600, "x" * 500), ("", "A handler ended the flow"), ([1] * 9, "A handler ended the flow")],
    ids=["a reason", "a long one", "none", "no text"],
)
def test_a_handler_that_ends_the_flow_says_why(reason: Any, title: str) -> None:
    answer = {"__flow_control": "abort", "reason": reason}
    document = "flow: t\ndefaults: {flow_control: true}\nsteps: [{id: a, call: ender}]"
    ended = Playbook(document, {"ender": lambda _args: answer}).run()
    assert (ended.status, ended.error.type, ended.error.title) == (RunStatus.FAILED, "abort", title)


@pytest.mark.parametrize(("length", "status"), [(0, "failed"), (1, "ok"), (200, "ok"), (201, "failed")])
def test_a_once_key_has_one_to_two_hundred_characters(length: int, status: str) -> None:
    book = Watched('flow: t\nsteps: [{id: a, call: echo, once: "${input.key}"}]', values={"key": "k" * length})
    book.run()
    assert book.status("a") == status
    assert [one.once for one in book.of(asking.Invoke)] == (["k" * length] if status == "ok" else [])


def test_a_step_without_once_has_no_key() -> None:
    book = Watched("flow: t\nsteps: [{id: a, call: echo}]")
    book.run()
    assert [one.once for one in book.of(asking.Invoke)] == [""]


# --- places: a journal finds its answers by them ----------------------------------------------------------------------


def test_each_item_of_a_stream_has_a_place_of_its_own_and_the_last_is_the_value() -> None:
    document = 'flow: t\nsteps: [{id: a, call: parts, stream: {yield: "${item}"}, as: last}]\noutput: ${last}'
    book = Watched(document, {"parts": lambda _args: [5, 6]})
    assert book.run().output == 6
    begun = book.of(asking.Open)[0].place
    assert [one.place for one in book.of(asking.Next)] == [f"{begun}#1", f"{begun}#2", f"{begun}#3"]
    assert [one.place for one in book.of(asking.Produce)] == [f"{begun}#1!out", f"{begun}#2!out"]


def test_a_stream_that_breaks_after_an_item_left_is_not_to_be_tried_again() -> None:
    document = 'flow: t\nsteps: [{id: a, call: parts, stream: {yield: "${item}"}, retry: {max: 2}}]'
    book = Watched(document, {"parts": lambda _args: [5, Fails("t/broken", retryable=True)]})
    book.run()
    assert (book.produced, len(book.of(asking.Open))) == ([5], 1)
    assert book.results["a"].error.retryable is False


def test_each_pass_of_a_construct_has_a_place_of_its_own_counted_from_one() -> None:
    document = 'flow: t\nsteps: [{id: c, "p:own": {}, do: [{id: in, call: echo}]}]'
    book = Watched(document, {"flow.construct.own": lambda _args: [{}, {}]})
    book.run()
    inner = [one.place for one in book.of(asking.Invoke) if one.handler == "echo"]
    assert [place.partition("/")[0].rpartition("#")[2] for place in inner] == ["1", "2"]
