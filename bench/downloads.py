"""One large download through the broker, beside the same bytes over a plain loopback connection: a megabyte is one
operation, so that a time is microseconds for each megabyte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import uvloop

from backend_core.errors import RumiError
from bench.harness import Report, Subject, measure
from bench.stand import BenchPack, host_with_packs

FLOOR = "floor: direct loopback download, 1 MB"
MEGABYTE = 1 << 20
SERVER = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
block = bytes(1 << 20)
while True:
    peer, _ = listener.accept()
    with peer:
        count = int(peer.recv(100))
        for _ in range(count):
            peer.sendall(block)
"""
CLIENT = """
import os, socket, time

def run(context):
    def download(args, ctx):
        host, _, port = os.environ["HTTP_PROXY"].rpartition("/")[2].rpartition(":")
        begun = time.perf_counter()
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\\r\\n\\r\\n" % args["port"])
            sock.recv(4096)
            sock.sendall(b"%d" % args["n"])
            left, buffer = args["n"] << 20, bytearray(1 << 16)
            while left:
                count = sock.recv_into(buffer)
                if not count:
                    raise RuntimeError("cut off")
                left -= count
        return time.perf_counter() - begun

    context["interface_registry"].register("bench.download", download)
"""


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; an isolation that this machine lacks is named under ``missing``."""
    with _server() as port, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for isolation in ("embedded", "docker"):
            try:
                runner.run(_one(report, isolation, port, 6 if quick else 64))
            except (RumiError, RuntimeError, OSError) as error:
                report.missing[f"download, {isolation}"] = str(error)


async def _one(report: Report, isolation: str, port: int, megabytes: int) -> None:
    name = f"download through the broker, 1 MB, {isolation}"
    right = {"type": "network", "addresses": [f"127.0.0.1:{port}"], "reason": "the bench downloads"}
    client = BenchPack(CLIENT, ["bench.download"], permissions=[right])
    async with host_with_packs(isolation, {"client": client}) as host:
        loop = asyncio.get_running_loop()

        def through(n: int) -> float:
            call = host.bus.call("bench.download", {"port": port, "n": n}, timeout_s=120)
            return float(asyncio.run_coroutine_threadsafe(call, loop).result(150))

        subjects: dict[str, Subject] = {FLOOR: lambda n: _direct(port, n), name: through}
        rows = await asyncio.to_thread(measure, subjects, n=megabytes, reference={name: (FLOOR, 1.0)})
        report.rows += [row for row in rows if row.name == name or all(known.name != FLOOR for known in report.rows)]


def _direct(port: int, n: int) -> float:
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"%d" % n)
        left, buffer = n * MEGABYTE, bytearray(1 << 16)
        while left:
            left -= sock.recv_into(buffer)
    return time.perf_counter() - begun


@contextlib.contextmanager
def _server() -> Iterator[int]:
    """A process that sends as many megabytes as it is asked for."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()
