"""gVisor as the engine's runtime, for real: what an engine hands to the runtime that the operator chose, and what the
host makes of a sandbox with a kernel of its own.

Debian's ``runsc`` takes a kernel of our days for one that shares its network with everybody, so it is registered with
``--network=none``: a sandbox has no network anyway.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core_runtime.drivers import docker_sandbox
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.rules.sandbox import Level, Limits
from tests.support import engine, sandboxes
from tests.support.own_engine import OwnEngine
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.sandboxes import InsideError, Yard, cell

SETUP = """
import os
def run(context):
    def look(args, ctx):
        return {"release": os.uname().release, "uid": os.getuid(), "args": args}
    async def stream(args, ctx):
        for number in range(args):
            yield number
    def proxy(args, ctx):
        import socket
        host, _, port = os.environ["HTTPS_PROXY"].rpartition("/")[2].rpartition(":")
        with socket.create_connection((host, int(port)), 10) as sock:
            sock.sendall(b"CONNECT not.granted.example:443 HTTP/1.1\\r\\n\\r\\n")
            return sock.recv(4096).decode()
    context["interface_registry"].register("guest.proxy", proxy)
    context["interface_registry"].register("guest.look", look)
    context["interface_registry"].register("guest.stream", stream)
"""
OUTSIDE = Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    with sandboxes.yard("docker-gvisor") as made:
        yield made


@pytest.mark.gvisor
def test_a_kernel_of_its_own_is_measured_as_strong(yard: Yard) -> None:
    assert (yard.status.available, yard.status.level, yard.status.source) == (True, Level.STRONG, "measured"), yard.status
    with cell(yard) as one:
        got = yard.run(one.sandbox.measure(one.probe))
        assert (got.level, got.source, got.findings) == (Level.STRONG, "measured", ()), got
        assert got.evidence["runtime"] == "runsc"
        assert got.evidence["limits"] == {"memory_bytes": 256 << 20, "pids": 128, "cpus": 0.5}
        assert one.run("import os; answer = os.uname().release") != OUTSIDE
        assert one.run("answer = open('/pack/marker.txt').read()") == "approved"
        assert one.probe["uid"] == one.spec.uid


@pytest.mark.gvisor
def test_where_the_host_may_not_look_it_is_strong_by_report(monkeypatch: pytest.MonkeyPatch) -> None:
    # as for an ordinary user, or an engine on another machine
    monkeypatch.setattr(docker_sandbox, "_is_local", lambda *_: False)
    with sandboxes.yard("docker-gvisor") as yard, cell(yard) as one:
        assert (yard.status.level, yard.status.source) == (Level.STRONG, "reported")
        real = one.probe | {"canaries": ["/dev/fuse", "/dev/net/tun"]}  # what the agent's longer list finds there
        got = yard.run(one.sandbox.measure(real))
        assert (got.level, got.source, got.findings) == (Level.STRONG, "reported", ()), got
        assert yard.run(one.sandbox.measure(real | {"kernel": f"{OUTSIDE} #1"})).level is Level.NONE
        assert yard.run(one.sandbox.measure(real | {"canaries": ["/dev/kvm"]})).level is Level.NONE


@pytest.mark.gvisor
def test_left_to_itself_the_host_takes_stdio_at_once_and_leaves_no_process_in_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    made, create = [], DockerDriver._create

    async def noted(self: DockerDriver, spec: Any, document: Any) -> Any:
        container = await create(self, spec, document)
        made.append(container.id)
        return container

    monkeypatch.setattr(DockerDriver, "_create", noted)
    with sandboxes.yard("docker-gvisor", transport="auto") as yard:
        assert yard.status.transport == "stdio: the runtime runsc has a kernel of its own"
        [trial] = made
        for _ in range(100):
            if not processes(trial):
                break
            time.sleep(0.05)
        assert processes(trial) == [], "its helper, most likely"


def processes(container: str) -> list[str]:
    """Of the engine, for that container."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = one.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if container in words:
                found.append(words)
    return found


