"""Packs that depend on Packs, in a range of versions: libraries first, what lacks one waits and says so, others serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.running_host import RunningHost, one_component_pack

SETUP = """
def run(context):
    context["interface_registry"].register("{key}", lambda args, ctx: args)
"""
OUT_OF_RANGE = ("approved", "waiting for Pack shared <2, but what provides 'Pack shared' states version 2.3.0")
IN_A_CIRCLE = (
    "approved",
    (
        "waiting for Pack right *, which right:service:main provides, itself waiting for Pack left *, "
        "which left:service:main provides: they wait for each other, so none can start first"
    ),
)


def put(host: RunningHost, pack_id: str, version: str = "1.0.0", **words: Any) -> None:
    files = dict(one_component_pack(pack_id, SETUP.format(key=f"{pack_id}.echo"), provides=(f"{pack_id}.echo",)))
    ecosystem = {**json.loads(files["backend/ecosystem.json"]), "version": version, **words}
    host.put_pack(pack_id, {**files, "backend/ecosystem.json": json.dumps(ecosystem)})


def stands(host: RunningHost, pack_id: str) -> tuple[str, str | None]:
    found = host.status(pack_id)
    return found["status"], found["cause"]


def test_what_a_pack_depends_on_runs_first_and_in_its_range(tmp_path: Path, isolation: str) -> None:
    with RunningHost(tmp_path / "home", isolation) as host:
        put(host, "app", dependencies={"shared": "^2.1"})
        put(host, "other")
        put(host, "shared", "2.3.0", pack_type="library")
        put(host, "strict", dependencies={"shared": "<2"})
        put(host, "left", dependencies={"right": "*"})
        put(host, "right", dependencies={"left": "*"})
        host.ok("POST", "/api/packs/scan")
        for pack_id in ("app", "strict", "left", "right", "other"):
            host.approve(pack_id)
        assert stands(host, "app") == ("approved", "waiting for Pack shared ^2.1, which is installed")
        assert host.result("other.echo", 1) == 1
        host.approve("shared")
        host.until(lambda: stands(host, "app")[0] == "running", 30, "what waits for a Pack to start with it")
        assert stands(host, "strict") == OUT_OF_RANGE
        assert stands(host, "left") == IN_A_CIRCLE
        host.stop()
        host.start()
        for pack_id in ("app", "other", "shared"):
            host.until(lambda pack_id=pack_id: stands(host, pack_id)[0] == "running", 30, f"{pack_id} to run again")
        started = {one["pack_id"]: one["started_at"] for one in host.ok("GET", "/api/containers")}
        assert started["shared"] < started["app"]
        assert stands(host, "strict") == OUT_OF_RANGE
        assert stands(host, "left") == IN_A_CIRCLE


def test_a_pack_whose_dependency_does_not_start_waits_after_a_restart(tmp_path: Path, isolation: str) -> None:
    with RunningHost(tmp_path / "home", isolation) as host:
        put(host, "app", dependencies={"shared": "*"})
        put(host, "shared")
        put(host, "other")
        for pack_id in ("shared", "app", "other"):
            host.approve(pack_id)
        host.stop()
        (host.packs / "shared" / "backend" / "ecosystem.json").write_text("{}")
        host.start()
        host.until(lambda: stands(host, "other")[0] == "running", 30, "the one that depends on nothing to run")
        assert stands(host, "shared")[0] == "modified"
        assert stands(host, "app") == ("approved", "waiting for Pack shared *, which is modified")
