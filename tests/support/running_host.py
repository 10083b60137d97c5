"""A real host in a process of its own, with a home of its own: what end-to-end and attack tests talk to over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.ports import free_port
from tests.support import engine
from tests.support.documents import ROOT

START_LIMIT_S = 60.0


def isolated_by(kind: str) -> dict[str, str]:
    """What a host is told so that it runs Packs as ``sandboxes.EVERYWHERE`` names it."""
    driver, _, way = kind.partition("-")
    told = {"RUMI_ISOLATION": driver}
    if way:
        told["RUMI_DOCKER_TRANSPORT"] = "stdio"
    if way == "gvisor":
        told |= {"DOCKER_HOST": engine.with_gvisor(), "RUMI_DOCKER_RUNTIME": "runsc"}
    return told


class RunningHost:
    """``with RunningHost(home, "embedded") as host``: started on free ports, ended with everything it started."""

    def __init__(self, home: Path, isolation: str, environment: Mapping[str, str] | None = None, entry: Path = ROOT / "app.py") -> None:
        self.home = home
        self.isolation = isolation
        self._entry = entry
        self.packs = home / "ecosystem" / "packs"
        self.log = home / "host.log"
        self.api_port, self.web_port = free_port(), free_port()
        self._environment = {
            **os.environ,
            "RUMI_HOME": str(home),
            **isolated_by(isolation),
            "RUMI_API_PORT": str(self.api_port),
            "RUMI_WEB_PORT": str(self.web_port),
            **(environment or {}),
        }
        self.prefix: tuple[str, ...] = ()
        """What the host's command line is started by."""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self.packs.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            print(self.log.read_text(errors="replace")[-8000:])
        self.stop()

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.prefix, sys.executable, str(self._entry)],
                cwd=self.home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.until(self._ready, START_LIMIT_S, "the host to be ready")

    def stop(self) -> None:
        """TERM, as an operator's service manager would; a host that does not end in time is a failure."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """As a crash would: no chance to clean up."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def put_pack(self, pack_id: str, files: Mapping[str, str]) -> Path:
        folder = self.packs / pack_id
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
        return folder

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """(HTTP status, envelope)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=60)
        try:
            data = None if body is None else json.dumps(body)
            kind = {} if data is None else {"Content-Type": "application/json"}
            connection.request(method, path, data, {"Host": f"localhost:{self.api_port}", **kind, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        """``data`` of a successful answer."""
        status, envelope = self.request(method, path, body)
        assert (status, envelope["success"]) == (200, True), (method, path, status, envelope)
        return envelope["data"]

    def approve(self, pack_id: str) -> Any:
        return self.ok("POST", f"/api/packs/{pack_id}/approve")

    def status(self, pack_id: str) -> Any:
        return self.ok("GET", f"/api/packs/{pack_id}/status")

    def call(self, key: str, args: Any = None, timeout_s: float = 20) -> tuple[int, Any]:
        return self.request("POST", f"/api/interfaces/{key}/call", {"args": args, "timeout": timeout_s})

    def result(self, key: str, args: Any = None) -> Any:
        status, envelope = self.call(key, args)
        assert status == 200, (key, status, envelope)
        return envelope["data"]["result"]

    def stream(self, key: str, args: Any = None) -> list[Any]:
        """The items of a call that streams, as server-sent events ``item`` … ``end``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=60)
        try:
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Host": f"localhost:{self.api_port}"}
            connection.request("POST", f"/api/interfaces/{key}/call", json.dumps({"args": args}), headers)
            answer = connection.getresponse()
            assert answer.status == 200, answer.read()
            events = [_event(block) for block in answer.read().decode().split("\n\n") if block.strip() and not block.startswith(":")]
        finally:
            connection.close()
        assert events[-1][0] == "end", events[-1]
        return [data for name, data in events if name == "item"]

    def until(self, holds: Callable[[], Any], limit_s: float, what: str) -> Any:
        """Poll until ``holds()`` is truthy; its value."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            assert self._process is not None
            assert self._process.poll() is None, f"the host ended: {self.log.read_text(errors='replace')[-6000:]}"
            value = holds()
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"waited {limit_s} s for {what}\n{self.log.read_text(errors='replace')[-6000:]}")

    def _ready(self) -> bool:
        try:
            status, envelope = self.request("GET", "/api/health")
        except (ConnectionError, TimeoutError):
            return False
        return status == 200 and envelope["data"].get("phase") == "ready"


def component(kind: str, name: str, *, provides: tuple[Any, ...] = (), requires: tuple[Any, ...] = (), uses: tuple[Any, ...] = ()) -> str:
    """A manifest's text."""
    connectivity = {"provides": list(provides), "requires": list(requires), "uses": list(uses)}
    return json.dumps({"type": kind, "id": name, "version": "1.0.0", "connectivity": connectivity})


def one_component_pack(pack_id: str, setup: str, **connectivity: tuple[Any, ...]) -> dict[str, str]:
    """The files of a Pack with one component ``main``."""
    return {
        "backend/ecosystem.json": json.dumps({"pack_id": pack_id, "version": "1.0.0"}),
        "backend/components/main/manifest.json": component("service", "main", **connectivity),
        "backend/components/main/setup.py": setup,
    }


def _event(block: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
    return fields.get("event", "message"), json.loads(fields["data"])
