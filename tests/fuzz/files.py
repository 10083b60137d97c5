"""Fuzz targets with descriptors: a conversation in which bodies lie in memory files, in chunks and in streams of arguments.

An input is a row of records: a byte that says what it is, two for a length, and so many bytes.
``0``: a frame; ``1`` and on: a message on the second socket, with what ``MADE`` makes of the bytes behind its first eight.

Invariant: when a session ended and the other Pack has closed what it was handed, this process has no memory file open,
and no room is taken.

Not here: what else must never be (``targets``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack

from core_runtime.rules.frames import BusLimits, FrameError
from tests.fuzz.targets import Feed, Finding, Sessions, agent_module
from tests.support.file_agent import SEALS, FileAgent, mark, memory
from tests.support.raw_agent import CALL, ITEM, RESULT, reference
from tests.support.vectors import encode

LIMITS = BusLimits(
    registrations=64, references=256, in_flight=32, frame_bytes=8192, value_bytes=16_384, values=4, values_bytes=32_768, file_bytes=64
)
_HEAD = struct.Struct("<BH")


def _pipe(_data: bytes) -> list[int]:
    reader, writer = os.pipe()
    os.close(writer)
    return [reader]


MADE: list[Callable[[bytes], list[int]]] = [
    lambda data: [memory(data)],
    lambda data: [memory(data, seals=SEALS & ~(1 << len(data) % 4))],
    lambda data: [memory(data, holes=4096)],
    lambda data: [memory(data), memory(data)],
    lambda _: [],
    _pipe,
    lambda data: [memory(data[:-1])],
    lambda _: [os.open("/", os.O_RDONLY)],
]
"""What goes with a message: in good order, without a seal, with a hole, two, none, and four that are something else."""


def records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """What an input says, up to the first half of a record."""
    at = 0
    while at + _HEAD.size <= len(data):
        what, size = _HEAD.unpack_from(data, at)
        part = data[at + _HEAD.size : at + _HEAD.size + size]
        if len(part) < size:
            return
        at += _HEAD.size + size
        yield what, part


def _record(what: int, data: bytes) -> bytes:
    return _HEAD.pack(what, len(data)) + data


def _frame(*fields: object) -> bytes:
    return _record(0, encode(list(fields))[4:])


def _file(number: int, data: bytes, made: int = 0) -> bytes:
    return _record(1 + made, struct.pack("<II", number, len(data)) + data)


def put(second: socket.socket, what: int, data: bytes) -> None:
    """Send one message with its files."""
    files = MADE[(what - 1) % len(MADE)](data[8:])
    try:
        with contextlib.suppress(OSError):  # it is full, or the other end is gone
            socket.send_fds(second, [data[:8]], files, socket.MSG_DONTWAIT)
    finally:
        for fd in files:
            os.close(fd)


def drained(second: socket.socket | None) -> None:
    """Close all that lies in it."""
    while second is not None:
        try:
            data, files, _, _ = socket.recv_fds(second, 64, 4, socket.MSG_DONTWAIT)
        except OSError:
            return
        for fd in files:
            os.close(fd)
        if not data:
            return


def memory_files() -> list[str]:
    """Those that this process has open."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return [name for name in found if "memfd:" in name]


class FileSessions(Sessions):
    """Two Packs whose agents take and send memory files, chunks and streams in arguments."""

    limits = LIMITS
    agents = FileAgent

    async def _feed(self, data: bytes) -> None:
        session, agent = self._session, self._agent
        assert isinstance(agent, FileAgent)
        assert agent.second is not None
        refused = False
        for what, part in records(data):
            if session.dead:
                break
            if what:
                put(agent.second, what, part)
            elif 0 < len(part) <= session.limits.frame_bytes:
                try:
                    session.on_frame(memoryview(part))
                except FrameError:
                    refused = True
                    break
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self._after(refused=refused or len(session.outgoing) > 16)

    async def _after(self, *, refused: bool) -> None:
        for agent in (self._good, self._agent):
            assert isinstance(agent, FileAgent)
            drained(agent.second)
        session = self._session
        await super()._after(refused=refused)
        if session is self._session:
            return
        for one in self._rig.bus.sessions.values():
            one.memory._collect()
        router = self._rig.bus.router
        if router.memory_room.used_bytes or router.room.used_bytes:
            raise Finding(f"{router.memory_room.used_bytes} and {router.room.used_bytes} bytes of room are taken by nobody")
        if memory_files():
            raise Finding(f"{len(memory_files())} memory files are open")


def agent_files(data: bytes) -> None:
    """An agent with a second socket: what lies there, and the frames that name it. The connection ends, or each body is one."""
    import msgpack._cmsgpack  # the C extension, as the agent loads it

    module = agent_module()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    agent = module.Agent(Feed([]), module.FastCodec(msgpack._cmsgpack))
    agent.files = module.MemoryFiles(theirs.detach(), agent)
    agent.value_bytes = LIMITS.value_bytes
    agent.logs = None
    try:
        for what, part in records(data):
            if what:
                put(ours, what, part)
                continue
            try:
                fields = agent.parse(memoryview(part))
            except module.ProtocolError:
                break
            if fields[0] == module.CHUNK and len(fields) == 3 and type(fields[1]) is int and type(fields[2]) is bytes:
                agent.on_chunk(*fields[1:])
            elif type(fields[-1]) is module.Raw:
                with contextlib.suppress(module.RemoteError):
                    agent.decode(fields[-1])
    finally:
        agent.files.sock.close()
        ours.close()
    del agent
    if memory_files():
        raise Finding(f"{len(memory_files())} memory files are open")


def seeds(name: str) -> list[bytes]:
    """Conversations in good order, and lies of each kind."""
    long = msgpack.packb({"data": b"x" * 300})
    other = b"\x91" * 70 + b"\xc0"
    host = name == "files"

    def call(number: int, body: object, refs: object = ()) -> bytes:
        if host:
            return _frame(CALL, number, "j", 0, 0, 0, None, list(refs), body)  # type: ignore[call-overload]
        return _frame(CALL, number, 1, 0, 0, 0, 0, ["", "", [], None], None, list(refs), body)  # type: ignore[call-overload]

    good = [
        _file(1, long) + call(9, mark(1, len(long))),
        _file(1, long) + _file(2, other) + call(9, mark(1, len(long))) + call(10, mark(2, len(other))),
        _file(1, long) + _frame(RESULT, 1, 0, [], mark(1, len(long))),
        _frame(8, 5, long[:100]) + _frame(8, 5, long[100:]) + call(9, msgpack.ExtType(4, struct.pack("<II", 5, len(long)))),
        _frame(8, 5, long[:100]) + _file(1, other) + call(9, mark(1, len(other))) + _frame(8, 5, long[100:]),
        call(9, {"items": reference(0)}, [[2, 7]]) + _frame(4, 9) + _frame(37, 0, [7]),
        _file(1, long) + call(9, mark(1, len(long)), [[2, 7], [0, 8]]) + _frame(RESULT, 2, 1, [], None) + _frame(ITEM, 2, [], b"i"),
        _frame(ITEM, 1, [], msgpack.ExtType(4, struct.pack("<II", 5, 10))),
        _file(1, long) * 2 + call(9, mark(1, len(long))) + call(10, mark(1, len(long))),
        _file(1, b"b" * 20_000) + call(9, mark(1, 20_000)),
    ]
    lies = [_file(1, long, made) + call(9, mark(1, len(long))) for made in range(1, len(MADE))]
    return [*good, *lies, *(one + two for one in good[:4] for two in good[4:7])]
