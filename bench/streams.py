"""Streams of 1 KiB items, from a Pack to the host and from Pack to Pack. At least 100,000 items a second are asked.

The floor is a process that writes the same items with no credit, no checks and nobody's deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from contextlib import ExitStack

import uvloop

from backend_core.errors import RumiError
from bench.calls import Timed, on_runner
from bench.floors import HEADER
from bench.harness import Report, Subject, measure
from bench.stand import BenchPack, host_with_packs
from core_runtime.handlers.host import Host

ITEM_BYTES = 1_024
ITEMS = 50_000
ISOLATIONS = ("embedded", "docker")
FLOOR = "floor: one process writes 1 KiB items to another"
ASKED = "10 µs an item asked"

SOURCE = """
def run(context):
    ir = context["interface_registry"]

    def plain(args, ctx):
        item = b"x" * args["bytes"]
        for _ in range(args["n"]):
            yield item

    async def coroutine(args, ctx):
        item = b"x" * args["bytes"]
        for _ in range(args["n"]):
            yield item

    ir.register("stream.plain", plain)
    ir.register("stream.async", coroutine)
"""
SINK = """
import time

def run(context):
    ir = context["interface_registry"]
    source = ir.get("stream.plain")

    def drain(args, ctx):
        start = time.perf_counter()
        count = 0
        for item in source(args, ctx):
            count += 1
        if count != args["n"]:
            raise ValueError(f"{count} items of {args['n']}")
        return time.perf_counter() - start

    ir.register("stream.drain", drain)
"""
TWO = {
    "source": BenchPack(SOURCE, ["stream.plain", "stream.async"]),
    "sink": BenchPack(SINK, ["stream.drain"], ["stream.plain"]),
}


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows of each isolation that this machine has."""
    n = ITEMS // (10 if quick else 1)
    with ExitStack() as opened:
        floor = OneWay()  # before any thread or loop exists: it forks
        opened.callback(floor.close)
        runner = opened.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        stack = contextlib.AsyncExitStack()
        opened.callback(lambda: runner.run(stack.aclose()))
        subjects: dict[str, Subject] = {FLOOR: floor}
        for isolation in ISOLATIONS:
            try:
                host = runner.run(stack.enter_async_context(host_with_packs(isolation, TWO)))
            except (RumiError, RuntimeError) as error:
                report.missing[f"streams, {isolation}"] = str(error)
                continue
            subjects |= {
                f"1 KiB item, Pack → host, {isolation}, plain": on_runner(runner, _read(host, "stream.plain")),
                f"1 KiB item, Pack → host, {isolation}, async": on_runner(runner, _read(host, "stream.async")),
                f"1 KiB item, Pack → Pack, {isolation}": on_runner(runner, _between(host)),
            }
        ours = subjects.keys() - {FLOOR}
        report.rows += measure(
            subjects, n=n, reference=dict.fromkeys(ours, (FLOOR, 1.0)), must=dict.fromkeys(ours, ASKED)
        )


class OneWay:
    """A child that writes as many framed items as it was asked for; blocking reads of 64 KiB on this side."""

    def __init__(self) -> None:
        self._near, far = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            try:
                self._near.close()
                _write_items(far)
            finally:
                os._exit(0)
        far.close()

    def __call__(self, n: int) -> float:
        """Seconds until the last of ``n`` items is here."""
        buffer = bytearray(64 * 1024)
        left = n * (HEADER.size + ITEM_BYTES)
        start = time.perf_counter()
        self._near.sendall(HEADER.pack(n))
        while left:
            left -= self._near.recv_into(buffer)
        return time.perf_counter() - start

    def close(self) -> None:
        """End the child."""
        self._near.close()
        os.waitpid(self._child, 0)


def _write_items(sock: socket.socket) -> None:
    item = HEADER.pack(ITEM_BYTES) + b"x" * ITEM_BYTES
    while asked := sock.recv(HEADER.size, socket.MSG_WAITALL):
        for _ in range(HEADER.unpack(asked)[0]):
            sock.sendall(item)


def _read(host: Host, key: str) -> Timed:
    async def items(n: int) -> float:
        start = time.perf_counter()
        count = 0
        async for _ in await host.bus.call(key, {"n": n, "bytes": ITEM_BYTES}):
            count += 1
        if count != n:
            raise RuntimeError(f"{count} items of {n} came")
        return time.perf_counter() - start

    return items


def _between(host: Host) -> Timed:
    async def items(n: int) -> float:
        return float(await host.bus.call("stream.drain", {"n": n, "bytes": ITEM_BYTES}, timeout_s=60))

    return items
