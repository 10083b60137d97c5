"""Large values, one at a time, from the host to a Pack and from Pack to Pack, in files and in chunks, beside floors.

*copy*: a process packs the value and writes it to another over a Unix socket, which unpacks it. *memfd*: it packs it
into a sealed memory file and sends the descriptor; the other checks seals and size, maps it and unpacks. Both also
through a third process, which stands where the host stands between two Packs: it hands on 64 KiB at a time, or checks
seals and size and hands on the descriptor, and reads no value. *Handed on*: what the host itself does with one memory
file between two Packs, from the message to the look whether it was let go of, without the frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Self
from unittest import mock

import msgpack
import uvloop

from backend_core.errors import RumiError
from bench.calls import Timed, on_runner
from bench.floors import HEADER
from bench.harness import Report, Subject, measure
from bench.stand import BenchPack, host_with_packs
from core_runtime.drivers import memory_file
from core_runtime.handlers.host import Host

MIB = 1024 * 1024
SIZES = (1, 4, 64)
ISOLATIONS = ("embedded", "docker")
ASKED = "≤ 2"
VALUES = 20
MIB_EACH = 320
"""Per round and subject, at most: so fewer of the largest."""
PIECE_BYTES = 64 * 1024
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
TAKER = """
def run(context):
    context["interface_registry"].register("values.size", lambda args, ctx: len(args))
"""
GIVER = """
import time

def run(context):
    ir = context["interface_registry"]
    size = ir.get("values.size")

    def give(args, ctx):
        value = b"x" * args["bytes"]
        start = time.perf_counter()
        for _ in range(args["n"]):
            size(value, ctx)
        return time.perf_counter() - start

    ir.register("values.give", give)
