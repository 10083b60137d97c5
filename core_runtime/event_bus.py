"""Events: topics, subscribers, isolation of each from the others.

Invariants:
  * A failing or slow subscriber disturbs neither the publisher nor another subscriber. Plain handlers run in the
    publisher's turn; coroutine handlers are fed from a queue of their own, whose oldest event is dropped (and counted,
    and reported once) when it is full.
  * Every event has CloudEvents attributes; ``publish`` of a plain payload makes them.
  * The number of matching subscribers is returned, also for those whose queue dropped something.

Not here: which Pack may publish or subscribe to what (the bus asks the rights at both ends, for each event).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import secrets
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from core_runtime.diagnostics import Diagnostics, Severity, fail_soft, record_failure
from core_runtime.rules.routing import is_glob, matches

QUEUE_EVENTS = 256
MAX_CACHED_TOPICS = 4_096
HOST_SOURCE = "rumi:host"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. ``load`` yields the payload; a Pack's is decoded only when somebody looks."""

    id: str
    source: str
    type: str
    time_s: float
    load: Callable[[], Any] = field(repr=False)
    origin: object = field(default=None, repr=False)
    raw: Any = field(default=None, repr=False)

    @property
    def data(self) -> Any:
        """The payload."""
        return self.load()

    @property
    def attributes(self) -> dict[str, str]:
        """``{id, source, type, time}``, time in RFC 3339."""
        moment = datetime.fromtimestamp(self.time_s, UTC).isoformat(timespec="microseconds")
        return {"id": self.id, "source": self.source, "type": self.type, "time": moment.replace("+00:00", "Z")}


EventHandler = Callable[[Event], Awaitable[None] | None]
Handler = Callable[[Any], Awaitable[None] | None]


class _Subscriber:
    __slots__ = ("asynchronous", "dropped", "handler", "id", "pump", "queue", "topic", "whole")

    def __init__(self, id_: str, topic: str, handler: Callable[[Any], Any], *, whole: bool) -> None:
        self.id = id_
        self.topic = topic
        self.handler = handler
        self.whole = whole
        self.asynchronous = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004  an object with an async __call__
        )
        self.queue: deque[Event] = deque()
        self.dropped = 0
        self.pump: asyncio.Task[None] | None = None


