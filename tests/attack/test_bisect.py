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


FLOOD = """
def run(context):
    def items(args, ctx):
        for number in range(400):
            yield "x" * 1_000_000
        yield "end"

    context["interface_registry"].register("flood.items", items)
"""


def test_a_stream_of_large_items_is_not_gathered_in_the_host(tmp_path: Path) -> None:
    """1,000 items count for an outcome, but not a gigabyte: the host must live to start everything again."""
    with RunningHost(tmp_path / "home", "embedded") as host:
        host.put_pack("flood", one_component_pack("flood", FLOOD, provides=("flood.items",)))
        host.approve("flood")
        before = peak(host)
        found = host.ok("POST", "/api/bisect", {"key": "flood.items", "repeat": 1, "timeout": 60, "expect": []})
        assert found["trials"][0]["failed"] == 1
        assert peak(host) - before < 150 * 1024 * 1024


def peak(host: RunningHost) -> int:
    """The most bytes of memory that the host had."""
    lines = Path(f"/proc/{host.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
