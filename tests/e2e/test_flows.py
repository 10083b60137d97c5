"""Flows that Packs bring: run over HTTP, streamed, changed by another Pack within its rights, resumed after a kill."""

from __future__ import annotations

import http.client
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.running_host import RunningHost, one_component_pack

ACME = """
import threading

def run(context):
    ir = context["interface_registry"]
    gate, asked = threading.Event(), []

    def count(args, ctx):
        for n in range(args["n"]):
            yield {"n": n}

    def slow(args, ctx):
        asked.append(args["n"])
        gate.wait(30)
        return args["n"] * 100

    ir.register("acme.double", lambda args, ctx: {"value": args["value"] * 2, "caller": ctx["caller"]})
    ir.register("acme.count", count)
    ir.register("acme.slow", slow)
    ir.register("acme.asked", lambda args, ctx: list(asked))
    ir.register("acme.open", lambda args, ctx: gate.set())
"""
KEYS = ("acme.double", "acme.count", "acme.slow", "acme.asked", "acme.open")
ANSWER = """
flow: acme.answer
about: Doubles what it is given
input: {type: object, required: [value], properties: {value: {type: integer}}}
output: {doubled: "${doubled.value}", caller: "${doubled.caller}"}
steps:
  - {id: double, call: acme.double, with: {value: "${input.value}"}, as: doubled}
"""
NUMBERS = """
flow: acme.numbers
steps:
  - {id: count, call: acme.count, with: {n: "${input.n}"}, stream: {yield: "${item.n}", as: last}}
output: "${last}"
"""
LONG = """
flow: acme.long
journal: sync
steps:
  - {id: quick, call: acme.double, with: {value: 4}, as: quick}
  - {id: slow, call: acme.slow, with: {n: "${quick.value}"}, as: slow}
output: "${slow}"
"""

SHOUT = """
def run(context):
    context["interface_registry"].register("shout.add", lambda args, ctx: {"value": args["value"] + 1, "caller": ctx["caller"]})
    context["interface_registry"].register("shout.secret", lambda args, ctx: "for nobody")
"""
MODIFIER = """
modify: acme.answer
id: shout.more
ops:
  - insert: {after: double}
    steps:
      - {id: more, call: %s, with: {value: "${doubled.value}"}, as: doubled}
"""


def flow_pack(pack_id: str, setup: str, documents: dict[str, str], *, asks: list[dict[str, Any]] | None = None,
              **connectivity: tuple[str, ...]) -> dict[str, str]:
    """A Pack with flow documents, and what it asks for."""
    files = one_component_pack(pack_id, setup, **connectivity)
    if asks:
        asks = [{**one, "reason": "to add a step of its own"} for one in asks]
        files["backend/permissions.json"] = json.dumps({"pack_id": pack_id, "permissions": asks})
    return {**files, **{f"backend/flows/{name}": text for name, text in documents.items()}}


def acme(host: RunningHost) -> None:
    documents = {"answer.flow.yaml": ANSWER, "numbers.flow.yaml": NUMBERS, "long.flow.yaml": LONG}
    host.put_pack("acme", flow_pack("acme", ACME, documents, provides=KEYS))
    assert "acme.answer" not in {one["flow"] for one in host.ok("GET", "/api/flows")}, "nothing before the approval"
    host.approve("acme")


def run(host: RunningHost, flow: str, values: Any) -> Any:
    return host.ok("POST", f"/api/flows/{flow}/run", {"input": values})


def test_a_packs_flow_runs_over_http_and_streams(host: RunningHost) -> None:
    acme(host)
    shown = {one["flow"]: one for one in host.ok("GET", "/api/flows")}["acme.answer"]
    assert (shown["pack"], shown["layer"], shown["about"]) == ("acme", "ecosystem", "Doubles what it is given")
    report = run(host, "acme.answer", {"value": 21})
    assert (report["status"], report["output"]) == ("ok", {"doubled": 42, "caller": "acme"})
    status, envelope = host.request("POST", "/api/flows/acme.answer/run", {"input": {"value": "x"}})
    assert (status, envelope["success"]) == (400, False), envelope
    assert "value" in json.dumps(envelope["error"])

    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=60)
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Host": f"localhost:{host.api_port}"}
    connection.request("POST", "/api/flows/acme.numbers/run", json.dumps({"input": {"n": 3}}), headers)
    blocks = [block for block in connection.getresponse().read().decode().split("\n\n") if block.startswith("event")]
    connection.close()
    events = [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks]
    assert [(one["event"], json.loads(one["data"])) for one in events[:-1]] == [("item", n) for n in range(3)]
    assert (events[-1]["event"], json.loads(events[-1]["data"])["output"]) == ("run", {"n": 2})


