"""A bare agent for tests of the host's side of the bus: speaks frames with the msgpack library, does nothing by itself.

It shares no code with the host (another MessagePack library, its own framing), so both sides can't be wrong together.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack

from core_runtime.bus.hub import Bus
from core_runtime.bus.sessions import Session
from core_runtime.diagnostics import Diagnostics
from core_runtime.event_bus import EventBus
from core_runtime.event_history import EventHistory
from core_runtime.interface_registry import InterfaceRegistry
from core_runtime.rules.contracts import NO_TERMS, Terms
from core_runtime.rules.frames import BusLimits
from core_runtime.rules.routing import matches

CALL, RESULT, ERROR, CANCEL, ITEM, END, CREDIT = 1, 2, 3, 4, 5, 6, 7
BATCH = 9
HELLO, WELCOME, RUN_PHASE, PHASE_DONE, SHUTDOWN, PING, PONG, LOG = 16, 17, 18, 19, 20, 21, 22, 23
REGISTER, UNREGISTER, MIRROR, RELEASE = 32, 33, 34, 37
SUBSCRIBE, UNSUBSCRIBE, PUBLISH, EVENT, REQUEST = 48, 49, 50, 51, 64
WAIT_S = 5.0


def reference(index: int) -> msgpack.ExtType:
    """Index into ``refs``."""
    return msgpack.ExtType(1, msgpack.packb(index))


@dataclass
class Grant:
    """Rights that a test may change while a session runs."""

    calls: set[str] = field(default_factory=set)
    provides: set[str] = field(default_factory=set)
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    since: float = 0.0

    def may_call(self, key: str) -> bool:
        return key in self.calls

    def may_see(self, key: str) -> bool:
        return key in self.calls

    def may_register(self, key: str) -> bool:
        return key in self.provides

    def may_publish(self, topic: str) -> bool:
        return any(matches(p, topic) for p in self.publish)

    def may_subscribe(self, topic: str) -> bool:
        return any(matches(p, topic) for p in self.subscribe)

    def since_s(self) -> float:
        return self.since


class RawAgent:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.frames: list[list[Any]] = []
        self.mirrors: dict[str, list[Any]] = {}
        self._id = 0
        self.closed = False

    @classmethod
    async def connect(cls, path: str) -> RawAgent:
        reader, writer = await asyncio.open_unix_connection(path, limit=4 * 1024 * 1024)
        return cls(reader, writer)

    def send(self, *frame: Any) -> None:
        body = msgpack.packb(list(frame), use_bin_type=True)
        self.writer.write(struct.pack("<I", len(body)) + body)

    def raw(self, data: bytes) -> None:
        self.writer.write(data)

    def hello(self) -> None:
        told = {"protocols": [1], "agent": "raw", "python": "3", "codec": "c", "sources": True, "batches": True, "probe": {"uid": 0}}
        self.send(HELLO, 0, told)

    def next_id(self) -> int:
        self._id += 1
        return self._id

    async def read(self) -> list[Any]:
        """The next frame from the wire; ``ConnectionError`` at its end. What a MIRROR says is kept in ``mirrors``."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(4), WAIT_S)
            body = await asyncio.wait_for(self.reader.readexactly(struct.unpack("<I", head)[0]), WAIT_S)
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            self.closed = True
            raise ConnectionError("closed") from exc
        frame: list[Any] = msgpack.unpackb(body, strict_map_key=False, timestamp=3)
        if frame[0] == MIRROR:
            self.mirrors[frame[2]] = frame
        return frame

    async def until(self, kind: int, test: Callable[[list[Any]], bool] = lambda _: True) -> list[Any]:
        """The first frame of ``kind`` that passes; others are kept and looked through first next time."""
        for frame in self.frames:
            if frame[0] == kind and test(frame):
                self.frames.remove(frame)
                return frame
        while True:
            frame = await self.read()
            if frame[0] == kind and test(frame):
                return frame
            self.keep(frame)

    def keep(self, frame: list[Any]) -> None:
        """For a later ``until`` or ``answer``."""
        if frame[0] != MIRROR:
            self.frames.append(frame)

    async def answer(self, number: int) -> list[Any]:
        """RESULT or ERROR to a request of ours."""
        while True:
            for frame in self.frames:
                if frame[0] in {RESULT, ERROR} and frame[1] == number:
                    self.frames.remove(frame)
                    return frame
            self.keep(await self.read())

    def register(self, key: str, number: int | None = 1, **options: Any) -> int:
        """REGISTER a callable by its number, or (``number=None``) the data in ``value``."""
        schemas = options.pop("schemas", None)
        meta = options.pop("meta", None)
        value = options.pop("value", None)
        full = {"if_absent": False, "ttl_ms": None, "override": False, "source": None, **options}
        request = self.next_id()
        if number is None:
            self.send(REGISTER, request, key, full, meta, schemas, [], value)
        else:
            self.send(REGISTER, request, key, full, meta, schemas, [[0, number]], reference(0))
        return request

    async def registered(self, key: str, number: int | None = 1, **options: Any) -> Any:
        frame = await self.answer(self.register(key, number, **options))
        assert frame[0] == RESULT, frame
        return frame[4]

    def call(
        self, key: str | int, args: Any = None, *, parent: int = 0, deadline_ms: int = 0, refs: Any = (), **kw: Any
    ) -> int:
        number = kw.get("id")
        number = self.next_id() if number is None else number
        self.send(CALL, number, key, deadline_ms, parent, 0, kw.get("idempotency"), list(refs), args)
        return number

    def result(self, number: int, value: Any, refs: Any = ()) -> None:
        self.send(RESULT, number, 0, list(refs), value)

    async def mirror(self, key: str, test: Callable[[list[Any]], bool] = lambda _: True) -> list[Any]:
        """The state of ``key`` once it passes ``test``."""
        while key not in self.mirrors or not test(self.mirrors[key]):
            self.keep(await self.read())
        return self.mirrors[key]

    async def ended(self) -> None:
        """Read until the host closes."""
        with contextlib.suppress(ConnectionError):
            while True:
                self.keep(await self.read())

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError, BrokenPipeError):
            await self.writer.wait_closed()


