"""The README's quick start, run literally on a fresh clone: the product's main job from outside.

Only what a new user has is used: ``git``, ``bash``, ``curl`` and the commands that the document shows. The clone line's
address is answered by this repository through git's own ``insteadOf``.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import ROOT, files_shown, marked_block

README = {"en": ROOT / "README.md", "ja": ROOT / "README.ja.md"}
START_LIMIT_S = 240.0

WITNESS = {
    "backend/ecosystem.json": '{"pack_id": "witness", "version": "1.0.0"}',
    "backend/components/w/manifest.json": json.dumps(
        {"type": "service", "id": "w", "version": "1.0.0", "connectivity": {"provides": ["witness.report"]}}
    ),
    "backend/components/w/setup.py": """
import os, socket

def run(context):
    def report(args, ctx):
        try:
            socket.create_connection(("127.0.0.1", 8765), timeout=1).close()
            reached = True
        except OSError:
            reached = False
        return {
            "uid": os.getuid(),
            "pid_namespace": os.readlink("/proc/self/ns/pid"),
            "net_namespace": os.readlink("/proc/self/ns/net"),
            "interfaces": sorted(name for _, name in socket.if_nameindex()),
            "reached_host": reached,
            "environment": sorted(os.environ),
        }
    context["interface_registry"].register("witness.report", report)
""",
}


def test_documents_show_the_same_quick_start() -> None:
    for marker in ("quickstart: terminal 1", "quickstart: terminal 2", "quickstart: answer"):
        assert marked_block(README["en"], marker) == marked_block(README["ja"], marker)
    assert files_shown(README["en"], "ecosystem/packs/") == files_shown(README["ja"], "ecosystem/packs/")
    assert len(files_shown(README["en"], "ecosystem/packs/")) == 3


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_start_with_docker(tmp_path: Path) -> None:
    _quick_start(tmp_path, "docker")


@pytest.mark.embedded
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_quick_start_with_the_embedded_sandbox(tmp_path: Path) -> None:
    _quick_start(tmp_path, "embedded")


def _quick_start(folder: Path, isolation: str) -> None:
    environment = _new_user(folder, isolation)
    with _terminal_1(folder, environment) as clone:
        for path, content in files_shown(README["en"], "ecosystem/packs/").items():
            (clone / path).parent.mkdir(parents=True, exist_ok=True)
            (clone / path).write_text(content, encoding="utf-8")

        pending, approved, answer = _terminal_2(clone, environment)

        assert json.loads(pending)["data"] == ["my_pack"]
        assert json.loads(approved)["data"]["status"] == "running"
        assert json.loads(answer) == json.loads(marked_block(README["en"], "quickstart: answer"))
        containers = json.loads(_shell(clone, environment, "curl -s http://localhost:8765/api/containers"))["data"]
        assert [(c["pack_id"], c["driver"]) for c in containers] == [("my_pack", isolation)]

        report = _witness(clone, environment)
        assert report["pid_namespace"] != str(Path("/proc/self/ns/pid").readlink())
        assert report["net_namespace"] != str(Path("/proc/self/ns/net").readlink())
        assert set(report["interfaces"]) <= {"lo"}
        assert report["reached_host"] is False
        if os.getuid() == 0:
            assert report["uid"] not in (0, os.getuid())
        page = _shell(clone, environment, "curl -s -i http://localhost:5000/")
        assert page.startswith("HTTP/1.1 200")
        assert "my_pack" in page


def _new_user(folder: Path, isolation: str) -> dict[str, str]:
    home = folder / "home"
    home.mkdir()
    kept = ("PATH", "DOCKER_HOST", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "UV_CACHE_DIR", "RUMI_BASE_IMAGE")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    block = marked_block(README["en"], "quickstart: terminal 1").splitlines()
    address = block[0].removeprefix("git clone ")
    environment |= {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "RUMI_ISOLATION": isolation,
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
    }
    return environment


@contextlib.contextmanager
def _terminal_1(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Run the first terminal's lines as they stand; yields the clone once the API answers, ends the host after.

    The lines name the usual ports, so only one such run at a time is possible on a machine: a lock keeps the order.
    """
    with (Path(tempfile.gettempdir()) / "rumi-usual-ports.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with _host_of_terminal_1(folder, environment) as clone:
            yield clone


@contextlib.contextmanager
def _host_of_terminal_1(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    for port in (8765, 5000):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is taken: the quick start can't run literally"
    log = folder / "terminal_1.log"
    with log.open("wb") as output:
        terminal = subprocess.Popen(
            ["bash", "-e", "-c", marked_block(README["en"], "quickstart: terminal 1")],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_serving(terminal, folder / "rumi-ai", log, environment)
        yield folder / "rumi-ai"
    except BaseException:
        print(log.read_text(errors="replace")[-8000:])
        raise
    finally:
        if terminal.poll() is None:
            os.killpg(terminal.pid, signal.SIGINT)
            try:
                terminal.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(terminal.pid, signal.SIGKILL)
                terminal.wait()
                raise


def _wait_until_serving(
    terminal: subprocess.Popen[bytes], clone: Path, log: Path, environment: dict[str, str]
) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    health = ["curl", "-sf", "http://localhost:8765/api/health"]
    while time.monotonic() < deadline:
        assert terminal.poll() is None, f"./rumi up ended with status {terminal.returncode}:\n{log.read_text(errors='replace')[-4000:]}"
        answer = subprocess.run(health, env=environment, capture_output=True, timeout=30, check=False).stdout
        if answer and json.loads(answer)["data"].get("phase") == "ready":
            home = json.loads(answer)["data"]["home"]
            assert home == str(clone), f"another host answers on port 8765, of {home}"
            return
        time.sleep(0.2)
    raise AssertionError(f"no answer in {START_LIMIT_S} s:\n{log.read_text(errors='replace')[-4000:]}")


def _terminal_2(clone: Path, environment: dict[str, str]) -> list[str]:
    block = marked_block(README["en"], "quickstart: terminal 2")
    lines = block.splitlines()
    assert len(lines) == 3
    return [_shell(clone, environment, line) for line in lines]


def _shell(cwd: Path, environment: dict[str, str], line: str) -> str:
    done = subprocess.run(["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def _witness(clone: Path, environment: dict[str, str]) -> dict[str, object]:
    for path, content in WITNESS.items():
        target = clone / "ecosystem/packs/witness" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    _shell(clone, environment, "./rumi pack approve witness")
    answer = _shell(clone, environment, "./rumi call --json witness.report '{}'")
    report: dict[str, object] = json.loads(answer)["result"]
    return report
