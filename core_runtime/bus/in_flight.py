"""Calls in flight: their deadlines, their counts, and every way in which one ends.

Invariants:
  * Every caller is answered exactly once, whoever dies: ``Call.done`` says that it was, and nothing answers after it.
  * A deadline, a CANCEL or a death abandons the call and everything that was called on its behalf.
  * A callee owes an answer until it gave one (``settled``) or its connection ended, whether or not anybody waits.
  * No caller has one cut off that gives calls back in good time.

Not here: where a call goes (``router``), items of streams (``streams``).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.bus.calls import Call, EdgeStats, Failure
from core_runtime.bus.large import Busy, sending_failed
from core_runtime.rules import frames
from core_runtime.rules.frames import BusLimits, FrameError
from core_runtime.rules.routing import allowed_ms

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session
    from core_runtime.tracing import Tracer

SWEEP_S = 0.025
FAIR_TIME = 0.9
"""Of the usual deadline: what a call in the middle of a chain is left with is a little less."""
OWN_AHEAD = 8
"""So many calls that one caller has a Pack serve take the threads that it may have there, or most of them."""
MAX_EDGES = 4_096
_CANCELLED = Failure("cancelled", "the call that this one belongs to has ended")
_ANSWERED = Failure("cancelled", "the call whose argument this stream is was answered")


class InFlight:
    """One for a bus; belongs to the event loop's thread."""

    def __init__(self, limits: BusLimits) -> None:
        self.limits = limits
        self._usual_ms = allowed_ms(0, limits.deadline_ms, limits.max_deadline_ms, None)
        self.sessions: set[Session] = set()
        self.edges: dict[tuple[str, str], EdgeStats] = {}
        self.local: set[Call] = set()
        self.spans = itertools.count(secrets.randbits(62) | 1)
        """Ids of spans, for ``routing.traceparent``. It starts below 2^62 and never reaches 64 bits."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._armed = False
        self.tracer: Tracer | None = None

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that everything here belongs to."""
        self._loop = loop

    # --- answers

    def answer(self, call: Call, refs: Any, body: Raw) -> None:
        """Answer a Pack with a value."""
        caller = call.caller
        assert caller is not None
        try:
            if call.caller_id > 0:
                frame = (frames.RESULT, call.caller_id, 0, refs, body)
                if len(memoryview(body)) > self.limits.file_bytes:
                    caller.send_large(frame, call.callee)
                else:
                    caller.send(frame)
        except FrameError as exc:
            caller.references.withdraw(refs)
            if call.callee is not None and not isinstance(exc, Busy):
                call.callee.limited("message", f"Its answer to {quote(call.key)}: {exc}.")
            self.fail(call, sending_failed(exc))
        else:
            self.finish(call, "")

    def fail(self, call: Call, failure: Failure) -> None:
        """Answer the caller with an error (a stream ends with it)."""
        if call.done:
            return
        if call.streaming:
            self.end_stream(call, failure)
            return
        self.finish(call, failure.type)
        if call.caller is not None:
            if call.caller_id > 0:
                call.caller.send_error(call.caller_id, failure)
        elif call.future is not None and not call.future.done():
            pack_id = call.callee.pack_id if call.callee is not None else ""
            call.future.set_exception(failure.exception(pack_id, call.key))

    def end_stream(self, call: Call, failure: Failure | None) -> None:
        """Tell the consumer that nothing more comes."""
        if call.done:
            return
        self.finish(call, failure.type if failure is not None else "")
        if call.caller is not None:
            if call.caller_id > 0:
                fields = failure.frame_fields() if failure is not None else None
                call.caller.send((frames.STREAM_END, call.caller_id, fields))
        elif call.stream is not None:
            pack_id = call.callee.pack_id if call.callee is not None else ""
            call.stream.end(failure.exception(pack_id, call.key) if failure is not None else None)

    # --- ways to end early

    def abandon(self, call: Call, failure: Failure | None) -> None:
        """Answer the caller now (not at all with None), cancel the callee and everything called on its behalf."""
        pending = [(call, failure)]
        while pending:
            current, why = pending.pop()
            if current.abandoned:
                continue
            children = tuple(current.children or ())
            if why is not None:
                self.fail(current, why)
            elif not current.done:
                self.finish(current, "cancelled")
                if current.stream is not None:
                    current.stream.end(None)
                if current.future is not None and not current.future.done():
                    current.future.cancel()
            current.abandoned = True
            if current.callee is not None and current.number in current.callee.incoming:
                current.callee.abandoned += 1
                current.callee.send((frames.CANCEL, current.number))
                current.callee.check_abandoned()
                current.callee.check_idle()
            elif current.task is not None:
                current.task.cancel()
            pending.extend((child, _CANCELLED) for child in children)

    def session_lost(self, session: Session, reason: str) -> None:
        """A Pack's connection ended: answer those who called it, cancel what it called."""
        self.sessions.discard(session)
        failure = Failure("unavailable", f"{session.pack_id} went away", reason[:300], retryable=True)
        served = list(session.incoming.values())
        children = [child for call in served for child in call.children or ()]
        for call in served:  # before anything is cancelled: who reads a stream of this Pack's hears that it went away
            if not call.abandoned:
                self.fail(call, failure)
            call.abandoned = True
        for child in children:
            self.abandon(child, None)
        session.incoming.clear()
        session.places.clear()
        for call in list(session.outgoing.values()):
            self.abandon(call, None)
        session.outgoing.clear()

    # --- deadlines

    def budget(self, call: Call, asked_ms: int) -> int:
        """Give a call its deadline, and see to it that somebody looks. Returns what it has, in milliseconds."""
        parent, started, left = call.parent, call.started, None
        if parent is not None and not parent.streaming:
            left = int((parent.deadline - started) * 1000)
        ms = self._usual_ms
        if asked_ms or (left is not None and left < 1):
            ms = allowed_ms(asked_ms, self.limits.deadline_ms, self.limits.max_deadline_ms, left)
        elif left is not None and left < ms:
            ms = left
        call.budget_s = ms / 1000
        # what is left to the parent ends with it: the last part of a millisecond would be told as its slowness
        call.deadline = parent.deadline if parent is not None and ms == left else started + call.budget_s
        if not self._armed and self._loop is not None:
            self._armed = True
            self._loop.call_later(SWEEP_S, self._sweep)
        return ms

    def _sweep(self) -> None:
        """Answer what is late. One pass over what is pending: timers of their own would outlive most calls."""
        now = monotonic()
        late: list[Call] = []
        pending = False
        for table in self._tables():
            for call in table:
                if call.abandoned or call.done:
                    continue
                pending = True
                if call.deadline <= now:
                    late.append(call)
        queued: dict[Session, set[Call]] = {}
        for call in late:  # before the first of them is abandoned, and what it called with it
            callee = call.callee
            if callee is None or callee.unread or not self._is_slow(call):
                continue
            if callee not in queued:
                queued[callee] = _behind_their_callers_own(callee)
            if call not in queued[callee]:
                callee.limited("time", f"It did not answer {quote(call.key)} within {call.budget_s:g} s.")
        for call in late:
            title = f"no answer within {call.budget_s:g} s"
            self.abandon(call, Failure("timeout", title, f"{call.key} was cancelled", retryable=True))
        self._armed = pending
        if pending and self._loop is not None:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _is_slow(self, call: Call) -> bool:
        """Whether a late call's own handler is slow: it had the usual time, waits for no call of its own, and no
        consumer keeps it waiting.
        """
        had_time = call.budget_s * 1000 >= FAIR_TIME * self.limits.deadline_ms
        return had_time and not call.children and not (call.streaming and call.credit <= 0)

    def _tables(self) -> Iterable[Iterable[Call]]:
        yield from (session.incoming.values() for session in self.sessions)
        yield self.local

    # --- bookkeeping

    def settled(self, call: Call) -> None:
        """The callee has answered."""
        callee = call.callee
        assert callee is not None
        if callee.incoming.pop(call.number, None) is not None:
            callee.places.give_back(call.caller.pack_id if call.caller is not None else None, call.size_bytes)
        if call.sources is not None:
            self._end_sources(call, callee)
        if call.abandoned:
            callee.abandoned -= 1
        if callee.draining:
            callee.check_idle()

    def _end_sources(self, call: Call, callee: Session) -> None:
        """The streams in its arguments end with the call: whoever still produces one is told."""
        numbers, call.sources = call.sources or [], None
        for number in numbers:
            handle = callee.references.held.get(number)
            if handle is not None and handle.read is not None:
                self.abandon(handle.read, _ANSWERED)
            callee.references.take_back(number)

    def finish(self, call: Call, failure: str) -> None:
        """The caller is being answered."""
        self.forget(call)
        now = monotonic()
        duration_us = int((now - call.started) * 1e6)
        edge = self.edges.get((call.caller_name, call.key)) or self.edge(call.caller_name, call.key)
        if call.callee is not None:
            edge.add_with(call.callee.stats, duration_us, failure)
        else:
            edge.add(duration_us, failure)
        if self.tracer is not None and call.sampled:
            self.tracer.call(call, now, failure)

    def forget(self, call: Call) -> None:
        """Take a call out of every table but its callee's: it was answered, or refused before it was sent."""
        call.done = True
        if call.callee is None:
            self.local.discard(call)
        parent = call.parent
        if parent is not None and parent.children is not None:
            parent.children.discard(call)
        caller = call.caller
        if caller is not None and caller.outgoing.pop(call.caller_id, None) is not None and parent is None:
            caller.orphans -= 1

    def count(self, caller: str, key: str, duration_us: int, failure: str) -> None:
        """Count one end on its edge."""
        self.edge(caller, key).add(duration_us, failure)

    def edge(self, caller: str, key: str) -> EdgeStats:
        """The counts of an edge, or of all others once there are ``MAX_EDGES``."""
        edge = self.edges.get((caller, key))
        if edge is None:
            if len(self.edges) >= MAX_EDGES:
                caller, key = caller[:64], "(other keys)"
            edge = self.edges.setdefault((caller, key), EdgeStats())
        return edge


def _behind_their_callers_own(callee: Session) -> set[Call]:
    """Calls before which ``callee`` was given many of the same caller that somebody still waits for.

    A caller has a share of a Pack's threads. Who keeps that busy (with streams that it does not read, say) waits for
    itself, and what it waits for says nothing about the Pack that serves it.
    """
    ahead: dict[Session | None, int] = {}
    behind: set[Call] = set()
    for call in callee.incoming.values():
        count = ahead.get(call.caller, 0)
        if count >= OWN_AHEAD:
            behind.add(call)
        if not call.abandoned:
            ahead[call.caller] = count + 1
    return behind
