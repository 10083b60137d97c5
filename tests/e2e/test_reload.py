"""A component, or a whole Pack, runs afresh while others call it: nobody gets an error, nobody else is touched."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_host import ROOT, RunningHost, component, one_component_pack
from tests.support.sandboxes import DRIVERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STATEFUL = """
import threading, time
import beside
def run(context):
    ir, store, events = context["interface_registry"], context["userdata_manager"], context["event_bus"]
    me, heard = time.time_ns(), []
    ir.register("pair.first", lambda args, ctx: [me, beside.LOADED])
    def slow(args, ctx):
        time.sleep(args)
        return me
    ir.register("pair.slow", slow)
    ir.register_if_absent("pair.once", lambda args, ctx: me)
    events.subscribe("pair.said", lambda payload: heard.append(payload))
    ir.register("pair.heard", lambda args, ctx: list(heard))
    if store.exists("packs/pair/broken"):
        raise RuntimeError("it is broken")
"""
BESIDE = "import time\nLOADED = time.time_ns()\n"
STEADY = """
import time
def run(context):
    ir, store, events = context["interface_registry"], context["userdata_manager"], context["event_bus"]
    me = time.time_ns()
    ir.register("pair.second", lambda args, ctx: me)
    ir.register("pair.say", lambda args, ctx: events.publish("pair.said", args))
    ir.register("pair.break", lambda args, ctx: store.write_text("packs/pair/broken", "x"))
    ir.register("pair.mend", lambda args, ctx: store.delete("packs/pair/broken"))
"""
CALLER = """
import threading, time
def run(context):
    ir = context["interface_registry"]
    found = {"calls": 0, "errors": []}
    def call():
        first, once = ir.get("pair.first"), ir.get("pair.once")
        while True:
            for fn in (first, once):
                try:
                    fn(None)
                except Exception as error:
                    found["errors"].append(repr(error)[:200])
                found["calls"] += 1
            time.sleep(0.001)
    threading.Thread(target=call, daemon=True).start()
    ir.register("caller.report", lambda args, ctx: dict(found))
"""
FIRST = ("pair.first", "pair.slow", "pair.once", "pair.heard")
SECOND = ("pair.second", "pair.say", "pair.break", "pair.mend")
ASKED = [
    {"type": kind, "reason": "for the test", **more}
    for kind, more in (
        ("event.publish", {"topics": ["pair.said"]}),
        ("event.subscribe", {"topics": ["pair.said"]}),
    )
]


def pair() -> dict[str, str]:
    return {
        "backend/ecosystem.json": json.dumps({"pack_id": "pair", "version": "1.0.0"}),
        "backend/permissions.json": json.dumps({"pack_id": "pair", "permissions": ASKED}),
        "backend/components/stateful/manifest.json": component("service", "stateful", provides=FIRST),
        "backend/components/stateful/setup.py": STATEFUL,
        "backend/components/stateful/beside.py": BESIDE,
        "backend/components/steady/manifest.json": component("service", "steady", provides=SECOND),
        "backend/components/steady/setup.py": STEADY,
    }


@pytest.fixture(params=DRIVERS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "h", request.param) as running:
        running.put_pack("pair", pair())
        running.approve("pair")
        running.put_pack("caller", one_component_pack("caller", CALLER, provides=("caller.report",), uses=("pair.first", "pair.once")))
        running.approve("caller")
        running.until(lambda: running.result("caller.report")["calls"] > 20, 20, "the caller to call")
        yield running


def reload(host: RunningHost, component: str = "") -> tuple[int, Any]:
    return host.request("POST", "/api/packs/pair/reload", {"component": component})


def generation(host: RunningHost) -> int:
    return next(one["generation"] for one in host.ok("GET", "/api/containers") if one["pack_id"] == "pair")


def states(host: RunningHost) -> dict[str, str]:
    return {one["id"].rpartition(":")[2]: one["state"] for one in host.ok("GET", "/api/packs/pair/components")}


def test_one_component_runs_afresh_and_no_call_is_lost(host: RunningHost) -> None:
    before, second, old = host.result("pair.first"), host.result("pair.second"), generation(host)
    under_way: list[Any] = []
    slow = threading.Thread(target=lambda: under_way.append(host.result("pair.slow", 2)))
    slow.start()
    assert reload(host, "stateful")[0] == 200
    after = host.result("pair.first")
    assert after[0] > before[0], "its state is new"
    assert after[1] > before[1], "the module beside it was loaded again"
    assert host.result("pair.once") == after[0], "what it registers only where nothing is, too"
    assert (host.result("pair.second"), generation(host)) == (second, old), "nothing else was touched"
    slow.join(30)
    assert under_way == [before[0]], "a call that was under way ended where it began"
    host.result("pair.say", "hello")
    host.until(lambda: host.result("pair.heard"), 10, "the event")
    assert host.result("pair.heard") == ["hello"]
    counts = {entry["key"]: entry for entry in host.ok("GET", "/api/interfaces") if entry["key"].startswith("pair.")}
    assert set(counts) == {*FIRST, *SECOND}
    assert states(host) == {"stateful": "loaded", "steady": "loaded"}
    for _ in range(20):
        assert reload(host, "pair:service:stateful")[0] == 200
    assert host.result("caller.report")["errors"] == []


def test_one_that_fails_leaves_what_served(host: RunningHost) -> None:
    before = host.result("pair.first")
    host.result("pair.break")
    status, envelope = reload(host, "stateful")
    assert (status, envelope["code"]) == (502, "component_failed")
    assert "it is broken" in envelope["error"]
    assert host.result("pair.first") == before
    assert host.result("pair.once") == before[0]
    assert states(host) == {"stateful": "loaded", "steady": "loaded"}
    host.result("pair.say", "still")
    host.until(lambda: host.result("pair.heard"), 10, "the event")
    assert host.result("pair.heard") == ["still"]
    host.result("pair.mend")
    assert reload(host, "stateful")[0] == 200
    assert host.result("pair.first")[0] > before[0]
    assert host.result("caller.report")["errors"] == []


def test_a_whole_pack_runs_afresh_beside_what_serves(host: RunningHost) -> None:
    first, second, old = host.result("pair.first"), host.result("pair.second"), generation(host)
    done = subprocess.run(
        [sys.executable, "-m", "rumi_setup", "pack", "reload", "pair"], cwd=ROOT,
        env={**host._environment, "RUMI_LANG": "en"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert generation(host) > old
    assert host.result("pair.first")[0] > first[0]
    assert host.result("pair.second") > second
    assert host.result("caller.report")["errors"] == []
    assert [one["event"] for one in host.ok("GET", "/api/audit?lines=50")].count("pack.reloading") == 1


def test_what_is_not_there_not_running_or_changed_is_not_loaded(host: RunningHost) -> None:
    assert reload(host, "nobody")[1]["code"] == "component_unknown"
    setup = host.home / "ecosystem/packs/pair/backend/components/stateful/setup.py"
    setup.write_text(STATEFUL + "\n# changed\n")
    assert reload(host, "stateful")[0] == 409
    assert host.status("pair")["status"] == "modified"
    setup.write_text(STATEFUL)
    host.ok("POST", "/api/packs/pair/restore")
    host.ok("POST", "/api/containers/pair/stop")
    assert [reload(host, name)[1]["code"] for name in ("stateful", "")] == ["not_running", "not_running"]
