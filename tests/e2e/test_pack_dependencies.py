"""Packs that depend on Packs, in a range of versions: libraries first, what lacks one waits and says so, others serve."""

from __future__ import annotations

import json
import os
import signal
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


def next_steps(host: RunningHost) -> dict[str, str]:
    """What the doctor offers to do about each Pack that waits."""
    return {one["subject"]: one["hint"] for one in host.ok("GET", "/api/doctor")["issues"] if one["code"] == "pack_waits"}


NEXT_STEPS = {
    "left": (
        "Approving or starting does not help. 'left', 'right' need each other: bring a version of one that needs none of "
        "the others (rumi pack add FOLDER, then rumi pack update ID)."
    ),
    "strict": (
        "Approving or starting does not help. Bring a version of 'shared' in <2, or one of 'strict' that accepts what is "
        "there (rumi pack add FOLDER, then rumi pack update ID)."
    ),
}
NEXT_STEPS["right"] = NEXT_STEPS["left"]


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
        assert next_steps(host) == NEXT_STEPS
        host.stop()
        host.start()
        for pack_id in ("app", "other", "shared"):
            host.until(lambda pack_id=pack_id: stands(host, pack_id)[0] == "running", 30, f"{pack_id} to run again")
        started = {one["pack_id"]: one["started_at"] for one in host.ok("GET", "/api/containers")}
        assert started["shared"] < started["app"]
        assert stands(host, "strict") == OUT_OF_RANGE
        assert stands(host, "left") == IN_A_CIRCLE
        assert next_steps(host) == NEXT_STEPS


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


USES = """
def run(context):
    ir = context["interface_registry"]
    born = context["ts"]
    held = ir.get("shared.add")
    ir.register("app.sum", lambda args, ctx: ir.get("shared.add")(args, ctx) if ir.get("shared.add") else "nobody adds")
    ir.register("app.held", lambda args, ctx: held(args, ctx))
    ir.register("app.born", lambda args, ctx: born)
"""
ADDS = """
def run(context):
    context["interface_registry"].register("shared.add", lambda args, ctx: [sum(args), {version}])
"""


def said(host: RunningHost, args: Any) -> Any:
    """What the held callable answers, or None while nobody does."""
    return (host.call("app.held", args)[1]["data"] or {}).get("result")


def test_a_dependency_that_stops_takes_nobody_along_and_is_met_again_when_it_returns(tmp_path: Path, isolation: str) -> None:
    """Stopped, crashed, updated: the dependent is the same process throughout and needs nothing done."""

    def shared(host: RunningHost, version: int) -> None:
        files = dict(one_component_pack("shared", ADDS.format(version=version), provides=("shared.add",)))
        ecosystem = {**json.loads(files["backend/ecosystem.json"]), "version": f"{version}.0.0"}
        host.put_pack("shared", {**files, "backend/ecosystem.json": json.dumps(ecosystem)})

    with RunningHost(tmp_path / "home", isolation) as host:
        shared(host, 1)
        files = dict(one_component_pack("app", USES, provides=("app.sum", "app.held", "app.born"), requires=("shared.add",)))
        files["backend/ecosystem.json"] = json.dumps({"pack_id": "app", "version": "1.0.0", "dependencies": {"shared": ">=1"}})
        host.put_pack("app", files)
        host.approve("shared")
        host.approve("app")
        born = host.result("app.born")
        assert host.result("app.sum", [1, 2]) == [3, 1]

        host.ok("POST", "/api/containers/shared/stop")
        assert host.status("app")["status"] == "running"
        assert host.result("app.sum", [1, 2]) == "nobody adds"
        status, refused = host.call("app.held", [1, 2])
        assert status != 200
        assert "shared.add" in json.dumps(refused), refused
        host.ok("POST", "/api/containers/shared/start")
        host.until(lambda: host.result("app.sum", [1, 2]) == [3, 1], 20, "the dependency to be met again")
        assert host.result("app.held", [2, 2]) == [4, 1], "what it held from the start leads to the new generation"

        pid = next(one["pid"] for one in host.ok("GET", "/api/containers") if one["pack_id"] == "shared")
        os.kill(pid, signal.SIGKILL)
        host.until(lambda: said(host, [3, 3]) == [6, 1], 30, "the dependency to come back by itself")

        shared(host, 2)
        host.approve("shared")
        host.until(lambda: said(host, [1, 1]) == [2, 2], 30, "its new version to answer")
        assert host.result("app.born") == born, "the dependent was never started again"
        assert host.status("app")["status"] == "running"
