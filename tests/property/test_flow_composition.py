"""Whatever modifiers there are: their order in a list never matters, none leaves a trace when it goes, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from core_runtime.rules.flow import model
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Base, Composition, World, compose
from core_runtime.rules.flow.modifier import Modifier, parse_modifier
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import blocks_of

IDS = ["a", "b", "c", "d"]
names = st.sampled_from(IDS)


def step(step_id: str, depth: int) -> st.SearchStrategy[dict[str, Any]]:
    call = st.fixed_dictionaries({"id": st.just(step_id), "call": st.sampled_from(["k.one", "k.two"])},
                                 optional={"tags": st.just(["t"]), "sealed": st.sampled_from([False] * 7 + [True])})  # fmt: skip
    if depth == 0:
        return call
    inner = st.lists(names, min_size=1, max_size=3, unique=True).flatmap(lambda ids: steps(ids, depth - 1))
    return st.one_of(
        call,
        inner.map(lambda found: {"id": step_id, "do": found}),
        inner.map(lambda found: {"id": step_id, "parallel": {"branches": {"x": found}}}),
        inner.map(lambda found: {"id": step_id, "choose": [{"when": "${v}", "do": found}, {"default": []}]}),
        inner.map(lambda found: {"id": step_id, "call": "k.one", "catch": [{"error": "*", "do": found}]}),
    )


def steps(ids: list[str], depth: int) -> st.SearchStrategy[list[dict[str, Any]]]:
    return st.tuples(*(step(one, depth) for one in ids)).map(list)


flows = st.lists(names, min_size=1, max_size=4, unique=True).flatmap(lambda ids: steps(ids, 2)).map(
    lambda found: {"flow": "f", "steps": found}
)
new_steps = st.lists(st.sampled_from(["n", "m", "a"]), min_size=1, max_size=2, unique=True).map(
    lambda ids: [{"id": one, "call": "new"} for one in ids]
)
patches = st.lists(
    st.sampled_from([
        {"op": "add", "path": "/timeout", "value": "1s"}, {"op": "replace", "path": "/call", "value": "k.two"},
        {"op": "remove", "path": "/tags"}, {"op": "test", "path": "/call", "value": "k.one"},
        {"op": "add", "path": "/needs", "value": ["b"]}, {"op": "add", "path": "/choose", "value": 5},
        {"op": "add", "path": "/do", "value": []}, {"op": "replace", "path": "/parallel", "value": []},
    ]), min_size=1, max_size=2,
)  # fmt: skip


def ops(selectors: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    places = st.sampled_from(["before", "after", "first_in", "last_in"])
    return st.one_of(
        st.tuples(places, st.one_of(selectors, st.just("/")), new_steps).map(
            lambda t: {"insert": {t[0]: t[1]}, "steps": t[2]}
        ),
        st.tuples(st.lists(selectors, min_size=1, max_size=2, unique=True), st.sampled_from(["w", "v", "a"])).map(
            lambda t: {"wrap": t[0], "with": {"id": t[1], "timeout": "9s"}}
        ),
        st.tuples(selectors, patches).map(lambda t: {"patch": t[0], "json_patch": t[1]}),
        st.tuples(selectors, st.sampled_from([{"call": "r"}, {"id": "r", "do": [{"call": "r"}]}])).map(
            lambda t: {"replace": t[0], "step": t[1]}
        ),
        selectors.map(lambda s: {"remove": s}),
    )


def words(selectors: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    some = st.sampled_from([[], [], [], ["m0"], ["m1"], ["m2"]])
    return st.fixed_dictionaries(
        {"ops": st.lists(ops(selectors), min_size=1, max_size=2)},
        optional={
            "priority": st.integers(0, 3), "if_missing": st.sampled_from(["skip", "append", "fail"]),
            "order": st.fixed_dictionaries({"after": some}), "conflicts": some,
        },
    )  # fmt: skip


def made(found: list[dict[str, Any]]) -> list[Modifier]:
    return [
        parse_modifier({"modify": "f", "id": f"m{n}", **item}, source=f"m{n}.yaml", pack=f"p{n % 2}")
        for n, item in enumerate(found)
    ]


def paths(block: Iterable[model.Step]) -> list[str]:
    return [path for one in block for path in (one.path, *(p for inner in blocks_of(one) for p in paths(inner)))]


def with_modifiers(document: dict[str, Any]) -> st.SearchStrategy[tuple[dict[str, Any], list[Modifier]]]:
    there = paths(parse_flow(document, source="f").steps)
    other = ["@tag:t", "@handler:k.*", "@handler:k.one", "a", "nothing"]
    selectors = st.one_of(*[st.sampled_from(there)] * 5, st.sampled_from(other))
    return st.tuples(st.just(document), st.lists(words(selectors), max_size=4).map(made))


cases = flows.flatmap(with_modifiers)
WORLD = World(may_modify=lambda _pack, _flow: True)


def composed(document: dict[str, Any], found: list[Modifier]) -> Composition:
    flow = parse_flow(document, source="f.yaml", pack="owner", layer=model.Layer.ECOSYSTEM)
    return compose(Base(document, flow), found, WORLD)


def every(found: Composition) -> list[model.Step]:
    pending = [step for _, block in found.plan.phases for step in block]
    seen = []
    while pending:
        one = pending.pop()
        seen.append(one)
        pending += [inner for block in blocks_of(one) for inner in block]
    return seen


@settings(max_examples=200)
@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_files_never_matters(case, chance):
    document, found = case
    shuffled = list(found)
    chance.shuffle(shuffled)
    one, other = composed(document, found), composed(document, shuffled)
    assert one.digest == other.digest
    assert {repr(change) for change in one.changes} == {repr(change) for change in other.changes}


@settings(max_examples=120)
@given(cases)
def test_a_modifier_without_effect_may_as_well_not_be_there(case):
    document, found = case
    whole = composed(document, found)
    acting = {c.modifier for c in whole.changes if c.status in {Status.APPLIED, Status.OVERRIDDEN}}
    rivals = any(modifier.conflicts for modifier in found)  # one that is refused later may have silenced another first
    if not rivals:
        assert composed(document, [m for m in found if m.name in acting]).digest == whole.digest
    assert composed(document, []).digest == composed(document, []).digest


@settings(max_examples=120)
@given(cases)
def test_every_operation_is_told_and_a_modifier_is_applied_whole_or_not_at_all(case):
    document, found = case
    told = composed(document, found).changes
    for modifier in found:
        mine = [change for change in told if change.modifier == modifier.name]
        assert {change.op for change in mine} == {type(op).__name__.lower() for op in modifier.ops}
        statuses = {change.status for change in mine}
        if Status.REFUSED in statuses:
            assert not statuses & {Status.APPLIED, Status.OVERRIDDEN}
    assert all(change.why for change in told if change.status is not Status.APPLIED)


@settings(max_examples=120)
@given(cases)
def test_each_step_has_one_origin_and_acts_as_who_supplied_it(case):
    document, found = case
    composition = composed(document, found)
    for one in every(composition):
        assert one.origin.pack in one.acts_as
        assert one.origin.source == ("f.yaml" if one.origin.pack == "owner" else one.origin.source)
        if one.origin.source == "f.yaml":
            assert "owner" in one.acts_as
        else:
            assert one.acts_as == (one.origin.pack,)
