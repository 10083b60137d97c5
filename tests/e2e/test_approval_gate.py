"""Nothing runs before the owner said yes; what runs afterwards is exactly what was approved and can't reach the host."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.running_host import RunningHost, component, one_component_pack

HELLO = """
def run(context):
    context["interface_registry"].register("service.hello", lambda args, ctx: {"message": "Hello"})
"""


def _mine(target: Path) -> str:
    return f"open({str(target)!r}, 'w').write('ran')\n"


def test_before_approval_no_byte_runs(tmp_path: Path, host: RunningHost) -> None:
    canary = tmp_path / "canary"
    loud = _mine(canary)
    host.put_pack(
        "eager",
        {
            "backend/ecosystem.json": json.dumps({"pack_id": "eager", "version": "1.0.0"}),
            "backend/components/c/manifest.json": component("service", "c", provides=("eager.x",)),
            "backend/components/c/setup.py": loud,
            "backend/components/c/conftest.py": loud,
            "backend/components/c/__init__.py": loud,
            "backend/handlers/x.py": loud,
            "backend/__init__.py": loud,
            "setup.py": loud,
            "pyproject.toml": "[build-system]\nrequires=[]\nbuild-backend='setup'\nbackend-path=['.']\n",
            "sitecustomize.py": loud,
            "usercustomize.py": loud,
            "evil.pth": f"import os; {loud}",
            "Makefile": f"all:\n\ttouch {canary}\n",
        },
    )
    host.ok("POST", "/api/packs/scan")
    assert host.ok("GET", "/api/packs/pending") == ["eager"]
    host.ok("GET", "/api/packs/eager/review")
    host.status("eager")
    assert host.call("eager.x")[0] == 404
    assert host.request("POST", "/api/containers/eager/start")[0] == 403
    assert host.ok("GET", "/api/containers") == []
    assert not canary.exists()
    host.ok("POST", "/api/packs/eager/reject", {"reason": "no"})
    assert host.request("POST", "/api/containers/eager/start")[0] == 403
    assert not canary.exists()


def test_after_approval_it_still_cannot_touch_the_host(tmp_path: Path, host: RunningHost) -> None:
    canary = tmp_path / "canary"
    secret = tmp_path / "secret"
    secret.write_text("the host's own")
    tmp_path.chmod(0o755)
    victim = subprocess.Popen(["sleep", "300"])
    setup = f"""
import os, signal, socket
def attempt(fn):
    try:
        return repr(fn())[:200]
    except BaseException as error:
        return "refused " + type(error).__name__
