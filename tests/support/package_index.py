"""A package index of the tests' own on the loopback: PEP 503 pages, or PEP 691 when asked for JSON."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.support.wheels import sha256

JSON = "application/vnd.pypi.simple.v1+json"


class PackageIndex:
    """``with PackageIndex(files) as index``: serves file name → bytes. ``asked`` lists the paths that were requested."""

    def __init__(self, files: Mapping[str, bytes], *, promised: Mapping[str, str] | None = None) -> None:
        self.files = dict(files)
        self.promised = dict(promised or {})
        self.asked: list[str] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                kind, body = index.answer(self.path, self.headers.get("Accept", ""))
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body or b"")

            def do_HEAD(self) -> None:
                self.do_GET()

            def log_message(self, *args: object) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def environment(self) -> dict[str, str]:
        """What an operator would set to use this index alone; nothing of this machine's own configuration counts."""
        hidden = dict.fromkeys(("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_CONSTRAINT"), "")
        return {**hidden, "PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"http://127.0.0.1:{self._server.server_port}/simple/", "PIP_RETRIES": "0", "no_proxy": "127.0.0.1"}

    def answer(self, path: str, accept: str) -> tuple[str, bytes | None]:
        parts = path.strip("/").split("/")
        if parts[0] == "files":
            return "application/octet-stream", self.files.get(parts[-1])
        found = [name for name in sorted(self.files) if name.replace("_", "-").lower().startswith(parts[-1] + "-")]
        if parts[0] != "simple" or len(parts) != 2 or not found:
            return "text/plain", None
        hashes = {name: self.promised.get(name, sha256(self.files[name])) for name in found}
        if JSON in accept:
            files = [{"filename": n, "url": f"/files/{n}", "hashes": {"sha256": hashes[n]}} for n in found]
            return JSON, json.dumps({"meta": {"api-version": "1.0"}, "name": parts[-1], "files": files}).encode()
        links = "".join(f'<a href="/files/{n}#sha256={hashes[n]}">{n}</a>\n' for n in found)
        return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
