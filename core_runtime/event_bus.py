"""Events: topics, subscribers, isolation of each from the others.

Invariants:
  * A failing or slow subscriber disturbs neither the publisher nor another subscriber. Plain handlers run in the
    publisher's turn; coroutine handlers, and handlers that are still being told what was before, are fed from a queue
    of their own, which is bounded and loses events by the policy that the subscriber chose (``rules.subscriptions``);
    what is lost is counted, and reported once.
  * Every event has CloudEvents attributes; ``publish`` of a plain payload makes them.
  * The number of matching subscribers is returned, also for those whose queue dropped something.
  * With ``since`` a subscriber is told first, in order, what is kept of the time before (``history``), each event at
    least once.

Not here: which Pack may publish or subscribe to what (the bus asks the rights at both ends, for each event), what is
kept (``event_history``).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from core_runtime.diagnostics import Diagnostics, Severity, fail_soft, record_failure
from core_runtime.rules.routing import SpanContext, is_glob, traceparent
from core_runtime.rules.subscriptions import QUEUE_EVENTS, Options, Policy, Queue, matcher
from core_runtime.tracing import CURRENT

MAX_CACHED_TOPICS = 4_096
HOST_SOURCE = "rumi:host"
PACK_SOURCE = "rumi:pack/"
SPEC_VERSION = "1.0"


class RawPayload(Struct, frozen=True):
    """A published body as its Pack sent it; ``session`` is the one that ``refs`` belong to, None without any."""

    session: Any
    refs: list[tuple[int, int]]
    body: bytes


class Event(msgspec.Struct, eq=False):
    """One event. ``load`` yields the payload; a Pack's (``raw``) is decoded only when somebody looks."""

    id: str
    source: str
    type: str
    time_s: float
    load: Callable[[], Any]
    raw: RawPayload | None = None
    trace: SpanContext | None = None
    """What it was published by, as far as that is known."""
    _attributes: dict[str, str] | None = None

    @property
    def data(self) -> Any:
        """The payload."""
        return self.load()

    @property
    def attributes(self) -> dict[str, str]:
        """``{specversion, id, source, type, time, traceparent?}``: CloudEvents, time in RFC 3339. Not to be changed."""
        if self._attributes is None:
            moment = datetime.fromtimestamp(self.time_s, UTC).isoformat(timespec="microseconds")
            self._attributes = {
                "specversion": SPEC_VERSION, "id": self.id, "source": self.source, "type": self.type,
                "time": moment.replace("+00:00", "Z"),
            }  # fmt: skip
            if self.trace is not None:
                trace = self.trace
                self._attributes["traceparent"] = traceparent(trace.trace_id, trace.span, sampled=trace.sampled)
        return self._attributes

    @property
    def size_bytes(self) -> int:
        """Of a payload that came as bytes; 0 for the host's own values."""
        return len(self.raw.body) if self.raw is not None else 0


EventHandler = Callable[[Event], Awaitable[None] | None]
Handler = Callable[[Any], Awaitable[None] | None]


class Replay(Protocol):
    """What is kept after some event. ``complete``: nothing of it has gone."""

    @property
    def complete(self) -> bool:
        """See above."""

    def events(self, until: int) -> AsyncIterator[Event]:
        """In order, those of this run of the host up to its number ``until``."""


class History(Protocol):
    """What keeps events. ``run``: how the ids of this run of the host begin."""

    run: str

    def keeps(self, topic: str) -> bool:
        """Whether events of that topic are kept at all."""

    def note(self, event: Event) -> None:
        """An event was published. Neither waits nor raises."""

    async def replay(self, since: str, accepts: Callable[[str], object]) -> Replay:
        """What is kept after the event ``since`` of the topics that are accepted. Does not raise."""