def run(context):
    seen = {{
        "write canary": attempt(lambda: open({str(canary)!r}, "w").write("x")),
        "write pack": attempt(lambda: open("/pack/backend/ecosystem.json", "a").write("x")),
        "write etc": attempt(lambda: open("/etc/rumi-was-here", "w").write("x")),
        "read secret": attempt(lambda: open({str(secret)!r}).read()),
        "read home": attempt(lambda: os.listdir({str(host.home)!r})),
        "signal victim": attempt(lambda: os.kill({victim.pid}, signal.SIGKILL)),
        "signal host": attempt(lambda: os.kill({host.pid}, signal.SIGKILL)),
        "host process": attempt(lambda: open("/proc/{host.pid}/environ").read()),
        "api port": attempt(lambda: socket.create_connection(("127.0.0.1", {host.api_port}), 1)),
        "engine socket": attempt(lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")),
        "setuid": attempt(lambda: os.setuid(0)),
    }}
    context["interface_registry"].register("captive.seen", lambda a, c: {{**seen, "pids": [p for p in os.listdir("/proc") if p.isdigit()],
        "environment": attempt(lambda: open("/proc/1/environ", "rb").read())}})
"""
    try:
        host.put_pack("captive", one_component_pack("captive", setup, provides=("captive.seen",)))
        host.approve("captive")
        seen = host.result("captive.seen")
        pids, environment = seen.pop("pids"), seen.pop("environment")
        assert {name: outcome for name, outcome in seen.items() if not outcome.startswith("refused")} == {}
        assert len(pids) <= 4, "only its own processes are visible"
        assert environment.startswith("refused") or ("RUMI" not in environment and str(tmp_path) not in environment)
        assert victim.poll() is None
        assert not canary.exists()
        assert not Path("/etc/rumi-was-here").exists()
        assert host.request("GET", "/api/health")[0] == 200
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()


def test_one_byte_changed_means_modified_and_stopped(host: RunningHost) -> None:
    folder = host.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
    host.approve("hello")
    assert host.result("service.hello") == {"message": "Hello"}

    source = folder / "backend/components/main/setup.py"
    kept = source.stat()
    source.write_text(HELLO.replace("Hello", "Jello"))
    os.utime(source, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    host.ok("POST", "/api/packs/scan")

    status = host.status("hello")
    assert status["status"] == "modified"
    assert "backend/components/main/setup.py" in json.dumps(status)
    assert host.ok("GET", "/api/containers") == []
    assert host.call("service.hello")[0] == 404
    assert host.request("POST", "/api/containers/hello/start")[0] == 403

    source.write_text(HELLO)
    host.ok("POST", "/api/packs/scan")
    assert host.status("hello")["status"] == "modified", "old bytes that return by themselves need a new approval"

    source.write_text(HELLO.replace("Hello", "Jello"))
    assert host.approve("hello")["status"] == "running"
    assert host.result("service.hello") == {"message": "Jello"}


def test_changes_are_noticed_without_being_asked(host: RunningHost) -> None:
    folder = host.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
    host.until(lambda: host.ok("GET", "/api/packs/pending") == ["hello"], 30, "the new folder to be seen")
    host.approve("hello")
    (folder / "backend/__pycache__").mkdir()
    (folder / "backend/__pycache__/x.pyc").write_bytes(b"")
    host.until(lambda: host.status("hello")["status"] == "modified", 30, "the edit to be seen")
    answers = []

    def gone() -> bool:
        status, envelope = host.call("service.hello")
        answers.append((status, envelope.get("code")))
        return status == 404

    host.until(gone, 30, "its sandbox to have ended")
    assert set(answers) <= {(404, "missing"), (502, "unavailable")}, "while it is being stopped it says so, and never answers"
    assert host.ok("GET", "/api/containers") == []


def test_approved_packs_run_again_after_a_restart_and_a_crash(host: RunningHost) -> None:
    host.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
    host.approve("hello")
    for end in (host.stop, host.kill):
        end()
        host.start()
        host.until(lambda: host.call("service.hello")[0] == 200, 30, "the approved Pack to run again")
        assert len(host.ok("GET", "/api/containers")) == 1


def test_a_stopped_host_leaves_nothing_behind(host: RunningHost) -> None:
    host.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
    host.approve("hello")
    name = hashlib.sha256(str(host.home).encode()).hexdigest()[:8]
    left = [Path(place) / f"rumi-{name}{end}" for place in ("/run", "/tmp") for end in ("", "-bus")]
    assert any(path.exists() for path in left)
    host.stop()
    assert [path for path in left if path.exists()] == []


def test_ids_and_unknown_packs(host: RunningHost) -> None:
    assert host.request("POST", "/api/packs/nobody/approve")[0] == 404
    assert host.request("DELETE", "/api/packs/nobody")[0] == 404
    assert host.request("GET", "/api/packs/Bad!/status")[0] == 400
    status, envelope = host.request("GET", "/api/nothing")
    assert status == 404
    assert envelope["success"] is False
    assert envelope["data"] is None
    assert envelope["error"]


def test_without_any_isolation_nothing_runs_and_the_api_lives(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with RunningHost(tmp_path / "home", "docker", {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}) as host:
        host.put_pack("hello", one_component_pack("hello", _mine(canary) + HELLO, provides=("service.hello",)))
        status = host.ok("GET", "/api/docker/status")
        assert status["available"] is False
        assert status["required"] is True
        host.request("POST", "/api/packs/hello/approve")
        assert host.call("service.hello")[0] == 404
        assert "Docker is required but not available" in json.dumps(host.ok("GET", "/api/issues"))
        assert host.request("POST", "/api/containers/hello/start")[0] == 503
        assert host.ok("GET", "/api/containers") == []
    assert not canary.exists()


@pytest.mark.root
@pytest.mark.parametrize("reader", ["nobody"])
def test_another_user_of_the_machine_is_refused(tmp_path: Path, reader: str) -> None:
    with RunningHost(tmp_path / "home", "docker", {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}) as host:
        line = ["curl", "-s", "-X", "POST", "-w", "%{http_code}", f"http://localhost:{host.api_port}/api/packs/x/approve"]
        done = subprocess.run(line, user=reader, group="nogroup", extra_groups=[], capture_output=True, text=True, timeout=30, check=True)
        assert done.stdout.endswith("401")
        owner = subprocess.run(line, capture_output=True, text=True, timeout=30, check=True)
        assert owner.stdout.endswith("404")