def test_another_packs_step_acts_with_its_own_rights_only(host: RunningHost) -> None:
    acme(host)
    asks = [{"type": "flow.modify", "flows": ["acme.answer"]}]
    pack = flow_pack("shout", SHOUT, {"more.modifier.yaml": MODIFIER % "shout.add"}, asks=asks, provides=("shout.add", "shout.secret"))
    host.put_pack("shout", pack)
    host.approve("shout")
    assert run(host, "acme.answer", {"value": 1})["output"] == {"doubled": 2, "caller": "acme"}, "a heavy right is not given by itself"
    issue = next(one for one in host.ok("GET", "/api/issues") if one["code"] == "flow_modifier")
    assert "flow.modify" in issue["detail"]

    host.ok("POST", "/api/packs/shout/approve", {"permissions": asks})
    assert run(host, "acme.answer", {"value": 1})["output"] == {"doubled": 3, "caller": "shout"}
    found = host.ok("GET", "/api/flows/acme.answer/explain?without=shout:shout.more")
    assert {one["path"]: one["acts_as"] for one in found["steps"]} == {"double": ["acme"], "more": ["shout"]}
    view = host.home / "ecosystem" / "flows" / "acme.answer.acme.yaml"
    host.until(lambda: view.is_file() and "shout:shout.more" in view.read_text(encoding="utf-8"), 20, "the operator's view")
    host.ok("POST", "/api/packs/shout/reject", {"reason": "no more"})
    assert run(host, "acme.answer", {"value": 1})["output"] == {"doubled": 2, "caller": "acme"}, "gone with its Pack"
    host.until(lambda: "shout" not in view.read_text(encoding="utf-8"), 20, "the view to follow")
    view.write_text("flow: acme.answer\nsteps: [{call: acme.asked, as: x}]\noutput: forged\n", encoding="utf-8")
    assert run(host, "acme.answer", {"value": 1})["output"] == {"doubled": 2, "caller": "acme"}, "never read back"
    host.ok("POST", "/api/packs/acme/reject", {"reason": "no more"})


def test_a_plan_tells_what_a_run_needs_and_what_of_it_is_there(host: RunningHost) -> None:
    acme(host)
    inside = "flow: shout.loud\nsteps: [{id: one, call: shout.add}, {id: two, flow: acme.answer}, {id: three, call: shout.gone}]\n"
    host.put_pack("shout", flow_pack("shout", SHOUT, {"loud.yaml": inside}, provides=("shout.add", "shout.secret")))
    host.approve("shout")
    host.until(lambda: host.status("shout")["status"] == "running", 30, "the Pack to run")
    found = host.ok("GET", "/api/flows/shout.loud/plan")
    assert {one["key"]: one["provided_by"] for one in found["interfaces"]} == {"acme.double": "acme", "shout.add": "shout", "shout.gone": None}
    held = {(one["pack"], one["type"], one.get("key") or one.get("flow")): one["held"] for one in found["permissions"]}
    assert held == {
        ("shout", "interface.call", "shout.add"): True, ("shout", "interface.call", "shout.gone"): False,
        ("shout", "flow.run", "acme.answer"): False, ("acme", "interface.call", "acme.double"): True,
    }  # fmt: skip
    assert found["packs"] == ["acme", "shout"]
    assert host.result("acme.asked") == [], "nothing was called"


