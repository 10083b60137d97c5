"""The history of runs on a real host: a Pack that dies, a host that is killed, a host that ends in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.running_host import RunningHost, one_component_pack

DIES = """
import os

def run(context):
    context["interface_registry"].register("p.die", lambda args, ctx: os._exit(3))
"""


def past(host: RunningHost, **asked: Any) -> list[tuple[str, str]]:
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    return [(one["subject"], one["status"]) for one in host.ok("GET", f"/api/history?{query}")]


def test_runs_are_listed_over_restarts_with_how_they_ended(tmp_path: Path, isolation: str) -> None:
    with RunningHost(tmp_path / "home", isolation) as host:
        host.put_pack("p", one_component_pack("p", DIES, provides=("p.die",)))
        host.approve("p")
        assert past(host, kind="pack") == [("p", "running")]
        host.call("p.die")
        host.until(lambda: past(host, subject="p") == [("p", "running"), ("p", "crashed")], 30, "the second run")
        host.kill()
        host.start()
        expected = [("p", "running"), ("p", "cut"), ("p", "crashed")]
        host.until(lambda: past(host, subject="p") == expected, 30, "the run after the host's end")
        host.stop()
        host.start()
        host.until(lambda: past(host, subject="p") == [("p", "running"), ("p", "stopped"), *expected[1:]], 30, "an end in order")
        [first] = host.ok("GET", "/api/history?count=1")
        assert first["ended_at"] is None
        crashed = host.ok("GET", "/api/history?subject=p")[-1]
        assert crashed["ended_at"] >= crashed["started_at"]
        assert crashed["detail"]
