"""What a reader is told about a composed flow."""

from __future__ import annotations

import re

import pytest
import yaml

from core_runtime.drivers import cel
from core_runtime.rules.flow import explain, values
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


LANES = """
flow: acme.answer
steps:
  - id: both
    parallel: {branches: {left: [{id: a, call: k}], right: [{id: b, call: k}]}}
  - id: pick
    choose:
      - {when: "${x.ready}", do: [{id: c, call: k}]}
      - {default: [{id: d, call: k}]}
  - id: many
    each: {in: [1]}
    do: [{id: e, call: k}]
    catch: [{error: "quota/*", do: [{id: f, call: k}]}]
    finally: [{id: g, call: k}]
"""


def test_the_graph_names_each_lane_with_what_it_is_and_whose():
    graph = explain.as_mermaid(composed(flow=base(LANES)))
    boxes = re.findall(r'  subgraph n\d+\["(.*)"\]\n  n\d+\["(.*?):', graph)
    assert boxes == [
        ("branch left in both", "a"), ("branch right in both", "b"),
        ("when ${x.ready} in pick", "c"), ("default in pick", "d"),
        ("do in many", "e"), ("catch quota/* in many", "f"), ("finally in many", "g"),
    ]  # fmt: skip


@pytest.mark.parametrize("word", ["when", "error"])
def test_the_words_of_a_lane_can_not_break_out_of_its_label(word):
    values.use(cel.compile_expression)
    hostile = '"]\n  end\n  click n1 "x" <b>&#x22;`\u202e'
    lane = {"when": f"${{x == '''{hostile}'''}}"} if word == "when" else {"error": hostile}
    inner = [{"id": "b", "call": "k"}]
    step = {"id": "a", "call": "k", "catch": [{**lane, "do": inner}]} if word == "error" else {
        "id": "a", "choose": [{**lane, "do": inner}]
    }  # fmt: skip
    found = base(yaml.safe_dump({"flow": "acme.answer", "steps": [step]}))
    lines = explain.as_mermaid(composed(flow=found)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ['n1["a:', "subgraph", 'n2["b:', "end", "n1"]
    [title] = [line for line in lines if "subgraph" in line]
    assert "click n1" in title
    assert title.count('"') == 2
    assert not set("<>&`\u202e") & set(title)


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