def test_the_view_of_packs_flows_follows_the_operators_files(host: RunningHost) -> None:
    """Without a decision about a Pack in between: a modifier that comes, one that goes, a flow in the Pack's place."""
    acme(host)
    view = host.home / "ecosystem" / "flows" / "acme.answer.acme.yaml"
    mine = host.home / "user_data" / "flows" / "mine.yaml"
    mine.parent.mkdir(exist_ok=True)
    host.until(view.is_file, 20, "the view")
    assert "my.step" not in view.read_text(encoding="utf-8")
    step = "{id: mine, set: {doubled: 0}}"
    mine.write_text(f"modify: acme.answer\nid: my.step\nops: [{{insert: {{after: double}}, steps: [{step}]}}]\n")
    host.until(lambda: "my.step" in view.read_text(encoding="utf-8"), 20, "the view to tell of the modifier")
    assert "id: mine" in view.read_text(encoding="utf-8")
    mine.unlink()
    host.until(lambda: "my.step" not in view.read_text(encoding="utf-8"), 20, "the view to follow")
    mine.write_text("flow: acme.answer\nsteps: [{id: own, set: {x: 1}}]\n")
    host.until(lambda: not view.exists(), 20, "the Pack's flow to be another's")


def test_the_review_tells_a_packs_flows_and_what_an_operators_flow_joins(host: RunningHost) -> None:
    acme(host)
    joins = "flow: evening\nsteps: [{id: one, call: acme.double, with: {value: 1}}, {id: two, call: shout.add, with: {value: 1}}]\n"
    operators = host.home / "user_data/flows/evening.flow.yaml"
    operators.parent.mkdir(exist_ok=True)
    operators.write_text(joins)
    asks = [
        {"type": "flow.modify", "flows": ["acme.answer"]}, {"type": "network", "domains": ["example.org"], "reason": "sends"},
    ]  # fmt: skip
    documents = {"more.modifier.yaml": MODIFIER % "shout.add"}
    host.put_pack("reader", flow_pack("reader", SHOUT, {}, asks=[{"type": "userdata.read", "paths": ["shared/**"]}], provides=("shout.add", "shout.secret")))
    host.ok("POST", "/api/packs/reader/approve", {})
    host.put_pack("shout", flow_pack("shout", SHOUT, documents, asks=asks, provides=("shout.add", "shout.secret")))
    review = host.ok("GET", "/api/packs/shout/review")
    assert review["flows"] == [{"file": "more.modifier.yaml", "modifies": ["acme.answer"]}]
    assert review["combination"]["paths"]["private-data"] == ["shout", "flow evening", "reader"]
    operators.unlink()
    assert host.ok("GET", "/api/packs/shout/review")["combination"] is None


def test_running_another_packs_flow_needs_the_right(host: RunningHost) -> None:
    acme(host)
    asks = [{"type": "flow.run", "flows": ["acme.answer"]}]
    outer = 'flow: shout.outer\nsteps: [{id: inner, flow: acme.answer, with: {value: 4}, as: found}]\noutput: "${found}"'
    host.put_pack("shout", flow_pack("shout", SHOUT, {"outer.flow.yaml": outer}, asks=asks, provides=("shout.add", "shout.secret")))
    host.ok("POST", "/api/packs/shout/approve", {"permissions": []})
    report = run(host, "shout.outer", {})
    assert ([step["error"]["type"] for step in report["steps"]], report["output"]) == (["denied"], None), report
    host.ok("POST", "/api/packs/shout/permissions", {"permissions": ["flow.run"]})
    assert run(host, "shout.outer", {})["output"] == {"doubled": 8, "caller": "acme"}, "its steps act as their own Pack"
    [granted] = host.ok("GET", "/api/packs/shout/permissions")["granted"]
    assert (granted["type"], granted["uses"]) == ("flow.run", 1), "each run is counted"

    host.ok("DELETE", "/api/packs/shout/permissions", {"permissions": ["flow.run"]})
    host.ok("POST", "/api/packs/shout/permissions", {"permissions": [{**asks[0], "mode": "once"}]})
    assert run(host, "shout.outer", {})["output"] == {"doubled": 8, "caller": "acme"}
    report = run(host, "shout.outer", {})
    assert [step["error"]["type"] for step in report["steps"]] == ["denied"], "one run was granted"


