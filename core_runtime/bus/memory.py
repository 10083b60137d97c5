"""Large bodies of one session that go in sealed memory files, over a socket of their own beside the connection.

A body beyond ``limits.file_bytes`` is written once, by its sender; its descriptor goes ahead over the second socket,
and the frame names it. What a Pack sends to a Pack, the host checks and hands on without reading it. Where this way is
not open, or not now, a body goes in its frame or in chunks (``large``).

Invariants:
  * The second socket is read when a frame names a file, one message for each: what else lies in it is the sender's own
    (its memory, its descriptors), and the host holds none of it.
  * A frame whose file did not come, or is not what was said, ends the connection.
  * What was handed to a Pack counts until the kernel says that nobody there holds it: against the Pack, against who
    sent it, and against all (``limits.value_bytes`` each, ``limits.values_bytes``). Beyond any of them, chunks.
  * Nobody's answer depends on whether a receiver lets go.

Not here: what a memory file must be (``drivers.memory_file``), which frames have such a body (``sessions``).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw, Struct

from core_runtime.bus.calls import Failure
from core_runtime.drivers import memory_file
from core_runtime.drivers.memory_file import Body, NoMemoryFile, OutOfFiles
from core_runtime.rules import frames
from core_runtime.rules.frames import FrameError

if TYPE_CHECKING:
    from core_runtime.bus.large import Room
    from core_runtime.bus.sessions import Session

LOOK_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
"""When to look again whether what was handed out is still held; the last one goes on."""
KEPT_S: Final = 60.0
"""Held for so long after it was handed out, it is told to the operator."""
KINDS: Final = frozenset({frames.CALL, frames.RESULT})
_HEAD: Final = bytes((0xD7, frames.EXT_STORED))
READY: Final = 0
"""The number of the agent's first message, which has no file; its size is 1 where it can make files itself."""


class _Given(Struct):
    """One file that the Pack was handed. ``sender``: the Pack that made it."""

    file: int
    size: int
    sender: Memory | None
    since: float
    told: bool = False


