"""The way of a call: from a Pack or the host to a Pack or the host, its answer back, and every way it can end early.

Invariants:
  * Every call is answered exactly once, whoever dies. A deadline, a CANCEL or a death abandons the call and everything
    that was called on its behalf.
  * The edge is checked for each call, before anything is said about whether the key exists.
  * Bodies are forwarded as they came, inside the read callback (they alias the read buffer), except where a schema
    exists: then the *decoded* value is checked and encoded anew, since two parsers may read the same bytes differently.

Not here: frames of one connection (``sessions``), who may do what (the rights), the registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

from msgspec import Raw
from msgspec.msgpack import Encoder

from backend_core.errors import NotFoundError, quote
from core_runtime.calls import Call, CallContext, EdgeStats, Failure, HostContext, HostStream
from core_runtime.diagnostics import Diagnostics
from core_runtime.interface_registry import Entry, InterfaceRegistry
from core_runtime.references import RemoteCallable
from core_runtime.rules import frames
from core_runtime.rules.frames import FLAG_STREAM, BusLimits, FrameError
from core_runtime.rules.routing import allowed_ms, granted_credit, reenter_id, trace_id_of, traceparent
from core_runtime.rules.schemas import Checker
from core_runtime.rules.values import ValueProblem, pack, unpack

if TYPE_CHECKING:
    from core_runtime.sessions import Session

SWEEP_S = 0.025
MAX_EDGES = 4_096
_NIL = Raw(b"\xc0")
_reencode = Encoder().encode


class Refused(Exception):  # noqa: N818  control flow inside the bus: a call that goes no further
    """Carries the ``Failure`` that the caller is answered with."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.title)
        self.failure = failure


def refused(type_: str, title: str, detail: str = "", *, retryable: bool = False) -> Refused:
    """Shorthand."""
    return Refused(Failure(type_, title, detail, retryable))


