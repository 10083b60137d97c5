"""Events of one Pack: what it subscribes to, what it publishes, and what waits while it does not read.

Invariants:
  * Rights are asked for at each event, so that a revocation ends a subscription's deliveries.
  * A generation that was opened beside another hears nothing before it takes over, and nobody hears it: from then on
    each event reaches exactly one of the two, and what it published so far goes out, in order (``HELD_EVENTS`` and
    ``HELD_BYTES`` at most; more is refused).
  * What waits for a Pack that does not read is bounded: the oldest is dropped, and that is told.

Not here: who else hears an event (``event_bus``).
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.bus.calls import Failure
from core_runtime.diagnostics import Diagnostics, Severity, fail_soft
from core_runtime.event_bus import Event, EventBus
from core_runtime.rules import frames
from core_runtime.rules.values import ValueProblem, pack, unpack

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

EVENTS_WAITING = 256
HELD_EVENTS = 256
HELD_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class RawPayload:
    """A published body as its Pack sent it."""

    session: Session
    refs: list[tuple[int, int]]
    body: bytes


class PackEvents:
    """Subscriptions and publications of one session."""

    def __init__(self, session: Session, events: EventBus, diagnostics: Diagnostics, *, live: bool) -> None:
        self._session = session
        self._events = events
        self._diagnostics = diagnostics
        self._source = f"rumi:pack/{session.pack_id}"
        self._subscriptions: dict[int, tuple[str, str]] = {}
        self._waiting: deque[tuple[int, Event]] = deque()
        self._lost = 0
        self._held: list[Event] | None = None if live else []
        self._held_bytes = 0

    @property
    def listens(self) -> bool:
        """Whether the Pack subscribed to anything."""
        return bool(self._subscriptions)

    def go_live(self) -> None:
        """The generation serves now: it hears and is heard."""
        held, self._held = self._held or [], None
        for number, (topic, identifier) in self._subscriptions.items():
            self._events.subscribe_events(topic, partial(self._deliver, number), identifier)
        for event in held:
            self._events.publish_event(event)

    def subscribe(self, frame: frames.SubscribeFrame) -> None:
        """SUBSCRIBE."""
        if not self._session.rights().may_subscribe(frame.topic):
            self._session.denied("event.subscribe", frame.topic)
            self._session.send_error(
                frame.id, Failure("denied", f"{self._session.pack_id} may not subscribe to {quote(frame.topic)}")
            )
            return
        if self._session.retired:
            self._session.send_error(frame.id, Failure("superseded", "a newer generation of this Pack has taken over"))
            return
        if len(self._subscriptions) >= self._session.limits.subscriptions:
            self._session.send_error(
                frame.id, Failure("limit", f"{self._session.limits.subscriptions} subscriptions exist already")
            )
            return
        number = max(self._subscriptions, default=0) + 1
        identifier = f"pack:{self._session.pack_id}:{self._session.generation}:{number}"
        if self._held is None:
            self._events.subscribe_events(frame.topic, partial(self._deliver, number), identifier)
        self._subscriptions[number] = (frame.topic, identifier)
        self._session.reply(frame.id, number)

    def unsubscribe(self, frame: frames.UnsubscribeFrame) -> None:
        """UNSUBSCRIBE."""
        known = self._subscriptions.pop(frame.subscription, None)
        heard = known is not None and self._held is None and self._events.unsubscribe(*known)
        self._session.reply(frame.id, heard or (known is not None and self._held is not None))

    def publish(self, frame: frames.PublishFrame) -> None:
        """PUBLISH."""
        if not self._session.rights().may_publish(frame.topic):
            self._session.denied("event.publish", frame.topic)
            self._session.send_error(
                frame.id, Failure("denied", f"{self._session.pack_id} may not publish {quote(frame.topic)}")
            )
            return
        payload = RawPayload(self._session, frame.refs, bytes(memoryview(frame.body)))
        events = self._events

        def load() -> Any:
            return unpack(
                payload.body,
                self._session.references.resolver(payload.refs, ""),
                max_nodes=self._session.limits.decode_nodes,
            )

        if frame.refs:
            # who looks later must find the callables alive
            try:
                value = load()
            except ValueProblem as exc:
                self._session.send_error(frame.id, Failure(exc.type, str(exc)))
                return
            event = Event(events.new_id(), self._source, frame.topic, time.time(), lambda: value, raw=payload)
        else:
            event = Event(events.new_id(), self._source, frame.topic, time.time(), load, raw=payload)
        reached = 0
        if self._held is None:
            reached = events.publish_event(event)
        elif not self._hold(event, payload):
            self._session.send_error(frame.id, Failure("limit", "too many events before it has taken over"))
            return
        if frame.id:
            self._session.reply(frame.id, reached)

    def _hold(self, event: Event, payload: RawPayload) -> bool:
        """Keep what is published before anybody may hear it; False when it is too much."""
        assert self._held is not None
        if len(self._held) >= HELD_EVENTS or self._held_bytes + len(payload.body) > HELD_BYTES:
            return False
        self._held.append(event)
        self._held_bytes += len(payload.body)
        return True

    def _deliver(self, number: int, event: Event) -> None:
        """An event for this Pack; when it does not read, the oldest that wait are dropped."""
        if self._session.dead or not self._session.rights().may_subscribe(event.type):
            return
        if self._session.congested:
            if len(self._waiting) >= EVENTS_WAITING:
                self._waiting.popleft()
                self._lost += 1
                self._diagnostics.issue(
                    "events_dropped",
                    Severity.WARN,
                    self._session.pack_id,
                    "A Pack is too slow for its events",
                    f"{self._lost} were dropped, the oldest first.",
                    "Subscribe to a narrower topic, or make the handler faster.",
                )
            self._waiting.append((number, event))
            return
        self._send(number, event)

    def _send(self, number: int, event: Event) -> None:
        refs: list[tuple[int, int]] = []
        raw = event.raw
        if isinstance(raw, RawPayload):
            body = raw.body
            if raw.refs:
                refs = raw.session.references.translate(raw.refs, self._session, None)
        else:
            body = pack(event.data, self._session.references.exporter(refs))
        self._session.send((frames.EVENT, 0, number, event.attributes, refs, Raw(body)))

    def resume(self) -> None:
        """The Pack reads again: what waited goes out."""
        while self._waiting and not self._session.congested:
            number, event = self._waiting.popleft()
            with fail_soft(self._diagnostics, self._session.pack_id, "events", step_id=event.type):
                self._send(number, event)

    def clear(self) -> None:
        """The session is over."""
        for pattern, subscription in self._subscriptions.values():
            self._events.unsubscribe(pattern, subscription)
        self._subscriptions.clear()
        self._waiting.clear()
        if self._held is not None:
            self._held.clear()
