"""What each frame of an agent means for its session: answers find their call, and what was never asked for is a stray.

Invariants:
  * HELLO comes once. An answer counts for what the host asked on this connection, and for nothing else.
  * A body that came in chunks or in a memory file is put in its place before anybody looks at the frame.

Not here: the session's tables and its life (``sessions``), where calls go (``router``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from core_runtime.bus.calls import Failure
from core_runtime.bus.large import mark_of
from core_runtime.bus.owner import Owner
from core_runtime.bus.registrations import as_map, unpack_bounded
from core_runtime.diagnostics import Severity
from core_runtime.rules import frames
from core_runtime.rules.frames import EXT_CHUNKED, EXT_STORED, PROTOCOL_VERSION, FrameError

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

_WithBody = frames.CallFrame | frames.ResultFrame | frames.ItemFrame | frames.RequestFrame

_MAY_BE_STORED = frozenset({frames.CallFrame, frames.ResultFrame})


class FrameHandlers:
    """Of one session; belongs to the event loop's thread."""

    def __init__(self, session: Session, owner: Owner) -> None:
        self._session = session
        self._owner = owner
        self._router = session.router
        self._usual = session.router.usual
        self.strays = 0
        """Answers to nothing so far."""

    def table(self) -> dict[type, Callable[[Any], None]]:
        """Which method deals with which kind, once the Pack was welcomed."""
        session = self._session
        return {
            frames.CallFrame: self.call,
            frames.ResultFrame: self.result,
            frames.ErrorFrame: self.error,
            frames.CancelFrame: self.cancel,
            frames.ItemFrame: self.item,
            frames.BatchFrame: self.batch,
            frames.EndFrame: self.end,
            frames.CreditFrame: self.credit,
            frames.ChunkFrame: session.large.chunk,
            frames.HelloFrame: self.hello,
            frames.PhaseDoneFrame: self.phase_done,
            frames.PongFrame: self.pong,
            frames.LogFrame: self.log,
            frames.RegisterFrame: session.registry.register,
            frames.UnregisterFrame: session.registry.unregister,
            frames.ReleaseFrame: self.release,
            frames.SubscribeFrame: session.events.subscribe,
            frames.UnsubscribeFrame: session.events.unsubscribe,
            frames.PublishFrame: session.events.publish,
            frames.RequestFrame: self.request,
        }

    def hello(self, frame: frames.HelloFrame) -> None:
        if self._session.greeted.done():
            raise FrameError("a second HELLO")
        hello = as_map(unpack_bounded(frame.hello))
        if PROTOCOL_VERSION not in (hello.get("protocols") or ()):
            raise FrameError(f"no common protocol version (the host speaks {PROTOCOL_VERSION})")
        self._session.hello = hello
        self._session.large.accepts = hello.get("chunks") is True
        self._session.references.takes_sources = hello.get("sources") is True
        self._session.takes_batches = hello.get("batches") is True
        self._session.greeted.set_result(None)

    def _answer(self, number: int, kind: int, raw: Raw) -> None:
        waiting = self._session.waits.get(number)
        if waiting is None or waiting[0] != kind:
            self._stray(number)
            return
        if not waiting[1].done():
            waiting[1].set_result(unpack_bounded(raw))

    def phase_done(self, frame: frames.PhaseDoneFrame) -> None:
        self._answer(frame.id, frames.PHASE_DONE, frame.outcome)

    def pong(self, frame: frames.PongFrame) -> None:
        self._answer(frame.id, frames.PONG, frame.state)

    def log(self, frame: frames.LogFrame) -> None:
        self._session.log.take(frame)

    def _stray(self, number: int) -> None:
        """An answer to nothing: forged, or given twice. A few are noted, many end the connection."""
        self.strays += 1
        if self.strays > self._session.limits.strays:
            raise FrameError(f"{self.strays} answers to calls that were never made")
        self._owner.diagnostics.issue(
            "stray_answer",
            Severity.WARN,
            self._session.pack_id,
            "A Pack answered a call that it was never given",
            f"The newest had id {number}.",
            "Harmless in small numbers; the sandbox is cut off when it goes on.",
        )

    def call(self, frame: frames.CallFrame) -> None:
        session = self._session
        if frame.id in session.outgoing:
            raise FrameError(f"call id {frame.id} is in use")
        session.made += 1
        if mark_of(frame.body):
            dropped = self._joined(frame)
            if dropped is not None:
                session.send_error(frame.id, dropped)
                return
        self._router.from_pack(session, frame)

    def result(self, frame: frames.ResultFrame) -> None:
        if self._usual.end(self._session, frame):
            return
        dropped = self._joined(frame) if mark_of(frame.body) else None
        call = self._session.incoming.get(frame.id)
        if call is None or call.streaming:
            self._stray(frame.id)
        elif dropped is not None:
            self._router.error(call, dropped)
        else:
            self._router.result(call, frame)

    def _joined(self, frame: _WithBody) -> Failure | None:
        """Put a body that came apart from its frame in its place; why not, where it was dropped."""
        mark = mark_of(frame.body)
        if not mark:
            return None
        if mark == EXT_CHUNKED:
            body: Any = self._session.large.body(frame)
        elif mark == EXT_STORED and type(frame) in _MAY_BE_STORED:
            body = self._session.memory.body(frame)
        else:
            return None
        if isinstance(body, Failure):
            return body
        frame.body = body
        return None

    def error(self, frame: frames.ErrorFrame) -> None:
        call = self._session.incoming.get(frame.id)
        if call is None:
            self._stray(frame.id)
        else:
            self._router.error(
                call, self._failure((frame.type_, frame.title, frame.detail, frame.retryable, frame.trace))
            )

    def cancel(self, frame: frames.CancelFrame) -> None:
        call = self._session.outgoing.get(frame.id)
        if call is not None:
            self._router.calls.abandon(call, Failure("cancelled", "the caller cancelled"))
        else:
            self._session.channels.cancel(frame.id)

    def item(self, frame: frames.ItemFrame) -> None:
        dropped = self._joined(frame)
        call = self._session.incoming.get(frame.id)
        if call is not None:
            self._router.streams.item(call, frame, dropped)
        elif not self._session.channels.item(frame):
            self._stray(frame.id)

    def batch(self, frame: frames.BatchFrame) -> None:
        call = self._session.incoming.get(frame.id)
        if call is not None:
            self._router.streams.batch(call, frame)
        else:
            self._stray(frame.id)

    def end(self, frame: frames.EndFrame) -> None:
        call = self._session.incoming.get(frame.id)
        failure = self._failure(frame.error) if frame.error is not None else None
        if call is not None:
            self._router.streams.end(call, failure)
        elif not self._session.channels.end(frame.id, failure):
            self._stray(frame.id)

    def _failure(self, fields: tuple[str, str, str, bool, str]) -> Failure:
        """What a sandbox says went wrong, without the secrets of its Pack: others read it."""
        failure, redactions, pack_id = Failure.from_agent(*fields), self._owner.redactions, self._session.pack_id
        return failure.without(partial(redactions.hide, pack_id)) if redactions.knows(pack_id) else failure

    def credit(self, frame: frames.CreditFrame) -> None:
        call = self._session.outgoing.get(frame.id)
        if call is not None:
            self._router.streams.credit(call, frame.n)
        else:
            self._session.channels.credit(frame.id, frame.n)

    def request(self, frame: frames.RequestFrame) -> None:
        session = self._session
        session.made += 1
        dropped = self._joined(frame)
        if dropped is not None:
            session.send_error(frame.id, dropped)
            return
        if session.channels.serves(frame.operation):
            session.channels.take(frame)
        else:
            session.requests.take(frame)

    def release(self, frame: frames.ReleaseFrame) -> None:
        self._session.references.released(frame.numbers)
