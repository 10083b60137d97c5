"""GET /api/events: the host's event bus as server-sent events, with replay after a short interruption.

Nothing is recorded while nobody looks: the bus is subscribed by the first stream and left ``LINGER_S`` after the
last, so that a reader who comes back with ``Last-Event-ID`` misses nothing and the bus of a host without readers pays
nothing.

Invariants:
  * ``RING_EVENTS`` events of at most ``EVENT_LIMIT_BYTES`` each are kept; a reader who falls behind gets a ``lost``
    event with the number, never an unbounded queue.
  * A payload that JSON can't carry, or a too large one, is shown by its attributes alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from backend_core.errors import RumiError
from core_runtime.api.sse import EventStream, event, event_bytes
from core_runtime.event_bus import Event, EventBus
from core_runtime.rules.shown import encode, plain

if TYPE_CHECKING:
    from core_runtime.api.call import Call
    from core_runtime.api.context import Api

RING_EVENTS = 1024
EVENT_LIMIT_BYTES = 16 * 1024
LINGER_S = 60.0


@dataclass(slots=True)
class Live:
    """The ring and its readers. Lives on the loop's thread; events of other threads are handed over."""

    bus: EventBus
    conceal: Callable[[Any], Any]
    """Hides known secrets: the stream is the operator's view of what Packs publish, not a way for data."""
    _ring: deque[tuple[int, str, bytes]] = field(default_factory=lambda: deque(maxlen=RING_EVENTS))
    _last: int = 0
    _readers: int = 0
    _subscription: str = ""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: asyncio.TimerHandle | None = None

    async def stream(self, after_id: str) -> AsyncGenerator[bytes, None]:
        """Events from now on, or those after ``after_id`` while it is still in the ring."""
        self._enter()
        try:
            position = self._after(after_id)
            yield event("open", {"replay_from": after_id or None})
            while True:
                first = self._last - len(self._ring) + 1
                if position < first - 1:
                    yield event("lost", {"events": first - 1 - position})
                    position = first - 1
                for number, event_id, data in [kept for kept in self._ring if kept[0] > position]:
                    yield event_bytes("event", data, event_id)
                    position = number
                if position >= self._last:
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
        self._ring.append((self._last, seen.id, _shown(seen, self.conceal)))
        self._news.set()

    def _after(self, event_id: str) -> int:
        for number, kept_id, _ in self._ring:
            if kept_id == event_id:
                return number
        return self._last


def _shown(seen: Event, conceal: Callable[[Any], Any]) -> bytes:
    attributes: dict[str, Any] = conceal(dict(seen.attributes))
    try:
        shown = encode({**attributes, "data": conceal(plain(seen.data))})
    except RumiError as exc:
        return encode({**attributes, "data": None, "omitted": exc.code})
    return shown if len(shown) <= EVENT_LIMIT_BYTES else encode({**attributes, "data": None, "omitted": "too_large"})


async def events(api: Api, call: Call) -> Any:
    """The endpoint."""
    api.streams.admit()
    return EventStream(api.streams, api.live().stream(call.last_event_id))
