"""One connection to one Pack generation: listener, peer check, splitting into frames, batched writes, back-pressure.

When something is written: what is sent while frames are being read leaves when that read has been dealt with, one write
a connection, without another turn of the loop in between (a turn costs a system call and a context switch's delay).
What is sent otherwise leaves at once, where the peer has said something since the last write. Where it has not, it is
busy with that, and what else this turn of the loop has for it goes together: one write instead of one for each call.

Invariants:
  * A listener accepts exactly one connection, from the expected user, and disappears from the file system with it.
  * Memory for one connection is bounded: reading by one frame plus one buffer, writing by ``backlog_hard_bytes``; a
    peer that never reads is cut off there.
  * A frame's memory view is valid only inside ``on_frame``: the buffer is reused.
  * One peer that floods has its frames handled for a turn (one frame, at least) before everybody else has one, whatever
    they cost; it is not read from until its turn comes round, and rests first where others are served beside it
    (``rules.sharing``). One that sends a frame at a time pays nothing.
  * The loop reads from a connection once in a turn: libuv by itself reads up to 32 times while it finds more.

Not here: what a frame means (``rules.frames``, ``bus``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from time import monotonic, thread_time
from typing import Any, Protocol, cast

from backend_core.errors import HostError, TrustError, quote
from core_runtime.drivers.busy_poll import AFTER_ANSWER, AFTER_CALL, NOTHING
from core_runtime.drivers.turns import Partners, Turn, Waits
from core_runtime.ports import BusConnection
from core_runtime.rules.frames import CALL, RESULT, BusLimits, FrameError, append
from core_runtime.rules.sharing import SHARED_TURN_S, TURN_S, rest_s, rests_until_s

BUFFER_BYTES = 64 * 1024
LONG_READ_BYTES = 2048
"""What is shorter is not worth a look at the processor's clock."""
CLOCK_S = 0.001
"""What the timers of the loop count in."""
TOGETHER_BYTES = 16 * 1024
"""What waits for the end of the turn is little: the transport, which tells of a backlog, does not know of it."""
MAX_PATH_BYTES = 107
_REFUSED_PEERS = 64
_length = struct.Struct("<I").unpack_from
_write = os.write
_UNREAD = "backlog: the Pack does not read what it is sent"


class Peer(Protocol):
    """What uses a link."""

    def on_frame(self, frame: memoryview) -> None:
        """One frame without its length. ``FrameError`` ends the connection."""

    def on_lost(self, reason: str) -> None:
        """Called once, when the connection has ended."""

    def on_room(self) -> None:
        """Called when a congested link has room again."""

    def on_long(self, frame: tuple[Any, ...]) -> bool:
        """A frame is longer than the other end accepts: whether the peer sends it in some other way."""


