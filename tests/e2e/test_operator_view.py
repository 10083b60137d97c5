"""``ecosystem/docker/<pack>/``: what a real host writes there for each driver, and what it does not follow or believe."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiodocker
import pytest
import yaml

from tests.support import engine
from tests.support.running_host import RunningHost, one_component_pack

SETUP = """
def run(context):
    context["interface_registry"].register("shown.echo", lambda args, ctx: args)
"""
REASON = "needs it\x1b[2J\u202e<script>\nUSER root\nprivileged: true"
FORBIDDEN = {"privileged", "cap_add", "devices", "pid", "network", "networks", "ports", "env_file", "extra_hosts", "userns_mode"}


def put(host: RunningHost) -> Path:
    files = one_component_pack("shown", SETUP, provides=("shown.echo",))
    wanted = {"type": "userdata.read", "paths": ["shared/notes/**"], "reason": REASON}
    files["backend/permissions.json"] = json.dumps({"pack_id": "shown", "permissions": [wanted]})
    return host.put_pack("shown", files)


def view_of(host: RunningHost) -> Path:
    return host.home / "ecosystem/docker/shown"


def eventually(host: RunningHost, condition: Callable[[], Any]) -> None:
    """The view is written beside the start, so it may come a moment later."""

    def holds() -> bool:
        try:
            return bool(condition())
        except (OSError, ValueError):
            return False

    host.until(holds, 20, "the operator's view")


def build(dockerfile: str) -> str:
    """The image that a real engine makes of it; removed at once."""

    async def main() -> str:
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w:gz") as tar:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(dockerfile.encode())
            tar.addfile(entry, io.BytesIO(dockerfile.encode()))
        context.seek(0)
        async with aiodocker.Docker(url=engine.address()) as docker:
            await docker.images.build(fileobj=context, encoding="gzip", tag="rumi-view-test:1", rm=True, forcerm=True)
            image = await docker.images.inspect("rumi-view-test:1")
            await docker.images.delete("rumi-view-test:1", force=True)
        return str(image["Config"]["User"])

    return asyncio.run(main())


def test_the_view_shows_what_was_granted_and_what_runs(host: RunningHost, isolation: str) -> None:
    source = put(host)
    host.approve("shown")
    assert host.result("shown.echo", 7) == 7
    view = view_of(host)
    eventually(host, lambda: json.loads((view / "sandbox/isolation.json").read_text())["source"] == "measured")

    handlers = {row["path"]: row for row in json.loads((view / "handlers/handlers.json").read_text())}
    setup = "backend/components/main/setup.py"
    assert handlers[setup]["sha256"].removeprefix("sha256:") == hashlib.sha256((source / setup).read_bytes()).hexdigest()
    effective = json.loads((view / "grants/effective.json").read_text())
    assert effective["pack_id"] == "shown"
    assert effective["isolation"]["driver"] == isolation
    assert "shown.echo" in effective["provides"]
    [scope] = [path.read_text() for path in (view / "scopes").iterdir() if "userdata.read" in path.name]
    assert "shared/notes/**" in scope

    shown = "\n".join(path.read_text() for path in view.rglob("*") if path.is_file())
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\nUSER root" not in shown, "a reason ends no line"
    names = {path.name for path in (view / "sandbox").iterdir()}
    own = {"docker": {"container.json"}, "embedded": {"bubblewrap.options", "bubblewrap.command", "rlimits.json"}}[isolation]
    assert names == {"Dockerfile", "docker-compose.yml", "seccomp.json", "isolation.json", *own}

    compose = yaml.safe_load((view / "sandbox/docker-compose.yml").read_text())
    [service] = compose["services"].values()
    assert not FORBIDDEN & set(service)
    assert (service["network_mode"], service["ipc"], service["cgroup"]) == ("none", "private", "private")
    assert "docker.sock" not in json.dumps(compose)
    assert all(volume["read_only"] is True for volume in service["volumes"])
    assert "seccomp:seccomp.json" in service["security_opt"]
    assert json.loads((view / "sandbox/seccomp.json").read_text())["defaultAction"] == "SCMP_ACT_ERRNO"


def test_each_start_writes_the_view_anew(host: RunningHost) -> None:
    put(host)
    host.approve("shown")
    handlers = view_of(host) / "handlers/handlers.json"
    eventually(host, lambda: json.loads(handlers.read_text()))
    honest = handlers.read_text()

    def again(how: Callable[[], Any]) -> None:
        eventually(host, lambda: handlers.read_text() == honest)
        host.until(lambda: host.status("shown")["status"] == "running", 30, "the Pack to run")
        handlers.write_text('["something else"]')
        how()
        eventually(host, lambda: handlers.read_text() == honest)

    def crash() -> None:
        [container] = host.ok("GET", "/api/containers")
        os.kill(container["pid"], signal.SIGKILL)

    def restart_the_host() -> None:
        host.stop()
        host.start()

    again(lambda: (host.ok("POST", "/api/containers/shown/stop"), host.ok("POST", "/api/containers/shown/start")))
    again(lambda: host.ok("POST", "/api/packs/shown/reload"))
    again(crash)
    again(restart_the_host)
    host.stop()
    (host.packs / "shown/backend/components/main/setup.py").write_text("changed = True\n")
    host.start()
    effective = view_of(host) / "grants/effective.json"
    eventually(host, lambda: json.loads(effective.read_text())["status"] == "modified")


@pytest.mark.docker
@pytest.mark.parametrize("isolation", ["docker"], indirect=True)
def test_the_rendered_dockerfile_builds_and_shows_the_containers_user(host: RunningHost) -> None:
    put(host)
    host.approve("shown")
    eventually(host, (view_of(host) / "sandbox/container.json").exists)
    user = json.loads((view_of(host) / "sandbox/container.json").read_text())["User"]
    assert build((view_of(host) / "sandbox/Dockerfile").read_text()) == user


def test_nothing_is_read_back_and_links_are_not_followed(host: RunningHost, tmp_path: Path) -> None:
    put(host)
    host.approve("shown")
    view = view_of(host)
    eventually(host, (view / "sandbox/isolation.json").exists)

    # an edit changes nothing, and is gone with the next decision
    (view / "grants/effective.json").write_text('{"permissions": ["everything"]}')
    mine = tmp_path / "mine"
    (mine / "sandbox").mkdir(parents=True)
    (mine / "keep.txt").write_text("kept")
    host.ok("POST", "/api/packs/shown/reject", {"reason": "enough"})
    eventually(host, lambda: json.loads((view / "grants/effective.json").read_text())["cause"] == "rejected")

    # a link in the view's place, and a half-written view of a crash
    view.rename(tmp_path / "older")
    view.symlink_to(mine)
    (view.parent / ".shown.0123abcd").mkdir()
    host.approve("shown")
    eventually(host, lambda: not view.is_symlink() and (view / "sandbox/isolation.json").exists())
    assert sorted(path.name for path in mine.iterdir()) == ["keep.txt", "sandbox"]
    assert list((mine / "sandbox").iterdir()) == []
    eventually(host, lambda: [path.name for path in view.parent.iterdir() if path.name.startswith(".shown")] == [])

    # links go with the Pack, and what they lead to stays
    (view / "sandbox/away").symlink_to(mine)
    host.ok("DELETE", "/api/packs/shown")
    assert not view.exists()
    assert (mine / "keep.txt").read_text() == "kept"
