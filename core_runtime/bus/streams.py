"""Streams: what happens between the RESULT that opens one and the STREAM_END that closes it.

Invariants:
  * A producer has no more items under way than its consumer granted; one that sends more is cut off.
  * A stream's deadline is a time without progress: each item and each credit starts it anew. What a stream that answers
    a call is fed by, in that call's arguments, is progress of both.

Not here: streams that host functions produce (``host_functions``), how a stream ends early (``in_flight``).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.bus.calls import Call, Failure
from core_runtime.bus.in_flight import InFlight
from core_runtime.bus.large import Busy, sending_failed
from core_runtime.rules import frames
from core_runtime.rules.frames import FLAG_STREAM, FrameError
from core_runtime.rules.routing import granted_credit
from core_runtime.rules.values import ValueProblem, no_references, unpack

NIL = Raw(b"\xc0")


class Streams:
    """Items and credit of every stream of a bus; belongs to the event loop's thread."""

    def __init__(self, calls: InFlight) -> None:
        self._calls = calls
        self._limits = calls.limits

    def open(self, call: Call) -> None:
        """The callee's RESULT that opens a stream."""
        callee = call.callee
        assert callee is not None
        if call.streaming:
            raise FrameError("a stream was opened twice")
        call.streaming = True
        call.credit = self._limits.stream_credit
        if call.abandoned:
            return
        if call.caller_id < 0:
            self._calls.abandon(call, None)
            return
        call.deadline = time.monotonic() + call.budget_s
        if call.caller is not None:
            call.caller.send((frames.RESULT, call.caller_id, FLAG_STREAM, (), NIL))
            return
        call.stream = HostStream(
            self._limits.stream_credit, lambda n: self.credit(call, n), lambda: self._calls.abandon(call, None)
        )
        if call.future is not None and not call.future.done():
            call.future.set_result(call.stream)

    def item(self, call: Call, frame: frames.ItemFrame, dropped: Failure | None = None) -> None:
        """The callee's STREAM_ITEM, within the credit it was given. ``dropped``: why its value did not get through."""
        callee = call.callee
        assert callee is not None
        if not call.streaming:
            raise FrameError("an item of a stream that was not opened")
        if call.credit <= 0:
            raise FrameError("more items than the consumer granted")
        call.credit -= 1
        if call.abandoned:
            return
        if dropped is not None:
            self._calls.abandon(call, dropped)
            return
        call.progress()
        refs: Any = frame.refs
        try:
            if call.caller is None:
                assert call.stream is not None
                resolve = callee.references.resolver(frame.refs, call.key) if frame.refs else no_references
                call.stream.feed(unpack(frame.body, resolve, max_nodes=self._limits.decode_nodes))
                return
            if refs:
                refs = callee.references.translate(refs, call.caller, (call.caller, call.key))
            call.caller.send((frames.STREAM_ITEM, call.caller_id, refs, frame.body))
        except ValueProblem as exc:
            self._calls.abandon(call, Failure(exc.type, str(exc)))
        except FrameError as exc:
            if call.caller is not None:
                call.caller.references.withdraw(refs)
            if not isinstance(exc, Busy):
                callee.limited("message", f"An item of {quote(call.key)}: {exc}.")
            self._calls.abandon(call, sending_failed(exc))

    def credit(self, call: Call, n: int) -> None:
        """The consumer's STREAM_CREDIT; what would exceed the producer's window is swallowed."""
        if call.done or not call.streaming:
            return
        granted = granted_credit(call.credit, n, self._limits.credit_ahead)
        if not granted:
            return
        call.credit += granted
        call.progress()
        if call.callee is not None:
            call.callee.send((frames.STREAM_CREDIT, call.number, granted))
        elif call.on_credit is not None:
            call.on_credit(granted)

    def end(self, call: Call, failure: Failure | None) -> None:
        """The callee's STREAM_END."""
        if not call.streaming:
            raise FrameError("the end of a stream that was not opened")
        abandoned = call.abandoned
        self._calls.settled(call)
        if not abandoned:
            self._calls.end_stream(call, failure)


class HostStream(AsyncIterator[Any]):
    """A stream that host code reads. At most ``credit`` items wait; what is read is granted again in halves."""

    __slots__ = ("_cancel", "_credit", "_ended", "_error", "_grant", "_items", "_read", "_waiter")

    def __init__(self, credit: int, grant: Callable[[int], None], cancel: Callable[[], None]) -> None:
        self._items: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._credit = credit
        self._read = 0
        self._grant = grant
        self._cancel = cancel

    def feed(self, item: Any) -> None:
        """One item arrived."""
        self._items.append(item)
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; ``error`` is raised after the items that came before it."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> HostStream:
        return self

    async def __anext__(self) -> Any:
        while not self._items:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        self._read += 1
        if self._read * 2 >= self._credit and not self._ended:
            self._grant(self._read)
            self._read = 0
        return item

    async def aclose(self) -> None:
        """Stop the producer; later reads end."""
        if not self._ended:
            self._ended = True
            self._items.clear()
            self._cancel()
            self._wake()
