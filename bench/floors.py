"""Floors and peers: what the machine can do at best without any of Rumi's checks, and what others would use instead."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import time
from typing import Any, cast

import msgpack
import uvloop

HEADER = struct.Struct("<I")
PAYLOAD = {"text": "x" * 80}
IN_FLIGHT = 64


class PingPong:
    """Two processes, one Unix socket, blocking reads, the same MessagePack framing, nothing else."""

    def __init__(self) -> None:
        self._near, far = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            try:
                self._near.close()
                _echo(far)
            finally:
                os._exit(0)
        far.close()

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` round trips of about 100 bytes."""
        near = self._near
        start = time.perf_counter()
        for number in range(n):
            near.sendall(_framed(1, number, PAYLOAD))
            msgpack.unpackb(_frame(near))
        return time.perf_counter() - start

    def close(self) -> None:
        """End the other process."""
        self._near.close()
        os.waitpid(self._child, 0)


class UvloopEcho:
    """64 frames under way to another process whose uvloop answers each: the same framing, nothing checked.

    Made before any loop exists, since it forks; measured with ``rounds`` on the loop of the caller.
    """

    def __init__(self) -> None:
        self._near, far = socket.socketpair()
        self._child = os.fork()
        if self._child == 0:
            try:
                self._near.close()
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_serve_echo(far))
            finally:
                os._exit(0)
        far.close()
        self._client: _EchoClient | None = None

    async def rounds(self, n: int) -> float:
        """Seconds for ``n`` round trips of about 100 bytes."""
        if self._client is None:
            self._near.setblocking(False)
            loop = asyncio.get_running_loop()
            _, self._client = await loop.connect_accepted_socket(_EchoClient, self._near)
        start = time.perf_counter()
        await self._client.exchange(n)
        return time.perf_counter() - start

    def close(self) -> None:
        """End the other process."""
        if self._client is not None:
            self._client.transport.abort()
        self._near.close()
        os.waitpid(self._child, 0)


class _Frames(asyncio.Protocol):
    """Splits what comes into frames; ``answer`` gives the frame that goes back for each, or nothing."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, no check: uvloop's transports share the interface, not the class
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = 0
        while len(data) - at >= 4:
            end = at + 4 + HEADER.unpack_from(data, at)[0]
            if end > len(data):
                break
            answer = self.answer(*msgpack.unpackb(data[at + 4 : end]))
            if answer:
                self.transport.write(answer)
            at = end
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        self.ended.set_result(None)

    def answer(self, kind: int, number: int, body: Any) -> bytes:
        """The other process: what came goes back."""
        return _framed(kind + 1, number, body)


class _EchoClient(_Frames):
    """Sends a frame for each that came back."""

    def __init__(self) -> None:
        super().__init__()
        self._unsent = self._open = 0
        self._done: asyncio.Future[None] | None = None

    async def exchange(self, n: int) -> None:
        """Send ``n`` frames and wait for all."""
        self._done = asyncio.get_running_loop().create_future()
        first = min(n, IN_FLIGHT)
        self._open, self._unsent = n, n - first
        for number in range(first):
            self.transport.write(_framed(1, number, PAYLOAD))
        await self._done

    def answer(self, kind: int, number: int, body: Any) -> bytes:  # noqa: ARG002  that it came is enough
        self._open -= 1
        if not self._open and self._done is not None:
            self._done.set_result(None)
        if not self._unsent:
            return b""
        self._unsent -= 1
        return _framed(1, number, PAYLOAD)


async def _serve_echo(sock: socket.socket) -> None:
    sock.setblocking(False)
    _, protocol = await asyncio.get_running_loop().connect_accepted_socket(_Frames, sock)
    await protocol.ended


ANSWER_LINES = """
import json, sys
for line in sys.stdin:
    call = json.loads(line)
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": call["params"]}) + "\\n")
    sys.stdout.flush()
"""


class JsonLines:
    """A peer: JSON-RPC, a line a message, over the standard input and output of a process that a command starts."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        start = time.perf_counter()
        for number in range(n):
            call: dict[str, Any] = {"jsonrpc": "2.0", "id": number, "method": "echo", "params": PAYLOAD}
            process.stdin.write(json.dumps(call).encode() + b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"the peer ended with status {process.wait()}")
            json.loads(answer)
        return time.perf_counter() - start

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _framed(kind: int, number: int, body: Any) -> bytes:
    data: bytes = msgpack.packb([kind, number, body])
    return HEADER.pack(len(data)) + data


def _frame(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    while len(data) < 4 or len(data) < 4 + HEADER.unpack_from(data)[0]:
        more = sock.recv(65536)
        if not more:
            raise EOFError
        data += more
    return data[4:]


def _echo(sock: socket.socket) -> None:
    while True:
        try:
            kind, number, body = msgpack.unpackb(_frame(sock))
        except EOFError:
            return
        sock.sendall(_framed(kind + 1, number, body))