class Rig:
    """A bus with as many raw agents as a test wants."""

    def __init__(self, folder: str, *, history: EventHistory | None = None, **bus_options: Any) -> None:
        self.folder = folder
        self.diagnostics = Diagnostics()
        self.registry = InterfaceRegistry(self.diagnostics)
        self.events = EventBus(self.diagnostics, history=history)
        self.denials: list[tuple[str, str, str, int]] = []
        self.logs: list[tuple[str, int, int, str, str]] = []
        self.bus = Bus(
            self.registry,
            self.events,
            self.diagnostics,
            log_sink=lambda *line: self.logs.append(line),
            on_denied=lambda *denial: self.denials.append(denial),
            **bus_options,
        )
        self.grants: dict[str, Grant] = {}
        self.agents: list[RawAgent] = []
        self.kind: type[RawAgent] | None = None
        """Of the agents that connect from now on; the plain one unless a test says otherwise."""

    async def agent(
        self, pack_id: str, generation: int = 1, *, welcome: bool = True, terms: Terms = NO_TERMS, **grant: Any
    ) -> tuple[RawAgent, Session]:
        self.grants[pack_id] = Grant(**grant)
        endpoint = await self.bus.open(
            pack_id,
            generation,
            lambda: self.grants[pack_id],
            socket_path=f"{self.folder}/{pack_id}-{generation}",
            terms=terms,
        )
        waiting = asyncio.ensure_future(endpoint.connected(WAIT_S))
        agent = await (self.kind or RawAgent).connect(endpoint.path)
        agent.hello()
        session = await waiting
        self.agents.append(agent)
        if welcome:
            await session.welcome({})
            await agent.until(WELCOME)
        return agent, session


@asynccontextmanager
async def rig(folder: Any, *, limits: BusLimits | None = None, **options: Any) -> AsyncIterator[Rig]:
    built = Rig(str(folder), limits=limits, **options)
    await built.bus.start()
    try:
        yield built
    finally:
        for agent in built.agents:
            await agent.close()
        await built.bus.close()


async def eventually(test: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """Poll until ``test()`` is true; the value it had."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        value = test()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError("the condition did not become true in time")
        await asyncio.sleep(0.002)


def issue_codes(built: Rig) -> set[str]:
    return {issue.code for issue in built.diagnostics.issues()}