def test_a_step_put_into_a_flow_borrows_nothing_from_its_owner(host: RunningHost) -> None:
    """The modifier's Pack calls a key of the flow's owner that it never asked to use."""
    acme(host)
    asks = [{"type": "flow.modify", "flows": ["acme.answer"]}]
    documents = {"more.modifier.yaml": MODIFIER % "acme.double"}
    host.put_pack("shout", flow_pack("shout", SHOUT, documents, asks=asks, provides=("shout.add", "shout.secret")))
    host.ok("POST", "/api/packs/shout/approve", {"permissions": asks})
    report = run(host, "acme.answer", {"value": 1})
    failed = {step["step"]: step["error"] for step in report["steps"] if step["error"]}
    assert (report["status"], list(failed), failed["more"]["type"]) == ("degraded", ["more"], "denied"), report
    assert report["output"] is None, "it needs what the step would have bound"


@pytest.mark.parametrize("new_key", [False, True], ids=["same key", "new key"])
def test_a_journalled_run_goes_on_after_the_host_was_killed(host: RunningHost, new_key: bool) -> None:
    acme(host)
    if new_key:  # which the start after the kill takes
        host.ok("POST", "/api/trust/rotate-key", {})
    threading.Thread(target=lambda: _cut_off(host), daemon=True).start()
    host.until(lambda: host.result("acme.asked") == [8], 20, "the slow step to be under way")
    host.kill()
    host.start()
    host.until(lambda: host.status("acme")["status"] == "running", 30, "the Pack to run again")
    cut = next(one for one in host.ok("GET", "/api/runs") if one["flow"] == "acme.long")
    assert cut["status"] == "cut", cut
    host.result("acme.open")
    report = host.ok("POST", f"/api/runs/{cut['run_id']}/resume")
    assert (report["status"], report["output"], host.result("acme.asked")) == ("ok", 800, [8])
    assert [step["step"] for step in report["steps"] if step["replayed"]] == ["quick"], report
    status, envelope = host.request("POST", f"/api/runs/{cut['run_id']}/resume")
    assert (status, envelope["success"]) == (409, False), envelope


def _cut_off(host: RunningHost) -> None:
    try:
        run(host, "acme.long", {})
    except (ConnectionError, http.client.HTTPException):
        return


def test_another_pack_can_not_switch_a_flow_off_by_having_its_id(host: RunningHost) -> None:
    """Neither when it comes later, nor with an update of a Pack that was approved earlier."""
    early = flow_pack("shout", SHOUT, {}, provides=("shout.add", "shout.secret"))
    host.put_pack("shout", early)
    host.approve("shout")
    acme(host)
    theirs = ANSWER.replace("acme.double", "shout.add")
    folder = host.put_pack("shout", {"backend/flows/answer.yaml": theirs})
    host.approve("shout")
    assert run(host, "acme.answer", {"value": 21})["output"] == {"doubled": 42, "caller": "acme"}
    [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "flow_taken"]
    assert "shout:backend/flows/answer.yaml" in issue["detail"], issue
    host.ok("POST", "/api/packs/acme/reject", {"reason": "gone"})
    assert run(host, "acme.answer", {"value": 21})["output"] == {"doubled": 22, "caller": "shout"}, folder


CLOCK = """
import time

def run(context):
    ir, bus = context["interface_registry"], context["event_bus"]
    seen = []
    ir.register("clock.note", lambda args, ctx: seen.append({**args, "caller": ctx["caller"]}))
    ir.register("clock.seen", lambda args, ctx: list(seen))
    ir.register("clock.tell", lambda args, ctx: bus.publish("clock.rang", args))
    ir.register("clock.work", lambda args, ctx: time.sleep(args["s"]))
"""
CLOCK_KEYS = ("clock.note", "clock.seen", "clock.tell", "clock.work")
RINGS = """
flow: clock.rings
on:
  - {event: clock.rang, match: {loud: true}, with: {n: "${event.n}"}}
  - {every: 1s, with: {n: -1}}
steps: [{id: note, call: clock.note, with: {n: "${input.n}"}}]
"""
HEARS = """
flow: ear.hears
on: [clock.rang]
steps: [{id: note, call: clock.note, with: {n: "${input.n}", heard: true}}]
"""
LASTS = """
flow: clock.lasts
on: [clock.rang]
steps:
  - {id: wait, wait: 1h}
"""


