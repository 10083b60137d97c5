"""What a container is attached to: the engine's connection, read where its bytes are used.

The engine sends stdout and stderr in pieces with heads of their own, cut anywhere. With the bus over stdio what
comes as stdout is the bus, in order, whatever its pieces: it is read into the buffer of the bus's own link, and only
the heads are taken out there. So a flood is read in the turns of its link, which count all of it, and while the link
rests nothing is read: the engine waits, and the container with it. What the link sends goes to the engine's connection
itself.

Invariants:
  * Memory is bounded: one read at a time, of at most what the reader has room for; nothing lies between.
  * What is not the bus is drained always, but no faster than a read in ``MIN_REST_S`` where much comes: nobody waits
    for it.
  * When either side ends, the other does: the container sees the end of its input, the link that it was lost.

Not here: the frames and whose turn it is (``drivers.link``), what becomes of other output (``docker_sandbox``).
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable, Iterable
from time import thread_time
from typing import TYPE_CHECKING, Any

from core_runtime.ports import BusReader
from core_runtime.rules.sharing import MIN_REST_S, rest_s

if TYPE_CHECKING:
    from aiodocker.stream import Stream

STDOUT = 1
BUFFER_BYTES = 64 * 1024
LONG_READ_BYTES = 2048
"""What is shorter is not worth a look at the processor's clock."""
MANY_PIECES = 64
NARROW_BYTES = 4096
"""After a read with many pieces, so that the heads of one turn are few as well."""
HEAD_BYTES = 8
_head = struct.Struct(">BxxxL")