class Router:
    """One for a bus; belongs to the event loop's thread."""

    def __init__(self, registry: InterfaceRegistry, diagnostics: Diagnostics, limits: BusLimits) -> None:
        self.registry = registry
        self.diagnostics = diagnostics
        self.limits = limits
        self.sessions: set[Session] = set()
        self.edges: dict[tuple[str, str], EdgeStats] = {}
        self._local: set[Call] = set()
        self._spans = itertools.count(secrets.randbits(62) | 1)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._armed = False

    # --- from the host

    async def call_key(
        self,
        key: str,
        args: Any,
        *,
        context: CallContext | HostContext | None,
        timeout_s: float | None,
        idempotency_key: str | None,
    ) -> Any:
        """Call what ``key`` answers with now."""
        entry = self.registry.resolve(key)
        if entry is not None and type(entry.value) is RemoteCallable:
            call = self._start(entry.value, args, context, timeout_s, idempotency_key, entry)
            assert call.future is not None
            try:
                return await call.future
            except asyncio.CancelledError:
                if not call.done:
                    self.abandon(call, None)
                raise
        if entry is None:
            raise NotFoundError(
                f"No interface {quote(key)}",
                code="missing",
                detail="Nobody provides it now: it was never registered, or its provider is stopped.",
                hint="`rumi interface list` shows what is there; start or approve the Pack that provides it.",
                fields={"key": key},
            )
        value = entry.value
        if not callable(value):
            raise NotFoundError(
                f"{quote(key)} is data",
                code="not_callable",
                detail=f"A value of type {type(value).__name__} is registered, no callable.",
                hint="Read it with get() instead.",
                fields={"key": key},
            )
        call = self._host_call(key, None, context, timeout_s, entry)
        ctx = HostContext(call, idempotency_key, self._traceparent(call))
        async with asyncio.timeout(call.budget_s):
            return await _run(value, args, ctx)

    async def invoke(
        self,
        target: RemoteCallable,
        args: Any,
        *,
        context: CallContext | HostContext | None = None,
        timeout_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call a Pack's callable and wait. Raises the errors of ``Failure.exception``."""
        call = self._start(target, args, context, timeout_s, idempotency_key, None)
        assert call.future is not None
        try:
            return await call.future
        except asyncio.CancelledError:
            if not call.done:
                self.abandon(call, None)
            raise

    def _start(
        self,
        target: RemoteCallable,
        args: Any,
        context: CallContext | HostContext | None,
        timeout_s: float | None,
        idempotency_key: str | None,
        entry: Entry | None,
    ) -> Call:
        """Send a host-side call; its ``future`` gets what comes of it."""
        callee = target.session
        call = self._host_call(target.key, callee, context, timeout_s, entry)
        refs: list[tuple[int, int]] = []
        try:
            body = Raw(pack(args, callee.references.exporter(refs)))
            if entry is not None and entry.checkers is not None:
                body = self._check(entry.checkers.input, body, "args")
            call.future = callee.loop.create_future()
            self._send(call, target.number, idempotency_key, refs, body)
        except ValueProblem as exc:
            self._forget(call)
            raise Failure(exc.type, str(exc)).exception("", target.key) from exc
        except Refused as exc:
            self._forget(call)
            raise exc.failure.exception(callee.pack_id, target.key) from exc
        return call

    def _host_call(
        self,
        key: str,
        callee: Session | None,
        context: CallContext | HostContext | None,
        timeout_s: float | None,
        entry: Entry | None,
    ) -> Call:
        if context is None:
            call = Call(key, callee, None, 0, "", None, 0, (), f"{random.getrandbits(128) or 1:032x}", None, entry)
            parent = None
        elif isinstance(context, HostContext):
            parent = context.call
            call = Call(
                key, callee, None, 0, "", parent, parent.depth + 1, (*parent.chain, parent.caller_name),
                parent.trace_id, parent.flow, entry,
            )  # fmt: skip
        else:
            parent = context.parent
            trace = parent.trace_id if parent is not None else trace_id_of(context.traceparent)
            call = Call(
                key, callee, None, 0, context.caller, parent, parent.depth + 1 if parent is not None else 0,
                context.chain, trace or f"{random.getrandbits(128) or 1:032x}", context.flow, entry,
            )  # fmt: skip
        if parent is not None:
            if parent.children is None:
                parent.children = set()
            parent.children.add(call)
        asked_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
        self._budget(call, asked_ms)
        return call

    # --- from a Pack

    def from_pack(self, caller: Session, frame: frames.CallFrame) -> None:
        """Route a CALL frame. Whatever is wrong with it is answered on it."""
        call: Call | None = None
        try:
            entry, target = self._target(caller, frame.key)
            key = entry.key if entry is not None else target.key
            callee = target.session if isinstance(target, RemoteCallable | _Owned) else None
            call = self._pack_call(caller, frame, key, callee, entry)
            if callee is not None:
                assert isinstance(target, RemoteCallable | _Owned)
                self._forward(call, target.number, frame, caller, callee)
            else:
                self._serve(call, target, frame, caller)
        except Refused as exc:
            if call is not None:
                self._forget(call)
            self._count(caller.pack_id, frame.key if isinstance(frame.key, str) else "", 0, exc.failure.type)
            caller.send_error(frame.id, exc.failure)

    def _target(self, caller: Session, key: str | int) -> tuple[Entry | None, Any]:
        """What a Pack's CALL names, if that Pack may reach it."""
        if isinstance(key, str):
            entry = self.registry.resolve(key)
            if not caller.rights().may_call(key) and (entry is None or entry.pack != caller.pack_id):
                caller.denied("interface.call", key)
                raise refused("denied", f"{caller.pack_id} may not call {quote(key)}", _DENIED_DETAIL)
            if entry is None:
                raise refused("missing", f"no interface {quote(key)}", "nobody provides it now", retryable=True)
            if not callable(entry.value):
                raise refused("missing", f"{quote(key)} is data", "read it with get()")
            return entry, entry.value
        handle = caller.references.held.get(key)
        if handle is None:
            raise refused("dead_reference", "a reference that is no longer held", "get the callable again")
        if not handle.usable():
            if handle.owner is not None and handle.owner.dead:
                raise refused("dead_reference", "its Pack has stopped", "get the callable again", retryable=True)
            caller.denied("interface.call", handle.key)
            raise refused("denied", f"the edge to {quote(handle.key)} was withdrawn", _DENIED_DETAIL)
        if handle.fn is not None:
            return None, _HostFunction(handle.fn, handle.key)
        assert handle.owner is not None
        return None, _Owned(handle.owner, handle.number, handle.key)

    def _pack_call(
        self, caller: Session, frame: frames.CallFrame, key: str, callee: Session | None, entry: Entry | None
    ) -> Call:
        limits = self.limits
        if len(caller.outgoing) >= limits.in_flight:
            raise refused("limit", f"{limits.in_flight} calls are in flight already", retryable=True)
        parent = caller.incoming.get(frame.parent) if frame.parent else None
        if parent is not None and parent.abandoned:
            raise refused("cancelled", "the call that this one belongs to has ended")
        if parent is None and caller.orphans >= limits.orphans:
            raise refused("limit", f"{limits.orphans} calls without a parent are in flight already", retryable=True)
        if parent is None:
            call = Call(
                key, callee, caller, frame.id or caller.silent_id(), caller.pack_id, None, 0, (),
                f"{random.getrandbits(128) or 1:032x}", None, entry,
            )  # fmt: skip
            caller.orphans += 1
        else:
            call = Call(
                key, callee, caller, frame.id or caller.silent_id(), caller.pack_id, parent, parent.depth + 1,
                (*parent.chain, parent.caller_name), parent.trace_id, parent.flow, entry,
            )  # fmt: skip
            if parent.children is None:
                parent.children = {call}
            else:
                parent.children.add(call)
        caller.outgoing[call.caller_id] = call
        self._budget(call, frame.deadline_ms)
        return call

    def _forward(self, call: Call, number: int, frame: frames.CallFrame, caller: Session, callee: Session) -> None:
        entry = call.entry
        body = frame.body
        if entry is not None and entry.checkers is not None:
            body = self._check(entry.checkers.input, body, "args")
        try:
            refs = caller.references.translate(frame.refs, callee, (caller, call.key)) if frame.refs else frame.refs
            self._send(call, number, frame.idempotency, refs, body)
        except ValueProblem as exc:
            raise refused(exc.type, str(exc)) from exc

    def _send(self, call: Call, number: int, idempotency: str | None, refs: Any, body: Raw) -> None:
        """Put the CALL on the callee's wire and into its table."""
        callee = call.callee
        assert callee is not None
        limits = self.limits
        if callee.dead:
            raise refused("dead_reference", "its Pack has stopped", "get the callable again", retryable=True)
        if callee.draining:
            raise refused("unavailable", f"{callee.pack_id} is stopping", retryable=True)
        if len(callee.incoming) >= limits.in_flight or callee.congested:
            raise refused("limit", f"{callee.pack_id} is busy", "too many calls wait for it", retryable=True)
        if call.depth > limits.depth:
            raise refused("depth", f"calls are nested deeper than {limits.depth}")
        call.number = callee.next_id()
        reenter = reenter_id(call, callee) if call.parent is not None or call.caller is callee else 0
        frame = (
            frames.CALL,
            call.number,
            number,
            int(call.budget_s * 1000) or 1,
            0,
            call.depth,
            reenter,
            (self._traceparent(call), call.caller_name, call.chain, call.flow),
            idempotency,
            refs,
            body,
        )
        try:
            callee.send(frame)
        except FrameError as exc:
            raise refused("value.too_large", str(exc)) from exc
        callee.incoming[call.number] = call

    def _check(self, checker: Checker | None, body: Raw, what: str) -> Raw:
        """Validate a body against a schema; the value that was checked is what travels on."""
        if checker is None:
            return body
        try:
            value = unpack(body, max_nodes=self.limits.decode_nodes)
        except ValueProblem as exc:
            raise refused(exc.type, f"{what}: {exc}") from exc
        problem = checker.problem(value, len(memoryview(body)))
        if problem is not None:
            raise refused("schema", f"{what} do not fit the interface's schema", problem)
        return Raw(_reencode(value))

    # --- host functions that Packs call

    def _serve(self, call: Call, target: Any, frame: frames.CallFrame, caller: Session) -> None:
        fn = target.fn if isinstance(target, _HostFunction) else target
        if call.depth > self.limits.depth:
            raise refused("depth", f"calls are nested deeper than {self.limits.depth}")
        if call.entry is not None and call.entry.checkers is not None:
            body = self._check(call.entry.checkers.input, frame.body, "args")
        else:
            body = frame.body
        try:
            args = unpack(
                body,
                caller.references.resolver(frame.refs, call.key),
                max_nodes=self.limits.decode_nodes,
            )
        except ValueProblem as exc:
            raise refused(exc.type, str(exc)) from exc
        self._local.add(call)
        call.task = caller.loop.create_task(self._run_local(call, fn, args, frame.idempotency))

    async def _run_local(self, call: Call, fn: Callable[..., Any], args: Any, idempotency: str | None) -> None:
        caller = call.caller
        assert caller is not None
        try:
            result = await _run(fn, args, HostContext(call, idempotency, self._traceparent(call)))
            if isinstance(result, AsyncIterator):
                await self._produce(call, result)
            else:
                refs: list[tuple[int, int]] = []
                body = Raw(pack(result, caller.references.exporter(refs)))
                if not call.done:
                    self._answer(call, refs, body)
        except ValueProblem as exc:
            self.fail(call, Failure(exc.type, str(exc)))
        except Exception as exc:  # noqa: BLE001  whatever the function raised is the caller's answer
            self.fail(call, Failure.of(exc))

    async def _produce(self, call: Call, items: AsyncIterator[Any]) -> None:
        """Stream a host function's items to a Pack, within its credit."""
        caller = call.caller
        assert caller is not None
        room = asyncio.Semaphore(self.limits.stream_credit)

        def more(n: int) -> None:
            for _ in range(n):
                room.release()

        call.on_credit = more
        call.streaming = True
        call.credit = self.limits.stream_credit
        caller.send((frames.RESULT, call.caller_id, FLAG_STREAM, (), _NIL))
        try:
            async for item in items:
                await room.acquire()
                refs: list[tuple[int, int]] = []
                body = Raw(pack(item, caller.references.exporter(refs)))
                call.credit -= 1
                call.deadline = time.monotonic() + call.budget_s
                caller.send((frames.STREAM_ITEM, call.caller_id, refs, body))
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                with contextlib.suppress(Exception):
                    await close()
        self.end_stream(call, None)

    # --- answers

    def result(self, call: Call, frame: frames.ResultFrame) -> None:
        """The callee's RESULT."""
        callee = call.callee
        assert callee is not None
        if frame.flags & FLAG_STREAM:
            self._open_stream(call)
            return
        if call.abandoned:
            self._settled(call)
            return
        checker = call.entry.checkers.output if call.entry is not None and call.entry.checkers is not None else None
        try:
            body = self._check(checker, frame.body, "the result") if checker is not None else frame.body
            if call.caller is None:
                value = unpack(
                    body,
                    callee.references.resolver(frame.refs, call.key) if frame.refs else None,
                    max_nodes=self.limits.decode_nodes,
                )
                self._settled(call)
                self._finish(call, "")
                if call.future is not None and not call.future.done():
                    call.future.set_result(value)
                return
            refs: Any = frame.refs
            if refs:
                refs = callee.references.translate(refs, call.caller, (call.caller, call.key))
        except ValueProblem as exc:
            self._settled(call)
            self.fail(call, Failure(exc.type, str(exc)))
        except Refused as exc:
            self._settled(call)
            self.fail(call, exc.failure)
        else:
            self._settled(call)
            self._answer(call, refs, body)

    def error(self, call: Call, failure: Failure) -> None:
        """The callee's ERROR."""
        abandoned = call.abandoned
        self._settled(call)
        if not abandoned:
            self.fail(call, failure)

    def _answer(self, call: Call, refs: Any, body: Raw) -> None:
        caller = call.caller
        assert caller is not None
        try:
            if call.caller_id > 0:
                caller.send((frames.RESULT, call.caller_id, 0, refs, body))
        except FrameError as exc:
            self.fail(call, Failure("value.too_large", str(exc)))
        else:
            self._finish(call, "")

    def fail(self, call: Call, failure: Failure) -> None:
        """Answer the caller with an error (a stream ends with it)."""
        if call.done:
            return
        if call.streaming:
            self.end_stream(call, failure)
            return
        self._finish(call, failure.type)
        if call.caller is not None:
            if call.caller_id > 0:
                call.caller.send_error(call.caller_id, failure)
        elif call.future is not None and not call.future.done():
            pack_id = call.callee.pack_id if call.callee is not None else ""
            call.future.set_exception(failure.exception(pack_id, call.key))

    # --- streams

    def _open_stream(self, call: Call) -> None:
        callee = call.callee
        assert callee is not None
        if call.streaming:
            raise FrameError("a stream was opened twice")
        call.streaming = True
        call.credit = self.limits.stream_credit
        if call.abandoned:
            return
        if call.caller_id < 0:
            self.abandon(call, None)
            return
        call.deadline = time.monotonic() + call.budget_s
        if call.caller is not None:
            call.caller.send((frames.RESULT, call.caller_id, FLAG_STREAM, (), _NIL))
            return
        call.stream = HostStream(
            self.limits.stream_credit, lambda n: self.credit(call, n), lambda: self.abandon(call, None)
        )
        if call.future is not None and not call.future.done():
            call.future.set_result(call.stream)

    def item(self, call: Call, frame: frames.ItemFrame) -> None:
        """The callee's STREAM_ITEM, within the credit it was given."""
        callee = call.callee
        assert callee is not None
        if not call.streaming:
            raise FrameError("an item of a stream that was not opened")
        if call.credit <= 0:
            raise FrameError("more items than the consumer granted")
        call.credit -= 1
        if call.abandoned:
            return
        call.deadline = time.monotonic() + call.budget_s
        try:
            if call.caller is None:
                assert call.stream is not None
                resolve = callee.references.resolver(frame.refs, call.key) if frame.refs else None
                call.stream.feed(unpack(frame.body, resolve, max_nodes=self.limits.decode_nodes))
                return
            refs: Any = frame.refs
            if refs:
                refs = callee.references.translate(refs, call.caller, (call.caller, call.key))
            call.caller.send((frames.STREAM_ITEM, call.caller_id, refs, frame.body))
        except ValueProblem as exc:
            self.abandon(call, Failure(exc.type, str(exc)))
        except FrameError as exc:
            self.abandon(call, Failure("value.too_large", str(exc)))

    def credit(self, call: Call, n: int) -> None:
        """The consumer's STREAM_CREDIT; what would exceed the producer's window is swallowed."""
        if call.done or not call.streaming:
            return
        granted = granted_credit(call.credit, n, self.limits.credit_ahead)
        if not granted:
            return
        call.credit += granted
        call.deadline = time.monotonic() + call.budget_s
        if call.callee is not None:
            call.callee.send((frames.STREAM_CREDIT, call.number, granted))
        elif call.on_credit is not None:
            call.on_credit(granted)

    def end(self, call: Call, failure: Failure | None) -> None:
        """The callee's STREAM_END."""
        if not call.streaming:
            raise FrameError("the end of a stream that was not opened")
        abandoned = call.abandoned
        self._settled(call)
        if not abandoned:
            self.end_stream(call, failure)

    def end_stream(self, call: Call, failure: Failure | None) -> None:
        """Tell the consumer that nothing more comes."""
        if call.done:
            return
        self._finish(call, failure.type if failure is not None else "")
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
                self._finish(current, "cancelled")
                if current.stream is not None:
                    current.stream.end(None)
                if current.future is not None and not current.future.done():
                    current.future.cancel()
            current.abandoned = True
            if current.callee is not None and current.number in current.callee.incoming:
                current.callee.abandoned += 1
                current.callee.send((frames.CANCEL, current.number))
                current.callee.check_abandoned()
            elif current.task is not None:
                current.task.cancel()
            pending.extend((child, _CANCELLED) for child in children)

    def session_lost(self, session: Session, reason: str) -> None:
        """A Pack's connection ended: answer those who called it, cancel what it called."""
        self.sessions.discard(session)
        failure = Failure("unavailable", f"{session.pack_id} went away", reason[:300], retryable=True)
        for call in list(session.incoming.values()):
            children = tuple(call.children or ())
            if not call.abandoned:
                self.fail(call, failure)
            call.abandoned = True
            for child in children:
                self.abandon(child, None)
        session.incoming.clear()
        for call in list(session.outgoing.values()):
            self.abandon(call, None)
        session.outgoing.clear()

    # --- deadlines

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that everything here belongs to."""
        self._loop = loop

    def _budget(self, call: Call, asked_ms: int) -> None:
        now = call.started
        parent = call.parent
        left = parent.left_ms(now) if parent is not None and not parent.streaming else None
        ms = allowed_ms(asked_ms, self.limits.deadline_ms, self.limits.max_deadline_ms, left)
        call.budget_s = ms / 1000
        call.deadline = now + call.budget_s
        if not self._armed and self._loop is not None:
            self._armed = True
            self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Answer what is late. One pass over what is pending: timers of their own would outlive most calls."""
        now = time.monotonic()
        late: list[Call] = []
        pending = False
        for table in self._tables():
            for call in table:
                if call.abandoned or call.done:
                    continue
                pending = True
                if call.deadline <= now:
                    late.append(call)
        for call in late:
            title = f"no answer within {call.budget_s:g} s"
            self.abandon(call, Failure("timeout", title, f"{call.key} was cancelled", retryable=True))
        self._armed = pending
        if pending and self._loop is not None:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _tables(self) -> Iterable[Iterable[Call]]:
        yield from (session.incoming.values() for session in self.sessions)
        yield self._local

    # --- bookkeeping

    def _settled(self, call: Call) -> None:
        """The callee has answered."""
        callee = call.callee
        assert callee is not None
        callee.incoming.pop(call.number, None)
        if call.abandoned:
            callee.abandoned -= 1

    def _finish(self, call: Call, failure: str) -> None:
        """The caller is being answered."""
        call.done = True
        self._forget(call)
        duration_us = int((time.monotonic() - call.started) * 1e6)
        self._count(call.caller_name, call.key, duration_us, failure)
        if call.callee is not None:
            call.callee.stats.add(duration_us, failure)

    def _forget(self, call: Call) -> None:
        call.done = True
        self._local.discard(call)
        parent = call.parent
        if parent is not None and parent.children is not None:
            parent.children.discard(call)
        caller = call.caller
        if caller is not None and caller.outgoing.pop(call.caller_id, None) is not None and parent is None:
            caller.orphans -= 1

    def _count(self, caller: str, key: str, duration_us: int, failure: str) -> None:
        edge = self.edges.get((caller, key))
        if edge is None:
            if len(self.edges) >= MAX_EDGES:
                caller, key = caller[:64], "(other keys)"
            edge = self.edges.setdefault((caller, key), EdgeStats())
        edge.add(duration_us, failure)

    def _traceparent(self, call: Call) -> str:
        return traceparent(call.trace_id, next(self._spans) & 0xFFFFFFFFFFFFFFFF)


class _Owned:
    """A callable reached by number."""

    __slots__ = ("key", "number", "session")

    def __init__(self, session: Session, number: int, key: str) -> None:
        self.session = session
        self.number = number
        self.key = key


class _HostFunction:
    __slots__ = ("fn", "key")

    def __init__(self, fn: Callable[..., Any], key: str) -> None:
        self.fn = fn
        self.key = key


_CANCELLED = Failure("cancelled", "the call that this one belongs to has ended")
_DENIED_DETAIL = "the edge was not granted; declare the key in requires or uses and ask the operator"


async def _run(fn: Callable[..., Any], args: Any, ctx: HostContext) -> Any:
    """A host function: coroutine functions on the loop, plain ones on a thread, since they may block."""
    if inspect.iscoroutinefunction(fn) or isinstance(fn, RemoteCallable):
        return await fn(args, ctx)
    if inspect.isasyncgenfunction(fn):
        return fn(args, ctx)
    result = await asyncio.to_thread(fn, args, ctx)
    return await result if inspect.isawaitable(result) else result
