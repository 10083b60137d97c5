"""Flows that Packs bring: run over HTTP, streamed, changed by another Pack within its rights, resumed after a kill."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

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
    host.ok("POST", "/api/packs/shout/reject", {"reason": "no more"})
    assert run(host, "acme.answer", {"value": 1})["output"] == {"doubled": 2, "caller": "acme"}, "gone with its Pack"


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


def test_a_journalled_run_goes_on_after_the_host_was_killed(host: RunningHost) -> None:
    acme(host)
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
