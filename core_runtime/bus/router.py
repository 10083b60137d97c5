"""The way of a call: from a Pack or the host to a Pack or the host, and its answer back.

Invariants:
  * The edge is checked for each call (``targets``), before anything else is done for it.
  * Bodies are forwarded as they came, inside the read callback (they alias the read buffer), except where a schema
    exists: then the *decoded* value is checked and encoded anew, since two parsers may read the same bytes differently.

Not here: what a call names (``targets``), how it ends (``in_flight``), streams (``streams``), running host functions
(``host_functions``), frames of one connection (``sessions``), who may do what (the rights), the registry.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from backend_core.errors import NotFoundError, quote
from core_runtime.bus.calls import Call, CallContext, Failure, HostContext
from core_runtime.bus.holding import Holds
from core_runtime.bus.host_functions import HostFunctions, run_function
from core_runtime.bus.in_flight import InFlight
from core_runtime.bus.large import Busy, Room, sending_failed
from core_runtime.bus.references import RemoteCallable
from core_runtime.bus.refusals import Refused, checked, refused
from core_runtime.bus.sleeping import Sleeper
from core_runtime.bus.streams import Streams
from core_runtime.bus.targets import REMOTE, HostFunction, named, no_edge, target_of
from core_runtime.bus.usual import Usual
from core_runtime.diagnostics import Diagnostics
from core_runtime.interface_registry import Entry, InterfaceRegistry
from core_runtime.rules import frames
from core_runtime.rules.frames import FLAG_CLOSER, FLAG_STREAM, WINDOW_SHIFT, BusLimits, FrameError
from core_runtime.rules.routing import SpanContext, reenter_id, span_of, traceparent
from core_runtime.rules.values import ValueProblem, no_references, pack, pack_flat, unpack
from core_runtime.tracing import CURRENT

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session


class Router:
    """One for a bus; belongs to the event loop's thread."""

    def __init__(self, registry: InterfaceRegistry, diagnostics: Diagnostics, limits: BusLimits) -> None:
        self.registry = registry
        self.diagnostics = diagnostics
        self.limits = limits
        self.room = Room(limits.values_bytes)
        self.memory_room = Room(limits.values_bytes)
        self.calls = InFlight(limits)
        self.sessions = self.calls.sessions
        self.edges = self.calls.edges
        self.streams = Streams(self.calls)
        self.holds = Holds(self)
        self.usual = Usual(self.calls, limits)
        self._host_functions = HostFunctions(self.calls, diagnostics)

    # --- from the host

    async def call_key(
        self,
        key: str,
        args: Any,
        *,
        context: CallContext | HostContext | None,
        timeout_s: float | None,
        idempotency_key: str | None,
        ahead: int | None = None,
        judge: Callable[[], None] | None = None,
    ) -> Any:
        """Call what ``key`` answers with now; where its provider changes hands, when that is over.

        ``judge`` is asked when the call goes out, and raises where it may not. ``ahead``: how many items of a stream
        its provider may make before the first is read, if fewer than usual.
        """
        if self.holds.active:
            timeout_s = await self.holds.pause(key, context, timeout_s)
        entry = self.registry.resolve(key)
        if entry is not None and isinstance(entry.value, Sleeper):
            timeout_s = await self.holds.wait(entry.value.wake(), key, context, timeout_s)
            entry = self.registry.resolve(key)
        if judge is not None:
            judge()
        if entry is not None and type(entry.value) is RemoteCallable:
            call, flat = None, pack_flat(args)
            if flat is not None and ahead is None:
                call = self.usual.begin(entry.value, entry, flat, context, timeout_s, idempotency_key)
            if call is None:
                call = self._start(entry.value, args, flat, context, timeout_s, idempotency_key, entry, ahead)
            assert call.future is not None
            try:
                return await call.future
            except asyncio.CancelledError:
                if not call.done:
                    self.calls.abandon(call, None)
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
        call.span = next(self.calls.spans)
        ctx = HostContext(call, idempotency_key, traceparent(call.trace_id, call.span, sampled=call.sampled))
        async with asyncio.timeout(call.budget_s):
            return await run_function(value, args, ctx)

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
        call = self._start(target, args, pack_flat(args), context, timeout_s, idempotency_key, None)
        assert call.future is not None
        try:
            return await call.future
        except asyncio.CancelledError:
            if not call.done:
                self.calls.abandon(call, None)
            raise

    def _start(
        self,
        target: RemoteCallable,
        args: Any,
        flat: bytes | None,
        context: CallContext | HostContext | None,
        timeout_s: float | None,
        idempotency_key: str | None,
        entry: Entry | None,
        ahead: int | None = None,
    ) -> Call:
        """Send a host-side call; its ``future`` gets what comes of it. ``flat``: ``pack_flat`` of ``args``."""
        callee = target.session
        call = self._host_call(target.key, callee, context, timeout_s, entry)
        if ahead is not None and ahead < self.limits.stream_credit:
            call.window = max(1, ahead)
        refs: list[tuple[int, int]] = []
        try:
            body: Any = None
            if flat is not None:
                body = Raw(flat)
            elif type(args) is bytes and len(args) > self.limits.file_bytes:
                body = callee.memory.stored(args)
            if body is None:
                body = Raw(pack(args, callee.references.exporter(refs, call)))
            if entry is not None and entry.checkers is not None:
                body = checked(entry.checkers.input, body, "args", self.limits.decode_nodes)
            call.future = callee.loop.create_future()
            self._send(call, target.number, idempotency_key, refs, body)
        except ValueProblem as exc:
            callee.references.withdraw(refs)
            self.calls.forget(call)
            raise Failure(exc.type, str(exc)).exception("", target.key) from exc
        except Refused as exc:
            callee.references.withdraw(refs)
            self.calls.forget(call)
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
            parent, around = None, CURRENT.get()
            trace = around.trace_id if around is not None else f"{random.getrandbits(128) or 1:032x}"
            call = Call(key, callee, None, 0, "", None, 0, (), trace, None, entry)
            if around is not None or self.calls.tracer is not None:
                self._traced(call, around)
        elif isinstance(context, HostContext):
            parent = context.call
            call = Call(
                key, callee, None, 0, "", parent, parent.depth + 1, (*parent.chain, parent.caller_name),
                parent.trace_id, parent.flow, entry,
            )  # fmt: skip
        else:
            parent = context.parent
            around = span_of(context.traceparent) or CURRENT.get() if parent is None else None
            above = parent or around
            trace = above.trace_id if above is not None else f"{random.getrandbits(128) or 1:032x}"
            call = Call(
                key, callee, None, 0, context.caller, parent, parent.depth + 1 if parent is not None else 0,
                context.chain, trace, context.flow, entry,
            )  # fmt: skip
            if parent is None:
                self._traced(call, around)
        if parent is not None:
            call.sampled = parent.sampled
            if parent.children is None:
                parent.children = set()
            parent.children.add(call)
        asked_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
        self.calls.budget(call, asked_ms)
        return call

    def _traced(self, call: Call, above: SpanContext | None) -> None:
        """A call that no other call is above: below what is in another process or in the host, or the first one."""
        if above is not None:
            call.remote_span, call.sampled = above.span, above.sampled
        elif self.calls.tracer is not None:
            call.sampled = self.calls.tracer.samples(call.trace_id)

    # --- from a Pack

    def from_pack(self, caller: Session, frame: frames.CallFrame) -> None:
        """Route a CALL frame. Whatever is wrong with it is answered on it."""
        call: Call | None = None
        try:
            now = time.monotonic()
            if caller.called(now) > self.limits.calls_per_s:
                caller.limited("rate", f"It made more than {self.limits.calls_per_s} calls in a second.")
                raise refused("limit", f"more than {self.limits.calls_per_s} calls in a second", retryable=True)
            if self.holds.active and isinstance(frame.key, str):
                call = self._held(caller, frame, frame.key)
                if call is not None:
                    return
            entry, target = target_of(caller, frame)
            if type(target) is RemoteCallable and entry is not None and self.usual.forward(
                caller, frame, entry, target, now
            ):
                return
            key = entry.key if entry is not None else target.key
            callee = target.session if type(target) in REMOTE else None
            call = self._pack_call(caller, frame, key, callee, entry)
            if callee is not None:
                self._forward(call, target.number, frame, caller, callee)
            else:
                function = target.fn if isinstance(target, HostFunction) else target
                if isinstance(function, Sleeper):
                    self.holds.keep(function.wake(), call, frame)
                else:
                    self._host_functions.serve(call, function, frame)
            if type(frame.key) is int:
                caller.references.reads(frame.key, call)
        except Refused as exc:
            if call is not None:
                self.calls.forget(call)
            self.calls.count(caller.pack_id, frame.key if isinstance(frame.key, str) else "", 0, exc.failure.type)
            caller.send_error(frame.id, exc.failure)

    def _held(self, caller: Session, frame: frames.CallFrame, key: str) -> Call | None:
        """The call, if it waits now for a Pack that changes hands: judged as any other, before anything is said."""
        hold = self.holds.over(key, caller.pack_id, caller.incoming.get(frame.parent))
        if hold is None:
            return None
        if not caller.rights().may_see(key):  # it is judged, and spends what was granted for one use, when it goes out
            raise no_edge(caller, key)
        call = self._pack_call(caller, frame, key, None, None)
        try:
            self.holds.keep(hold, call, frame)
        except Refused:
            self.calls.forget(call)
            raise
        return call

    def resume(self, call: Call, frame: frames.CallFrame) -> None:
        """Send a Pack's call that was held, if that may still be, unless it has ended in the meantime."""
        caller = call.caller
        assert caller is not None
        if call.done:
            return
        self.calls.local.discard(call)
        call.budget_s = max(0.001, call.deadline - time.monotonic())
        try:
            call.entry, value = named(caller, call.key)
            if isinstance(value, Sleeper):
                self.holds.keep(value.wake(), call, frame)
            elif isinstance(value, RemoteCallable):
                call.callee = value.session
                self._forward(call, value.number, frame, caller, value.session)
            else:
                self._host_functions.serve(call, value, frame)
        except Refused as exc:
            self.calls.fail(call, exc.failure)

    def _pack_call(
        self, caller: Session, frame: frames.CallFrame, key: str, callee: Session | None, entry: Entry | None
    ) -> Call:
        limits = self.limits
        if len(caller.outgoing) >= limits.in_flight:
            caller.limited("calls", f"{limits.in_flight} calls of it are in flight.")
            raise refused("limit", f"{limits.in_flight} calls are in flight already", retryable=True)
        parent = caller.incoming.get(frame.parent) if frame.parent else None
        if parent is not None and parent.abandoned:
            raise refused("cancelled", "the call that this one belongs to has ended")
        if parent is None and caller.orphans >= limits.orphans:
            caller.limited("calls", f"{limits.orphans} calls of it that belong to no other are in flight.")
            raise refused("limit", f"{limits.orphans} calls without a parent are in flight already", retryable=True)
        if parent is None:
            call = Call(
                key, callee, caller, frame.id or caller.silent_id(), caller.pack_id, None, 0, (),
                f"{random.getrandbits(128) or 1:032x}", None, entry,
            )  # fmt: skip
            caller.orphans += 1
            if self.calls.tracer is not None:
                self._traced(call, None)
        else:
            call = Call(
                key, callee, caller, frame.id or caller.silent_id(), caller.pack_id, parent, parent.depth + 1,
                (*parent.chain, parent.caller_name), parent.trace_id, parent.flow, entry,
            )  # fmt: skip
            call.sampled = parent.sampled
            if parent.children is None:
                parent.children = {call}
            else:
                parent.children.add(call)
        caller.outgoing[call.caller_id] = call
        self.calls.budget(call, frame.deadline_ms)
        return call

    def _forward(self, call: Call, number: int, frame: frames.CallFrame, caller: Session, callee: Session) -> None:
        entry = call.entry
        body = frame.body
        if entry is not None and entry.checkers is not None:
            body = checked(entry.checkers.input, body, "args", self.limits.decode_nodes)
        refs: Any = frame.refs
        try:
            if refs:
                refs = caller.references.translate(refs, callee, (caller, call.key), call)
            self._send(call, number, frame.idempotency, refs, body)
        except ValueProblem as exc:
            raise refused(exc.type, str(exc)) from exc
        except Refused:
            callee.references.withdraw(refs)
            raise

    def _send(self, call: Call, number: int, idempotency: str | None, refs: Any, body: Any) -> None:
        """Put the CALL on the callee's wire and into its table."""
        callee = call.callee
        assert callee is not None
        limits = self.limits
        if callee.dead:
            raise refused("dead_reference", "its Pack has stopped", "get the callable again", retryable=True)
        if callee.draining and not _serves(callee, call.parent):
            raise refused("unavailable", f"{callee.pack_id} is stopping", retryable=True)
        if call.depth > limits.depth:
            if call.caller is not None:
                call.caller.limited("depth", f"Its call of {quote(call.key)} would be deeper than {limits.depth}.")
            raise refused("depth", f"calls are nested deeper than {limits.depth}")
        caller = call.caller.pack_id if call.caller is not None else None
        call.size_bytes = len(memoryview(body))
        if not callee.places.take(caller, call.size_bytes, congested=callee.congested):
            if call.size_bytes > limits.value_bytes:
                title = f"a value of {call.size_bytes} bytes exceeds the limit of {limits.value_bytes}"
                raise refused("value.too_large", title, "send a stream, or write a file")
            callee.limited("busy", f"{len(callee.incoming)} calls wait for it, the newest of {quote(call.key)}.")
            raise refused("limit", f"{callee.pack_id} is busy", "too many calls wait for it", retryable=True)
        call.number = callee.next_id()
        call.span = span = next(self.calls.spans)
        reenter = reenter_id(call, callee) if call.parent is not None or call.caller is callee else 0
        frame = (
            frames.CALL,
            call.number,
            number,
            int(call.budget_s * 1000) or 1,
            call.window << WINDOW_SHIFT,
            call.depth,
            reenter,
            (traceparent(call.trace_id, span, sampled=call.sampled), call.caller_name, call.chain, call.flow),
            idempotency,
            refs,
            body,
        )
        try:
            if call.size_bytes > limits.file_bytes:
                callee.send_large(frame, call.caller)
            else:
                callee.send(frame)
        except FrameError as exc:
            if call.caller is not None and not isinstance(exc, Busy):
                call.caller.limited("message", f"Its call of {quote(call.key)}: {exc}.")
            callee.places.give_back(caller, call.size_bytes)
            raise Refused(sending_failed(exc)) from exc
        callee.incoming[call.number] = call

    # --- answers

    def result(self, call: Call, frame: frames.ResultFrame) -> None:
        """The callee's RESULT."""
        callee = call.callee
        assert callee is not None
        if frame.flags & FLAG_STREAM:
            self.streams.open(call, closer=bool(frame.flags & FLAG_CLOSER))
            return
        if call.abandoned:
            self.calls.settled(call)
            return
        checker = call.entry.checkers.output if call.entry is not None and call.entry.checkers is not None else None
        try:
            body = (
                checked(checker, frame.body, "the result", self.limits.decode_nodes)
                if checker is not None
                else frame.body
            )
            if call.caller is None:
                value = unpack(
                    body,
                    callee.references.resolver(frame.refs, call.key) if frame.refs else no_references,
                    max_nodes=self.limits.decode_nodes,
                )
                self.calls.settled(call)
                self.calls.finish(call, "")
                if call.future is not None and not call.future.done():
                    call.future.set_result(value)
                return
            refs: Any = frame.refs
            if refs:
                refs = callee.references.translate(refs, call.caller, (call.caller, call.key))
        except ValueProblem as exc:
            self.calls.settled(call)
            self.calls.fail(call, Failure(exc.type, str(exc)))
        except Refused as exc:
            self.calls.settled(call)
            self.calls.fail(call, exc.failure)
        else:
            self.calls.settled(call)
            self.calls.answer(call, refs, body)

    def error(self, call: Call, failure: Failure) -> None:
        """The callee's ERROR."""
        abandoned = call.abandoned
        self.calls.settled(call)
        if not abandoned:
            self.calls.fail(call, failure)


def _serves(session: Session, call: Call | None) -> bool:
    """Whether a call descends from one that the session is serving, which can't end without it."""
    while call is not None:
        if call.callee is session:
            return True
        call = call.parent
    return False