class _Subscriber:
    __slots__ = ("asynchronous", "dropped", "handler", "id", "matches", "pump", "queue", "topic", "whole")

    def __init__(self, id_: str, topic: str, handler: Callable[[Any], Any], options: Options, *, whole: bool) -> None:
        self.id = id_
        self.topic = topic
        self.matches = matcher(topic)
        self.handler = handler
        self.whole = whole
        self.asynchronous = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
            getattr(handler, "__call__", None)  # noqa: B004  an object with an async __call__
        )
        self.queue: Queue[Event] = Queue(options)
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
        history: History | None = None,
    ) -> None:
        """``queue``: how many events wait for a subscriber that does not say."""
        self._diagnostics = diagnostics or Diagnostics()
        self._clock = clock
        self._queue_events = queue
        self._lock = threading.Lock()
        self._subscribers: dict[str, _Subscriber] = {}
        self._exact: dict[str, dict[str, _Subscriber]] = {}
        self._globs: dict[str, _Subscriber] = {}
        self._cache: dict[str, tuple[_Subscriber, ...]] = {}
        self._numbers = itertools.count(1)
        self._last = 0
        self.run = secrets.token_hex(4) if history is None else history.run
        self.published = 0
        self.lost = 0
        """Events that full queues of the host's own subscribers have lost."""
        self._history = history

    def subscribe(
        self,
        topic: str,
        handler: Handler,
        handler_id: str | None = None,
        *,
        queue: int | None = None,
        policy: Policy = Policy.DROP_OLDEST,
        since: str = "",
    ) -> str:
        """Call ``handler(payload)`` for a topic or glob; an id given again replaces that subscriber.

        ``queue`` events wait at most while a coroutine handler is at work; ``policy`` says what goes when more come.
        ``since``: first what is kept after the event of that id (``oldest``: everything), then what comes; only within
        the running loop.
        """
        return self._add(topic, handler, handler_id, Options(queue or self._queue_events, policy, since), whole=False)

    def subscribe_events(
        self,
        topic: str,
        handler: EventHandler,
        handler_id: str | None = None,
        *,
        queue: int | None = None,
        policy: Policy = Policy.DROP_OLDEST,
        since: str = "",
    ) -> str:
        """As ``subscribe``, but the handler gets the whole ``Event``."""
        return self._add(topic, handler, handler_id, Options(queue or self._queue_events, policy, since), whole=True)

    def publish(self, topic: str, payload: Any = None, *, source: str = HOST_SOURCE) -> int:
        """Tell every matching subscriber; returns how many there are."""
        targets = self._cache.get(topic)
        if targets is None:
            targets = self._targets(topic)
        history = self._history
        if not targets and (history is None or not history.keeps(topic)):
            return 0
        event = Event(self.new_id(), source, topic, self._clock(), lambda: payload, None, CURRENT.get())
        self.published += 1
        if history is not None:
            history.note(event)
        self._deliver(event, payload, targets)
        return len(targets)

    def publish_event(self, event: Event) -> int:
        """Publish what already has its attributes."""
        targets = self._cache.get(event.type)
        if targets is None:
            targets = self._targets(event.type)
        self.published += 1
        if self._history is not None:
            self._history.note(event)
        for subscriber in targets:
            self._one(subscriber, event)
        return len(targets)

    def wanted(self, topic: str) -> bool:
        """Whether anybody would hear of ``topic``: for publishers whose payload costs more than asking."""
        targets = self._cache.get(topic)
        return bool(self._targets(topic) if targets is None else targets)

    def new_id(self) -> str:
        """An event id, unique over restarts."""
        self._last = number = next(self._numbers)
        return f"{self.run}-{number}"

    @property
    def last_number(self) -> int:
        """The number in the newest event's id: what was published until now."""
        return self._last

    async def replay(self, since: str, accepts: Callable[[str], object]) -> Replay:
        """What is kept after ``since``; nothing, and not complete, where nothing is kept."""
        return await self._history.replay(since, accepts) if self._history is not None else NO_REPLAY

    def unsubscribe(self, topic: str, handler_id: str) -> bool:
        """Remove one subscriber; False when that id does not listen to ``topic``."""
        with self._lock:
            subscriber = self._subscribers.get(handler_id)
            if subscriber is None or subscriber.topic != topic:
                return False
            self._forget(subscriber)
        self._stop(subscriber)
        return True

    def clear(self, topic: str | None = None) -> int:
        """Remove every subscriber, or those of exactly this topic or glob; returns how many."""
        with self._lock:
            gone = [s for s in self._subscribers.values() if topic is None or s.topic == topic]
            for subscriber in gone:
                self._forget(subscriber)
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

    def _add(
        self, topic: str, handler: Callable[[Any], Any], handler_id: str | None, options: Options, *, whole: bool
    ) -> str:
        name = handler_id or f"sub-{next(self._numbers)}"
        subscriber = _Subscriber(name, topic, handler, options, whole=whole)
        if options.since:  # before it can be found, so that nothing comes between what was and what comes
            loop = asyncio.get_running_loop()
            subscriber.pump = loop.create_task(self._tell_past(subscriber, options.since, self._last))
        with self._lock:
            replaced = self._subscribers.get(subscriber.id)
            if replaced is not None:
                self._forget(replaced)
            self._subscribers[subscriber.id] = subscriber
            group = self._globs if is_glob(topic) else self._exact.setdefault(topic, {})
            group[subscriber.id] = subscriber
            self._cache = {}
        if replaced is not None:
            self._stop(replaced)
        return subscriber.id

    def _forget(self, subscriber: _Subscriber) -> None:
        del self._subscribers[subscriber.id]
        if self._globs.pop(subscriber.id, None) is None:
            group = self._exact[subscriber.topic]
            del group[subscriber.id]
            if not group:
                del self._exact[subscriber.topic]
        self._cache = {}

    def _targets(self, topic: str) -> tuple[_Subscriber, ...]:
        with self._lock:
            exact = self._exact.get(topic, {})
            globs = {s.id for s in self._globs.values() if s.matches(topic)}
            found = tuple(exact.values())
            if globs:  # in order of subscription
                found = tuple(s for s in self._subscribers.values() if s.id in globs or s.id in exact)
            if len(self._cache) >= MAX_CACHED_TOPICS:
                self._cache = {}
            self._cache[topic] = found
        return found

    def _deliver(self, event: Event, payload: Any, targets: tuple[_Subscriber, ...]) -> None:
        for subscriber in targets:
            if subscriber.asynchronous or subscriber.pump is not None:
                self._enqueue(subscriber, event)
                continue
            try:
                subscriber.handler(event if subscriber.whole else payload)
            except Exception as exc:  # noqa: BLE001  handed to the fail-soft boundary, entered only when needed: it costs more than a handler
                self._failed(subscriber, exc)

    def _one(self, subscriber: _Subscriber, event: Event) -> None:
        if subscriber.asynchronous or subscriber.pump is not None:
            self._enqueue(subscriber, event)
            return
        try:
            subscriber.handler(event if subscriber.whole else event.data)
        except Exception as exc:  # noqa: BLE001  as above
            self._failed(subscriber, exc)

    def _failed(self, subscriber: _Subscriber, exc: Exception) -> None:
        record_failure(self._diagnostics, exc, f"subscriber {subscriber.id}", "events", step_id=subscriber.topic)

    def _enqueue(self, subscriber: _Subscriber, event: Event) -> None:
        lost = subscriber.queue.put(event.type, event, event.size_bytes)
        if lost:
            self._lost(subscriber, lost)
        if subscriber.pump is None:
            subscriber.pump = asyncio.get_running_loop().create_task(self._pump(subscriber))

    def _lost(self, subscriber: _Subscriber, lost: int) -> None:
        self.lost += lost
        before, subscriber.dropped = subscriber.dropped, subscriber.dropped + lost
        if before and before // 1_000 == subscriber.dropped // 1_000:
            return
        self._diagnostics.issue(
            "events_dropped",
            Severity.WARN,
            f"subscriber {subscriber.id}",
            "A subscriber is too slow for its events",
            f"{subscriber.dropped} events of {subscriber.topic[:200]} were dropped ({subscriber.queue.policy.value}).",
            "Subscribe to a narrower topic, or make the handler faster.",
        )

    async def _pump(self, subscriber: _Subscriber) -> None:
        while subscriber.queue:
            await self._hand(subscriber, subscriber.queue.take())
        subscriber.pump = None

    async def _tell_past(self, subscriber: _Subscriber, since: str, until: int) -> None:
        with fail_soft(self._diagnostics, f"subscriber {subscriber.id}", "events", step_id=subscriber.topic):
            replay = await self.replay(since, subscriber.matches)
            async for event in replay.events(until):
                await self._hand(subscriber, event)
        await self._pump(subscriber)

    async def _hand(self, subscriber: _Subscriber, event: Event) -> None:
        with fail_soft(self._diagnostics, f"subscriber {subscriber.id}", "events", step_id=subscriber.topic):
            returned = subscriber.handler(event if subscriber.whole else event.data)
            if inspect.isawaitable(returned):
                await returned

    @staticmethod
    def _stop(subscriber: _Subscriber) -> None:
        subscriber.queue.clear()
        if subscriber.pump is not None:
            subscriber.pump.cancel()


class _NoReplay:
    complete = False

    async def events(self, until: int) -> AsyncIterator[Event]:
        del until
        none: tuple[Event, ...] = ()
        for event in none:
            yield event


NO_REPLAY: Replay = _NoReplay()