def clock(host: RunningHost, **flows: str) -> None:
    documents = {f"{name}.flow.yaml": text for name, text in flows.items()}
    asks = [{"type": "event.publish", "topics": ["clock.rang"]}, {"type": "event.subscribe", "topics": ["clock.rang"]}]
    host.put_pack("clock", flow_pack("clock", CLOCK, documents, asks=asks, provides=CLOCK_KEYS))
    host.approve("clock")


def notes(host: RunningHost) -> list[Any]:
    return list(host.result("clock.seen"))


def shown(host: RunningHost, flow: str) -> list[Any]:
    return next((one["on"] for one in host.ok("GET", "/api/flows") if one["flow"] == flow), [])


def test_events_and_schedules_start_a_packs_flow(host: RunningHost) -> None:
    clock(host, rings=RINGS)
    assert [one["on"] for one in shown(host, "clock.rings")] == ["event clock.rang", "every 1s"]
    for loud, number in ((True, 1), (False, 2), (True, 3)):
        host.result("clock.tell", {"loud": loud, "n": number})
    host.until(lambda: [one["n"] for one in notes(host) if one["n"] > 0] == [1, 3], 20, "both loud events")
    host.until(lambda: sum(one["n"] == -1 for one in notes(host)) >= 2, 20, "the schedule to come twice")
    assert {one["caller"] for one in notes(host)} == {"clock"}
    event, every = shown(host, "clock.rings")
    assert (event["started"], event["last"]["status"], every["last"]["status"]) == (2, "ok", "ok")
    assert any(run["actor"] == "trigger: every 1s" for run in host.ok("GET", "/api/runs"))

    host.ok("POST", "/api/packs/clock/reject", {"reason": "no more"})
    begun = len(host.ok("GET", "/api/runs"))
    assert shown(host, "clock.rings") == []
    host.until(lambda: True, 1, "a moment")
    assert len(host.ok("GET", "/api/runs")) == begun, "nothing starts any more"


def test_a_trigger_hears_by_the_right_of_the_flows_own_pack(host: RunningHost) -> None:
    """The event's sender may publish it; that gives the Pack that listens nothing, and the step acts as its Pack."""
    clock(host)
    asks = [{"type": "event.subscribe", "topics": ["clock.rang"]}]
    host.put_pack("ear", flow_pack("ear", "def run(context):\n    pass\n", {"hears.flow.yaml": HEARS}, asks=asks))
    host.ok("POST", "/api/packs/ear/approve", {"permissions": []})
    host.ok("GET", "/api/flows")
    host.result("clock.tell", {"n": 1})
    host.until(lambda: (shown(host, "ear.hears")[0]["last"] or {}).get("status") == "failed", 20, "the refusal")
    assert shown(host, "ear.hears")[0]["started"] == 0
    host.ok("POST", "/api/packs/ear/permissions", {"permissions": ["event.subscribe"]})
    host.result("clock.tell", {"n": 2})
    host.until(lambda: (shown(host, "ear.hears")[0]["last"] or {}).get("status") == "degraded", 20, "a run")
    [run_] = [one for one in host.ok("GET", "/api/runs") if one["flow"] == "ear.hears"]
    [step] = host.ok("GET", f"/api/runs/{run_['run_id']}")["steps"]
    assert (step["error"]["type"], notes(host)) == ("denied", [])


def test_a_rejected_packs_runs_end_with_it(host: RunningHost) -> None:
    clock(host, lasts=LASTS)
    host.ok("GET", "/api/flows")

    def statuses() -> list[str]:
        return [one["status"] for one in host.ok("GET", "/api/runs") if one["flow"] == "clock.lasts"]

    host.result("clock.tell", {"n": 1})
    host.until(lambda: statuses() == ["running"], 20, "its run")
    host.ok("POST", "/api/packs/clock/reject", {"reason": "no more"})
    host.until(lambda: statuses() == ["cancelled"], 20, "its end")


