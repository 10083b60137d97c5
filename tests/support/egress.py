"""The broker on a bus of its own, with raw agents in place of sandboxes: what a hostile Pack can say, byte by byte."""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from backend_core.errors import DeniedError, HostError
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.spent_file import SpentFile
from core_runtime.egress.broker import Broker, Means
from core_runtime.rules.addresses import Address
from core_runtime.rules.budgets import Budgets, BudgetTable
from core_runtime.rules.grants import Grant, Mode, Permission, freeze
from core_runtime.rules.permissions import Allow, Deny, covering_item, covers_use, in_force
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from tests.support.raw_agent import CANCEL, CREDIT, END, ERROR, ITEM, REQUEST, RESULT, RawAgent, Rig, rig

PACK = "pack"


class Rights:
    """``broker.Permissions`` over a list that a test may change."""

    def __init__(self, permissions: list[dict[str, Any]]) -> None:
        self.used: list[str] = []
        self.spent: set[int] = set()
        self.give(permissions)

    def give(self, permissions: list[dict[str, Any]]) -> None:
        self.held = tuple(
            Permission(item["type"], freeze({k: v for k, v in item.items() if k not in {"type", "mode", "until"}}), Mode(item.get("mode", "always")), item.get("until"))
            for item in permissions
        )  # fmt: skip

    def grant(self, pack_id: str) -> Grant | None:
        isolation = Isolation(DriverKind.EMBEDDED, Level.STANDARD)
        return Grant(pack_id, "", "1", "0" * 64, 1, "e", isolation, 0, 0, "test", self.held)

    def check(self, pack_id: str, kind: str, /, **params: Any) -> Allow | Deny:
        for index, permission in enumerate(self.held):
            item = covering_item(permission, kind, params)
            if not item or not in_force(permission, now=time.time()) or index in self.spent:
                continue
            if permission.mode is Mode.ONCE:
                self.spent.add(index)
            self.used.append(item)
            return Allow(index)
        return Deny(f"{kind} is not granted.")

    def still(self, pack_id: str, kind: str, /, **params: Any) -> bool:
        return any(covers_use(p, kind, params) and (p.mode is Mode.ONCE or in_force(p, now=time.time())) for p in self.held)


class Names:
    """``ports.Resolver`` over a table; a list of lists is answered in turns."""

    def __init__(self, zone: Mapping[str, list[str]]) -> None:
        self.zone: dict[str, list[str]] = dict(zone)
        self.asked: list[str] = []

    async def resolve(self, name: str, timeout_s: float) -> tuple[Address, ...]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if not self.zone.get(name):
            raise HostError("The name has no address", code="name_unknown")
        return tuple(ip_address(text) for text in self.zone[name])