class Memory:
    """Of one session; belongs to the event loop's thread."""

    def __init__(self, session: Session, room: Room) -> None:
        self._session = session
        self._room = room
        self._limits = session.limits
        self._end: socket.socket | None = None
        self._ready = False
        self._makes = False
        self._number = 0
        self._given: list[_Given] = []
        self._given_bytes = 0
        self.sent_bytes = 0
        """Of this Pack's files, what others were handed and hold."""
        self._watch: asyncio.TimerHandle | None = None
        self._looks = 0
        self.direct = False
        """Whether the connection came in at a socket of the host's own: descriptors reach its other end."""
        self.handed = 0
        """Files handed to the Pack, and taken from it."""
        self.taken = 0

    # --- the second socket

    def offer(self) -> socket.socket | None:
        """The Pack's end of a second socket, for WELCOME to carry; None where there is none."""
        if self._end is not None or self.why_not():
            return None
        try:
            self._end, theirs = memory_file.pair()
        except OSError:  # no descriptors left: large values go in chunks
            return None
        return theirs

    def why_not(self) -> str:
        """Why large values of this session go in chunks; empty when they need not."""
        if not self.direct:
            return "the connection carries no descriptors"
        if self._session.hello.get("memory") is not True:
            return "the agent takes none"
        return memory_file.why_not()

    def report(self) -> dict[str, Any]:
        """``{way, detail, handed, taken, held_bytes}`` for people."""
        why = self.why_not()
        if not why and not self._heard():
            why = "the second socket did not reach the agent"
        detail = why or ("" if self._makes else "the sandbox can't make memory files: what it sends goes in chunks")
        return {
            "way": "chunks" if why else "memory files",
            "detail": detail,
            "handed": self.handed,
            "taken": self.taken,
            "held_bytes": self._given_bytes,
        }

    def _heard(self) -> bool:
        try:
            return self._is_ready()
        except FrameError:
            return False

    def _is_ready(self) -> bool:
        """Whether the agent said that it has its end. Raises ``FrameError``."""
        if not self._ready and self._end is not None:
            message = self._message(self._end)
            if message is not None:
                data, files = message
                memory_file.closed(files)
                number, makes = memory_file.MARK.unpack(data) if len(data) == memory_file.MARK.size else (1, 0)
                if number != READY or files:
                    raise FrameError("the second socket begins with another message than its first")
                self._ready, self._makes = True, makes == 1
        return self._ready

    def _message(self, end: socket.socket) -> tuple[bytes, list[int]] | None:
        try:
            return memory_file.taken(end)
        except OutOfFiles:
            return b"", []

    # --- from the agent

    def body(self, frame: Any) -> Body | Raw | Failure:
        """The body of a frame that lies in a memory file. Raises ``FrameError`` for a lie."""
        number, size = memory_file.MARK.unpack(memoryview(frame.body)[2:])
        if self._end is None or not self._is_ready():
            raise FrameError("a value in a memory file on a connection that carries none")
        try:
            message = memory_file.taken(self._end)
        except OutOfFiles:
            return Failure("limit", "the host can open no more files now", "try again later", retryable=True)
        if message is None:
            raise FrameError(f"a value in a memory file that did not come (number {number})")
        data, files = message
        if data != memory_file.MARK.pack(number, size) or len(files) != 1:
            memory_file.closed(files)
            raise FrameError(f"a value in memory file {number} of {size} bytes: what came is another, or not one file")
        self.taken += 1
        if size > self._limits.value_bytes:
            memory_file.closed(files)
            title = f"a value of more than {self._limits.value_bytes} bytes"
            return Failure("value.too_large", title, "send a stream, or write a file")
        try:
            body = memory_file.mapped(files[0], size)
        except NoMemoryFile as exc:
            raise FrameError(str(exc)) from exc
        except OSError as exc:
            return Failure("limit", f"the host can't look into a memory file now: {exc.strerror}", retryable=True)
        return body if size > self._limits.file_bytes else Raw(body[:])

    # --- to the agent

    def stored(self, value: bytes) -> Body | None:
        """A body that is these bytes, written once, where it goes; None where that way is not open now."""
        size = len(value) + 5
        if size > self._limits.value_bytes or not self._is_open(size, None):
            return None
        try:
            return memory_file.stored((b"\xc6" + len(value).to_bytes(4, "big"), value))
        except OSError:  # no room for it: it goes in chunks
            return None

    def send(self, frame: tuple[Any, ...], sender: Session | None) -> bool:
        """Let a frame with a large body go this way; False where it has to go in chunks."""
        body = frame[-1]
        size = len(memoryview(body))
        theirs = sender.memory if sender is not None and type(body) is Body else None
        end = self._end
        if end is None or frame[0] not in KINDS or not self._is_open(size, theirs):
            return False
        if theirs is not None and not memory_file.let_go(body.file):
            return False  # its maker has it open besides, or it belongs to a user of whose files we are told nothing
        try:
            file = os.dup(body.file) if type(body) is Body else memory_file.made((memoryview(body),))
        except OSError:  # as above: in chunks
            return False
        number = self._number % 0xFFFFFFFF + 1
        mark = memory_file.MARK.pack(number, size)
        if not self._handed(end, mark, file):
            os.close(file)
            return False
        self._number = number
        self._charge(_Given(file, size, theirs, self._session.loop.time()))
        self._session.put((*frame[:-1], Raw(_HEAD + mark)))
        return True

    def _handed(self, end: socket.socket, mark: bytes, file: int) -> bool:
        try:
            description = memory_file.reopened(file)
        except OSError:  # as above: in chunks
            return False
        try:
            return memory_file.give(end, mark, description)
        finally:
            os.close(description)

    def _is_open(self, size: int, sender: Memory | None) -> bool:
        if not self._is_ready():
            return False
        if not self._has_room(size, sender):
            self._collect()
        return self._has_room(size, sender)

    def _has_room(self, size: int, sender: Memory | None) -> bool:
        limits = self._limits
        return (
            self._given_bytes + size <= limits.value_bytes
            and len(self._given) < limits.values
            and self._room.used_bytes + size <= self._room.limit_bytes
            and (sender is None or sender.sent_bytes + size <= limits.value_bytes)
        )

    def _charge(self, given: _Given) -> None:
        self.handed += 1
        self._given.append(given)
        self._given_bytes += given.size
        self._room.used_bytes += given.size
        if given.sender is not None:
            given.sender.sent_bytes += given.size
        self._looks = 0
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._session.loop.call_later(LOOK_S[0], self._look)

    def _collect(self) -> None:
        """Take back what nobody there holds any more."""
        for given in tuple(self._given):
            if memory_file.let_go(given.file):
                self._given.remove(given)
                self._release(given)

    def _look(self) -> None:
        self._watch = None
        self._collect()
        late = self._session.loop.time() - KEPT_S
        for given in self._given:
            if given.since <= late and not given.told:
                given.told = True
                detail = f"It has held a value of {given.size} bytes for {KEPT_S:g} s; large values go to it in chunks."
                self._session.limited("values", detail)
        if self._given:
            self._looks = min(self._looks + 1, len(LOOK_S) - 1)
            self._watch = self._session.loop.call_later(LOOK_S[self._looks], self._look)

    def _release(self, given: _Given) -> None:
        os.close(given.file)
        self._given_bytes -= given.size
        self._room.used_bytes -= given.size
        if given.sender is not None:
            given.sender.sent_bytes -= given.size

    def clear(self) -> None:
        """The session is over."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        for given in self._given:
            self._release(given)
        self._given.clear()
        if self._end is not None:
            self._end.close()
            self._end = None
