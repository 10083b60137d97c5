"""Host functions that Packs call: run on the loop or on a thread, answered like any other call, streams included.

Not here: whether the Pack may call it (``router``).
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec import Raw

from core_runtime.bus.calls import Call, Failure, HostContext
from core_runtime.bus.in_flight import InFlight
from core_runtime.bus.large import sending_failed
from core_runtime.bus.references import RemoteCallable
from core_runtime.bus.refusals import checked, refused
from core_runtime.bus.streams import NIL
from core_runtime.diagnostics import Diagnostics, fail_soft
from core_runtime.rules import frames
from core_runtime.rules.frames import FLAG_STREAM, FrameError
from core_runtime.rules.routing import SpanContext, traceparent
from core_runtime.rules.values import ValueProblem, pack, unpack
from core_runtime.tracing import CURRENT


class HostFunctions:
    """Runs them for a bus; belongs to the event loop's thread."""

    def __init__(self, calls: InFlight, diagnostics: Diagnostics) -> None:
        self._calls = calls
        self._diagnostics = diagnostics
        self._limits = calls.limits

    def serve(self, call: Call, fn: Callable[..., Any], frame: frames.CallFrame) -> None:
        """Decode the arguments and start ``fn``; its end answers the call. Raises ``Refused``."""
        caller = call.caller
        assert caller is not None
        if call.depth > self._limits.depth:
            raise refused("depth", f"calls are nested deeper than {self._limits.depth}")
        if call.entry is not None and call.entry.checkers is not None:
            body = checked(call.entry.checkers.input, frame.body, "args", self._limits.decode_nodes)
        else:
            body = frame.body
        try:
            args = unpack(
                body,
                caller.references.resolver(frame.refs, call.key),
                max_nodes=self._limits.decode_nodes,
            )
        except ValueProblem as exc:
            raise refused(exc.type, str(exc)) from exc
        self._calls.local.add(call)
        call.task = caller.loop.create_task(self._run(call, fn, args, frame.idempotency))

    async def _run(self, call: Call, fn: Callable[..., Any], args: Any, idempotency: str | None) -> None:
        caller = call.caller
        assert caller is not None
        refs: list[tuple[int, int]] = []
        try:
            call.span = next(self._calls.spans)
            CURRENT.set(SpanContext(call.trace_id, call.span, call.sampled))  # of this task
            trace = traceparent(call.trace_id, call.span, sampled=call.sampled)
            result = await run_function(fn, args, HostContext(call, idempotency, trace))
            if isinstance(result, AsyncIterator):
                await self._produce(call, result)
            else:
                body = Raw(pack(result, caller.references.exporter(refs)))
                if not call.done:
                    self._calls.answer(call, refs, body)
        except ValueProblem as exc:
            caller.references.withdraw(refs)
            self._calls.fail(call, Failure(exc.type, str(exc)))
        except FrameError as exc:
            self._calls.fail(call, sending_failed(exc))
        except Exception as exc:  # noqa: BLE001  whatever the function raised is the caller's answer
            self._calls.fail(call, Failure.of(exc))

    async def _produce(self, call: Call, items: AsyncIterator[Any]) -> None:
        """Stream a host function's items to a Pack, within its credit."""
        caller = call.caller
        assert caller is not None
        room = asyncio.Semaphore(self._limits.stream_credit)

        def more(n: int) -> None:
            for _ in range(n):
                room.release()

        call.on_credit = more
        call.streaming = True
        call.credit = self._limits.stream_credit
        caller.send((frames.RESULT, call.caller_id, FLAG_STREAM, (), NIL))
        try:
            async for item in items:
                await room.acquire()
                refs: list[tuple[int, int]] = []
                body = Raw(pack(item, caller.references.exporter(refs)))
                call.credit -= 1
                call.progress()
                caller.send((frames.STREAM_ITEM, call.caller_id, refs, body))
        finally:
            close = getattr(items, "aclose", None)
            if close is not None:
                with fail_soft(self._diagnostics, "a host function's stream", "bus", step_id=call.key):
                    await close()
        self._calls.end_stream(call, None)


async def run_function(fn: Callable[..., Any], args: Any, ctx: HostContext) -> Any:
    """A host function: coroutine functions on the loop, plain ones on a thread, since they may block."""
    if inspect.iscoroutinefunction(fn) or isinstance(fn, RemoteCallable):
        return await fn(args, ctx)
    if inspect.isasyncgenfunction(fn):
        return fn(args, ctx)
    result = await asyncio.to_thread(fn, args, ctx)
    return await result if inspect.isawaitable(result) else result
