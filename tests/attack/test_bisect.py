"""A bisect starts Packs by itself; whoever changes one while it is held off gains nothing by that."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from tests.support.running_host import RunningHost, one_component_pack

SLOW = """
import time

def run(context):
    ir = context["interface_registry"]

    def call(args, ctx):
        time.sleep(0.5)
        other = ir.get("bad.key")
        return other({}, ctx) if other is not None else 1

    ir.register("slow.call", call)
"""
BAD = """
def run(context):
    def fail(args, ctx):
        raise ValueError("bad")

    context["interface_registry"].register("bad.key", fail)
"""
QUIET = """
def run(context):
    context["interface_registry"].register("quiet.key", lambda args, ctx: args)
"""
OTHER_CODE = QUIET + "\nOTHER = True\n"


def test_a_pack_that_is_changed_while_it_is_held_off_is_not_started(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        host.put_pack("slow", one_component_pack("slow", SLOW, provides=("slow.call",), uses=("bad.key",)))
        host.put_pack("bad", one_component_pack("bad", BAD, provides=("bad.key",)))
        host.put_pack("quiet", one_component_pack("quiet", QUIET, provides=("quiet.key",)))
        for pack_id in ("quiet", "bad", "slow"):
            host.approve(pack_id)
        report: list[Any] = []
        asking = threading.Thread(target=lambda: report.append(host.ok("POST", "/api/bisect", {"key": "slow.call"})))
        asking.start()
        try:
            host.until(lambda: host.status("quiet")["cause"] == "held_off", 40, "the Pack to be held off")
            (host.packs / "quiet" / "backend/components/main/setup.py").write_text(OTHER_CODE)
        finally:
            asking.join(120)
        assert report
        assert report[0]["packs"] == ["bad"]
        assert "quiet" in report[0]["not_restored"]
        assert host.status("quiet")["status"] == "modified"
        assert "quiet" not in {one["pack_id"] for one in host.ok("GET", "/api/containers") if one["state"] == "running"}
        issues = {(one["code"], one["subject"]) for one in host.ok("GET", "/api/issues")}
        assert ("pack_start_failed", "quiet") in issues
        host.approve("quiet")
        assert ("pack_start_failed", "quiet") not in {(one["code"], one["subject"]) for one in host.ok("GET", "/api/issues")}
        assert host.status("bad")["status"] == host.status("slow")["status"] == "running"