@pytest.mark.gvisor
def test_a_broken_wall_is_none_whatever_the_kernel(yard: Yard) -> None:
    with cell(yard) as one:
        for lie in ({"canaries": ["/root/x"]}, {"interfaces": ["lo", "eth0"]}, {"uid": 0}, {"writable": ["/pack"]}):
            assert yard.run(one.sandbox.measure(one.probe | lie)).level is Level.NONE, lie
        same = yard.run(one.sandbox.measure(one.probe | {"kernel": ""}))
        assert same.level < Level.STRONG, "a kernel that nobody saw is none of its own"


@pytest.mark.gvisor
def test_what_a_guest_may_not(yard: Yard) -> None:
    with cell(yard) as one:
        for source, word in (
            ("open('/pack/marker.txt', 'w')", r"Read-only|Permission"),
            ("open('/planted', 'w')", r"Read-only|Permission"),
            ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", "unreachable|refused|No route"),
            ("import os; os.setuid(0)", "Permission|permitted"),
            ("open('/etc/shadow').read()", "Permission|No such"),
            ("import os; open('/tmp/x', 'w').write('#!/bin/sh'); os.chmod('/tmp/x', 0o755); os.execv('/tmp/x', ['x'])", "Permission"),
        ):
            with pytest.raises(InsideError, match=word):
                one.run(source)


@pytest.mark.gvisor
def test_a_kernel_that_dies_of_too_many_processes_tells_so(yard: Yard) -> None:
    # it is refused a thread and ends at once, sooner than any look at regular times
    with cell(yard) as one:
        with pytest.raises(InsideError):
            one.run("import os, time\nwhile True:\n    if os.fork() == 0: time.sleep(600)")
        ended = yard.run(one.sandbox.wait())
        assert ended.code not in {0, None}
        assert ended.counted["pids_refused"] > 0


