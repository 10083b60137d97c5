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
