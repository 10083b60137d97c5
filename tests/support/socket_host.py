"""A small HTTP server on a real Unix socket that answers as the management API does, and keeps what it was asked."""

from __future__ import annotations

import contextlib
import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


@dataclass
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class SocketHost:
    """``answers`` maps ``"METHOD /path"`` to data, to ``(status, error body)``, to raw bytes (an event stream), or to an
    iterator of bytes (an event stream, piece by piece).
    """

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [f"{one.method} {one.path}" for one in self.asked]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    host: SocketHost


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        if self.headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
        self.server.host.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
        answers = self.server.host.answers
        found = answers.get(f"{self.command} {self.path}", (404, {"error": "No such route", "code": "not_found"}))
        if callable(found):
            found = found(body)
        if isinstance(found, Iterator):
            self._stream(found)
            return
        status, kind = 200, "application/json"
        if isinstance(found, bytes):
            content, kind = found, "text/event-stream"
        elif isinstance(found, tuple):
            status = found[0]
            content = found[1] if isinstance(found[1], bytes) else _envelope(False, None, **found[1])
        else:
            content = _envelope(True, found, error=None)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        del format, args

    def address_string(self) -> str:
        return "local"


def _envelope(success: bool, data: Any, **more: Any) -> bytes:
    return json.dumps({"success": success, "data": data, **more}).encode()


@contextlib.contextmanager
def serving(path: Path, host: SocketHost) -> Iterator[SocketHost]:
    """Serve ``host`` on the socket ``path``, in a folder made private, until the block ends."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with _Server(str(path), _Handler) as server:
        server.host = host
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join(timeout=10)
            path.unlink(missing_ok=True)