"""
TWO = {"taker": BenchPack(TAKER, ["values.size"]), "giver": BenchPack(GIVER, ["values.give"], ["values.size"])}


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows of each isolation that this machine has."""
    n = 2 if quick else VALUES
    with ExitStack() as opened:
        floors: dict[str, Floor] = {}
        for way, take, hand_on in WAYS:
            floors[way] = Floor(take)
            opened.callback(floors[way].close)
            floors[f"{way} through a third"] = Floor(take, hand_on)
            opened.callback(floors[f"{way} through a third"].close)
        runner = opened.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        stack = contextlib.AsyncExitStack()
        opened.callback(lambda: runner.run(stack.aclose()))
        hosts: dict[str, Host] = {}
        for isolation in ISOLATIONS:
            for way in ("", ", in chunks"):
                try:
                    with mock.patch.object(memory_file, "why_not", return_value="measured") if way else nullcontext():
                        hosts[isolation + way] = runner.run(stack.enter_async_context(host_with_packs(isolation, TWO)))
                except (RumiError, RuntimeError) as error:
                    report.missing[f"values, {isolation}{way}"] = str(error)
        for size in SIZES:
            count = min(n, max(2, MIB_EACH // size))
            _measured(report, size * MIB, count, floors, {name: (host, runner) for name, host in hosts.items()})
        with HandedOn(SIZES[-1] * MIB) as handed_on:
            what = f"{SIZES[-1]} MiB, a memory file handed on by the host"
            report.rows += measure({what: handed_on}, n=20 * n, must={what: "≤ 1 ms"})


def _measured(
    report: Report, size: int, n: int, floors: dict[str, Floor], hosts: dict[str, tuple[Host, asyncio.Runner]]
) -> None:
    what = f"{size // MIB} MiB"
    copy = f"floor: {what}, copied to another process"
    subjects: dict[str, Subject] = {
        copy: lambda count: floors["copy"](_give_copy, size, count),
        f"floor: {what}, by a sealed memfd": lambda count: floors["memfd"](_give_memfd, size, count),
        f"floor: {what}, copied through a third process": lambda count: floors["copy through a third"](
            _give_copy, size, count
        ),
        f"floor: {what}, by a sealed memfd through a third process": lambda count: floors["memfd through a third"](
            _give_memfd, size, count
        ),
    }
    ours: dict[str, Subject] = {}
    for isolation, (host, runner) in hosts.items():
        ours[f"{what}, host → Pack, {isolation}"] = on_runner(runner, _to_pack(host, size))
        ours[f"{what}, Pack → Pack, {isolation}"] = on_runner(runner, _between(host, size))
    must = {name: ASKED for name in ours if "host →" in name and "chunks" not in name}
    report.rows += measure({**subjects, **ours}, n=n, reference=dict.fromkeys(ours, (copy, 1.0)), must=must)


class HandedOn:
    """A Pack's memory file on its way through the host, again and again."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._file = memory_file.made((bytes(size),))
        self._ends = [end for pair in (memory_file.pair(), memory_file.pair()) for end in pair]
        for end in self._ends:
            end.setblocking(False)

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` times."""
        into, out, host, away = self._ends
        mark = memory_file.MARK.pack(1, self._size)
        spent = 0.0
        for _ in range(n):
            memory_file.give(into, mark, self._file)
            start = time.perf_counter()
            message = memory_file.taken(out)
            assert message is not None
            body = memory_file.mapped(message[1][0], self._size)
            given = memory_file.reopened(body.file)
            memory_file.give(host, mark, given)
            os.close(given)
            memory_file.let_go(body.file)
            del body
            spent += time.perf_counter() - start
            arrived = memory_file.taken(away)
            assert arrived is not None
            memory_file.closed(arrived[1])
        return spent

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        os.close(self._file)
        for end in self._ends:
            end.close()


class Floor:
    """A child that takes values and says how long each was; ``hand_on``: what another between it and us does."""

    def __init__(
        self,
        take: Callable[[socket.socket], int],
        hand_on: Callable[[socket.socket, socket.socket], bool] | None = None,
    ) -> None:
        self._near, far = socket.socketpair()
        self._children: list[int] = []
        if hand_on:
            before, (ours, far) = far, socket.socketpair()
            self._fork(lambda: _between_two(before, ours, hand_on), self._near, far)
            before.close()
            ours.close()
        self._fork(lambda: _taken(far, take), self._near)
        far.close()

    def _fork(self, work: Callable[[], None], *others: socket.socket) -> None:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for other in others:
                    other.close()
                work()
                code = 0
            except Exception:  # noqa: BLE001  nobody else hears of it: this process has no caller
                traceback.print_exc()
            finally:
                os._exit(code)
        self._children.append(child)

    def __call__(self, give: Callable[[socket.socket, bytes], None], size: int, n: int) -> float:
        """Seconds for ``n`` values."""
        value = b"x" * size
        start = time.perf_counter()
        for _ in range(n):
            give(self._near, value)
            told = self._near.recv(HEADER.size, socket.MSG_WAITALL)
            if len(told) < HEADER.size:
                raise RuntimeError("the process that takes values ended")
            if HEADER.unpack(told)[0] != size:
                raise RuntimeError("another length came")
        return time.perf_counter() - start

    def close(self) -> None:
        """End the child."""
        self._near.close()
        for child in self._children:
            os.waitpid(child, 0)


def _taken(sock: socket.socket, take: Callable[[socket.socket], int]) -> None:
    while length := take(sock):
        sock.sendall(HEADER.pack(length))


def _between_two(
    before: socket.socket, after: socket.socket, hand_on: Callable[[socket.socket, socket.socket], bool]
) -> None:
    while hand_on(before, after):
        before.sendall(after.recv(HEADER.size, socket.MSG_WAITALL))


def _give_copy(sock: socket.socket, value: bytes) -> None:
    data = msgpack.packb(value)
    sock.sendall(HEADER.pack(len(data)))
    sock.sendall(data)


def _take_copy(sock: socket.socket) -> int:
    head = sock.recv(HEADER.size, socket.MSG_WAITALL)
    if not head:
        return 0
    data = bytearray(HEADER.unpack(head)[0])
    view = memoryview(data)
    while view:
        view = view[sock.recv_into(view) :]
    return len(msgpack.unpackb(data, max_bin_len=len(data)))


def _hand_on_copy(before: socket.socket, after: socket.socket) -> bool:
    head = before.recv(HEADER.size, socket.MSG_WAITALL)
    if not head:
        return False
    after.sendall(head)
    left = HEADER.unpack(head)[0]
    piece = memoryview(bytearray(PIECE_BYTES))
    while left:
        read = before.recv_into(piece, min(left, PIECE_BYTES))
        after.sendall(piece[:read])
        left -= read
    return True


def _give_memfd(sock: socket.socket, value: bytes) -> None:
    data = msgpack.packb(value)
    fd = os.memfd_create("value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(fd, data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        socket.send_fds(sock, [HEADER.pack(len(data))], [fd])
    finally:
        os.close(fd)


def _sealed(sock: socket.socket) -> tuple[bytes, int]:
    """The head and the descriptor that came; ``b""`` at the end."""
    head, fds, _, _ = socket.recv_fds(sock, HEADER.size, 1)
    if not head:
        return b"", -1
    if fcntl.fcntl(fds[0], fcntl.F_GET_SEALS) & SEALS != SEALS or os.fstat(fds[0]).st_size != HEADER.unpack(head)[0]:
        raise RuntimeError("not what was said")
    return head, fds[0]


def _take_memfd(sock: socket.socket) -> int:
    head, fd = _sealed(sock)
    if not head:
        return 0
    size = HEADER.unpack(head)[0]
    try:
        with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data:
            return len(msgpack.unpackb(data, max_bin_len=size))
    finally:
        os.close(fd)


def _hand_on_memfd(before: socket.socket, after: socket.socket) -> bool:
    head, fd = _sealed(before)
    if not head:
        return False
    try:
        socket.send_fds(after, [head], [fd])
    finally:
        os.close(fd)
    return True


WAYS = (("copy", _take_copy, _hand_on_copy), ("memfd", _take_memfd, _hand_on_memfd))


def _to_pack(host: Host, size: int) -> Timed:
    value = b"x" * size

    async def values(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            if await host.bus.call("values.size", value) != size:
                raise RuntimeError("another length came")
        return time.perf_counter() - start

    return values


def _between(host: Host, size: int) -> Timed:
    async def values(n: int) -> float:
        return float(await host.bus.call("values.give", {"n": n, "bytes": size}, timeout_s=60))

    return values
