"""What a run would need, without a run: steps of every block and of the flows below, interfaces, rights, Packs."""

from __future__ import annotations

import yaml

from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow
from core_runtime.rules.flow.rehearse import rehearse
from tests.unit.flow.test_compose import composed, modifier

OUTER = """
flow: acme.outer
steps:
  - {id: one, call: acme.one, catch: [{do: [{id: sorry, emit: acme.sorry}]}]}
  - {id: items, each: {in: {call: acme.items}}, do: [{id: put, call: store.put}]}
  - {id: below, flow: shop.inner}
  - {id: again, flow: acme.outer}
  - {id: gone, flow: no.flow}
  - {id: waits, wait: {event: shop.done}}
  - {id: twice, "acme:thrice": 2, do: [{id: deep, call: acme.one}]}
finally: [{id: last, emit: "${input.topic}"}]
"""
INNER = "flow: shop.inner\nsteps: [{id: back, flow: acme.outer}, {id: sell, call: shop.sell}]\n"


def plan(text, pack):
    return plan_flow(parse_flow(yaml.safe_load(text), source="f", pack=pack))


def needs():
    plans = {"acme.outer": plan(OUTER, "acme"), "shop.inner": plan(INNER, "shop")}
    return rehearse(plans["acme.outer"], plans.get)


def test_every_step_that_needs_somebody_is_told_with_its_flow_and_who_acts():
    found = needs()
    assert [(one["flow"], one["path"], one["handler"]) for one in found["calls"]] == [
        ("acme.outer", "one", "acme.one"), ("acme.outer", "items", "acme.items"), ("acme.outer", "items/put", "store.put"),
        ("acme.outer", "twice/deep", "acme.one"), ("shop.inner", "sell", "shop.sell"),
    ]  # fmt: skip
    assert [one["runs"] for one in found["flows"]] == ["shop.inner", "acme.outer", "no.flow", "acme.outer"]
    assert [one["topic"] for one in found["publishes"]] == ["acme.sorry", "${input.topic}"]
    assert [one["topic"] for one in found["listens"]] == ["shop.done"]
    assert [(one["handler"], one["pack"]) for one in found["constructs"]] == [("flow.construct.thrice", "acme")]
    assert {tuple(one["acts_as"]) for one in found["calls"]} == {("acme",), ("shop",)}


def test_what_it_needs_of_others_is_said_once():
    found = needs()
    assert found["interfaces"] == ["acme.items", "acme.one", "flow.construct.thrice", "shop.sell", "store.put"]
    assert found["packs"] == ["acme", "shop"]
    wanted = {(one["pack"], one["type"], one.get("key") or one.get("topic") or one.get("flow")) for one in found["permissions"]}
    assert len(wanted) == len(found["permissions"])
    assert {
        ("acme", "interface.call", "store.put"), ("acme", "event.publish", "acme.sorry"), ("acme", "event.subscribe", "shop.done"),
        ("acme", "flow.run", "shop.inner"), ("shop", "flow.run", "acme.outer"), ("shop", "interface.call", "shop.sell"),
    } <= wanted  # fmt: skip
    assert ("acme", "interface.call", "shop.sell") not in wanted, "that step is not its own"


def test_a_step_of_two_needs_the_right_of_both_and_the_hosts_handlers_nobodys():
    found = rehearse(composed(modifier("- {patch: save, json_patch: [{op: replace, path: /call, value: x.y}]}")).plan, lambda _flow: None)
    assert {one["pack"] for one in found["permissions"] if one.get("key") == "x.y"} == {"acme", "guard"}
    host = rehearse(plan("flow: h\nsteps: [{call: 'kernel:x'}]\n", ""), lambda _flow: None)
    assert (host["interfaces"], host["permissions"], host["packs"]) == ([], [], [])
