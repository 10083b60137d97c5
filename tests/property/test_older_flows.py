"""Older documents of any content: understood or refused by name, and what is understood is a document of the one form."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from backend_core.errors import RumiError
from core_runtime.flow_composer import Says, read_document
from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Base
from core_runtime.rules.flow.modifier import Modifier
from core_runtime.rules.flow.older import phases, pipelines, registered, texts
from core_runtime.rules.flow.older.order import Place, ordered
from core_runtime.rules.flow.plan import walk_steps
from core_runtime.rules.flow.values import ValueProblem, compile_value, walk

LAYER = model.Layer.ECOSYSTEM
WORDS = sorted(
    {"id", "type", "handler", "args", "when", "output", "steps", "name", "enabled"}.union(
        *registered.OWN.values(), *phases.OWN.values(), phases.COMMON, phases.PLACED, registered.COMMON, pipelines.STEP_WORDS
    )
)
SCALARS = st.one_of(
    st.sampled_from(["k", "a.b", "${ctx.a}", "$ctx.a.b", "${x} == 1", "handler", "flow", "loop", "if", "set", "skip", "p", "", "${"]),
    st.none(), st.booleans(), st.integers(-3, 2_000), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=12,
)
STEPS = st.lists(st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=6), max_size=4)
DOCUMENTS = st.one_of(
    st.fixed_dictionaries({"steps": STEPS}),
    st.fixed_dictionaries(
        {"flow_id": st.sampled_from(["a.b", "A B"]), "steps": STEPS},
        optional={"phases": st.just(["p", "q"]) | VALUES, "inputs": VALUES, "outputs": VALUES, "defaults": VALUES, "schedule": VALUES},
    ),
    st.fixed_dictionaries({"pipelines": st.dictionaries(st.sampled_from(["a", "b.c", "X"]), STEPS, max_size=2)}, optional={"defaults": VALUES}),
    st.fixed_dictionaries(
        {"modifier_id": st.sampled_from(["m", "My.M"]), "target_flow_id": st.sampled_from(["a.b", "*"])},
        optional={"action": st.sampled_from(["append", "replace", "remove", "inject_after"]), "target_step_id": SCALARS,
                  "step": VALUES, "requires": VALUES, "conflicts_with": VALUES, "phase": SCALARS, "priority": SCALARS},
    ),
    st.fixed_dictionaries({
        "modifier_id": st.just("m"), "target_flow_id": st.just("a.b"),
        "modifications": st.lists(st.fixed_dictionaries(
            {"action": st.sampled_from(["replace", "remove", "inject_after", "wrap_with_loop", "set_property"])},
            optional={"target_step": SCALARS, "steps": STEPS, "property": st.sampled_from(["args.x", "when", "handler", "id"]),
                      "value": VALUES, "exit_when": SCALARS, "max_iterations": SCALARS}), max_size=3)}),
)  # fmt: skip


REFERENCES = st.sampled_from(["${ctx.a}", "$ctx.a.b", "text ${b}", 3, None, {"deep": ["${a}", "$ctx.b"]}])
CONDITIONS = st.sampled_from(["${ctx.a} == 1", "$ctx.b != word", "${a}", "false", "${a.n} >= 2"])
IDS = st.sampled_from(["a", "b", "Load.It", "c-d", "9"])
NAMED = {"id": IDS, "when": CONDITIONS, "output": st.sampled_from(["x", "y.z", "ctx.w"]), "description": st.just("about")}


def unique(steps: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(steps, min_size=1, max_size=3, unique_by=lambda one: one.get("id", "").lower() or id(one))


def step_b(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    call = st.fixed_dictionaries({"handler": st.just("k")}, optional={
        **NAMED, "type": st.just("handler"), "args": REFERENCES, "timeout_seconds": st.just(0.5)})  # fmt: skip
    if not depth:
        return call
    inner = unique(step_b(depth - 1))
    return st.one_of(
        call,
        st.fixed_dictionaries({"type": st.just("loop"), "steps": inner}, optional={**NAMED, "exit_when": CONDITIONS, "max_iterations": st.just(2)}),
        st.fixed_dictionaries({"type": st.just("branch"), "condition": CONDITIONS, "then": inner}, optional={**NAMED, "else": inner}),
        st.fixed_dictionaries({"type": st.just("group"), "steps": inner}, optional=NAMED),
        st.fixed_dictionaries({"type": st.just("parallel"), "branches": st.tuples(inner, inner).map(lambda two: [{"name": "l", "steps": two[0]}, {"steps": two[1]}])}, optional=NAMED),
        st.fixed_dictionaries({"type": st.just("flow"), "flow": st.just("a.b")}, optional={**NAMED, "args": REFERENCES}),
        st.fixed_dictionaries({"type": st.just("thrice"), "times": REFERENCES}, optional={**NAMED, "steps": inner}),
    )  # fmt: skip


def step_c(depth: int) -> st.SearchStrategy[dict[str, Any]]:
    call = st.fixed_dictionaries({"type": st.sampled_from(["handler"]), "handler": st.just("k")}, optional={**NAMED, "input": REFERENCES})
    file = st.fixed_dictionaries({"type": st.just("python_file_call"), "file": st.just("handlers/x.py")}, optional={**NAMED, "input": REFERENCES})
    put = st.fixed_dictionaries({"type": st.just("set"), "values": st.dictionaries(st.sampled_from(["v", "w.x"]), REFERENCES)}, optional={"id": IDS})
    if not depth:
        return st.one_of(call, file, put)
    inner = unique(step_c(depth - 1))
    which = st.fixed_dictionaries({"type": st.just("if"), "condition": CONDITIONS, "then": inner}, optional={**NAMED, "else": inner})
    return st.one_of(call, file, put, which)


def placed(steps: list[dict[str, Any]], draw: list[tuple[str, int]]) -> list[dict[str, Any]]:
    return [{**step, "phase": phase, "priority": priority} for step, (phase, priority) in zip(steps, draw, strict=False)]


RIGHT = st.one_of(
    st.fixed_dictionaries({"steps": st.lists(step_b(2), min_size=1, max_size=3).map(lambda steps: [{"type": "handler", "handler": "k"}, *steps])}),
    st.tuples(unique(step_c(2)), st.lists(st.tuples(st.sampled_from(["p", "q"]), st.integers(0, 200)), min_size=3, max_size=3)).map(
        lambda two: {"flow_id": "a.b", "phases": ["p", "q"], "steps": placed(*two), "inputs": {"t": {"default": 1}}, "outputs": ["x"]}),
    unique(step_b(1)).map(lambda steps: {"modifier_id": "m", "target_flow_id": "a.*", "modifications": [
        {"action": "inject_after", "target_step": "A.b", "steps": steps}, {"action": "replace", "target_step": "c", "steps": steps}]}),
    step_c(1).map(lambda step: {"modifier_id": "m", "target_flow_id": "a.*", "action": "append", "step": step}),
)  # fmt: skip
"""Documents that are right, but for ids that two steps share."""


def read(document: Any) -> Says:
    return read_document(json.dumps(document).encode(), source="x.flow.json", layer=LAYER, pack="old")


def refused(document: Any) -> RumiError | None:
    try:
        read(document)
    except RumiError as error:
        return error
    return None


@given(DOCUMENTS)
def test_any_document_is_understood_or_refused_by_name(document: Any) -> None:
    error = refused(document)
    assert error is None or error.code in {"flow_invalid", "json_invalid", "too_complex"}


@given(RIGHT)
def test_what_is_understood_is_a_document_of_the_one_form(document: Any) -> None:
    error = refused(document)
    assume(error is None or "is used twice" in error.detail)
    if error is not None:
        return
    found = read(document)
    if isinstance(found, Base):
        again = read(found.document)
        assert isinstance(again, Base)
        assert (found.style != "", again.style, again.document) == (True, "", found.document)
        assert all(step.acts_as == ("old",) for step in walk_steps(found.flow.steps))
    else:
        assert isinstance(found, Modifier)
        again = read(found.written)
        assert isinstance(again, Modifier)
        assert (again.style, again.targets, len(again.ops)) == ("", found.targets, len(found.ops))


@given(st.text(alphabet="$c{}txa.b \\'\"<>=!1", max_size=40))
def test_a_text_or_condition_is_translated_or_refused(text: str) -> None:
    for translate in (texts.text, texts.condition):
        try:
            found = translate(text, lambda path: path)
        except ValueProblem:
            continue
        if translate is texts.text:
            compile_value(found)


@given(st.text(max_size=30).filter(lambda text: "$" not in text), st.text(max_size=30))
def test_a_text_without_references_is_itself_and_a_value_is_never_read(plain: str, value: str) -> None:
    assert compile_value(texts.text(plain, lambda path: path)).get(lambda _path: None) == plain
    found = compile_value(texts.text("${ctx.a.b}", lambda path: path)).get(lambda path: walk({"a": {"b": value}}, path))
    assert found == value


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.lists(st.integers(0, 7), max_size=3)), max_size=8))
def test_the_order_of_steps_does_not_depend_on_where_they_stand(steps: list[tuple[int, int, list[int]]]) -> None:
    places = [Place(f"s{n}", (phase, rank, f"s{n}"), tuple(f"s{m}" for m in after)) for n, (phase, rank, after) in enumerate(steps)]
    names = [places[n].id for n in ordered(places)[0]]
    backwards = list(reversed(places))
    assert names == [backwards[n].id for n in ordered(backwards)[0]]
    ranks = {place.id: place for place in places}
    for index, name in enumerate(names):
        for other in ranks[name].after:
            if other in ranks and ranks[other].rank[0] <= ranks[name].rank[0]:
                assert other in names[:index]