class Attached(asyncio.BufferedProtocol):
    """One container's connection. All methods belong to the event loop's thread.

    Args:
        stream: connected, of a container that has not started: nothing was read from it.
        outside: is given what the container wrote outside the bus.
        bus: whether stdin and stdout are the bus.
    """

    def __init__(self, stream: Stream, outside: Callable[[bytes], None], *, bus: bool) -> None:
        connection = stream._resp.connection if stream._resp is not None else None  # noqa: SLF001
        if connection is None or connection.transport is None or connection.protocol is None:
            raise ConnectionResetError("the engine closed the connection that a container is attached to")
        self._loop = asyncio.get_running_loop()
        self._outside = outside
        self._bus = bus
        self._reader: BusReader | None = None
        self._taken = False
        self._early = b""
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._given = self._buffer
        self._narrow = False
        self._part = bytearray()
        """Of a head."""
        self._kind = 0
        self._left = 0
        """Bytes of the piece under way that have not come yet."""
        self._resting = False
        self._held = False
        self._reading = True
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """The connection is over, whoever ended it."""
        self._library = connection.protocol
        self._transport: asyncio.Transport = connection.transport
        self._transport.pause_reading()  # uvloop looks at how a protocol reads where reading begins
        self._transport.set_protocol(self)
        self._transport.resume_reading()

    def serve(self, reader: BusReader) -> None:
        """Port ``BusConnection``: who reads the bus from now on. Once."""
        if self._taken or not self._bus:
            raise RuntimeError("the connection was taken before")
        self._taken = True
        self._reader = reader
        reader.connection_made(BusTransport(self, self._transport))
        self._loop.call_soon(self._begin)  # not here: whoever attached it does not know it yet

    def _begin(self) -> None:
        """What came before there was a reader."""
        early, self._early = self._early, b""
        while early and self._reader is not None:
            view = self._reader.get_buffer(-1)
            part, early = early[: len(view)], early[len(view) :]
            view[: len(part)] = part
            self._reader.carried(len(part), full=False, began=0.0)
        if self.ended.done():
            self._lost(None)
        self._decide()

    def close(self) -> None:
        """Cut the connection. Safe to repeat."""
        self._transport.abort()

    # --- asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room of who reads the bus; without one, our own."""
        room = self._reader.get_buffer(sizehint) if self._reader is not None else self._buffer
        self._given = room[:NARROW_BYTES] if self._narrow else room
        return self._given

    def buffer_updated(self, nbytes: int) -> None:
        """Take the heads out, and hand on what is left."""
        began = thread_time() if nbytes > LONG_READ_BYTES else 0.0
        view = self._given
        kept, other = self._parted(view, nbytes)
        if other:
            self._outside(bytes(other))
        if kept and self._reader is not None:
            self._reader.carried(kept, full=nbytes == len(view), began=began)
        elif kept and not self._taken:
            self._early += bytes(view[:kept])
        if began and (other or not kept or self._reader is None):
            self._rest(max(MIN_REST_S, rest_s(thread_time() - began)))
        else:
            self._decide()

    def eof_received(self) -> bool:
        """The container has ended, or the engine let go of it."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell both sides."""
        if not self.ended.done():
            self.ended.set_result(None)
        self._library.connection_lost(exc)
        self._lost(exc)

    def pause_writing(self) -> None:
        """Of the bus: nothing else is written here."""
        if self._reader is not None:
            self._reader.pause_writing()

    def resume_writing(self) -> None:
        """Of the bus."""
        if self._reader is not None:
            self._reader.resume_writing()

    # --- bytes

    def _parted(self, view: memoryview, end: int) -> tuple[int, bytearray]:
        """Move the bus to the front of ``view``, which holds ``end`` bytes; its size, and what was not the bus."""
        at = kept = pieces = 0
        other = bytearray()
        while at < end:
            if not self._left:
                pieces += 1
                if self._part or end - at < HEAD_BYTES:
                    came = view[at : min(at + HEAD_BYTES - len(self._part), end)]
                    self._part += came
                    at += len(came)
                    if len(self._part) < HEAD_BYTES:
                        break
                    self._kind, self._left = _head.unpack(self._part)
                    self._part.clear()
                else:
                    self._kind, self._left = _head.unpack_from(view, at)
                    at += HEAD_BYTES
                continue
            size = min(self._left, end - at)
            if self._bus and self._kind == STDOUT:
                view[kept : kept + size] = view[at : at + size]
                kept += size
            else:
                other += view[at : at + size]
            at += size
            self._left -= size
        self._narrow = pieces > MANY_PIECES
        return kept, other

    # --- whether to read

    def hold(self, *, held: bool) -> None:
        """Whoever reads the bus wants nothing now, or something again."""
        self._held = held
        self._decide()

    def _rest(self, seconds: float) -> None:
        if not self._resting:
            self._resting = True
            self._loop.call_later(seconds, self._rested)
        self._decide()

    def _rested(self) -> None:
        self._resting = False
        self._decide()

    def _decide(self) -> None:
        wanted = not (self._resting or self._held or self._early)
        if wanted == self._reading or self.ended.done():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # --- end

    def leave(self, *, now: bool) -> None:
        """Nobody reads the bus any more: the container sees the end of its input, its output is still drained.

        TLS can't say that; stopping the container can. ``now``: what was not sent yet is not sent any more; where that
        can't be told the engine it is the connection that ends.
        """
        reader, self._reader = self._reader, None
        if reader is None:
            return
        self._loop.call_soon(reader.connection_lost, None)
        self._held = False
        self._decide()
        transport = self._transport
        if now and transport.get_write_buffer_size():
            transport.abort()
        elif transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):  # closed already
                transport.write_eof()

    def _lost(self, exc: Exception | None) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.connection_lost(exc)


class BusTransport(asyncio.Transport):
    """The bus as its reader knows it: reading, writing and the end of it, without the engine around."""

    def __init__(self, attached: Attached, engine: asyncio.Transport) -> None:
        super().__init__()
        self._attached = attached
        self._engine = engine
        self._closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """No ``socket``: nothing is written past this transport. There may be TLS below, and the engine has more work
        with two writes than with one: what one turn of the loop has for it, uvloop's transports write together.
        """
        return default if name == "socket" else self._engine.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read nothing more."""
        self._attached.hold(held=True)

    def resume_reading(self) -> None:
        """Read again."""
        self._attached.hold(held=False)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The engine's connection has them."""
        with contextlib.suppress(RuntimeError):  # uvloop: closed already, which its reader is about to hear
            self._engine.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return 0 if self._attached.ended.done() else self._engine.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Nobody gets it any more once the connection is over."""
        if not self._attached.ended.done():
            self._engine.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """All of it."""
        self.write(b"".join(list_of_data))

    def is_closing(self) -> bool:
        """Whether it was ended here."""
        return self._closing

    def close(self) -> None:
        """When all is sent."""
        self._closing = True
        self._attached.leave(now=False)

    def abort(self) -> None:
        """At once."""
        self._closing = True
        self._attached.leave(now=True)