@pytest.mark.gvisor
def test_a_kernel_that_dies_of_memory_tells_so_whatever_the_engine_saw(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    # the engine hears of it beside the end, and now and then too late
    with cell(yard, limits=Limits(memory_bytes=96 << 20)) as one:
        show = one.sandbox._container.show

        async def overlooked() -> Any:
            found = await show()
            return found | {"State": found["State"] | {"OOMKilled": False}}

        monkeypatch.setattr(one.sandbox._container, "show", overlooked)
        with pytest.raises(InsideError):
            one.run("held = [bytearray(8 << 20) for _ in range(64)]")
        ended = yard.run(one.sandbox.wait())
        assert (ended.cause, ended.counted["oom_kills"] > 0) == ("oom", True)


@pytest.mark.gvisor
@pytest.mark.timeout(240)
def test_a_host_runs_packs_in_gvisor_and_in_nothing_weaker(tmp_path: Path) -> None:
    environment = {"DOCKER_HOST": engine.with_gvisor(), "RUMI_DOCKER_RUNTIME": "runsc"}
    with RunningHost(tmp_path / "home", "docker", environment) as host:
        assert host.ok("GET", "/api/isolation")["isolation"]["level"] == "strong"
        files = one_component_pack("guest", SETUP, provides=("guest.look", "guest.stream", "guest.proxy"))
        wanted = {"type": "network", "domains": ["api.example.com"], "reason": "talks to its service"}
        files["backend/permissions.json"] = json.dumps({"pack_id": "guest", "permissions": [wanted]})
        host.put_pack("guest", files)
        approved = host.approve("guest")
        assert (approved["status"], approved["approval"]["isolation"]["level"]) == ("running", "strong"), approved
        seen = host.result("guest.look", "x" * 100_000)
        assert (len(seen["args"]), seen["uid"] > 100_000, seen["release"] == OUTSIDE) == (100_000, True, False)
        assert host.result("guest.proxy").startswith("HTTP/1.1 403 "), "the way out begins inside and is decided outside"
        assert host.stream("guest.stream", 50) == list(range(50))
        [container] = host.ok("GET", "/api/containers")
        assert (container["level"], container["findings"]) == ("strong", [])
        view = host.home / "ecosystem/docker/guest/sandbox"
        assert json.loads((view / "container.json").read_text())["HostConfig"]["Runtime"] == "runsc"
    with RunningHost(tmp_path / "home", "docker", {"DOCKER_HOST": engine.with_gvisor()}) as host:
        found = host.status("guest")
        assert (found["status"], found["cause"]) == ("approved", "isolation_weaker")
        assert host.ok("GET", "/api/containers") == []


# --- what the engine hands over, to a runtime that writes it down

RECORDER = """
#!/usr/bin/env python3
import json, os, shutil, sys
words, folder = sys.argv[1:], {folder!r}
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps(words) + "\\n")
if "create" in words:
    shutil.copy(os.path.join(words[words.index("--bundle") + 1], "config.json"), folder + "/config.json")
os.execv({runc!r}, ["runc", *words])
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[tuple[Yard, Path]]:
    runc = shutil.which("runc")
    assert runc is not None
    program = tmp_path / "recorder"
    program.write_text(textwrap.dedent(RECORDER).lstrip().format(folder=str(tmp_path), runc=runc))
    program.chmod(0o755)
    with (
        OwnEngine(runtimes={"runsc": {"path": str(program)}}) as own,
        sandboxes.yard("docker", url=own.address, runtime="runsc", transport="socket") as made,
    ):
        yield made, tmp_path


@pytest.mark.docker
@pytest.mark.root
@pytest.mark.timeout(240)
def test_the_chosen_runtime_is_called_with_every_wall_and_its_name_alone_makes_nothing_strong(
    recorded: tuple[Yard, Path],
) -> None:
    yard, folder = recorded
    with cell(yard) as one:
        got = yard.run(one.sandbox.measure(one.probe))
        assert got.level is Level.STANDARD
        assert any("this machine's own kernel" in finding for finding in got.findings)
        uid = one.spec.uid
        handed: dict[str, Any] = json.loads((folder / "config.json").read_text())
    calls = [json.loads(line) for line in (folder / "calls").read_text().splitlines()]
    assert {word for words in calls for word in words} >= {"create", "start", "delete"}
    process, linux = handed["process"], handed["linux"]
    assert (process["user"]["uid"], process["user"]["gid"], process["noNewPrivileges"]) == (uid, uid, True)
    assert not any((process.get("capabilities") or {}).values())
    assert {limit["type"]: limit["hard"] for limit in process["rlimits"]} == {"RLIMIT_NOFILE": 256, "RLIMIT_CORE": 0}
    assert handed["root"]["readonly"] is True
    own = {one["type"] for one in linux["namespaces"] if not str(one.get("path", "")).startswith("/proc/1/")}
    assert own >= {"mount", "pid", "network", "ipc", "uts"}
    assert linux["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    named = {name for rule in linux["seccomp"]["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert not named & {"io_uring_setup", "keyctl", "bpf", "userfaultfd", "ptrace", "mount", "unshare", "clone3", "setns"}
    resources = linux["resources"]
    assert (resources["memory"]["limit"], resources["memory"]["swap"], resources["pids"]["limit"]) == (256 << 20, 256 << 20, 128)
    assert resources["cpu"]["quota"] / resources["cpu"]["period"] == 0.5
    assert resources["devices"][0] == {"allow": False, "access": "rwm"}
    assert {"/sys", "/proc/kcore", "/proc/keys", "/proc/pressure"} <= set(linux["maskedPaths"])
    mounts = {mount["destination"]: mount for mount in handed["mounts"]}
    for place in ("/pack", "/opt/rumi", "/run/rumi/bus.sock"):
        assert "ro" in mounts[place]["options"], place
    assert {"noexec", "nosuid", "nodev", f"size={64 << 20}"} <= set(mounts["/tmp"]["options"])
    assert not [source for source in (mount.get("source", "") for mount in handed["mounts"]) if source.endswith("docker.sock")]
