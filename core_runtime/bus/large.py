"""Bodies that are longer than a frame, on their way from one agent and to it, in CHUNK frames.

A body is collected while its chunks come and is routed, as it is, when the frame that they belong to has come; to its
receiver it goes out piece by piece, as fast as that one reads, while everything else passes it by.

Invariants:
  * What one Pack's unfinished bodies take is at most ``limits.value_bytes``, and as much again what waits for it to
    read; all Packs together, ``limits.values_bytes``. What would be more is dropped as it comes, and the frame that it
    belongs to is answered with ``limit`` or ``value.too_large``.
  * At most ``limits.values`` bodies of one Pack are unfinished; one that does not grow for ``STALL_S`` is dropped, and
    so is one that has grown by less than ``PACE_BYTES_S`` since it began: who dribbles would keep the others' room.
  * A frame that names chunks which did not come, or another size than came, ends the connection.
  * Frames of one call keep their order: what follows a large body of it waits behind it, and nothing else does. A call
    is an id and who gave it: the host and the Pack count for themselves. Of what waits only a frame with a value can
    be refused: no other has anybody who could be told, and a Pack that lets too many of them wait is cut off.

Not here: which frames may have such a body (``sessions``), what a body means.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw, Struct, field

from core_runtime.bus.calls import Failure
from core_runtime.drivers.memory_file import Body
from core_runtime.rules import frames
from core_runtime.rules.frames import FrameError

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

STALL_S: Final = 30.0
PACE_BYTES_S: Final = 256 * 1024
"""On average. An agent has the whole body when it begins, and sends hundreds of times as fast."""
PIECE_BYTES: Final = 60 * 1024
"""Of what the host sends: with its header it fits the buffer that an agent reads into."""
TURN_BYTES: Final = 2 * PIECE_BYTES
"""A tenth of a millisecond of the loop, with two writes: others have their turns in between."""
FRAME_BYTES: Final = 512
"""What a frame that waits is charged beside its body."""
BEHIND: Final = 1_024
"""How many frames may wait behind one body."""
_MARK: Final = bytes((0xD7, frames.EXT_CHUNKED))
MARK_BYTES: Final = 10
_OF_THE_HOST: Final = frozenset({frames.CALL, frames.CANCEL, frames.STREAM_CREDIT, frames.RUN_PHASE, frames.PING})
"""Kinds that the host sends under an id of its own; the others that have one are about what the Pack asked for."""
_numbers = struct.Struct("<II")


class Busy(FrameError):  # noqa: N818  a refusal that passes
    """There is no room for a large body now."""


def sending_failed(error: FrameError) -> Failure:
    """What the caller is told of a frame that could not be sent."""
    if isinstance(error, Busy):
        return Failure("limit", str(error), "try again later", retryable=True)
    return Failure("value.too_large", str(error))


def mark_of(body: Raw) -> int:
    """The extension type of a body that is elsewhere (in chunks, in a memory file), 0 of one that is here.

    Nobody's word of where a body is may be passed on.
    """
    view = memoryview(body)
    return view[1] if len(view) == MARK_BYTES and view[0] == 0xD7 else 0


def _belongs_to(frame: tuple[Any, ...]) -> int:
    """The call, request or channel of a frame that the host sends: its id, below 0 where the Pack gave it."""
    number: int = frame[1]
    return number if frame[0] in _OF_THE_HOST else -number


class Room(Struct):
    """What all large bodies of one bus may take, and take now."""

    limit_bytes: int
    used_bytes: int = 0


class _Coming(Struct):
    """One unfinished body. ``refused``: why it is only counted."""

    touched: float
    began: float
    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    refused: Failure | None = None


class _Going(Struct):
    """One body that waits to be read: the frame's head, the body, how far it is, what follows and what that takes."""

    number: int
    frame: tuple[Any, ...]
    body: memoryview
    at: int = 0
    behind: list[tuple[tuple[Any, ...], int]] = field(default_factory=list)


