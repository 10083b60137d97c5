"""The few requests of the Docker Engine API that the setup needs, over its socket, standard library only.

The host's driver is elsewhere and does much more; this one only asks whether an engine is there and feeds it images.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ANSWER_LIMIT_BYTES = 8 << 20


class EngineError(Exception):
    """No engine, or it refused; `str()` is a sentence."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path
        self._limit_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._limit_s)
        self.sock.connect(self._path)


@dataclass(frozen=True)
class Engine:
    """An engine's address, `unix:///path` or `tcp://host:port`."""

    address: str

    @classmethod
    def from_environment(cls) -> Engine:
        """DOCKER_HOST, else the first of the usual sockets that exists; raises EngineError when there is none."""
        named = os.environ.get("DOCKER_HOST")
        if named:
            return cls(named)
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        usual = [Path("/var/run/docker.sock"), Path("~/.docker/run/docker.sock").expanduser()]
        usual += [Path(runtime) / "docker.sock"] if runtime else []
        for path in usual:
            if path.exists():
                return cls(f"unix://{path}")
        raise EngineError(say("no engine: DOCKER_HOST is not set and no usual socket exists"))

    def version(self, *, timeout_s: float) -> str:
        answer = self.ask("GET", "/version", timeout_s=timeout_s)
        return str(answer.get("Version", "?"))

    def has_image(self, name: str, *, timeout_s: float = 10.0) -> bool:
        status, _ = self._request("GET", f"/images/{name}/json", timeout_s=timeout_s)
        return status == http.client.OK

    def tag(self, image: str, repository: str, tag: str, *, timeout_s: float = 10.0) -> None:
        self.ask("POST", f"/images/{image}/tag?repo={repository}&tag={tag}", timeout_s=timeout_s)

    def ask(self, method: str, path: str, *, timeout_s: float) -> dict[str, Any]:
        """One small JSON answer."""
        status, raw = self._request(method, path, timeout_s=timeout_s)
        if status >= http.client.BAD_REQUEST:
            raise EngineError(f"{method} {path}: {status} {_message(raw)}")
        try:
            answer = json.loads(raw) if raw.strip() else {}
        except ValueError as error:
            raise EngineError(f"{method} {path}: no JSON came") from error
        return answer if isinstance(answer, dict) else {}

    def feed(self, path: str, body: Iterable[bytes], *, timeout_s: float) -> list[str]:
        """Sends an archive and returns the lines that the engine said; raises EngineError when it names an error."""
        headers = {"Content-Type": "application/x-tar", "Transfer-Encoding": "chunked"}
        status, raw = self._request("POST", path, timeout_s=timeout_s, body=body, headers=headers)
        if status >= http.client.BAD_REQUEST:
            raise EngineError(f"{status} {_message(raw)}")
        said: list[str] = []
        for line in raw.decode("utf-8", "replace").splitlines():
            try:
                part = json.loads(line)
            except ValueError:
                continue  # progress of older engines is not always JSON
            if isinstance(part, dict) and part.get("error"):
                raise EngineError(str(part["error"]).strip()[:500])
            if isinstance(part, dict):
                said.append(str(part.get("stream") or part.get("status") or "").strip())
        return [line for line in said if line]

    def _request(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        connection = self._connection(timeout_s)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}), encode_chunked=body is not None)
            response = connection.getresponse()
            return response.status, response.read(_ANSWER_LIMIT_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise EngineError(say("{address} does not answer: {why}", address=self.address, why=error)) from error
        finally:
            connection.close()

    def _connection(self, timeout_s: float) -> http.client.HTTPConnection:
        scheme, _, rest = self.address.partition("://")
        if scheme == "unix" and sys.platform != "win32":
            return _UnixConnection(rest, timeout_s)
        if scheme in {"tcp", "http"} and not os.environ.get("DOCKER_TLS_VERIFY"):
            split = urlsplit(f"//{rest}")
            return http.client.HTTPConnection(split.hostname or "localhost", split.port or 2375, timeout=timeout_s)
        raise EngineError(say("an engine at {address} can not be asked from here", address=self.address))


def _message(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return raw[:200].decode("utf-8", "replace")