class EventBus:
    """Thread-safe to subscribe; publish from the loop's thread when coroutine handlers exist."""

    def __init__(
        self,
        diagnostics: Diagnostics | None = None,
        *,
        clock: Callable[[], float] = time.time,
        queue: int = QUEUE_EVENTS,
    ) -> None:
        self._diagnostics = diagnostics or Diagnostics()
        self._clock = clock
        self._queue_events = queue
        self._lock = threading.Lock()
        self._subscribers: dict[str, _Subscriber] = {}
        self._cache: dict[str, tuple[_Subscriber, ...]] = {}
        self._numbers = itertools.count(1)
        self._run = secrets.token_hex(4)

    def subscribe(self, topic: str, handler: Handler, handler_id: str | None = None) -> str:
        """Call ``handler(payload)`` for a topic or glob; an id given again replaces that subscriber."""
        return self._add(topic, handler, handler_id, whole=False)

    def subscribe_events(self, topic: str, handler: EventHandler, handler_id: str | None = None) -> str:
        """As ``subscribe``, but the handler gets the whole ``Event``."""
        return self._add(topic, handler, handler_id, whole=True)

    def publish(self, topic: str, payload: Any = None, *, source: str = HOST_SOURCE) -> int:
        """Tell every matching subscriber; returns how many there are."""
        targets = self._cache.get(topic)
        if targets is None:
            targets = self._targets(topic)
        if not targets:
            return 0
        event = Event(self.new_id(), source, topic, self._clock(), lambda: payload)
        self._deliver(event, payload, targets)
        return len(targets)

    def publish_event(self, event: Event) -> int:
        """Publish what already has its attributes."""
        targets = self._cache.get(event.type)
        if targets is None:
            targets = self._targets(event.type)
        for subscriber in targets:
            self._one(subscriber, event)
        return len(targets)

    def new_id(self) -> str:
        """An event id, unique over restarts."""
        return f"{self._run}-{next(self._numbers)}"

    def unsubscribe(self, topic: str, handler_id: str) -> bool:
        """Remove one subscriber; False when that id does not listen to ``topic``."""
        with self._lock:
            subscriber = self._subscribers.get(handler_id)
            if subscriber is None or subscriber.topic != topic:
                return False
            del self._subscribers[handler_id]
            self._cache = {}
        self._stop(subscriber)
        return True

    def clear(self, topic: str | None = None) -> int:
        """Remove every subscriber, or those of exactly this topic or glob; returns how many."""
        with self._lock:
            gone = [s for s in self._subscribers.values() if topic is None or s.topic == topic]
            for subscriber in gone:
                del self._subscribers[subscriber.id]
            self._cache = {}
        for subscriber in gone:
            self._stop(subscriber)
        return len(gone)

    def list_subscribers(self) -> dict[str, list[str]]:
        """Topic or glob → ids, in order of subscription."""
        found: dict[str, list[str]] = {}
        for subscriber in tuple(self._subscribers.values()):
            found.setdefault(subscriber.topic, []).append(subscriber.id)
        return found

    def dropped(self) -> Mapping[str, int]:
        """Subscriber id → events its full queue lost."""
        return {s.id: s.dropped for s in tuple(self._subscribers.values()) if s.dropped}

    # --- inside

    def _add(self, topic: str, handler: Callable[[Any], Any], handler_id: str | None, *, whole: bool) -> str:
        subscriber = _Subscriber(handler_id or f"sub-{next(self._numbers)}", topic, handler, whole=whole)
        with self._lock:
            replaced = self._subscribers.get(subscriber.id)
            self._subscribers[subscriber.id] = subscriber
            self._cache = {}
        if replaced is not None:
            self._stop(replaced)
        return subscriber.id

    def _targets(self, topic: str) -> tuple[_Subscriber, ...]:
        with self._lock:
            found = tuple(
                s
                for s in self._subscribers.values()
                if s.topic == topic or (is_glob(s.topic) and matches(s.topic, topic))
            )
            if len(self._cache) >= MAX_CACHED_TOPICS:
                self._cache = {}
            self._cache[topic] = found
        return found

    def _deliver(self, event: Event, payload: Any, targets: tuple[_Subscriber, ...]) -> None:
        for subscriber in targets:
            if subscriber.asynchronous:
                self._enqueue(subscriber, event)
                continue
            try:
                subscriber.handler(event if subscriber.whole else payload)
            except Exception as exc:  # noqa: BLE001  handed to the fail-soft boundary, entered only when needed: it costs more than a handler
                self._failed(subscriber, exc)

    def _one(self, subscriber: _Subscriber, event: Event) -> None:
        if subscriber.asynchronous:
            self._enqueue(subscriber, event)
            return
        try:
            subscriber.handler(event if subscriber.whole else event.data)
        except Exception as exc:  # noqa: BLE001  as above
            self._failed(subscriber, exc)

    def _failed(self, subscriber: _Subscriber, exc: Exception) -> None:
        record_failure(self._diagnostics, exc, f"subscriber {subscriber.id}", "events", step_id=subscriber.topic)

    def _enqueue(self, subscriber: _Subscriber, event: Event) -> None:
        if len(subscriber.queue) >= self._queue_events:
            subscriber.queue.popleft()
            subscriber.dropped += 1
            if subscriber.dropped == 1 or subscriber.dropped % 1_000 == 0:
                self._diagnostics.issue(
                    "events_dropped",
                    Severity.WARN,
                    f"subscriber {subscriber.id}",
                    "A subscriber is too slow for its events",
                    f"{subscriber.dropped} events of {subscriber.topic[:200]} were dropped, the oldest first.",
                    "Subscribe to a narrower topic, or make the handler faster.",
                )
        subscriber.queue.append(event)
        if subscriber.pump is None or subscriber.pump.done():
            subscriber.pump = asyncio.get_running_loop().create_task(self._pump(subscriber))

    async def _pump(self, subscriber: _Subscriber) -> None:
        while subscriber.queue:
            event = subscriber.queue.popleft()
            with fail_soft(self._diagnostics, f"subscriber {subscriber.id}", "events", step_id=subscriber.topic):
                await subscriber.handler(event if subscriber.whole else event.data)

    @staticmethod
    def _stop(subscriber: _Subscriber) -> None:
        subscriber.queue.clear()
        if subscriber.pump is not None and not subscriber.pump.done():
            subscriber.pump.cancel()