WATCH = """
import time

def run(context):
    ir = context["interface_registry"]
    heard = []

    def before(args, ctx):
        heard.append(["before", args["step"]["flow"], args["step"]["path"], args["ctx"].get("secret")])
        if args["ctx"].get("input", {}).get("value") == 13:
            return {"_skip": True}
        if args["ctx"].get("input", {}).get("value") == 99:
            time.sleep(30)

    def after(args, ctx):
        heard.append(["after", args["step"]["flow"], args["step"]["path"], args["status"]])

    def thrice(args, ctx):
        return [args["run"]({"n": number}) for number in range(args["config"]["times"])]

    ir.register("flow.hooks.before_step", before)
    ir.register("flow.hooks.after_step", after)
    ir.register("flow.error_handler", lambda args, ctx: "abort")
    ir.register("flow.construct.thrice", thrice)
    ir.register("watch.heard", lambda args, ctx: list(heard))
"""
HOOK_KEYS = ("flow.hooks.before_step", "flow.hooks.after_step", "flow.error_handler", "flow.construct.thrice", "watch.heard")
LOOPED = """
flow: watch.looped
steps: [{id: own, "watch:thrice": {times: 3}, do: [{id: note, set: {got: "${n}"}}], as: all}]
output: "${all}"
"""


def watch(host: RunningHost, asks: list[dict[str, Any]], **flows: str) -> None:
    documents = {f"{name}.flow.yaml": text for name, text in flows.items()}
    host.put_pack("watch", flow_pack("watch", WATCH, documents, asks=asks, provides=HOOK_KEYS))
    host.ok("POST", "/api/packs/watch/approve", {"permissions": asks})


def test_hooks_hear_of_the_flows_that_their_pack_may_modify_and_of_no_other(host: RunningHost) -> None:
    acme(host)
    watch(host, [{"type": "flow.modify", "flows": ["acme.answer"]}])
    assert run(host, "acme.answer", {"value": 4})["output"] == {"doubled": 8, "caller": "acme"}
    assert host.result("watch.heard") == [
        ["before", "acme.answer", "double", None], ["after", "acme.answer", "double", "ok"],
    ]  # fmt: skip
    [step] = run(host, "acme.answer", {"value": 13})["steps"]
    assert (step["status"], step["reason"]) == ("skipped", "skipped by a hook")
    heard = host.result("watch.heard")
    assert run(host, "acme.numbers", {"n": 2})["status"] == "ok"
    assert host.result("watch.heard") == heard, "a flow that it may not modify"


def test_a_hook_that_hangs_delays_and_spoils_nothing_for_ever(host: RunningHost) -> None:
    acme(host)
    watch(host, [{"type": "flow.modify", "flows": ["acme.answer"]}])
    report = run(host, "acme.answer", {"value": 99})
    assert (report["status"], report["output"]["doubled"]) == ("ok", 198)
    assert 1.5 < report["duration_s"] < 10
    issue = next(one for one in host.ok("GET", "/api/issues") if one["code"] == "flow_hook_failed")
    assert "watch" in issue["subject"], issue


def test_without_the_permission_there_are_no_hooks_and_no_constructs(host: RunningHost) -> None:
    acme(host)
    asks = [{"type": "flow.modify", "flows": ["acme.answer"]}]
    host.put_pack("watch", flow_pack("watch", WATCH, {}, asks=asks, provides=HOOK_KEYS))
    host.ok("POST", "/api/packs/watch/approve", {"permissions": []})
    assert run(host, "acme.answer", {"value": 13})["output"] == {"doubled": 26, "caller": "acme"}
    keys = {one["key"] for one in host.ok("GET", "/api/interfaces")}
    assert not keys & set(HOOK_KEYS[:4]), keys


def test_a_packs_construct_runs_the_steps_block(host: RunningHost) -> None:
    watch(host, [{"type": "flow.modify", "flows": ["watch.looped"]}], looped=LOOPED)
    report = run(host, "watch.looped", {})
    assert (report["status"], len(report["output"])) == ("ok", 3), report
    assert {"own", "own/note"} <= {step["step"] for step in report["steps"]}


