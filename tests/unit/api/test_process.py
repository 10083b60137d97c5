"""``app.py`` as the operator meets it: a process with ports, signals, exit codes and sentences."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.ports import free_port

ROOT = Path(__file__).resolve().parents[3]
START_LIMIT_S = 60.0


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "COVERAGE_PROCESS_START") if name in os.environ}
    ports = {"RUMI_API_PORT": str(free_port()), "RUMI_WEB_PORT": str(free_port())}
    return {**kept, "RUMI_HOME": str(home), "RUMI_ISOLATION": "embedded", **ports, **more}


@contextlib.contextmanager
def host(variables: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), *arguments], env=variables, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def ask(port: str, path: str) -> Any:
    with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=10) as answer:
        return json.loads(answer.read())["data"]


def ready(process: subprocess.Popen[str], port: str) -> dict[str, Any]:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        with contextlib.suppress(OSError):
            health: dict[str, Any] = ask(port, "/api/health")
            if health["phase"] != "starting":
                return health
        time.sleep(0.05)
    raise AssertionError("the host did not get ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    variables = environment(tmp_path)
    with host(variables) as process:
        assert ready(process, variables["RUMI_API_PORT"])["phase"] == "ready"
        assert ask(variables["RUMI_API_PORT"], "/api/packs") == []
        with urllib.request.urlopen(f"http://localhost:{variables['RUMI_WEB_PORT']}/", timeout=10) as page:
            assert "<html" in page.read().decode()
        process.send_signal(number)
        output, words = process.communicate(timeout=20)
    assert process.returncode == 0
    assert output == ""
    assert f"http://localhost:{variables['RUMI_API_PORT']}" in words
    assert "Traceback" not in words
    for name in ("RUMI_API_PORT", "RUMI_WEB_PORT"):
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", int(variables[name])))


def test_the_api_port_never_moves_and_the_web_port_does(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    with socket.create_server(("127.0.0.1", int(variables["RUMI_API_PORT"]))), host(variables) as process:
        _, words = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "The port is taken" in words
    assert variables["RUMI_API_PORT"] in words
    assert "Traceback" not in words
    with socket.create_server(("::1", int(variables["RUMI_WEB_PORT"])), family=socket.AF_INET6), host(variables) as process:
        web = ready(process, variables["RUMI_API_PORT"])["web"]
        assert web != f"http://localhost:{variables['RUMI_WEB_PORT']}"
        with urllib.request.urlopen(web, timeout=10) as page:
            assert page.status == 200
        process.terminate()
        _, words = process.communicate(timeout=20)
    assert f"Port {variables['RUMI_WEB_PORT']} is taken" in words


def test_a_second_host_of_one_home_is_refused(tmp_path: Path) -> None:
    variables = environment(tmp_path)
    with host(variables) as first:
        ready(first, variables["RUMI_API_PORT"])
        with host({**variables, **{k: v for k, v in environment(tmp_path).items() if "PORT" in k}}) as second:
            _, words = second.communicate(timeout=20)
        assert second.returncode == 1
        assert "already running" in words
        assert ask(variables["RUMI_API_PORT"], "/api/health")["phase"] == "ready"


def test_unusable_settings_are_named(tmp_path: Path) -> None:
    with host(environment(tmp_path), "--api-port", "x") as process:
        _, words = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "--api-port" in words
    assert "Next:" in words


def test_without_its_environment_it_starts_the_set_up_once(tmp_path: Path) -> None:
    """Under a bare interpreter: the set-up is started as a process; if that comes back in vain, it says so and ends."""
    bare = [sys.executable, "-I", "-S", "-c", f"import runpy, sys; sys.argv = ['app.py']; runpy.run_path({str(tmp_path / 'app.py')!r}, run_name='__main__')"]
    (tmp_path / "app.py").write_bytes((ROOT / "app.py").read_bytes())
    (tmp_path / "bootstrap.py").write_text(
        f"import os, sys\nprint(sys.argv[1:], flush=True)\nos.execv(sys.executable, {[bare[0], *bare[1:]]!r})\n"
    )
    done = subprocess.run(bare, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stdout == "['--cli', 'run']\n"
    assert "bootstrap.py --cli doctor" in done.stderr


def test_the_entry_is_parsed_by_older_pythons() -> None:
    compile((ROOT / "app.py").read_text(), "app.py", "exec", flags=0, dont_inherit=True)
    import ast

    ast.parse((ROOT / "app.py").read_text(), feature_version=(3, 9))
