"""The host's real sockets, gate and protocol in front of a small application, and clients that say exactly what a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import uvloop

from bench.ports import free_port
from core_runtime.api.context import Api
from core_runtime.api.envelope import refusal, success
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.peer import own_uid
from core_runtime.event_bus import EventBus
from core_runtime.pack_api_server import PackApiServer
from core_runtime.rules.settings import Settings, run_dir_for


@dataclass
class Recorder:
    """The application behind the gate: it answers who asked, and remembers what reached it."""

    seen: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    before: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def __call__(self, scope, receive, send) -> None:
        self.seen.append(f"{scope['method']} {scope['raw_path'].decode()}")
        if scope["method"] == "POST":
            more = True
            while more:
                message = await receive()
                self.bodies.append(message.get("body", b""))
                more = message.get("more_body", False)
        if self.before is not None:
            await self.before()
        await success({"actor": scope["state"]["actor"], "path": scope["path"]})(scope, receive, send)


@dataclass
class Served:
    settings: Settings
    api: Api
    faces: PackApiServer
    app: Recorder
    web: Recorder
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def close(self) -> None:
        """Both ends of every connection: the test's, then the host's."""
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await self.faces.close(self.api)

    @property
    def host(self) -> str:
        return f"localhost:{self.settings.api_port}"

    @property
    def token(self) -> str:
        return self.settings.token_file.read_text().strip()


def run(test: Coroutine[Any, Any, Any], limit_s: float = 60.0) -> Any:
    """Run a test on the loop that the host uses."""

    async def limited() -> Any:
        async with asyncio.timeout(limit_s):
            return await test

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(limited())


def settings_in(home: Path) -> Settings:
    run_dir = run_dir_for(home, "", own_uid() or 0)
    return Settings(project_root=home, home=home, run_dir=run_dir, api_port=free_port(), web_port=free_port())


@contextlib.asynccontextmanager
async def serving(home: Path) -> AsyncIterator[Served]:
    settings = settings_in(home)
    faces = PackApiServer(settings)
    faces.bind()
    diagnostics = Diagnostics()
    host: Any = SimpleNamespace(diagnostics=diagnostics, events=EventBus(diagnostics), history=None)
    api = Api(host, settings, faces.web_port)
    app, web = Recorder(), Recorder()
    served = Served(settings, api, faces, app, web)
    try:
        await faces.serve(api, app, web, lambda scope, refuse: refusal(refuse))
        yield served
    finally:
        await served.close()
        assert not settings.run_dir.exists()


async def connect(served: Served, address: str = "127.0.0.1", port: int | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(address, port or served.settings.api_port)
    served.writers.append(writer)
    return reader, writer


async def exchange(served: Served, raw: bytes, address: str = "127.0.0.1", port: int | None = None) -> tuple[int, dict[str, str], bytes]:
    """Send ``raw`` as it stands; the first answer's status, header fields and body."""
    reader, writer = await connect(served, address, port)
    try:
        writer.write(raw)
        return await read_answer(reader)
    finally:
        writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers, body


async def ask(served: Served, method: str = "GET", path: str = "/api/packs", body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """One request with these header fields (underscores become dashes); status and envelope."""
    fields = {"Host": served.host, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    status, _, data = await exchange(served, f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + (body or b""))
    return status, json.loads(data)