class Stand:
    """One Pack, one broker. Everything belongs to one event loop."""

    def __init__(self, built: Rig, agent: RawAgent, broker: Broker, rights: Rights, names: Names, audit: AuditLog) -> None:
        self.rig, self.agent, self.broker, self.rights, self.names, self.audit = built, agent, broker, rights, names, audit

    def ask(self, operation: str, **args: Any) -> int:
        number = self.agent.next_id()
        self.agent.send(REQUEST, number, operation, 0, [], args)
        return number

    async def open(self, host: Any, port: Any = 443, operation: str = "network.connect", **args: Any) -> tuple[int, int]:
        """(request id, id of the way up)."""
        more = {"host": host, "port": port} if operation == "network.connect" else {}
        number = self.ask(operation, **more, **args)
        frame = await self.agent.answer(number)
        assert frame[0] == RESULT, frame
        return number, frame[4]["up"]

    async def refused(self, host: Any, port: Any = 443, operation: str = "network.connect", **args: Any) -> str:
        """The code of the refusal; an opened connection fails the test."""
        more = {"host": host, "port": port} if operation == "network.connect" else {}
        frame = await self.agent.answer(self.ask(operation, **more, **args))
        assert frame[0] == ERROR, frame
        return str(frame[2])

    async def fetch(self, url: str, body: bytes = b"", **args: Any) -> tuple[dict[str, Any], bytes]:
        number, up = await self.open("", operation="http.fetch", url=url, length=len(body), **args)
        if body:
            self.agent.send(ITEM, up, [], body)
        self.agent.send(END, up, None)
        head: dict[str, Any] = (await self.item(number))[3]
        data = b""
        while (frame := await self.next(number))[0] == ITEM:
            data += frame[3]
            self.agent.send(CREDIT, number, 1)
        assert frame[2] is None, frame
        return head, data

    async def next(self, number: int) -> list[Any]:
        """The next ITEM or END of a channel."""
        for frame in self.agent.frames:
            if frame[0] in {ITEM, END} and frame[1] == number:
                self.agent.frames.remove(frame)
                return frame
        while True:
            frame = await self.agent.read()
            if frame[0] in {ITEM, END} and frame[1] == number:
                return frame
            self.agent.keep(frame)

    async def item(self, number: int) -> list[Any]:
        frame = await self.next(number)
        assert frame[0] == ITEM, frame
        return frame

    async def end(self, number: int) -> str:
        """The type of the error that a channel ends with, "" for a clean end; what comes before is thrown away."""
        while (frame := await self.next(number))[0] == ITEM:
            self.agent.send(CREDIT, number, 1)
        return str(frame[2][0]) if frame[2] else ""

    def cancel(self, number: int) -> None:
        self.agent.send(CANCEL, number)

    def records(self, event: str) -> list[dict[str, Any]]:
        return [record for record in self.audit.tail(500) if record["event"] == event]


@asynccontextmanager
async def stand(
    folder: Path,
    permissions: list[dict[str, Any]],
    zone: Mapping[str, list[str]] | None = None,
    *,
    own_ports: frozenset[int] = frozenset(),
    secrets: Mapping[str, str] | None = None,
    resolver: Any = None,
    **budgets: Any,
) -> AsyncIterator[Stand]:
    rights, names, audit = Rights(permissions), resolver or Names(zone or {}), AuditLog(folder)
    table = BudgetTable(replace(Budgets(), **budgets))

    def secret(pack_id: str, name: str) -> str:
        if pack_id != PACK or name not in (secrets or {}):
            raise DeniedError("No such secret for this Pack")
        return (secrets or {})[name]

    async with rig(folder) as built:
        work = ThreadPoolExecutor(2)
        keyring = Keyring(folder / "permissions")
        keyring.ensure()
        spent = SpentFile(keyring)
        broker = Broker(
            Means(rights, audit, built.diagnostics, names, lambda: table, secret, lambda: own_ports, work, spent)
        )
        built.bus.channels.update({"network.connect": broker.network, "http.fetch": broker.fetch})
        agent, _ = await built.agent(PACK)
        try:
            yield Stand(built, agent, broker, rights, names, audit)
        finally:
            await broker.close()
            work.shutdown()


def client_hello(name: str | None) -> bytes:
    """A real ClientHello, as OpenSSL writes it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        session.do_handshake()
    return outgoing.read()


def with_extension(hello: bytes, kind: int, data: bytes) -> bytes:
    """``hello`` with one more extension."""
    body = bytearray(hello[9:])
    at = 34
    at += 1 + body[at]
    at += 2 + struct.unpack("!H", body[at : at + 2])[0]
    at += 1 + body[at]
    (size,) = struct.unpack("!H", body[at : at + 2])
    extra = struct.pack("!HH", kind, len(data)) + data
    body[at : at + 2] = struct.pack("!H", size + len(extra))
    body += extra
    message = b"\x01" + len(body).to_bytes(3, "big") + bytes(body)
    return b"\x16\x03\x01" + struct.pack("!H", len(message)) + message
