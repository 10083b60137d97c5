"""Streams: what happens between the RESULT that opens one and the STREAM_END that closes it.

Invariants:
  * A producer has no more items under way than its consumer granted; one that sends more is cut off.
  * Where the interface has a schema of what it gives, each item fits it; the first that does not ends the stream.
  * A stream's deadline is a time without progress: each item and each credit starts it anew. What a stream that answers
    a call is fed by, in that call's arguments, is progress of both.

Not here: streams that host functions produce (``host_functions``), how a stream ends early (``in_flight``).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import repeat
from typing import Any, Final

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.bus.calls import Call, Failure
from core_runtime.bus.in_flight import InFlight
from core_runtime.bus.large import Busy, mark_of, sending_failed
from core_runtime.bus.refusals import Refused, checked
from core_runtime.rules import frames
from core_runtime.rules.frames import FLAG_STREAM, FrameError
from core_runtime.rules.routing import granted_credit
from core_runtime.rules.values import ValueProblem, no_references, unpack

NIL = Raw(b"\xc0")
MAX_HEAD_BYTES: Final = 5
"""Of an array."""
WIDE_ITEMS: Final = 256
"""So many items a producer may be ahead of host code that has taken as many, all short, and goes on as fast."""
FAST_S: Final = 0.001
"""In which such a reader takes half of what may be under way."""
SHORT_BYTES: Final = 4096
AHEAD_BYTES: Final = 1024 * 1024
"""What may wait for a reader that asked for more than the window: with so much, the window is the bound again."""


class Streams:
    """Items and credit of every stream of a bus; belongs to the event loop's thread."""

    def __init__(self, calls: InFlight) -> None:
        self._calls = calls
        self._limits = calls.limits

    def open(self, call: Call, *, closer: bool) -> None:
        """The callee's RESULT that opens a stream. ``closer``: it began with the window that it was asked for."""
        callee = call.callee
        assert callee is not None
        if call.streaming:
            raise FrameError("a stream was opened twice")
        call.streaming = True
        call.credit = (closer and call.window) or self._limits.stream_credit
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
            self._limits.stream_credit, call.credit, lambda n: self.credit(call, n),
            lambda: self._calls.abandon(call, None),
        )  # fmt: skip
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
            body = self._fitting(call, frame.body)
            if call.caller is None:
                assert call.stream is not None
                resolve = callee.references.resolver(frame.refs, call.key) if frame.refs else no_references
                item = unpack(body, resolve, max_nodes=self._limits.decode_nodes)
                call.stream.feed((item,), len(memoryview(body)))
                return
            if refs:
                refs = callee.references.translate(refs, call.caller, (call.caller, call.key))
            call.caller.send((frames.STREAM_ITEM, call.caller_id, refs, body))
        except Refused as exc:
            self._calls.abandon(call, exc.failure)
        except ValueProblem as exc:
            self._calls.abandon(call, Failure(exc.type, str(exc)))
        except FrameError as exc:
            if call.caller is not None:
                call.caller.references.withdraw(refs)
            if not isinstance(exc, Busy):
                callee.limited("message", f"An item of {quote(call.key)}: {exc}.")
            self._calls.abandon(call, sending_failed(exc))

    def batch(self, call: Call, frame: frames.BatchFrame) -> None:
        """The callee's STREAM_BATCH: several items at once, each within the credit."""
        items = frame.items()
        if not call.streaming:
            raise FrameError("items of a stream that was not opened")
        if len(items) > call.credit:
            raise FrameError("more items than the consumer granted")
        size = len(memoryview(frame.body))
        if size > self._limits.batch_bytes + MAX_HEAD_BYTES:
            raise FrameError(f"a batch of {size} bytes ({self._limits.batch_bytes} are allowed)")
        caller, entry = call.caller, call.entry
        checks = entry is not None and entry.checkers is not None
        if checks or (caller is not None and not caller.takes_batches):
            for body in items:
                if mark_of(body):
                    raise FrameError("an item of a batch that is elsewhere")
                self.item(call, frames.ItemFrame(frame.id, [], body))
            return
        call.credit -= len(items)
        if call.abandoned:
            return
        call.progress()
        try:
            if caller is not None:
                caller.send((frames.STREAM_BATCH, call.caller_id, (), frame.body))
                return
            assert call.stream is not None
            values = unpack(frame.body, no_references, max_nodes=self._limits.decode_nodes, around=1)
            call.stream.feed(values, size)
        except ValueProblem as exc:
            self._calls.abandon(call, Failure(exc.type, str(exc)))
        except FrameError as exc:
            self._calls.abandon(call, sending_failed(exc))

    def _fitting(self, call: Call, body: Raw) -> Raw:
        entry = call.entry
        if entry is None or entry.checkers is None:
            return body
        return checked(entry.checkers.output, body, "an item of the stream", self._limits.decode_nodes)

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
    """A stream that host code reads. At most ``window`` items are under way to it, and as many wait unless it asks.

    What is read is granted again in halves, so that the producer need not stop for each item.
    """

    __slots__ = (
        "_ahead", "_bytes", "_cancel", "_ended", "_error", "_grant", "_granted", "_granted_at", "_grows", "_items",
        "_low", "_total", "_waiter", "_window",
    )  # fmt: skip

    def __init__(
        self, window: int, granted: int, grant: Callable[[int], None], cancel: Callable[[], None]
    ) -> None:
        """``granted``: what the producer began with."""
        self._items: deque[tuple[Any, int]] = deque()
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: BaseException | None = None
        self._window = self._ahead = window
        self._low: float = window // 2
        """With more under way and waiting than this, nothing is to be granted."""
        self._granted = granted
        self._grows = True
        self._total = 0
        self._granted_at = 0.0
        self._grant = grant
        self._cancel = cancel

    def keep_ahead(self, items: int) -> None:
        """From now on the producer may be so many items ahead of the reader; 0: it makes one when one is waited for.

        Beyond the window the bytes that wait count as well (``AHEAD_BYTES``).
        """
        self._ahead = items
        self._low = math.inf
        self._grows = False
        self._regrant()

    def feed(self, items: Sequence[Any], size_bytes: int) -> None:
        """Items arrived, that many bytes of them together."""
        count = len(items)
        each = size_bytes // count
        self._items.extend(zip(items, repeat(each)))
        self._bytes += each * count
        self._granted -= count
        if each > SHORT_BYTES:
            self._grows = False
        if self._ahead > self._window:
            self._regrant()
        self._wake()

    def end(self, error: BaseException | None) -> None:
        """Nothing more comes; ``error`` is raised after the items that came before it."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def _regrant(self) -> None:
        waiting = len(self._items)
        ahead = self._ahead if self._bytes < AHEAD_BYTES else min(self._ahead, self._window)
        room = min(ahead - waiting, self._window) - self._granted
        if self._waiter is not None and ahead == waiting == self._granted == 0:
            room = 1
        if room > 0 and room * 2 >= min(ahead, self._window) and not self._ended:
            if self._grows:
                room += self._grown(room)
            self._granted += room
            self._grant(room)

    def _grown(self, taken: int) -> int:
        """How many more than ``taken`` may be under way from now on; as an agent lets its producers."""
        now = time.monotonic()
        self._total += taken
        fast = now - self._granted_at < FAST_S
        self._granted_at = now
        if self._total < WIDE_ITEMS or not fast:
            return 0
        wider = min(2 * self._window, WIDE_ITEMS)
        more = wider - self._window
        self._window = self._ahead = wider
        self._low = wider // 2
        self._grows = wider < WIDE_ITEMS
        return more

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> HostStream:
        return self

    async def __anext__(self) -> Any:
        items = self._items
        while not items:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                if not self._ahead:
                    self._regrant()
                await self._waiter
            finally:
                self._waiter = None
        item, size_bytes = items.popleft()
        self._bytes -= size_bytes
        if len(items) + self._granted <= self._low:
            self._regrant()
        return item

    async def aclose(self) -> None:
        """Stop the producer; later reads end."""
        if not self._ended:
            self._ended = True
            self._items.clear()
            self._cancel()
            self._wake()
