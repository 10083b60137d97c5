"""What a reader is told about a composed flow."""

from __future__ import annotations

from core_runtime.rules.flow import explain
from tests.unit.flow.test_compose import base, composed, modifier

GUARD = "- {insert: {before: generate}, steps: [{id: screen, call: guard.check}]}"
SLOW = '- {patch: "gather/search/find", json_patch: [{op: replace, path: /timeout, value: 2s}]}'


def test_each_step_has_its_origin_its_actors_and_its_changes():
    found = explain.as_data(composed(modifier(GUARD), modifier(SLOW, id="guard.slow")))
    steps = {step["path"]: step for step in found["steps"]}
    assert list(steps) == [
        "gather", "gather/history/load", "gather/search/find", "screen", "generate", "save",
    ]  # fmt: skip
    assert (steps["screen"]["origin"]["pack"], steps["screen"]["origin"]["layer"]) == ("guard", "ecosystem")
    own = explain.as_data(composed(modifier(GUARD, pack="")))
    assert [step["origin"]["layer"] for step in own["steps"] if step["path"] == "screen"] == ["user"]
    assert steps["screen"]["acts_as"] == ["guard"]
    assert steps["gather/search/find"]["acts_as"] == ["acme", "guard"]
    [change] = steps["gather/search/find"]["changes"]
    assert (change["modifier"], change["status"], change["after"]["timeout"]) == ("guard:guard.slow", "applied", "2s")
    assert found["changes"] == []
    assert [change["op"] for change in steps["generate"]["changes"]] == ["insert"]


def test_what_left_no_step_behind_is_told_of_the_flow():
    found = explain.as_data(composed(modifier("- {remove: save}"), modifier(GUARD, id="guard.off", enabled=False)))
    assert [(c["op"], c["step"], c["status"]) for c in found["changes"]] == [
        ("remove", "save", "applied"), ("insert", "", "skipped"),
    ]  # fmt: skip


def test_the_graph_names_who_supplied_a_foreign_step():
    graph = explain.as_mermaid(composed(modifier(GUARD)))
    assert graph.startswith("flowchart TD\n")
    assert "screen: guard.check [guard]" in graph
    assert 'n1["gather: parallel"]' in graph
    assert graph.count("subgraph") == graph.count("\n  end") == 2


def test_a_handlers_name_can_not_break_out_of_its_label():
    hostile = '"]; click n1 "javascript:alert(1)" <b>&#x22;`'
    graph = explain.as_mermaid(composed(flow=base(f"flow: acme.answer\nsteps: [{{id: a, call: '{hostile}'}}]")))
    [line] = [line for line in graph.splitlines() if "javascript" in line]
    assert line.count('"') == 2
    assert not set("<>&`") & set(line)


def test_the_difference_that_one_modifier_makes():
    without, with_it = composed(), composed(modifier(GUARD))
    text = explain.as_diff(without, with_it, ("without", "with"))
    assert text.startswith("--- without\n+++ with\n")
    assert '+   "call": "guard.check",' in text
    assert explain.as_diff(without, without, ("a", "b")) == ""
