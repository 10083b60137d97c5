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
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct, field

from backend_core.errors import NotFoundError
from core_runtime.api.sse import EventStream, event, event_bytes
from core_runtime.event_bus import PACK_SOURCE, Event, EventBus
from core_runtime.event_history import EventHistory, shown_event
from core_runtime.rules.subscriptions import OLDEST

if TYPE_CHECKING:
    from core_runtime.api.call import Call
    from core_runtime.api.context import Api

RING_EVENTS = 1024
LINGER_S = 60.0
KEPT_EVENTS = 100
KEPT_MOST = 1000


class Seen(Struct, frozen=True):
    """One event. ``shown``: what the operator may see of it, as JSON."""

    id: str
    time_s: float
    shown: bytes


class News(Struct, frozen=True):
    """Events in their order.

    ``lost``: how many are missing before them, None for an unknown number.
    """

    events: list[Seen] = field(default_factory=list)
    lost: int | None = 0


class Live(Struct):
    """The ring and its readers. Lives on the loop's thread; events of other threads are handed over."""

    bus: EventBus
    conceal: Callable[[Any], Any]
    """Hides known secrets: the stream is the operator's view of what Packs publish, not a way for data."""
    history: EventHistory | None = None
    _ring: deque[tuple[int, Seen]] = field(default_factory=lambda: deque(maxlen=RING_EVENTS))
    _last: int = 0
    _readers: int = 0
    _subscription: str = ""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.TimerHandle | None = None

    async def stream(self, after_id: str) -> AsyncGenerator[bytes, None]:
        """Events from now on, or those after ``after_id``, as server-sent events."""
        async with contextlib.aclosing(self.news(after_id)) as found:
            await anext(found)
            yield event("open", {"replay_from": after_id or None})
            async for news in found:
                for chunk in _chunks(news):
                    yield chunk

    async def news(self, after_id: str) -> AsyncGenerator[News, None]:
        """As ``stream``, as it comes. The first one is empty: from then on nothing that happens is missed."""
        self._enter()
        try:
            position = self._after(after_id)
            come = self._last
            yield News()
            told: set[str] = set()
            if position is None:
                position = come  # what comes while the journal is read is in the ring, and maybe in both
                async for news in self._from_journal(after_id):
                    told.update(seen.id for seen in news.events if seen.id.startswith(f"{self.bus.run}-"))
                    yield news
            while True:
                first = self._last - len(self._ring) + 1
                lost = max(0, first - 1 - position)
                fresh = [kept for kept in self._ring if kept[0] > position]
                if fresh or lost:
                    position = fresh[-1][0] if fresh else first - 1
                    yield News([seen for _, seen in fresh if seen.id not in told], lost)
                if position >= self._last:
                    told.clear()
                    self._news.clear()
                    await self._news.wait()
        finally:
            self._leave()

    async def kept(self, after_id: str) -> AsyncGenerator[bytes, None]:
        """What the journal holds after ``after_id`` now, as server-sent events that end."""
        yield event("open", {"replay_from": after_id})
        async for news in self._from_journal(after_id):
            for chunk in _chunks(news):
                yield chunk

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
        self._ring.append((self._last, Seen(seen.id, seen.time_s, shown_event(seen, self.conceal))))
        self._news.set()

    def _after(self, event_id: str) -> int | None:
        """The place of an id in the ring, the end without one; None for one that the ring does not hold."""
        if not event_id:
            return self._last
        return next((number for number, seen in self._ring if seen.id == event_id), None)

    async def _from_journal(self, after_id: str) -> AsyncGenerator[News, None]:
        rows = await self.history.rows(after_id) if self.history is not None else None
        if rows is None:
            yield News(lost=None)
            return
        told_of_gap = False
        if not rows.complete:
            told_of_gap = True
            yield News(lost=None)
        async for page in rows.pages():
            lost = None if not (told_of_gap or rows.complete) else 0  # it went while the pages before were sent
            told_of_gap = told_of_gap or lost is None
            yield News([Seen(f"{row.run}-{row.number}", row.time_s, row.shown) for row in page], lost)
        if not (told_of_gap or rows.complete):
            yield News(lost=None)


def _chunks(news: News) -> Iterator[bytes]:
    if news.lost != 0:
        yield event("lost", {"events": news.lost})
    for seen in news.events:
        yield event_bytes("event", seen.shown, seen.id)


async def kept(api: Api, call: Call) -> Any:
    """The newest events of the journal, oldest first; ``pack`` chooses those that one Pack published."""
    count, pack_id = call.count("count", KEPT_EVENTS, KEPT_MOST), call.text("pack")
    source = f"{PACK_SOURCE}{pack_id}" if pack_id else ""
    return [msgspec.Raw(row.shown) for row in await api.host.history.newest(source, count)]


async def events(api: Api, call: Call) -> Any:
    """The endpoint. ``kept``: what the journal holds after the id (everything, without one), and then the end."""
    live, after_id = api.live(), call.last_event_id
    if not call.count("kept", 0, 1):
        api.streams.admit()
        return EventStream(api.streams, live.stream(after_id))
    if after_id and await api.host.history.rows(after_id) is None:
        raise NotFoundError("No event of this id is known", code="event_unknown", hint="rumi events")
    api.streams.admit()
    return EventStream(api.streams, live.kept(after_id or OLDEST))
