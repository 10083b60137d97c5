"""Composition as transcripts: a flow, somebody's changes, and what stands there afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from backend_core.errors import AuthorError
from core_runtime.flow_composer import read_document
from core_runtime.rules.flow import model
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Base, Composition, World, compose
from core_runtime.rules.flow.modifier import Modifier, parse_modifier
from core_runtime.rules.flow.parse import parse_flow

FLOW = """
flow: acme.answer
version: 1
steps:
  - id: gather
    parallel:
      branches:
        history: [{id: load, call: store.read, tags: [slow], as: history}]
        search: [{id: find, call: search.query, timeout: 3s, as: sources}]
  - {id: generate, call: model.generate, needs: [gather], with: {h: "${history}"}, as: reply}
  - {id: save, call: store.append, needs: [generate], on_error: continue}
"""
PHASES = """
flow: host.start
phases: [{name: first, sealed: true}, second, third]
steps:
  - {id: lock, phase: first, call: a.lock}
  - {id: look, phase: second, call: a.look}
  - {id: shut, phase: third, call: a.shut, sealed: true}
"""
ALL = World(may_modify=lambda _pack, _flow: True)


def base(text: str = FLOW, pack: str = "acme") -> Base:
    document = yaml.safe_load(text)
    return Base(document, parse_flow(document, source="acme.flow.yaml", pack=pack, layer=model.Layer.ECOSYSTEM))


def modifier(ops: str, *, pack: str = "guard", source: str = "", **words: Any) -> Modifier:
    document = {"modify": "acme.answer", "id": "guard.screen", **words, "ops": yaml.safe_load(ops)}
    layer = model.Layer.ECOSYSTEM if pack else model.Layer.USER
    return parse_modifier(document, source=source or f"{document['id']}.yaml", pack=pack, layer=layer)


def composed(*modifiers: Modifier, flow: Base | None = None, world: World = ALL) -> Composition:
    return compose(flow or base(), modifiers, world)


def shape(steps: Any) -> list[Any]:
    """Ids in order; a step with a ``do`` block as ``{id: [...]}``."""
    return [{step["id"]: shape(step["do"])} if "do" in step else step["id"] for step in steps]


def top(composition: Composition) -> list[Any]:
    return shape(composition.document["steps"])


def by_id(composition: Composition, step_id: str) -> Any:
    return next(step for step in composition.document["steps"] if step["id"] == step_id)


def told(composition: Composition) -> list[tuple[str, str, str]]:
    return [(change.modifier, change.op, change.status.value) for change in composition.changes]


def test_without_modifiers_it_is_the_flow_with_every_id_written_out():
    found = composed()
    assert top(found) == ["gather", "generate", "save"]
    assert found.changes == ()
    assert found.plan.handlers == {"store.read", "search.query", "model.generate", "store.append"}
    assert {step.acts_as for _, steps in found.plan.phases for step in steps} == {("acme",)}


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("before: generate", ["gather", "new", "generate", "save"]),
        ("after: generate", ["gather", "generate", "new", "save"]),
        ("before: gather", ["new", "gather", "generate", "save"]),
        ("first_in: /", ["new", "gather", "generate", "save"]),
        ("last_in: /", ["gather", "generate", "save", "new"]),
        ('before: "@handler:store.app*"', ["gather", "generate", "new", "save"]),
    ],
)
def test_insert_puts_steps_where_they_are_wanted(place, expected):
    found = composed(modifier(f"- {{insert: {{{place}}}, steps: [{{id: new, call: guard.check}}]}}"))
    assert top(found) == expected
    assert by_id(found, "new")["call"] == "guard.check"
    [new] = [step for _, steps in found.plan.phases for step in steps if step.id == "new"]
    assert new.acts_as == ("guard",)
    assert (new.origin.source, new.origin.pack) == ("guard.screen.yaml", "guard")


@pytest.mark.parametrize(
    ("place", "expected"),
    [("before: load", ["new", "load"]), ("after: gather/history/load", ["load", "new"]),
     ("last_in: gather/history", ["load", "new"]), ('before: "@tag:slow"', ["new", "load"])],
)  # fmt: skip
def test_insert_reaches_into_blocks(place, expected):
    found = composed(modifier(f"- {{insert: {{{place}}}, steps: [{{id: new, call: guard.check}}]}}"))
    branches = found.document["steps"][0]["parallel"]["branches"]
    assert (shape(branches["history"]), shape(branches["search"])) == (expected, ["find"])


def test_aliases_name_what_they_stand_for():
    world = World(handlers_of=lambda name: {"remember": ["store.append"]}.get(name, ()), may_modify=ALL.may_modify)
    found = composed(modifier('- {remove: "@alias:remember"}'), world=world)
    assert top(found) == ["gather", "generate"]


def test_wrap_takes_over_needs_and_smaller_priorities_end_further_out():
    inner = modifier("- {wrap: generate, with: {timeout: 5s}}", id="guard.inner", priority=50)
    outer = modifier("- {wrap: [generate], with: {id: budget, timeout: 45s}}", id="guard.outer", priority=10)
    found = composed(inner, outer)
    assert top(found) == ["gather", {"budget": [{"inner": ["generate"]}]}, "save"]
    budget = by_id(found, "budget")
    assert (budget["needs"], budget["timeout"]) == (["gather"], "45s")
    assert by_id(found, "save")["needs"] == ["budget"]
    assert "needs" not in budget["do"][0]["do"][0]


def test_wrapping_several_keeps_what_they_need_of_each_other():
    found = composed(modifier("- {wrap: [generate, save], with: {id: both, loop: {max: 2}}}"))
    assert top(found) == ["gather", {"both": ["generate", "save"]}]
    both = by_id(found, "both")
    assert both["needs"] == ["gather"]
    assert both["do"][1]["needs"] == ["generate"]
    assert both["loop"] == {"max": 2}


def test_a_wrap_of_more_holds_a_wrap_of_less_whatever_their_priorities():
    one = modifier("- {wrap: generate, with: {id: one}}", id="guard.one", priority=1)
    two = modifier("- {wrap: [generate, save], with: {id: two}}", id="guard.two", priority=2)
    assert top(composed(one, two)) == ["gather", {"two": [{"one": ["generate"]}, "save"]}]


def test_wraps_that_overlap_are_a_conflict_that_the_later_one_loses():
    one = modifier("- {wrap: [gather, generate], with: {id: one}}", id="guard.one", priority=1)
    two = modifier("- {wrap: [generate, save], with: {id: two}}", id="guard.two", priority=2)
    found = composed(one, two)
    assert top(found) == [{"one": ["gather", "generate"]}, "save"]
    assert told(found) == [("guard:guard.one", "wrap", "applied"), ("guard:guard.two", "wrap", "refused")]
    assert "guard:guard.one, which comes first and won" in found.changes[1].why


def test_patch_changes_words_and_the_step_acts_as_both():
    ops = '- {patch: "gather/search/find", json_patch: [{op: replace, path: /timeout, value: 2s}]}'
    found = composed(modifier(ops))
    [change] = found.changes
    assert (change.before["timeout"], change.after["timeout"], change.step) == ("3s", "2s", "gather/search/find")
    steps = {step.path: step for _, top_steps in found.plan.phases for step in top_steps}
    parallel = steps["gather"].action
    assert isinstance(parallel, model.Parallel)
    [find] = dict(parallel.branches)["search"]
    assert (find.timeout_s, find.acts_as) == (2.0, ("acme", "guard"))
    assert dict(parallel.branches)["history"][0].acts_as == ("acme",)


def test_an_operators_patch_takes_no_rights_away():
    found = composed(modifier("- {patch: save, json_patch: [{op: add, path: /timeout, value: 1s}]}", pack=""))
    assert {step.id: step.acts_as for _, steps in found.plan.phases for step in steps}["save"] == ("acme",)


@pytest.mark.parametrize(
    ("target", "patch", "why"),
    [
        ("generate", "{op: test, path: /call, value: other}", "does not apply"),
        ("generate", "{op: remove, path: /nothing}", "does not apply"),
        ("gather", "{op: add, path: /parallel/branches/more, value: []}", "blocks of steps"),
        ("gather", "{op: add, path: /parallel/branches/history/-, value: {call: x}}", "blocks of steps"),
        ("generate", "{op: add, path: /do, value: []}", "blocks of steps"),
        ("generate", "{op: add, path: /cal, value: x}", "not be valid"),
        ("generate", "{op: add, path: /needs/-, value: nobody}", "not be valid"),
    ],
)
def test_a_patch_that_can_not_be_takes_its_whole_modifier_back(target, patch, why):
    ops = f"- {{patch: {target}, json_patch: [{patch}]}}\n- {{remove: save}}"
    found = composed(modifier(ops))
    assert top(found) == ["gather", "generate", "save"]
    assert found.digest == composed().digest
    assert {change.status for change in found.changes} == {Status.REFUSED, Status.SKIPPED}
    assert any(why in change.why for change in found.changes)


def test_replace_keeps_the_place_and_the_later_one_wins():
    one = modifier("- {replace: save, step: {id: keep, call: one.save}}", id="guard.one", priority=1)
    two = modifier("- {replace: save, step: {call: two.save, needs: [generate]}}", pack="rival", id="rival.two", priority=2)
    patch = modifier("- {patch: save, json_patch: [{op: add, path: /timeout, value: 1s}]}", id="guard.patch", priority=3)
    found = composed(two, one, patch)
    assert by_id(found, "save") == {"id": "save", "call": "two.save", "needs": ["generate"]}
    assert top(composed(one)) == ["gather", "generate", "keep"]
    assert [change.modifier for change in found.changes if change.status is Status.OVERRIDDEN] == [
        "guard:guard.patch", "guard:guard.patch", "guard:guard.one",
    ]  # fmt: skip
    assert all("won" in change.why for change in found.changes if change.status is Status.OVERRIDDEN)


def test_a_removed_step_is_still_an_anchor_and_needed_by_nobody():
    gone = modifier("- {remove: generate}", id="guard.gone")
    near = modifier("- {insert: {after: generate}, steps: [{id: new, call: guard.check}]}", id="guard.near")
    found = composed(near, gone)
    assert top(found) == ["gather", "new", "save"]
    assert "needs" not in by_id(found, "save")


def test_what_lies_inside_something_removed_is_told_so():
    gone = modifier("- {remove: gather}", id="guard.gone")
    inside = modifier("- {insert: {before: load}, steps: [{id: new, call: guard.check}]}", id="guard.inside")
    found = composed(inside, gone)
    assert top(found) == ["generate", "save"]
    assert ("guard:guard.inside", "insert", "overridden") in told(found)


def test_several_inserts_at_one_place_stand_in_the_order_of_their_modifiers():
    def at(place: str, name: str, priority: int) -> Modifier:
        ops = f"- {{insert: {{{place}}}, steps: [{{id: {name}1, call: x}}, {{id: {name}2, call: x}}]}}"
        return modifier(ops, id=f"guard.{name}", priority=priority)

    for place in ("before: generate", "after: generate", "first_in: /", "last_in: /"):
        ids = top(composed(at(place, "b", 2), at(place, "a", 1)))
        assert [one for one in ids if one[0] in "ab"] == ["a1", "a2", "b1", "b2"]


def test_order_moves_a_modifier_whatever_its_priority_and_a_circle_is_told():
    first = modifier("- {insert: {before: save}, steps: [{id: one, call: x}]}", id="guard.one", order={"after": ["guard.two"]})
    second = modifier("- {insert: {before: save}, steps: [{id: two, call: x}]}", id="guard.two", priority=900)
    assert top(composed(first, second)) == ["gather", "generate", "two", "one", "save"]
    circle = modifier("- {remove: save}", id="guard.two", order={"after": ["guard.one"]})
    found = composed(first, circle)
    assert top(found) == ["gather", "generate", "save"]
    assert {change.status for change in found.changes} == {Status.REFUSED}


def test_conflicts_keep_the_first_and_name_it():
    one = modifier("- {remove: save}", id="guard.one", priority=1)
    two = modifier("- {remove: gather}", id="guard.two", priority=2, conflicts=["guard.one"])
    found = composed(two, one)
    assert top(found) == ["gather", "generate"]
    [skipped] = [change for change in found.changes if change.status is Status.SKIPPED]
    assert "guard:guard.one" in skipped.why


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        ({"enabled": False}, "skipped", "switched off"),
        ({"requires": {"interfaces": ["guard.check"]}}, "skipped", "guard.check"),
        ({"requires": {"flow_version": ">=2"}}, "skipped", "version >=2"),
        ({"requires": {"flow_version": ">=1 <2"}}, "applied", ""),
        ({"modify": "other.flow"}, "", ""),
        ({"modify": ["other.flow", "acme.*"]}, "applied", ""),
    ],
)
def test_conditions_decide_whether_a_modifier_is_about_this_flow_now(words, status, why):
    world = World(has_interface=lambda _key: False, may_modify=ALL.may_modify)
    found = composed(modifier("- {remove: save}", **words), world=world)
    assert [change.status.value for change in found.changes] == ([status] if status else [])
    assert all(why in change.why for change in found.changes)


@pytest.mark.parametrize(
    ("ops", "if_missing", "expected", "status"),
    [
        ("- {insert: {before: nothing}, steps: [{id: new, call: x}]}", "skip", ["gather", "generate", "save"], "skipped"),
        ("- {insert: {before: nothing}, steps: [{id: new, call: x}]}", "fail", ["gather", "generate", "save"], "refused"),
        ("- {insert: {before: nothing}, steps: [{id: new, call: x}]}", "append", ["gather", "generate", "save", "new"], "applied"),
        ("- {remove: nothing}", "append", ["gather", "generate", "save"], "skipped"),
    ],
)
def test_a_target_that_is_not_there(ops, if_missing, expected, status):
    found = composed(modifier(ops, if_missing=if_missing))
    assert top(found) == expected
    assert [change.status.value for change in found.changes] == [status]


def test_an_id_that_two_steps_have_needs_a_path():
    flow = base("flow: acme.answer\nsteps: [{id: a, do: [{id: x, call: k}]}, {id: b, do: [{id: x, call: k}]}]")
    found = composed(modifier("- {remove: x}"), flow=flow)
    assert found.changes[0].status is Status.REFUSED
    assert "a/x or b/x" in found.changes[0].why
    assert top(composed(modifier("- {remove: b/x}"), flow=flow)) == [{"a": ["x"]}, {"b": []}]


@pytest.mark.parametrize(
    "ops",
    [
        "- {remove: lock}", "- {wrap: lock, with: {timeout: 1s}}", "- {patch: lock, json_patch: [{op: add, path: /x, value: {}}]}",
        "- {replace: lock, step: {call: mine}}", "- {insert: {after: lock}, steps: [{call: mine}]}",
        '- {insert: {last_in: "@phase:first"}, steps: [{call: mine}]}', "- {remove: shut}",
        "- {wrap: [look, lock], with: {timeout: 1s}}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", ["guard", ""])
def test_sealed_steps_and_phases_refuse_everybody(ops, pack):
    flow = base(PHASES, pack="")
    found = composed(modifier(ops, modify="host.*", pack=pack), flow=flow)
    assert {change.status for change in found.changes} == {Status.REFUSED}
    assert "sealed" in found.changes[0].why
    assert found.digest == composed(flow=flow).digest


def test_beside_a_sealed_step_in_an_open_phase_there_is_room():
    found = composed(modifier("- {insert: {before: shut}, steps: [{id: new, call: x}]}", modify="host.start"), flow=base(PHASES))
    assert top(found) == ["lock", "look", "new", "shut"]
    assert by_id(found, "new")["phase"] == "third"


def test_a_pack_needs_the_right_and_its_own_flow_is_its_own():
    none = World()
    found = composed(modifier("- {remove: save}"), world=none)
    assert found.changes[0].status is Status.REFUSED
    assert "flow.modify" in found.changes[0].why
    assert top(composed(modifier("- {remove: save}", pack="acme"), world=none)) == ["gather", "generate"]
    assert top(composed(modifier("- {remove: save}", pack=""), world=none)) == ["gather", "generate"]


@pytest.mark.parametrize(
    "ops",
    [
        '- {insert: {before: look}, steps: [{call: "kernel:trust.open"}]}',
        '- {replace: look, step: {call: "kernel:trust.open"}}',
        '- {patch: look, json_patch: [{op: replace, path: /call, value: "kernel:trust.open"}]}',
        "- {patch: boot, json_patch: [{op: add, path: /timeout, value: 1s}]}",
        '- {wrap: boot, with: {timeout: 1ms}}\n- {insert: {before: boot}, steps: [{do: [{call: "kernel:x"}]}]}',
    ],
)  # fmt: skip
def test_no_pack_gets_at_kernel_handlers(ops):
    document = yaml.safe_load('{flow: host.start, steps: [{id: boot, call: "kernel:boot"}, {id: look, call: a.look}]}')
    flow = Base(document, parse_flow(document, source="core.yaml"))
    found = composed(modifier(ops, modify="host.start"), flow=flow)
    assert Status.REFUSED in {change.status for change in found.changes}
    assert found.digest == composed(flow=flow).digest


def test_a_pack_whose_modifiers_fail_again_and_again_is_left_out():
    broken = [modifier("- {patch: save, json_patch: [{op: test, path: /call, value: no}]}", id=f"bad.m{n}", pack="bad") for n in range(40)]
    good = modifier("- {remove: save}", id="guard.good")
    found = composed(*broken, good)
    assert top(found) == ["gather", "generate"]
    assert len({change.modifier for change in found.changes}) == 41
    assert any("too many" in change.why for change in found.changes)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("ops: [{inser: {before: a}, steps: [{call: k}]}]", "insert"), ("ops: [{insert: {befor: a}, steps: [{call: k}]}]", "before"),
        ("if_missing: skp", "skip"), ("prioritiy: 3", "priority"),
    ],
)  # fmt: skip
def test_a_wrong_word_of_a_modifier_is_told_with_its_place_and_what_was_meant(line, meant):
    text = f"modify: a.b\nid: m\n{line}\n" + ("" if line.startswith("ops") else "ops: [{remove: x}]\n")
    with pytest.raises(AuthorError) as caught:
        read_document(text.encode(), source="m.yaml", layer=model.Layer.USER)
    assert f"Did you mean '{meant}'?" in str(caught.value.fields["problems"])
    assert caught.value.fields["line"] == 3
    assert caught.value.fields["column"] >= 1


PATCH = "{op: add, path: /timeout, value: 1s}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ops: [{patch: x, json_patch: 5}]", "expected a list of operations"),
        ("ops: [{patch: x, json_patch: []}]", "expected a list of operations"),
        ("ops: [{patch: x}]", "expected a list of operations"),
        ("ops: [{patch: x, json_patch: [{op: none, path: /timeout}]}]", "under op, got 'none'"),
        ("ops: [{patch: x, json_patch: [5]}]", "under op"),
        ("ops: [{patch: x, json_patch: [{op: add, path: /id, value: y}]}]", "are not patched"),
        ("ops: [{patch: x, json_patch: [{op: add, path: /sealed, value: false}]}]", "are not patched"),
        ("ops: [{patch: x, json_patch: [{op: add, path: /phase, value: y}]}]", "are not patched"),
        ("ops: [{patch: x, json_patch: [{op: add, path: /order, value: 1}]}]", "are not patched"),
        ("ops: [{patch: x, json_patch: [{op: add, path: '', value: {}}]}]", "are not patched"),
        (f"ops: [{{patch: x, json_patch: [{PATCH}], extra: 1}}]", "extra"),
        ("ops: [{remove: x, extra: 1}]", "extra"),
        ("ops: [{insert: {after: x}, steps: [{call: k}], extra: 1}]", "extra"),
        ("requires: {flow_version: newest}", "expected a range"),
        ("requires: {flow_version: 2}", "expected a range"),
        ("priority: -1", "whole number from 0"),
        ("priority: true", "whole number from 0"),
        ("enabled: maybe", "true or false"),
    ],
    ids=str,
)
def test_what_is_no_modifier_is_refused_at_its_place(line: str, said: str) -> None:
    text = f"modify: a.b\nid: m\n{line}\n" + ("" if line.startswith("ops") else "ops: [{remove: x}]\n")
    with pytest.raises(AuthorError) as caught:
        read_document(text.encode(), source="m.yaml", layer=model.Layer.USER)
    found = caught.value.fields["problems"]
    assert {problem["line"] for problem in found if said in problem["text"]} == {3}, found
