"""Events of one Pack: what it subscribes to, what it publishes, and what waits while it does not read.

Invariants:
  * Rights are asked for at each event, also at one that is told again, so that a revocation ends a subscription's
    deliveries. Nothing is told again that is older than the decision on which the Pack's rights stand: it was
    published when nobody had agreed that this Pack hears it.
  * A generation that was opened beside another hears nothing before it takes over, and nobody hears it: from then on
    each event reaches exactly one of the two, and what it published so far goes out, in order (``HELD_EVENTS`` and
    ``HELD_BYTES`` at most; more is refused).
  * What waits for a Pack that does not read is bounded, for each subscription as it chose and for all of them by
    ``WAITING_BYTES``; what is lost is told. What is told again waits for the Pack instead.

Not here: who else hears an event (``event_bus``), what is kept (``event_history``).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.bus.calls import Failure
from core_runtime.bus.registrations import unpack_bounded
from core_runtime.diagnostics import Diagnostics, Severity, fail_soft
from core_runtime.event_bus import PACK_SOURCE, Event, EventBus, RawPayload, Replay
from core_runtime.rules import frames
from core_runtime.rules.frames import FrameError
from core_runtime.rules.rate import Bucket, Rate, take
from core_runtime.rules.routing import SpanContext
from core_runtime.rules.subscriptions import Options, Queue, matcher, options_of
from core_runtime.rules.values import ValueProblem, pack, unpack

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

HELD_EVENTS = 256
HELD_BYTES = 1024 * 1024
WAITING_BYTES = 16 * 1024 * 1024
REPLAYS = Rate(per_second=0.5, burst=8.0)
"""How often a Pack may ask for what was: each time may read the whole journal."""


class _Subscription:
    __slots__ = ("identifier", "options", "past", "queue", "topic", "until")

    def __init__(self, topic: str, identifier: str, options: Options) -> None:
        self.topic = topic
        self.identifier = identifier
        self.options = options
        self.queue: Queue[Event] = Queue(options)
        self.past: asyncio.Task[None] | None = None
        """Tells what was before; what comes waits until it is done."""
        self.until = 0
        """The newest event of this run that counts as before."""


class PackEvents:
    """Subscriptions and publications of one session."""

    def __init__(self, session: Session, events: EventBus, diagnostics: Diagnostics, *, live: bool) -> None:
        self._session = session
        self._events = events
        self._diagnostics = diagnostics
        self._source = f"{PACK_SOURCE}{session.pack_id}"
        self._subscriptions: dict[int, _Subscription] = {}
        self._waiting_bytes = 0
        self._room = asyncio.Event()
        self._live = asyncio.Event()
        self._held: list[Event] | None = None if live else []
        self._held_bytes = 0
        self._replays: Bucket | None = None
        self.lost = 0
        """Events that were dropped because the Pack does not read."""
        if live:
            self._live.set()

    @property
    def listens(self) -> bool:
        """Whether the Pack subscribed to anything."""
        return bool(self._subscriptions)

    @property
    def waiting(self) -> int:
        """How many events wait for the Pack."""
        return sum(len(s.queue) for s in self._subscriptions.values())

    def go_live(self) -> None:
        """The generation serves now: it hears and is heard."""
        held, self._held = self._held or [], None
        for number, subscription in self._subscriptions.items():
            self._listen(number, subscription)
        for event in held:
            self._events.publish_event(event)
        self._live.set()

    def subscribe(self, frame: frames.SubscribeFrame) -> None:
        """SUBSCRIBE."""
        given = unpack_bounded(frame.options)
        if not isinstance(given, dict):
            raise FrameError("the options of SUBSCRIBE are no map")
        session = self._session
        if not session.rights().may_subscribe(frame.topic):
            session.denied("event.subscribe", frame.topic)
            self._refuse(frame.id, "denied", f"{session.pack_id} may not subscribe to {quote(frame.topic)}")
            return
        if session.retired:
            self._refuse(frame.id, "superseded", "a newer generation of this Pack has taken over")
            return
        if len(self._subscriptions) >= session.limits.subscriptions:
            self._refuse(frame.id, "limit", f"{session.limits.subscriptions} subscriptions exist already")
            return
        options = options_of(given)
        if isinstance(options, str):
            self._refuse(frame.id, "options", options)
            return
        if options.since and not self._may_replay():
            self._refuse(frame.id, "limit", "asks too often for what was before", retryable=True)
            return
        number = max(self._subscriptions, default=0) + 1
        identifier = f"pack:{session.pack_id}:{session.generation}:{number}"
        subscription = self._subscriptions[number] = _Subscription(frame.topic, identifier, options)
        if options.since:
            subscription.past = session.loop.create_task(self._tell_past(frame.id, number, subscription))
        else:
            session.reply(frame.id, number)
        if self._held is None:
            self._listen(number, subscription)

    def unsubscribe(self, frame: frames.UnsubscribeFrame) -> None:
        """UNSUBSCRIBE."""
        known = self._subscriptions.pop(frame.subscription, None)
        if known is not None:
            self._end(known)
        self._session.reply(frame.id, known is not None)

    def publish(self, frame: frames.PublishFrame) -> None:
        """PUBLISH."""
        topic, parent = frame.named()
        if not self._session.rights().may_publish(topic):
            self._session.denied("event.publish", topic)
            self._refuse(frame.id, "denied", f"{self._session.pack_id} may not publish {quote(topic)}")
            return
        call = self._session.incoming.get(parent) if parent else None
        trace = SpanContext(call.trace_id, call.span, call.sampled) if call is not None else None
        payload = RawPayload(self._session, frame.refs, bytes(memoryview(frame.body)))
        events = self._events

        def load() -> Any:
            return unpack(
                payload.body,
                self._session.references.resolver(payload.refs, "") if payload.refs else None,
                max_nodes=self._session.limits.decode_nodes,
            )

        if frame.refs:
            # who looks later must find the callables alive
            try:
                value = load()
            except ValueProblem as exc:
                self._refuse(frame.id, exc.type, str(exc))
                return
            event = Event(events.new_id(), self._source, topic, time.time(), lambda: value, payload, trace)
        else:
            event = Event(events.new_id(), self._source, topic, time.time(), load, payload, trace)
        reached = 0
        if self._held is None:
            reached = events.publish_event(event)
        elif not self._hold(event, payload):
            self._refuse(frame.id, "limit", "too many events before it has taken over")
            return
        if frame.id:
            self._session.reply(frame.id, reached)

    def resume(self) -> None:
        """The Pack reads again: what waited goes out, of each subscription in turn."""
        self._room.set()
        waiting = [(n, s) for n, s in self._subscriptions.items() if s.past is None and s.queue]
        while waiting and not self._session.congested:
            for number, subscription in waiting:
                self._send_next(number, subscription)
            waiting = [(n, s) for n, s in waiting if s.queue]

    def clear(self) -> None:
        """The session is over."""
        for subscription in self._subscriptions.values():
            self._end(subscription)
        self._subscriptions.clear()
        if self._held is not None:
            self._held.clear()

    # --- inside

    def _refuse(self, number: int, type_: str, title: str, *, retryable: bool = False) -> None:
        self._session.send_error(number, Failure(type_, title, retryable=retryable))

    def _may_replay(self) -> bool:
        admitted, self._replays = take(self._replays, REPLAYS, time.monotonic())
        return admitted

    def _listen(self, number: int, subscription: _Subscription) -> None:
        subscription.until = self._events.last_number
        self._events.subscribe_events(subscription.topic, partial(self._deliver, number), subscription.identifier)

    def _end(self, subscription: _Subscription) -> None:
        self._events.unsubscribe(subscription.topic, subscription.identifier)
        self._waiting_bytes -= subscription.queue.size_bytes
        subscription.queue.clear()
        if subscription.past is not None:
            subscription.past.cancel()

    def _hold(self, event: Event, payload: RawPayload) -> bool:
        """Keep what is published before anybody may hear it; False when it is too much."""
        assert self._held is not None
        if len(self._held) >= HELD_EVENTS or self._held_bytes + len(payload.body) > HELD_BYTES:
            return False
        self._held.append(event)
        self._held_bytes += len(payload.body)
        return True

    async def _tell_past(self, request: int, number: int, subscription: _Subscription) -> None:
        """Answer SUBSCRIBE, tell what is kept, then what came in the meantime."""
        with fail_soft(self._diagnostics, self._session.pack_id, "events", step_id=subscription.topic):
            replay = await self._events.replay(subscription.options.since, matcher(subscription.topic))
            self._session.reply(request, {"subscription": number, "complete": replay.complete})
            await self._live.wait()
            await self._retell(number, subscription, replay)
        subscription.past = None
        self._room.set()
        while subscription.queue and not self._session.congested:
            self._send_next(number, subscription)

    async def _retell(self, number: int, subscription: _Subscription, replay: Replay) -> None:
        async for event in replay.events(subscription.until):
            while self._session.congested:
                self._room.clear()
                await self._room.wait()
            if self._session.dead:
                return
            rights = self._session.rights()
            if event.time_s >= rights.since_s() and rights.may_subscribe(event.type):
                self._send(number, event)

    def _deliver(self, number: int, event: Event) -> None:
        """An event for this Pack; when it does not read, its queue keeps what the subscription chose."""
        if self._session.dead or not self._session.rights().may_subscribe(event.type):
            return
        subscription = self._subscriptions.get(number)
        if subscription is None:
            return
        if self._session.congested or subscription.past is not None:
            self._wait(subscription, event)
        else:
            self._send(number, event)

    def _wait(self, subscription: _Subscription, event: Event) -> None:
        size = event.size_bytes
        if self._waiting_bytes + size > WAITING_BYTES:
            lost = 1
        else:
            before = subscription.queue.size_bytes
            lost = subscription.queue.put(event.type, event, size)
            self._waiting_bytes += subscription.queue.size_bytes - before
        if lost:
            self.lost += lost
            self._diagnostics.issue(
                "events_dropped",
                Severity.WARN,
                self._session.pack_id,
                "A Pack is too slow for its events",
                f"{self.lost} were dropped, the last of {quote(subscription.topic, 200)} "
                f"({subscription.options.policy.value}).",
                "Subscribe to a narrower topic, or make the handler faster.",
            )

    def _send_next(self, number: int, subscription: _Subscription) -> None:
        event = subscription.queue.take()
        self._waiting_bytes -= event.size_bytes
        with fail_soft(self._diagnostics, self._session.pack_id, "events", step_id=event.type):
            if self._session.rights().may_subscribe(event.type):  # they may have changed while it waited
                self._send(number, event)

    def _send(self, number: int, event: Event) -> None:
        refs: list[tuple[int, int]] = []
        raw = event.raw
        if raw is not None:
            body = raw.body
            if raw.refs:
                refs = raw.session.references.translate(raw.refs, self._session, None)
        else:
            body = pack(event.data, self._session.references.exporter(refs))
        self._session.send((frames.EVENT, 0, number, event.attributes, refs, Raw(body)))