STARTER = """
def run(context):
    ir = context["interface_registry"]

    def start(args, ctx):
        return ir.get("flows.run")(args)

    def seen(args, ctx):
        return ir.get("flows.run") is not None

    ir.register("start.flow", start)
    ir.register("start.seen", seen)
"""
AROUND = """
flow: start.around
steps: [{id: again, call: start.flow, with: {flow: start.around}, on_error: fail}]
"""


def starter(host: RunningHost, flows: list[str]) -> None:
    asks = [{"type": "flow.run", "flows": flows}]
    documents = {"around.flow.yaml": AROUND}
    host.put_pack("start", flow_pack("start", STARTER, documents, asks=asks, provides=("start.flow", "start.seen")))
    host.ok("POST", "/api/packs/start/approve", {"permissions": asks if flows else []})


def test_a_pack_starts_the_flows_that_it_was_granted(host: RunningHost) -> None:
    acme(host)
    starter(host, ["acme.answer"])
    found = host.result("start.flow", {"flow": "acme.answer", "input": {"value": 21}})
    assert (found["status"], found["output"]) == ("ok", {"doubled": 42, "caller": "acme"}), "its steps act as their own Pack"
    [run_] = [one for one in host.ok("GET", "/api/runs") if one["flow"] == "acme.answer"]
    assert run_["actor"] == "pack: start"
    for flow, code in (("acme.numbers", "denied"), ("rumi.startup", "denied")):
        status, envelope = host.call("start.flow", {"flow": flow})
        assert status != 200, envelope
        assert code in json.dumps(envelope), envelope
    status, envelope = host.call("start.flow", {"flow": "acme.answer", "input": {"value": "x"}})
    assert "input_invalid" in json.dumps(envelope), envelope
    host.ok("DELETE", "/api/packs/start/permissions", {"permissions": ["flow.run"]})
    assert host.result("start.seen") is False
    assert host.call("start.flow", {"flow": "acme.answer", "input": {"value": 1}})[0] != 200


def test_official_flows_are_started_by_no_pack(host: RunningHost) -> None:
    starter(host, ["*"])
    status, envelope = host.call("start.flow", {"flow": "rumi.startup"})
    assert status != 200
    assert "denied" in json.dumps(envelope), envelope
    assert len([one for one in host.ok("GET", "/api/runs") if one["flow"] == "rumi.startup"]) == 1


def test_flows_that_start_each_other_through_a_pack_end_with_a_named_error(host: RunningHost) -> None:
    starter(host, ["start.around"])
    run(host, "start.around", {})
    runs = [one for one in host.ok("GET", "/api/runs") if one["flow"] == "start.around"]
    assert [one["status"] for one in runs].count("failed") == 1
    [deepest] = [one for one in runs if one["status"] == "failed"]
    assert (len(runs), deepest["error"]["type"]) == (9, "error/LimitReached"), deepest


@pytest.mark.embedded
def test_what_packs_flows_are_lies_below_ecosystem_flows_as_long_as_they_are(tmp_path: Path) -> None:
    document = "flow: acme.shown\nsteps: [{id: one, set: {x: 1}}]\noutput: ${x}\n"
    with RunningHost(tmp_path / "home", "embedded") as host:
        view = host.home / "ecosystem" / "flows" / "acme.shown.acme.yaml"
        host.put_pack("acme", flow_pack("acme", "def run(context): pass\n", {"shown.flow.yaml": document}))
        assert not view.exists(), "nobody has approved it"
        host.approve("acme")
        host.until(view.exists, 30, "the flow's file")
        shown = yaml.safe_load(view.read_text())
        assert (shown["flow"], shown["steps"]) == ("acme.shown", [{"id": "one", "set": {"x": 1}}])
        modifier = {"modify": "acme.shown", "id": "my.more", "ops": [{"insert": {"after": "one"}, "steps": [{"id": "two", "set": {"x": 2}}]}]}
        (host.home / "user_data" / "flows").mkdir(parents=True, exist_ok=True)
        (host.home / "user_data" / "flows" / "more.json").write_text(json.dumps(modifier))
        host.until(lambda: [one["id"] for one in yaml.safe_load(view.read_text())["steps"]] == ["one", "two"], 20, "the change")
        host.ok("POST", "/api/packs/acme/reject", {})
        host.until(lambda: not view.exists(), 20, "the file to go")
