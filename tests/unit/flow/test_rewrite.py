"""What becomes of a modifier's operations where others were there first, and where a place can't take them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core_runtime.rules.flow import model
from core_runtime.rules.flow.changes import Change, Status
from core_runtime.rules.flow.compose import Base, Composition
from core_runtime.rules.flow.parse import parse_flow
from tests.unit.flow.test_compose import PHASES, base, by_id, composed, modifier, top

LINE = """
flow: acme.answer
steps:
  - {id: a, call: k.a}
  - {id: b, call: k.b}
  - {id: c, call: k.c, needs: [a, b]}
  - {id: group, do: [{id: inner, call: k.i}]}
catch: [{error: "*", do: [{id: sorry, call: k.sorry}]}]
finally: [{id: last, call: k.last}]
"""
OPEN = PHASES.replace("third]", "third, fourth]").replace(", sealed: true}", "}", 1)


def changes(composition: Composition, of: str) -> list[Change]:
    return [one for one in composition.changes if one.source == f"{of}.yaml"]


def change(composition: Composition, of: str = "guard.screen") -> Change:
    [found] = changes(composition, of)
    return found


def on(ops: str, text: str = LINE, **words: object) -> Composition:
    about = "host.start" if "host.start" in text else "acme.answer"
    return composed(modifier(ops, pack="", modify=about, **words), flow=base(text, pack=""))


# --- two at one step --------------------------------------------------------------------------------------------------

PATCH = "[{patch: a, json_patch: [{op: add, path: /%s, value: %s}]}]"


@pytest.mark.parametrize(("word", "value", "expected"), [("timeout", "2s", "overridden"), ("about", "text", "applied")])
def test_of_two_patches_the_earlier_is_told_that_it_was_outdone_only_where_they_meet(word, value, expected):
    first = modifier(PATCH % ("timeout", "1s"), id="m.first", priority=1)
    second = modifier(PATCH % (word, value), id="m.second", priority=2)
    composition = composed(second, first, flow=base(LINE))
    told = {one.status for one in changes(composition, "m.first")}
    assert told == ({Status.APPLIED, Status.OVERRIDDEN} if expected == "overridden" else {Status.APPLIED})
    assert {one.status for one in changes(composition, "m.second")} == {Status.APPLIED}
    why = [one.why for one in composition.changes if one.status is Status.OVERRIDDEN]
    assert all("m.second" in one and "won" in one for one in why)


def test_a_modifier_does_not_outdo_itself():
    composition = on((PATCH % ("timeout", "1s"))[:-1] + ", " + (PATCH % ("timeout", "2s"))[1:])
    assert {one.status for one in composition.changes} == {Status.APPLIED}
    assert by_id(composition, "a")["timeout"] == "2s"


def test_what_is_gone_already_is_told_and_nothing_is_done_twice():
    gone = modifier("[{remove: a}]", id="m.first", priority=1)
    again = modifier("[{remove: a}]", id="m.second", priority=2)
    composition = composed(gone, again, flow=base(LINE))
    assert [(one.status, one.why) for one in changes(composition, "m.second")] == [(Status.SKIPPED, "it is gone already")]
    assert [one.status for one in changes(composition, "m.first")] == [Status.APPLIED]
    wrapped = composed(gone, modifier("[{wrap: [a], with: {id: w}}]", id="m.second"), flow=base(LINE))
    assert (change(wrapped, "m.second").status, change(wrapped, "m.second").step) == (Status.SKIPPED, "a")
    assert top(wrapped) == ["b", "c", {"group": ["inner"]}]


# --- places that refuse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops", "why"),
    [
        ("[{wrap: [a, c], with: {id: w}}]", "'b' stands between the steps to wrap"),
        ("[{wrap: [a, group/inner], with: {id: w}}]", "the steps to wrap do not stand in one block"),
        ("[{wrap: [a], with: {id: c}}]", "a step 'c' is there already"),
        ("[{insert: {before: a}, steps: [{id: c, call: k}]}]", "a step 'c' is there already"),
        ("[{insert: {last_in: group}, steps: [{id: inner, call: k}]}]", "a step 'inner' is there already"),
        ("[{replace: a, step: {id: b, call: k}}]", "a step 'b' is there already"),
    ],
)
def test_a_place_that_can_not_take_it_refuses_and_says_why(ops, why):
    composition = on(ops)
    assert (change(composition).status, change(composition).why) == (Status.REFUSED, why)
    assert composition.digest == composed(flow=base(LINE, pack="")).digest


def test_steps_of_several_phases_are_not_wrapped_together():
    composition = on("[{wrap: [look, look-2], with: {id: w}}]", OPEN.replace(
        "  - {id: shut", "  - {id: look-2, phase: third, call: a.two}\n  - {id: shut"))  # fmt: skip
    assert change(composition).status is Status.REFUSED
    assert "several phases: second, third" in change(composition).why


def test_what_a_sealed_step_needs_stays_and_what_it_does_not_need_may_go():
    text = "flow: acme.answer\nsteps: [{id: a, call: k}, {id: b, call: k}, {id: c, call: k, needs: [a], sealed: true}]"
    kept = change(on("[{remove: a}]", text))
    assert (kept.status, kept.why) == (Status.REFUSED, "the sealed step c needs it")
    assert top(on("[{remove: b}]", text)) == ["a", "c"]


# --- where brought steps stand ----------------------------------------------------------------------------------------

APPEND = "[{insert: {after: gone}, steps: [{id: new, call: k, phase: second}]}]"


def test_what_is_appended_belongs_to_the_last_phase_and_a_sealed_one_refuses():
    composition = on(APPEND, OPEN, if_missing="append")
    assert top(composition)[-1] == "new"
    assert by_id(composition, "new")["phase"] == "fourth"
    assert (change(composition).status, change(composition).step) == (Status.APPLIED, "")
    closed = on(APPEND, OPEN.replace("fourth]", "{name: fourth, sealed: true}]"), if_missing="append")
    assert (change(closed).status, change(closed).step) == (Status.REFUSED, "")
    assert change(closed).why == "the last phase 'fourth' is sealed"


def test_an_inserted_step_belongs_to_the_phase_of_its_anchor_whatever_it_says():
    composition = on("[{insert: {after: look}, steps: [{id: new, call: k, phase: third}]}]", OPEN)
    assert by_id(composition, "new")["phase"] == "second"


def test_a_replaced_step_without_an_id_keeps_the_last_part_of_its_path():
    composition = on("[{replace: group/inner, step: {call: k.other}}]")
    assert by_id(composition, "group")["do"] == [{"id": "inner", "call": "k.other"}]


@pytest.mark.parametrize("gone", ["group", "replaced"])
def test_nothing_is_inserted_or_changed_in_what_was_taken_out_or_exchanged(gone):
    first = "[{remove: group}]" if gone == "group" else "[{replace: group, step: {id: group, call: k}}]"
    ops = "[{insert: {last_in: group}, steps: [{id: new, call: k}]}, {remove: group/inner}]"
    composition = composed(modifier(first, id="m.first", priority=1), modifier(ops, id="m.second"), flow=base(LINE))
    told = [(one.op, one.status) for one in changes(composition, "m.second")]
    assert told == [("remove", Status.OVERRIDDEN), ("insert", Status.OVERRIDDEN)]


def test_who_needed_one_of_several_needs_what_stands_in_its_place_and_the_others_still():
    assert by_id(on("[{wrap: [a], with: {id: w}}]"), "c")["needs"] == ["w", "b"]
    assert by_id(on("[{remove: a}]"), "c")["needs"] == ["b"]


def test_catch_and_finally_of_a_changed_flow_stay_their_suppliers_and_who_that_is_counts():
    own = base(LINE)
    lent = parse_flow(own.document, source="lib.flow.yaml", pack="lib", layer=model.Layer.ECOSYSTEM)
    place = model.Origin("acme.flow.yaml", 7, 3, "acme")
    mixed = Base(own.document, replace(own.flow, catch=lent.catch, finally_=lent.finally_, origin=place))
    removing = modifier("[{remove: b}]")
    composition = composed(removing, flow=mixed)
    flow = composition.plan.flow
    assert (flow.catch[0].do[0].acts_as, flow.finally_[0].acts_as, flow.origin) == (("lib",), ("lib",), place)
    assert flow.steps[0].acts_as == ("acme",)
    assert composition.digest != composed(removing, flow=own).digest


def test_who_acts_is_part_of_the_digest():
    inserted = "[{insert: {before: a}, steps: [{id: new, call: k}]}]"
    digests = {composed(modifier(inserted, pack=pack), flow=base(LINE)).digest for pack in ("guard", "other", "")}
    assert len(digests) == 3


@pytest.mark.parametrize("place", ["first_in", "last_in"])
def test_steps_that_several_bring_into_a_phase_stand_in_the_order_of_their_modifiers(place):
    ops = '[{insert: {%s: "@phase:second"}, steps: [{id: %s, call: k}]}]'
    first = modifier(ops % (place, "x"), id="m.first", priority=1, modify="host.start")
    second = modifier(ops % (place, "y"), id="m.second", priority=2, modify="host.start")
    composition = composed(second, first, flow=base(OPEN))
    assert top(composition) == ["lock", *(["x", "y", "look"] if place == "first_in" else ["look", "x", "y"]), "shut"]


def test_in_a_flow_without_phases_a_brought_step_has_none():
    composition = on("[{insert: {after: a}, steps: [{id: new, call: k, phase: second}]}]")
    assert by_id(composition, "new") == {"id": "new", "call": "k"}


def test_a_change_names_the_layer_as_documents_do():
    assert change(on("[{remove: a}]")).layer == "user"
