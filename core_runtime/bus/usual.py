"""The usual call in one piece: a plain value there, a plain value back, no schema, nobody ends anything early.

Most calls are like that, and what one costs is the number of steps that the interpreter takes for it: here they are
half as many as on the general way (``router``, ``in_flight``), which every other call goes.

Invariants:
  * Nothing is decided here. Rights, versions and holds were looked at before, as for every call; what is unusual in any
    way, a refusal above all, is left to the general way, with nothing touched. So is a frame that does not go out: that
    is its receiver's doing, and no reason to end the connection of who sent it.
  * What is left behind is what the general way leaves behind: either may begin a call that the other ends.

Not here: anything that answers with an error.
"""

from __future__ import annotations

import random
from time import monotonic
from typing import TYPE_CHECKING

from msgspec import Raw

from core_runtime.bus.calls import Call, CallContext, HostContext
from core_runtime.bus.in_flight import InFlight
from core_runtime.bus.large import MARK_BYTES
from core_runtime.interface_registry import Entry
from core_runtime.rules.frames import CALL, RESULT, BusLimits, CallFrame, FrameError, ResultFrame
from core_runtime.rules.routing import reenter_id
from core_runtime.rules.values import ValueProblem, no_references, unpack
from core_runtime.tracing import CURRENT

if TYPE_CHECKING:
    from core_runtime.bus.references import RemoteCallable
    from core_runtime.bus.sessions import Session

_NOBODY: tuple[str, tuple[str, ...], str | None] = ("", (), None)


class Usual:
    """One for a bus; belongs to the event loop's thread."""

    def __init__(self, calls: InFlight, limits: BusLimits) -> None:
        self._calls = calls
        self._limits = limits

    def begin(
        self,
        target: RemoteCallable,
        entry: Entry,
        body: bytes,
        context: CallContext | HostContext | None,
        timeout_s: float | None,
        once: str | None,
    ) -> Call | None:
        """Send a call of the host's own that no other call and no trace is above. None: nothing was done.

        ``body``: what ``pack_flat`` made of its arguments; ``once``: its idempotency key.
        """
        callee = target.session
        calls = self._calls
        if entry.checkers is not None or callee.dead or callee.draining:
            return None
        if calls.tracer is not None or CURRENT.get() is not None:
            return None
        name, chain, flow = _NOBODY
        if context is not None:
            if type(context) is not CallContext or context.parent is not None or context.traceparent:
                return None
            name, chain, flow = context.caller, context.chain, context.flow
        size = len(body)
        if size > self._limits.file_bytes or not callee.places.take(None, size, congested=callee.congested):
            return None
        trace_id = f"{random.getrandbits(128) or 1:032x}"
        number = callee.next_id()
        call = Call(target.key, callee, None, 0, name, None, 0, chain, trace_id, flow, entry, number, size)
        call.span = span = next(calls.spans)
        ms = calls.budget(call, 0 if timeout_s is None else max(1, int(timeout_s * 1000)))
        above = (f"00-{trace_id}-{span:016x}-01", name, chain, flow)
        try:
            callee.send((CALL, number, target.number, ms, 0, 0, 0, above, once, (), Raw(body)))
        except FrameError:  # the general way meets it as well, and tells
            callee.places.give_back(None, size)
            return None
        call.future = callee.loop.create_future()
        callee.incoming[number] = call
        return call

    def forward(self, caller: Session, frame: CallFrame, entry: Entry, target: RemoteCallable, now: float) -> bool:
        """Send on what a Pack calls and may call, ``now`` by ``time.monotonic``. False: nothing was done."""
        callee = target.session
        limits = self._limits
        size = len(frame.body)
        if not frame.id or frame.refs or frame.idempotency is not None or size > limits.file_bytes:
            return False
        if entry.checkers is not None or callee.dead or callee.draining or self._calls.tracer is not None:
            return False
        if len(caller.outgoing) >= limits.in_flight:
            return False
        name = caller.pack_id
        parent = caller.incoming.get(frame.parent) if frame.parent else None
        chain: tuple[str, ...] = ()
        if parent is None:
            if caller.orphans >= limits.orphans:
                return False
            depth, flow, sampled = 0, None, True
            trace_id = f"{random.getrandbits(128) or 1:032x}"
        else:
            depth = parent.depth + 1
            if parent.abandoned or depth > limits.depth:
                return False
            chain, flow, sampled = (*parent.chain, parent.caller_name), parent.flow, parent.sampled
            trace_id = parent.trace_id
        if not callee.places.take(name, size, congested=callee.congested):
            return False
        number = callee.next_id()
        call = Call(
            entry.key, callee, caller, frame.id, name, parent, depth, chain, trace_id, flow, entry, number, size, now
        )
        call.sampled = sampled
        call.span = span = next(self._calls.spans)
        ms = self._calls.budget(call, frame.deadline_ms)
        reenter = reenter_id(call, callee) if parent is not None or caller is callee else 0
        above = (
            f"00-{trace_id}-{span:016x}-{'01' if sampled else '00'}", name, chain, flow,
        )  # fmt: skip
        try:
            callee.send((CALL, number, target.number, ms, 0, depth, reenter, above, None, (), frame.body))
        except FrameError:  # the general way meets it as well, and tells
            callee.places.give_back(name, size)
            return False
        caller.outgoing[frame.id] = callee.incoming[number] = call
        if parent is None:
            caller.orphans += 1
        elif parent.children is None:
            parent.children = {call}
        else:
            parent.children.add(call)
        return True

    def end(self, callee: Session, frame: ResultFrame) -> bool:
        """Give the caller a value that answers its call. False: nothing was done."""
        call = callee.incoming.get(frame.id)
        if call is None or frame.flags or frame.refs or call.done or call.streaming:
            return False
        entry = call.entry
        if entry is None or entry.checkers is not None or call.sources is not None or callee.draining:
            return False
        body = frame.body
        size = len(body)
        if size == MARK_BYTES or size > self._limits.file_bytes:
            return False
        if call.caller_id <= 0 and call.future is None:  # nobody waits for it
            return False
        caller, future, parent = call.caller, call.future, call.parent
        value = None
        if caller is None:
            try:
                value = unpack(body, no_references, max_nodes=self._limits.decode_nodes)
            except ValueProblem:  # the general way meets it as well, and tells
                return False
            name = None
        else:
            name = caller.pack_id
            try:
                caller.send((RESULT, call.caller_id, 0, (), body))
            except FrameError:  # likewise
                return False
            del caller.outgoing[call.caller_id]
            if parent is None:
                caller.orphans -= 1
        del callee.incoming[frame.id]
        callee.places.give_back(name, call.size_bytes)
        call.done = True
        if parent is not None and parent.children is not None:
            parent.children.discard(call)
        calls = self._calls
        now = monotonic()
        edge = calls.edges.get((call.caller_name, call.key)) or calls.edge(call.caller_name, call.key)
        edge.latency.add_with(callee.stats.latency, int((now - call.started) * 1e6))
        if calls.tracer is not None and call.sampled:
            calls.tracer.call(call, now, "")
        if future is not None and not future.done():
            future.set_result(value)
        return True
