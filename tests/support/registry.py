"""An OCI registry of the tests' own: manifests, blobs, a token service, and answers that an honest one never gives."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Self

from core_runtime.rules.addresses import Address
from core_runtime.rules.oci import MANIFEST_TYPE

LAYER = "application/vnd.rumi.pack.v1.tar+gzip"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Answer:
    """What is sent instead of what an honest registry would."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunked: bool = False


@dataclass(frozen=True)
class Asked:
    path: str
    headers: Mapping[str, str]


class Registry:
    """``with Registry() as it``: ``push`` a Pack, then ask. ``answers`` (path → ``Answer``) go before everything else."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, token: str = "") -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.answers: dict[str, Answer | Callable[[Asked], Answer]] = {}
        self.asked: list[Asked] = []
        self.token = token
        self.realm = ""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = Asked(self.path, dict(self.headers.items()))
                registry.asked.append(asked)
                answer = registry.answer(asked)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.chunked:
                    self.send_header("Transfer-Encoding", "chunked")
                elif "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                try:
                    if answer.chunked:
                        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer.body), answer.body))
                    else:
                        self.wfile.write(answer.body)
                except (ConnectionError, ssl.SSLError):
                    return  # whoever asked has had enough

            def log_message(self, *args: object) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, Any]:
                sock, address = super().get_request()
                return (tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) if tls else sock), address

            def handle_error(self, *args: object) -> None:
                """A client that does not trust us breaks off."""

        self._server = Server(("127.0.0.1", 0), Handler)

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    @property
    def at(self) -> str:
        return f"127.0.0.1:{self.port}"

    def push(self, name: str, tag: str, layer: bytes, **changed: Any) -> str:
        """A manifest over one layer under a tag; its digest. ``changed`` fields replace those of the manifest."""
        self.blobs[digest_of(layer)] = layer
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": "application/vnd.rumi.pack.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2},
            "layers": [{"mediaType": LAYER, "digest": digest_of(layer), "size": len(layer)}], **changed,
        }  # fmt: skip
        raw = json.dumps(manifest).encode()
        for reference in (tag, digest_of(raw)):
            self.manifests[f"/v2/{name}/manifests/{reference}"] = raw
        return digest_of(raw)

    def answer(self, asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path in self.answers:
            found = self.answers[path]
            return found(asked) if callable(found) else found
        if path == "/token":
            return Answer(body=json.dumps({"token": self.token}).encode())
        if self.token and asked.headers.get("Authorization") != f"Bearer {self.token}":
            realm = self.realm or f"http://{self.at}/token"
            return Answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}",service="tests",scope="repository:*:*"'})
        if path in self.manifests:
            raw = self.manifests[path]
            return Answer(200, {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": digest_of(raw)}, raw)
        blob = self.blobs.get(path.rpartition("/")[2])
        return Answer(404) if blob is None or "/blobs/" not in path else Answer(body=blob)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class World:
    """Names and addresses as the tests say; each address is one of our own servers on the loopback, whatever its port."""

    def __init__(self, names: Mapping[str, str], servers: Mapping[str, Registry]) -> None:
        self.names, self.servers = names, servers
        self.dialled: list[str] = []

    def look_up(self, host: str) -> tuple[Address, ...]:
        try:
            return tuple(ip_address(text) for text in self.names.get(host, host).split())
        except ValueError:
            raise OSError("no such name") from None

    def connect(self, address: Address, port: int, timeout_s: float) -> socket.socket:
        self.dialled.append(f"{address} {port}")
        return socket.create_connection(("127.0.0.1", self.servers[str(address)].port), timeout_s)