class LargeBodies:
    """Those of one session; belongs to the event loop's thread."""

    def __init__(self, session: Session, room: Room) -> None:
        self._session = session
        self._room = room
        self._limits = session.limits
        self._coming: dict[int, _Coming] = {}
        self._coming_bytes = 0
        self._going: deque[_Going] = deque()
        self._going_bytes = 0
        self._last: dict[int, _Going] = {}
        """The last body that goes out of each call of the host's and each of the Pack's; see ``_belongs_to``."""
        self._next = 0
        self._piece_bytes = min(PIECE_BYTES, self._limits.frame_bytes // 2)
        self._pumping = False
        self._watch: asyncio.TimerHandle | None = None
        self.accepts = False
        """Whether the agent said that it takes chunks."""

    # --- from the agent

    def chunk(self, frame: frames.ChunkFrame) -> None:
        """CHUNK: one more piece of a body."""
        coming = self._coming.get(frame.id)
        if coming is None:
            if len(self._coming) >= self._limits.values:
                raise FrameError(f"more than {self._limits.values} values in chunks at a time")
            now = time.monotonic()
            coming = self._coming[frame.id] = _Coming(now, now)
            self._arm()
        size = len(frame.piece)
        if not size:
            raise FrameError("an empty chunk")
        coming.touched = time.monotonic()
        coming.size += size
        if coming.refused is None:
            self._take(coming, frame.piece)

    def body(self, frame: Any) -> Raw | Failure:
        """The body of a frame that came in chunks, or why it was dropped. Raises ``FrameError`` for a lie."""
        number, size = _numbers.unpack(memoryview(frame.body)[2:])
        coming = self._coming.pop(number, None)
        if coming is None:
            raise FrameError(f"a value in chunks of which none came (number {number})")
        if coming.size != size:
            self._drop(coming)
            raise FrameError(f"a value of {size} bytes, of which {coming.size} came")
        self._drop(coming, keep=True)
        return coming.refused or Raw(coming.data)

    def _take(self, coming: _Coming, piece: memoryview) -> None:
        limits, size = self._limits, len(piece)
        if coming.size > limits.value_bytes:
            title = f"a value of more than {limits.value_bytes} bytes"
            self._refuse(coming, Failure("value.too_large", title, "send a stream, or write a file"))
        elif self._coming_bytes + size > limits.value_bytes:
            self._refuse(coming, self._no_room(f"large values of it take {limits.value_bytes} bytes already"))
        elif self._room.used_bytes + size > self._room.limit_bytes:
            self._refuse(coming, self._no_room(f"those of all Packs take {self._room.limit_bytes} bytes already"))
        else:
            coming.data += piece
            self._coming_bytes += size
            self._room.used_bytes += size

    def _no_room(self, title: str) -> Failure:
        return Failure("limit", title, "try again later, or send a stream", retryable=True)

    def _refuse(self, coming: _Coming, failure: Failure) -> None:
        self._drop(coming)
        coming.refused = failure
        self._session.limited("values", f"{failure.title}.")

    def _drop(self, coming: _Coming, *, keep: bool = False) -> None:
        """Its bytes count no longer (``keep``: they go on to whoever the frame is for, who is charged)."""
        self._coming_bytes -= len(coming.data)
        self._room.used_bytes -= len(coming.data)
        if not keep:
            coming.data = bytearray()

    def _arm(self) -> None:
        if self._watch is None:
            self._watch = self._session.loop.call_later(STALL_S, self._look)

    def _look(self) -> None:
        """Drop what does not grow any more; its number stays taken, so that its frame is answered."""
        self._watch = None
        now = time.monotonic()
        for coming in self._coming.values():
            if coming.refused is not None:
                continue
            if coming.touched <= now - STALL_S:
                self._refuse(coming, Failure("timeout", f"a value did not go on for {STALL_S:g} s", retryable=True))
            elif coming.began <= now - STALL_S and coming.size < PACE_BYTES_S * (now - coming.began):
                self._refuse(coming, Failure("timeout", "a value comes too slowly", retryable=True))
        if self._coming:
            self._arm()

    # --- to the agent

    def waits(self, frame: tuple[Any, ...]) -> bool:
        """Whether a large body of what this frame belongs to goes out: the frame comes after it."""
        return _belongs_to(frame) in self._last

    def send(self, frame: tuple[Any, ...]) -> None:
        """Let a frame with a large body go out piece by piece. Raises ``FrameError``, ``Busy``."""
        view = memoryview(frame[-1])
        size = len(view)
        limits = self._limits
        if size > limits.value_bytes:
            raise FrameError(f"a value of {size} bytes exceeds the limit of {limits.value_bytes}")
        self._charge(size)
        if type(frame[-1]) is not Body and size <= limits.frame_bytes:
            view = memoryview(bytes(view))  # it may alias the buffer that was read into
        self._next = self._next % 0xFFFFFFFF + 1
        going = _Going(self._next, frame[:-1], view)
        self._going.append(going)
        self._last[_belongs_to(frame)] = going
        self._session.keep_order(self._in_order)
        self._session.owe()
        self._pump()

    def _in_order(self, frame: tuple[Any, ...]) -> None:
        """While large bodies wait: a frame that belongs to the same as one of them goes after it.

        Raises ``Busy`` for one with a value, whose sender answers for it; the end of the receiver is no sender's fault.
        """
        going = self._last.get(_belongs_to(frame))
        if going is None:
            self._session.put(frame)
            return
        body, size = frame[-1], FRAME_BYTES
        if type(body) is Raw:
            size += len(memoryview(body))
            frame = (*frame[:-1], Raw(bytes(memoryview(body))))
        if size > FRAME_BYTES + 1:
            self._charge(size)
        else:  # an error, an end, nothing at all
            size = 0
        if len(going.behind) == BEHIND:
            self._session.loop.call_soon(self._session.abort, "it reads nothing: too much waits behind a large value")
        elif len(going.behind) < BEHIND:
            going.behind.append((frame, size))

    def resume(self) -> None:
        """The agent reads again."""
        self._pump()

    def clear(self) -> None:
        """The session is over."""
        for coming in self._coming.values():
            self._drop(coming)
        self._coming.clear()
        self._room.used_bytes -= self._going_bytes
        self._going_bytes = 0
        self._going.clear()
        self._last.clear()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _charge(self, size: int) -> None:
        limits, room = self._limits, self._room
        busy = self._going_bytes + size > limits.value_bytes or len(self._going) >= limits.values
        if busy or room.used_bytes + size > room.limit_bytes:
            self._session.limited("values", f"{self._going_bytes} bytes of large values wait for it to read them.")
            raise Busy(f"{self._session.pack_id} has to read large values first")
        self._going_bytes += size
        room.used_bytes += size

    def _pump(self) -> None:
        """Send some of what waits; the rest in a later turn, or when the agent has read."""
        if self._pumping or not self._going:
            return
        self._pumping = True
        self._session.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._pumping = False
        sent = 0
        while self._going and not self._session.congested and not self._session.dead:
            going = self._going[0]
            piece = going.body[going.at : going.at + self._piece_bytes]
            self._session.put((frames.CHUNK, going.number, piece))
            going.at += len(piece)
            sent += len(piece)
            if going.at == len(going.body):
                self._finish(going)
            if sent >= TURN_BYTES:
                self._pump()
                return

    def _finish(self, going: _Going) -> None:
        self._going.popleft()
        mark = Raw(_MARK + _numbers.pack(going.number, len(going.body)))
        self._session.put((*going.frame, mark))
        belongs_to = _belongs_to(going.frame)
        if self._last.get(belongs_to) is going:
            del self._last[belongs_to]
        self._release(len(going.body))
        if not self._last:
            self._session.keep_order(None)
        for frame, size in going.behind:
            # it is charged again if it has to wait again, and nothing comes in between
            self._release(size)
            self._session.send(frame)

    def _release(self, size: int) -> None:
        self._going_bytes -= size
        self._room.used_bytes -= size
