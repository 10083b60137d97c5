"""A flow's steps as the tree that a face draws."""

from __future__ import annotations

from core_runtime.rules.flow import explain
from core_runtime.rules.flow.outline import Group, Lane, Outlined, as_data, outline
from tests.unit.flow.test_compose import base, composed, modifier

EVERYTHING = """
flow: acme.answer
phases: [{name: first, sealed: true}, later, never]
catch: [{error: "own/*", do: [{id: sorry, call: a.sorry}]}]
finally: [{id: tidy, set: {x.y: 1, z: 2}}]
steps:
  - id: side
    phase: first
    parallel: {branches: {left: [{id: l, call: a.left, when: "${input.x}"}], right: [{id: r, flow: other.flow}]}}
    catch: [{error: "*", do: [{id: c, emit: a.bad}]}]
    finally: [{id: f, wait: 1500ms}]
  - id: pick
    phase: later
    choose:
      - {when: {compare: ["${input.x}", ">", 3]}, do: [{id: big, wait: {event: a.go}}]}
      - {default: [{id: small, wait: {until: "${input.at}"}, enabled: false}]}
  - {id: all, phase: later, each: {in: "${input.items}"}, do: [{id: one, call: a.one}]}
  - {id: items, phase: later, each: {in: {call: a.items}}, do: [{id: two, call: a.two}]}
  - {id: again, phase: later, loop: {max: 3}, do: [{id: three, call: a.three}]}
  - {id: in, phase: later, do: [{id: four, return: 4}]}
  - {id: own, phase: later, "acme:twice": {n: 2}, do: [{id: five, call: a.five}]}
"""


def steps_of(groups: tuple[Group, ...]) -> list[Outlined]:
    def below(steps: tuple[Outlined, ...]) -> list[Outlined]:
        return [one for step in steps for one in (step, *(deep for lane in step.lanes for deep in below(lane.steps)))]

    return [step for group in groups for step in below(group.steps)]


def test_phases_and_the_flows_own_blocks_are_groups_and_empty_ones_are_left_out():
    groups = outline(composed(flow=base(EVERYTHING)))
    assert [(group.kind, group.words, group.sealed) for group in groups] == [
        ("phase", "first", True), ("phase", "later", False), ("catch", "own/*", False), ("finally", "", False),
    ]  # fmt: skip


def test_steps_are_numbered_as_explain_lists_them():
    found = composed(flow=base(EVERYTHING))
    steps = steps_of(outline(found))
    assert [step.path for step in steps] == [step["path"] for step in explain.as_data(found)["steps"]]
    assert [step.number for step in steps] == list(range(len(steps)))


def test_every_verb_says_what_it_is_about_and_which_lanes_it_has():
    steps = {step.id: step for step in steps_of(outline(composed(flow=base(EVERYTHING))))}
    assert {name: step.what for name, step in steps.items() if step.what} == {
        "l": "a.left", "r": "other.flow", "c": "a.bad", "f": "1.5s", "big": "a.go", "small": "${input.at}",
        "all": "${input.items}", "one": "a.one", "items": "a.items", "two": "a.two", "three": "a.three",
        "own": "acme:twice", "five": "a.five", "sorry": "a.sorry", "tidy": "x.y, z",
    }  # fmt: skip

    def lanes(name: str) -> list[tuple[str, str]]:
        return [(lane.kind, lane.words) for lane in steps[name].lanes]

    assert lanes("side") == [("branch", "left"), ("branch", "right"), ("catch", "*"), ("finally", "")]
    assert lanes("pick") == [("when", '{"compare": ["${input.x}", ">", 3]}'), ("default", "")]
    assert [lanes(name) for name in ("all", "again", "in", "own")] == [[("do", "")]] * 4
    assert steps["l"].when == "${input.x}"
    assert (steps["small"].off, steps["big"].off) == (True, False)


def test_what_a_modifier_brought_and_touched_is_marked():
    guard = "- {insert: {before: generate}, steps: [{id: screen, call: guard.check}]}"
    steps = {step.id: step for step in steps_of(outline(composed(modifier(guard))))}
    assert steps["screen"].by == ("guard",)
    assert steps["generate"].by == ()
    assert [name for name, step in steps.items() if step.changed] == ["generate"]


def test_it_can_be_given_as_plain_data():
    [group] = as_data((Group("phase", "", False, (Outlined(0, "a", "a", "do", "", "", ("p",), False, False, False, (Lane("do", "", ()),)),)),))
    assert group["steps"][0]["lanes"] == [{"kind": "do", "words": "", "steps": []}]
    assert group["steps"][0]["by"] == ["p"]