class Link(asyncio.BufferedProtocol):
    """The host's end of a connection. All methods belong to the event loop's thread."""

    def __init__(self, peer: Peer, limits: BusLimits, loop: asyncio.AbstractEventLoop, turn: Turn) -> None:
        self._peer = peer
        self._on_frame = peer.on_frame
        self._limits = limits
        self._frame_bytes = limits.frame_bytes
        self._single_bytes = min(LONG_READ_BYTES, limits.frame_bytes + 4)
        self._loop = loop
        self._turn = turn
        self._poll = turn.poll
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._out = bytearray()
        self._queued = False
        self._deferred = False
        self._unanswered = False
        self._after = NOTHING
        """What is followed by something of the peer's, most often, of what is about to be written."""
        self._resuming = False
        self._resting = False
        self._rests_until = 0.0
        self._asked_s = 0.0
        self._full = False
        self._sharing = False
        self._partners = Partners()
        self.only: Waits | None = None
        self.mixed_at = 0.0
        self._transport: asyncio.Transport | None = None
        self._behind = True
        """Whether the transport may hold something that goes first; it is not there yet, or was given what was too much
        for the kernel."""
        self._fd = -1
        self._reason = ""
        self.congested = False
        self.closed = False
        self.bytes_in = 0

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; its own high-water mark is our soft limit."""
        # a cast, no check: uvloop's transports share the interface of asyncio.Transport, not the class
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._limits.backlog_bytes)
        sock = self._transport.get_extra_info("socket")
        self._fd = sock.fileno() if sock is not None else -1  # then all goes by the transport
        self._behind = self._fd < 0

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  asyncio's signature
        """The free part of the buffer; never empty, see ``_make_room``."""
        if not self._end:
            return self._view
        if len(self._buffer) > BUFFER_BYTES:
            # what is copied here is a part of the turn
            self._asked_s = thread_time()
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle what has arrived: most often one frame, which is the whole read."""
        if not self._end and 4 < nbytes <= self._single_bytes and _length(self._view)[0] == nbytes - 4:
            self.bytes_in += nbytes
            self._unanswered = False
            self._poll.until = 0.0
            turn = self._turn
            turn.reading = True
            turn.seen[self] = monotonic()
            try:
                self._on_frame(self._view[4:nbytes])
            except FrameError as exc:
                self.abort(f"protocol: {exc}")
            finally:
                turn.end(self)
            return
        self._buffered(nbytes)

    def carried(self, nbytes: int, *, full: bool, began: float) -> None:
        """Port ``BusReader``."""
        if began:
            self._asked_s = began
            self._buffered(nbytes, full=full)
        else:
            self.buffer_updated(nbytes)

    def _buffered(self, nbytes: int, *, full: bool = False) -> None:
        """Handle what has arrived with what came before it. ``full``: more may lie there, whatever room is left."""
        self._full = full or self._end + nbytes == len(self._buffer)
        self._end += nbytes
        self.bytes_in += nbytes
        self._unanswered = False
        self._poll.until = 0.0
        asked_s, self._asked_s = self._asked_s, 0.0
        began = (asked_s or thread_time()) if self._end - self._start > LONG_READ_BYTES else 0.0
        turn = self._turn
        turn.reading = True
        turn.seen[self] = began_at = monotonic()
        try:
            self._handle(began)
        finally:
            turn.end(self)
            if self._resting:
                self._rest(began, began_at)

    def eof_received(self) -> bool:
        """The peer will send nothing more: half-open connections serve nobody."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the peer once."""
        self.closed = True
        self._turn.seen.pop(self, None)
        self.only = None
        self._out = bytearray()
        reason = self._reason or (f"connection failed: {exc}" if exc else "the sandbox closed the connection")
        self._peer.on_lost(reason)

    def pause_writing(self) -> None:
        """More than ``backlog_bytes`` lie unread."""
        self.congested = True

    def resume_writing(self) -> None:
        """The backlog has drained."""
        self.congested = False
        # not here: the transport is in the middle of a write, and the peer will write
        self._loop.call_soon(self._peer.on_room)

    # --- frames in

    def _handle(self, began: float) -> None:
        """``began``: the processor's time of this thread; 0 where the read is too short for a look at it."""
        view, start, end = self._view, self._start, self._end
        first = start
        until = monotonic() + self._turn_s() if began else 0.0
        on_frame = self._on_frame
        limit = self._limits.frame_bytes
        size = 0
        try:
            while end - start >= 4:
                (size,) = _length(view, start)
                if not 0 < size <= limit:
                    raise FrameError(f"a frame of {size} bytes (1 to {limit} are allowed)")  # noqa: TRY301
                if end - start < size + 4:
                    break
                if start != first:
                    if not until:
                        until = monotonic() + self._turn_s()
                    elif monotonic() >= until:
                        self._start = start
                        self._yield_turn()
                        return
                start += size + 4
                on_frame(view[start - size : start])
                if self.closed:
                    return
                if self._resuming:  # what came set the loop to work beyond this turn
                    self._start = start
                    return
        except FrameError as exc:
            self.abort(f"protocol: {exc}")
            return
        if start == end and len(self._buffer) == BUFFER_BYTES:
            self._start = self._end = 0
        else:
            self._make_room(start, end, size + 4)
        if began and (self._full or thread_time() - began > self._turn_s()):
            self._yield_turn()

    def _turn_s(self) -> float:
        return SHARED_TURN_S if self._sharing else TURN_S

    def _make_room(self, start: int, end: int, needed: int) -> None:
        """Move the incomplete rest to the front of a buffer that can hold the frame it belongs to."""
        rest = end - start
        if rest == 0:
            self._start = self._end = 0
            if len(self._buffer) > BUFFER_BYTES:
                self._replace(BUFFER_BYTES, b"")
            return
        wanted = max(needed if rest >= 4 else 4, BUFFER_BYTES)
        if wanted > len(self._buffer):
            self._replace(wanted, bytes(self._view[start:end]))
        elif start:
            self._view[:rest] = bytes(self._view[start:end])
        self._start, self._end = 0, rest

    def _replace(self, size: int, rest: bytes) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._view[: len(rest)] = rest

    def _yield_turn(self) -> None:
        """Read no further before everybody else had a turn; see ``_rest`` for how long."""
        if self._resuming or self._transport is None or self.closed:
            return
        self._resuming = self._resting = True
        self._transport.pause_reading()
        # now: what is about to be written tells whom this turn was for
        self.shares()

    def rest_for(self, seconds: float) -> None:
        """Read no further for so long, where others are served beside it: it has the loop do more in later turns.

        It follows the rests that are under way: the short one of the turn that asked for it all would hide it, and what
        was asked for at once may come at once.
        """
        if self._transport is None or self.closed or not self._turn.shared(self, self._partners):
            return
        self._rests_until = rests_until_s(self._rests_until, self._loop.time(), seconds)
        if not self._resuming:
            self._resuming = True
            self._transport.pause_reading()
            self._loop.call_later(seconds, self._continue)

    def _rest(self, began: float, began_at: float) -> None:
        """The turn is over, and all of it counts: what was copied from the kernel, handled, and written to others.

        ``began`` is the processor's time of this thread, ``began_at`` the clock's.
        """
        self._resting = False
        rest = 0.0
        if self._sharing:
            spent_s = thread_time() - began if began else TURN_S
            rest = rest_s(spent_s, monotonic() - began_at)
        if rest:
            self._loop.call_later(rest, self._continue)
        else:
            self._loop.call_soon(self._continue)

    @property
    def unread(self) -> bool:
        """Whether it was stopped from being read, so that more may lie there."""
        return self._resuming

    def shares(self) -> bool:
        """Whether others are served beside it now."""
        self._sharing = self._turn.others(self, self._partners)
        return self._sharing

    def _continue(self) -> None:
        left = self._rests_until - self._loop.time()
        if left >= CLOCK_S and not self.closed:
            self._loop.call_later(left, self._continue)
            return
        self._resuming = False
        if self.closed or self._transport is None:
            return
        self.buffer_updated(0)
        if not self._resuming and not self.closed:
            self._transport.resume_reading()

    # --- frames out

    def send(self, frame: tuple[Any, ...]) -> None:
        """Write one frame: now, or with all others when the read under way has been handled.

        Raises ``FrameError`` when the frame is longer than the peer accepts. On a closed link nothing happens.
        """
        if self.closed:
            return
        try:
            append(self._out, frame, self._frame_bytes)
        except FrameError:
            if self._peer.on_long(frame):
                return
            raise
        kind = frame[0]
        if kind == CALL:
            self._after = AFTER_CALL
        elif kind == RESULT:
            self._after = AFTER_ANSWER
        if self._turn.reading and not self._queued:
            self._queued = True
            self._turn.waiting.append(self)
        elif self._queued:
            if len(self._out) > self._limits.backlog_hard_bytes:
                self.abort(_UNREAD)
        elif not self._unanswered or len(self._out) > TOGETHER_BYTES:
            self.flush()
        elif not self._deferred:
            self._deferred = True
            self._loop.call_soon(self.flush)

    def owe(self) -> None:
        """Something for this peer goes out in later turns: the reader whose turn it is has it for this one."""
        if self._turn.reading and not self._queued and not self.closed:
            self._queued = True
            self._turn.waiting.append(self)

    def hand(self, frame: tuple[Any, ...], carried: socket.socket) -> None:
        """Write the first frame of all, and a socket with it: the loops carry no descriptors. Raises ``FrameError``."""
        if self.closed or self._transport is None:
            return
        data = bytearray()
        append(data, frame, self._frame_bytes)
        done = 0
        with socket.socket(fileno=os.dup(self._fd)) as own, contextlib.suppress(OSError):  # the loop tells
            done = socket.send_fds(own, [data], [carried.fileno()])
        if done < len(data):
            self._behind = True
            self._transport.write(bytes(data[done:]))

    def flush(self) -> None:
        """Hand what is queued to the transport."""
        self._queued = self._deferred = False
        out = self._out
        if self.closed or not out:
            return
        transport = self._transport
        if self._behind:
            if transport is None:
                return
            self._behind = self._fd < 0 or transport.get_write_buffer_size() > 0
        self._unanswered = True
        if self._after != NOTHING:
            self._poll.sent(self._after, self._loop)
            self._after = NOTHING
        if not self._behind:
            # straight to the kernel, which nearly always takes it; the transport's own way costs as much as the call
            try:
                done = _write(self._fd, out)
            except OSError:
                done = 0  # full or broken: either is the transport's to deal with
            if done == len(out):
                out.clear()
                return
            del out[:done]
        assert transport is not None
        self._behind, self._out = True, bytearray()
        transport.write(out)
        # below the soft limit, which the transport reports by itself, there is nothing to count
        if self.congested and transport.get_write_buffer_size() > self._limits.backlog_hard_bytes:
            self.abort(_UNREAD)

    # --- end

    def abort(self, reason: str) -> None:
        """End the connection at once; ``on_lost`` follows in a later turn."""
        if self._reason:
            return
        self._reason = reason
        self.closed = True
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """A Unix socket for one Pack generation."""

    def __init__(self, path: str, *, uid: int | None, gid: int | None) -> None:
        """Bind and listen. The socket belongs to ``uid`` alone where the host may say so. Raises ``HostError``."""
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise HostError(
                "The path of a sandbox socket is too long",
                code="socket_path_too_long",
                detail=f"{quote(path)} has more than {MAX_PATH_BYTES} bytes.",
                hint="Set XDG_RUNTIME_DIR to a shorter folder and start again.",
            )
        self.path = path
        self._uid = uid
        self._gid = gid
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        try:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
            self._sock.bind(path)
            if os.geteuid() == 0 and uid is not None:
                os.chown(path, uid, gid if gid is not None else -1)
            Path(path).chmod(0o600)
            self._sock.listen(4)
        except OSError as exc:
            self._sock.close()
            raise HostError(
                "A sandbox socket could not be made",
                code="socket_failed",
                detail=f"{quote(path)}: {exc.strerror}",
                hint="Check that the run folder exists and belongs to this user, then start again.",
            ) from exc

    async def accept(self, refused: Callable[[str], None]) -> socket.socket:
        """The one connection, its user checked. Others are closed and told to ``refused``. Raises ``TrustError``."""
        loop = asyncio.get_running_loop()
        for _ in range(_REFUSED_PEERS):
            conn, _address = await loop.sock_accept(self._sock)
            problem = self._problem(conn)
            if problem is None:
                self.close()
                return conn
            conn.close()
            refused(problem)
        raise TrustError(
            "Too many strangers knocked on a sandbox socket",
            code="socket_strangers",
            detail=f"{_REFUSED_PEERS} connections came from other users than uid {self._uid}.",
            hint="Find out which process connects to it; the folder should be private to the host.",
        )

    def _problem(self, conn: socket.socket) -> str | None:
        if self._uid is None or not hasattr(socket, "SO_PEERCRED"):
            return None
        raw = conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _pid, uid, _gid = struct.unpack("3i", raw)
        return None if uid == self._uid else f"a process of uid {uid} connected, expected uid {self._uid}"

    def close(self) -> None:
        """Stop listening and remove the path. Safe to repeat."""
        if self._sock.fileno() >= 0:
            self._sock.close()
            with contextlib.suppress(OSError):  # gone already
                Path(self.path).unlink()


async def attach(conn: socket.socket | BusConnection, peer: Peer, limits: BusLimits, turn: Turn) -> Link:
    """Serve an accepted connection, or one that a sandbox was started with. ``turn`` is the one of the loop."""
    loop = asyncio.get_running_loop()
    if isinstance(conn, socket.socket):
        _transport, link = await loop.connect_accepted_socket(lambda: Link(peer, limits, loop, turn), conn)
    else:
        link = Link(peer, limits, loop, turn)
        conn.serve(link)
    return link
