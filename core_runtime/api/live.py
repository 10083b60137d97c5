"""GET /api/events: the host's event bus as server-sent events, with replay after an interruption.

The bus is subscribed by the first stream and left ``LINGER_S`` after the last: the bus of a host without readers pays
nothing. A reader who comes back with ``Last-Event-ID`` is told what happened since, from the ring while the id is in
it, else from the event journal, which outlives the host; then what happens.

Invariants:
  * ``RING_EVENTS`` events of at most ``event_history.PAYLOAD_BYTES`` each are kept here; a reader who falls behind gets
    a ``lost`` event with the number, never an unbounded queue. Where the journal no longer holds everything after an
    id, ``lost`` says so without a number.
  * A payload that JSON can't carry, or a too large one, is shown by its attributes alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from core_runtime.api.sse import EventStream, event, event_bytes
from core_runtime.event_bus import PACK_SOURCE, Event, EventBus
from core_runtime.event_history import EventHistory, shown_event

if TYPE_CHECKING:
    from core_runtime.api.call import Call
    from core_runtime.api.context import Api

RING_EVENTS = 1024
LINGER_S = 60.0
KEPT_EVENTS = 100
KEPT_MOST = 1000


class Live(Struct):
    """The ring and its readers. Lives on the loop's thread; events of other threads are handed over."""

    bus: EventBus
    conceal: Callable[[Any], Any]
    """Hides known secrets: the stream is the operator's view of what Packs publish, not a way for data."""
    history: EventHistory | None = None
    _ring: deque[tuple[int, str, bytes]] = field(default_factory=lambda: deque(maxlen=RING_EVENTS))
    _last: int = 0
    _readers: int = 0
    _subscription: str = ""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.TimerHandle | None = None

    async def stream(self, after_id: str) -> AsyncGenerator[bytes, None]:
        """Events from now on, or those after ``after_id``."""
        self._enter()
        try:
            position = self._after(after_id)
            yield event("open", {"replay_from": after_id or None})
            told: set[str] = set()
            if position is None:
                position = self._last  # what comes while the journal is read is in the ring, and maybe in both
                async for chunk in self._from_journal(after_id, told):
                    yield chunk
            while True:
                first = self._last - len(self._ring) + 1
                if position < first - 1:
                    yield event("lost", {"events": first - 1 - position})
                    position = first - 1
                for number, event_id, data in [kept for kept in self._ring if kept[0] > position]:
                    if event_id not in told:
                        yield event_bytes("event", data, event_id)
                    position = number
                if position >= self._last:
                    told.clear()
                    self._news.clear()
                    await self._news.wait()
        finally:
            self._leave()

    def close(self) -> None:
        """Forget everything and let go of the bus."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._subscription:
            self.bus.unsubscribe("*", self._subscription)
            self._subscription = ""
        self._ring.clear()

    def _enter(self) -> None:
        self._readers += 1
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if not self._subscription:
            loop = asyncio.get_running_loop()

            def hand_over(seen: Event) -> None:
                loop.call_soon_threadsafe(self._keep, seen)

            self._subscription = self.bus.subscribe_events("*", hand_over)

    def _leave(self) -> None:
        self._readers -= 1
        if not self._readers:
            self._leaving = asyncio.get_running_loop().call_later(LINGER_S, self.close)

    def _keep(self, seen: Event) -> None:
        self._last += 1
        self._ring.append((self._last, seen.id, shown_event(seen, self.conceal)))
        self._news.set()

    def _after(self, event_id: str) -> int | None:
        """The place of an id in the ring, the end without one; None for one that the ring does not hold."""
        if not event_id:
            return self._last
        return next((number for number, kept_id, _ in self._ring if kept_id == event_id), None)

    async def _from_journal(self, after_id: str, told: set[str]) -> AsyncGenerator[bytes, None]:
        rows = await self.history.rows(after_id) if self.history is not None else None
        if rows is None or not rows.complete:
            yield event("lost", {"events": None})
        if rows is None:
            return
        told_of_gap = not rows.complete
        async for page in rows.pages():
            if not (told_of_gap or rows.complete):  # it went while the pages before were sent
                told_of_gap = True
                yield event("lost", {"events": None})
            for row in page:
                event_id = f"{row.run}-{row.number}"
                if row.run == self.bus.run:
                    told.add(event_id)
                yield event_bytes("event", row.shown, event_id)
        if not (told_of_gap or rows.complete):
            yield event("lost", {"events": None})


async def kept(api: Api, call: Call) -> Any:
    """The newest events of the journal, oldest first; ``pack`` chooses those that one Pack published."""
    count, pack_id = call.count("count", KEPT_EVENTS, KEPT_MOST), call.text("pack")
    source = f"{PACK_SOURCE}{pack_id}" if pack_id else ""
    return [msgspec.Raw(row.shown) for row in await api.host.history.newest(source, count)]


async def events(api: Api, call: Call) -> Any:
    """The endpoint."""
    api.streams.admit()
    return EventStream(api.streams, api.live().stream(call.last_event_id))
