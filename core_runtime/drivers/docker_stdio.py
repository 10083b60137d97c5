"""The bus of a container over its attached stdio: bytes between one end of a socket pair and the engine's connection.

The host's bus gets the other end and treats it like any accepted socket, so that everything above this module is the
same for both transports. The engine sends stdout and stderr in pieces with heads of their own, cut anywhere; what
arrives as stdout is the bus, in order, whatever its pieces.

Invariants:
  * Memory is bounded: a piece is handed on before the next is read, both ways, so that whoever does not read is what
    stops the other.
  * When either side ends, the other does.

Not here: the frames (``drivers.link``), stderr (``docker_sandbox``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiodocker.stream import Stream

PIECE_BYTES = 64 * 1024


class AttachedBus:
    """One container's bus. Use from one event loop."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._near = ours
        self._far: socket.socket | None = theirs
        self._sender = asyncio.ensure_future(self._send())

    def take(self) -> socket.socket:
        """The host's end; its taker closes it. Once."""
        far, self._far = self._far, None
        if far is None:
            raise RuntimeError("the connection was taken before")
        return far

    async def deliver(self, data: bytes) -> None:
        """What the container wrote to stdout. Waits until the bus has room; what nobody reads any more is dropped."""
        with contextlib.suppress(OSError):  # nobody reads any more
            await asyncio.get_running_loop().sock_sendall(self._near, data)

    async def close(self) -> None:
        """The container is gone. Safe to repeat."""
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)
        self._near.close()
        if self._far is not None:
            self._far.close()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self._near, PIECE_BYTES):
                await self._stream.write_in(data)
        except (OSError, RuntimeError, AssertionError):
            return  # the connection broke with its engine or its container; whoever waits for that reports it
        self._end_input()

    def _end_input(self) -> None:
        """The host closed the bus: the agent sees the end of its input. TLS can't say that; stopping it can."""
        connection = self._stream._resp.connection if self._stream._resp is not None else None  # noqa: SLF001
        transport = connection.transport if connection is not None else None
        if transport is not None and transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):  # closed already
                transport.write_eof()
