"""One Pack generation on the bus: its connection, its tables, and what each of its frames means.

Invariants:
  * Identity is the connection: ``pack_id`` and ``generation`` were fixed when the socket was made;
    no frame says who sent it.
  * HELLO comes first and once; nothing else is served before WELCOME went out.
  * Rights are asked for at each use. Everything a session registered, subscribed or handed out ends with it.

Not here: routing (``router``), which sessions exist (``bus``), supervision (``container_orchestrator``).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from msgspec import Raw

from backend_core.errors import PackError, PackTimeout, RequestError, quote
from core_runtime.calls import Call, EdgeStats, Failure
from core_runtime.diagnostics import Diagnostics, Severity, fail_soft, record_failure
from core_runtime.drivers.link import Link
from core_runtime.event_bus import Event, EventBus
from core_runtime.interface_registry import Entry
from core_runtime.mirrors import Mirror
from core_runtime.references import References
from core_runtime.router import Router
from core_runtime.rules import frames
from core_runtime.rules.frames import LOG_CHARS, PROTOCOL_VERSION, BusLimits, FrameError
from core_runtime.rules.routing import RightsOf
from core_runtime.rules.schemas import SchemaRefused
from core_runtime.rules.values import ValueProblem, pack, unpack

EVENTS_WAITING = 256
META_NODES = 4_096
_NIL = Raw(b"\xc0")
_NO_REFS: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """What came of one component phase inside the sandbox."""

    ok: bool
    error: Failure | None
    registered: tuple[str, ...]
    duration_us: int
    asynchronous: bool


@dataclass(frozen=True, slots=True)
class RawPayload:
    """A published body as its Pack sent it."""

    session: Session
    refs: list[tuple[int, int]]
    body: bytes


class Owner(Protocol):
    """What a session needs of its bus."""

    router: Router
    events: EventBus
    diagnostics: Diagnostics

    def denied(self, pack_id: str, operation: str, subject: str) -> None:
        """Record a refusal."""

    def log(self, pack_id: str, generation: int, level: int, source: str, text: str) -> None:
        """A line that the Pack printed or logged."""

    def ended(self, session: Session, reason: str) -> None:
        """The session is over."""

    def welcomed(self, session: Session) -> None:
        """The session serves from now on."""

    async def request(self, session: Session, operation: str, args: Any) -> Any:
        """Serve an operation of kind 64."""


class Session:
    """See the module docstring. All methods belong to the event loop's thread."""

    def __init__(self, owner: Owner, pack_id: str, generation: int, rights: RightsOf, limits: BusLimits) -> None:
        self.pack_id = pack_id
        self.generation = generation
        self.rights = rights
        self.limits = limits
        self.router = owner.router
        self.loop = asyncio.get_running_loop()
        self.hello: Mapping[str, Any] = {}
        self.greeted: asyncio.Future[None] = self.loop.create_future()
        self.closed: asyncio.Future[str] = self.loop.create_future()
        self.references = References(self, limits.references)
        self.mirror = Mirror(self, owner.diagnostics)
        self.incoming: dict[int, Call] = {}
        self.outgoing: dict[int, Call] = {}
        self.registrations: dict[int, Entry] = {}
        self.stats = EdgeStats()
        self.abandoned = 0
        self.orphans = 0
        self.ready = False
        self.draining = False
        self.dead = False
        self._source = f"rumi:pack/{pack_id}"
        self._owner = owner
        self._link: Link | None = None
        self._numbers = 0
        self._silent = 0
        self._waits: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self._subscriptions: dict[int, tuple[str, str]] = {}
        self._events_waiting: deque[tuple[int, Event]] = deque()
        self._events_lost = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._strays = 0
        self._log_budget = float(limits.log_bytes_per_s)
        self._log_time = time.monotonic()
        self._log_lost = 0

    # --- for the orchestrator

    async def welcome(self, settings: Mapping[str, Any] | None = None) -> None:
        """Admit the Pack: WELCOME, then a MIRROR for every key it may see. ``settings`` adds ``paths`` and ``lock``."""
        if self.dead:
            raise self.gone()
        told = {
            "protocol": PROTOCOL_VERSION,
            "pack_id": self.pack_id,
            "generation": self.generation,
            "limits": self.limits.told(),
            "paths": {"pack": "/pack"},
            "lock": {},
            **(settings or {}),
        }
        self.send((frames.WELCOME, 0, told))
        self.ready = True
        self._owner.welcomed(self)
        self.refresh()

    async def run_phase(
        self, component: Mapping[str, Any], file: str, context: Mapping[str, Any], timeout_s: float
    ) -> PhaseOutcome:
        """Run one file of a component inside the sandbox. Raises ``PackTimeout``, ``PackError`` when the Pack dies."""
        raw = await self._ask(
            lambda number: (frames.RUN_PHASE, number, dict(component), file, dict(context)),
            frames.PHASE_DONE,
            timeout_s,
            f"{file} of {component.get('full_id', self.pack_id)}",
        )
        outcome = _map(raw)
        error = outcome.get("error")
        failure: Failure | None = None
        if isinstance(error, list) and len(error) == 5:
            failure = Failure.from_agent(str(error[0]), str(error[1]), str(error[2]), bool(error[3]), str(error[4]))
        elif error is not None:
            failure = Failure("error/Exception", str(error)[:500])
        ok = outcome.get("ok") is True
        registered = outcome.get("registered")
        duration = outcome.get("duration_us")
        return PhaseOutcome(
            ok=ok,
            error=None if ok else failure or Failure("error/Exception", "the phase failed without saying why"),
            registered=tuple(str(key)[:256] for key in registered) if isinstance(registered, list) else (),
            duration_us=duration if isinstance(duration, int) else 0,
            asynchronous=outcome.get("asynchronous") is True,
        )

    async def ping(self, timeout_s: float = 5.0) -> Mapping[str, Any]:
        """``{threads, stuck, calls}`` as the agent says; raises ``PackTimeout`` when it does not answer."""
        raw = await self._ask(lambda number: (frames.PING, number), frames.PONG, timeout_s, "ping")
        return _map(raw)

    async def shutdown(self, grace_s: float) -> None:
        """Ask the agent to finish and leave; after ``grace_s`` the connection is cut."""
        if self.dead:
            return
        self.draining = True
        self.send((frames.SHUTDOWN, 0, int(grace_s * 1000)))
        await asyncio.wait([self.closed], timeout=grace_s)
        self.abort("stopped")

    def abort(self, reason: str) -> None:
        """Cut the connection now."""
        if self.dead:
            return
        if self._link is None:
            self.on_lost(reason)
        else:
            self._link.abort(reason)

    def refresh(self) -> None:
        """Mirror every key anew: after WELCOME, and when rights changed."""
        for key in {*self.router.registry.keys(), *self.mirror.shown}:
            self.mirror.push(key)

    # --- link

    def attach(self, link: Link) -> None:
        """The connection, right after it was accepted."""
        self._link = link

    def on_frame(self, frame: memoryview) -> None:
        """``drivers.link.Peer``."""
        parsed = frames.parse(frame)
        handler = _HANDLERS[type(parsed)]
        if not self.ready and handler is not Session._on_hello:
            raise FrameError(f"{type(parsed).__name__} before WELCOME")
        try:
            handler(self, parsed)
        except FrameError:
            raise
        except Exception as exc:
            record_failure(self._owner.diagnostics, exc, self.pack_id, "bus")
            raise FrameError("the host could not handle a frame; see the issue of this Pack") from exc
        refs = getattr(parsed, "refs", None)
        if refs and not self.dead:
            self.references.settle(refs)

    def on_room(self) -> None:
        """``drivers.link.Peer``: events that waited go out."""
        while self._events_waiting and not self.congested:
            number, event = self._events_waiting.popleft()
            with fail_soft(self._owner.diagnostics, self.pack_id, "events", step_id=event.type):
                self._send_event(number, event)

    def on_lost(self, reason: str) -> None:
        """``drivers.link.Peer``: everything of this session ends."""
        if self.dead:
            return
        self.dead = True
        self.router.session_lost(self, reason)
        for _kind, waiter in self._waits.values():
            if not waiter.done():
                waiter.set_exception(self.gone())
        self._waits.clear()
        for task in tuple(self._tasks):
            task.cancel()
        for pattern, subscription in self._subscriptions.values():
            self._owner.events.unsubscribe(pattern, subscription)
        self._subscriptions.clear()
        self._events_waiting.clear()
        for number, entry in list(self.registrations.items()):
            self.router.registry.remove({number}, entry.key)
        self.registrations.clear()
        self.references.clear()
        if not self.greeted.done():
            self.greeted.cancel()
        self.closed.set_result(reason)
        self._owner.ended(self, reason)

    @property
    def congested(self) -> bool:
        """More lies unread than a Pack may leave."""
        return self._link is not None and self._link.congested

    def send(self, frame: tuple[Any, ...]) -> None:
        """Queue a frame. Raises ``FrameError`` when it is too long; silent when the session is over."""
        if self._link is not None:
            self._link.send(frame)

    def send_error(self, number: int, failure: Failure) -> None:
        """Answer a request with an error."""
        if number:
            self.send((frames.ERROR, number, *failure.frame_fields()))

    def send_release(self, numbers: list[int]) -> None:
        """The agent's callables that nobody holds any longer."""
        self.send((frames.RELEASE, 0, numbers))

    def next_id(self) -> int:
        """A host id that is not in use on this connection."""
        while True:
            self._numbers = (self._numbers + 1) & 0xFFFFFFFF
            if self._numbers and self._numbers not in self.incoming and self._numbers not in self._waits:
                return self._numbers

    def silent_id(self) -> int:
        """A negative key for a call that wants no answer."""
        self._silent -= 1
        return self._silent

    def denied(self, operation: str, subject: str) -> None:
        """Record a refusal."""
        self._owner.denied(self.pack_id, operation, subject)

    def may_reach(self, key: str) -> bool:
        """Whether the edge to ``key`` stands (a Pack always reaches its own)."""
        rights = self.rights()
        return rights.may_call(key) or rights.may_register(key)

    def check_abandoned(self) -> None:
        """Cut a Pack off that sits on too many cancelled calls."""
        if self.abandoned > self.limits.abandoned:
            self.abort(f"stuck: {self.abandoned} cancelled calls were never given back")

    def gone(self, reason: str = "") -> PackError:
        """The error for whoever needs this session after its end."""
        return PackError(
            f"{self.pack_id} is not connected",
            code="unavailable",
            detail=reason or "Its sandbox ended or was stopped.",
            hint=f"`rumi pack show {self.pack_id}` tells why.",
            retryable=True,
            pack_id=self.pack_id,
        )

    async def _ask(self, frame: Callable[[int], tuple[Any, ...]], answer: int, timeout_s: float, what: str) -> Any:
        if self.dead:
            raise self.gone()
        number = self.next_id()
        waiter: asyncio.Future[Any] = self.loop.create_future()
        self._waits[number] = (answer, waiter)
        try:
            self.send(frame(number))
            async with asyncio.timeout(timeout_s):
                return await waiter
        except TimeoutError:
            raise PackTimeout(
                f"{self.pack_id} did not answer in time",
                detail=f"{what}: nothing came within {timeout_s:g} s.",
                hint=f"`rumi logs {self.pack_id}` shows what it is doing.",
                pack_id=self.pack_id,
            ) from None
        finally:
            self._waits.pop(number, None)

    # --- frames: life

    def _on_hello(self, frame: frames.HelloFrame) -> None:
        if self.greeted.done():
            raise FrameError("a second HELLO")
        hello = _map(_unpack_bounded(frame.hello))
        if PROTOCOL_VERSION not in (hello.get("protocols") or ()):
            raise FrameError(f"no common protocol version (the host speaks {PROTOCOL_VERSION})")
        self.hello = hello
        self.greeted.set_result(None)

    def _on_answer(self, number: int, kind: int, raw: Raw) -> None:
        waiting = self._waits.get(number)
        if waiting is None or waiting[0] != kind:
            self._stray(number)
            return
        if not waiting[1].done():
            waiting[1].set_result(_unpack_bounded(raw))

    def _on_phase_done(self, frame: frames.PhaseDoneFrame) -> None:
        self._on_answer(frame.id, frames.PHASE_DONE, frame.outcome)

    def _on_pong(self, frame: frames.PongFrame) -> None:
        self._on_answer(frame.id, frames.PONG, frame.state)

    def _on_log(self, frame: frames.LogFrame) -> None:
        now = time.monotonic()
        rate = self.limits.log_bytes_per_s
        self._log_budget = min(self._log_budget + (now - self._log_time) * rate, float(rate))
        self._log_time = now
        text = frame.text[:LOG_CHARS]
        if self._log_budget < len(text):
            self._log_lost += 1
            return
        self._log_budget -= len(text) + 16
        if self._log_lost:
            lost, self._log_lost = self._log_lost, 0
            self._owner.log(self.pack_id, self.generation, 30, "host", f"{lost} log frames were dropped (rate limit)")
        self._owner.log(self.pack_id, self.generation, min(frame.level, 50), frame.source, text)

    def _stray(self, number: int) -> None:
        """An answer to nothing: forged, or given twice. A few are noted, many end the connection."""
        self._strays += 1
        if self._strays > self.limits.strays:
            raise FrameError(f"{self._strays} answers to calls that were never made")
        self._owner.diagnostics.issue(
            "stray_answer",
            Severity.WARN,
            self.pack_id,
            "A Pack answered a call that it was never given",
            f"The newest had id {number}.",
            "Harmless in small numbers; the sandbox is cut off when it goes on.",
        )

    # --- frames: calls

    def _on_call(self, frame: frames.CallFrame) -> None:
        if frame.id in self.outgoing:
            raise FrameError(f"call id {frame.id} is in use")
        self.router.from_pack(self, frame)

    def _on_result(self, frame: frames.ResultFrame) -> None:
        call = self.incoming.get(frame.id)
        if call is None or call.streaming:
            self._stray(frame.id)
        else:
            self.router.result(call, frame)

    def _on_error(self, frame: frames.ErrorFrame) -> None:
        call = self.incoming.get(frame.id)
        if call is None:
            self._stray(frame.id)
        else:
            self.router.error(
                call, Failure.from_agent(frame.type_, frame.title, frame.detail, frame.retryable, frame.trace)
            )

    def _on_cancel(self, frame: frames.CancelFrame) -> None:
        call = self.outgoing.get(frame.id)
        if call is not None:
            self.router.abandon(call, Failure("cancelled", "the caller cancelled"))

    def _on_item(self, frame: frames.ItemFrame) -> None:
        call = self.incoming.get(frame.id)
        if call is None:
            self._stray(frame.id)
        else:
            self.router.item(call, frame)

    def _on_end(self, frame: frames.EndFrame) -> None:
        call = self.incoming.get(frame.id)
        if call is None:
            self._stray(frame.id)
        else:
            self.router.end(call, Failure.from_agent(*frame.error) if frame.error is not None else None)

    def _on_credit(self, frame: frames.CreditFrame) -> None:
        call = self.outgoing.get(frame.id)
        if call is not None:
            self.router.credit(call, frame.n)

    def _on_release(self, frame: frames.ReleaseFrame) -> None:
        self.references.released(frame.numbers)

    # --- frames: registry

    def _on_register(self, frame: frames.RegisterFrame) -> None:
        try:
            answer = self._register(frame)
        except ValueProblem as exc:
            self.send_error(frame.id, Failure(exc.type, str(exc)))
        except SchemaRefused as exc:
            self.send_error(frame.id, Failure("schema", f"the schema of {quote(frame.key)} is refused", str(exc)))
        else:
            self._reply(frame.id, answer)

    def _register(self, frame: frames.RegisterFrame) -> int | bool:
        key = frame.key
        if not self.rights().may_register(key):
            self.denied("interface.register", key)
            raise ValueProblem("denied", f"{quote(key)} is not declared in provides, or not granted")
        if len(self.registrations) >= self.limits.registrations:
            raise ValueProblem("limit", f"{self.limits.registrations} registrations exist already")
        options = _map(_unpack_bounded(frame.options))
        meta = _unpack_bounded(frame.meta)
        schemas = _map(_unpack_bounded(frame.schemas))
        registry = self.router.registry
        if options.get("if_absent") is True and registry.slot(key) is not None:
            return False
        ttl_ms = options.get("ttl_ms")
        if ttl_ms is not None and (not isinstance(ttl_ms, int | float) or not 0 <= ttl_ms <= 10**12):
            raise ValueProblem("value.unsupported", "ttl_ms is a number of milliseconds", "$.options.ttl_ms")
        source = options.get("source")
        value = unpack(frame.body, self.references.resolver(frame.refs, key), max_nodes=self.limits.decode_nodes)
        try:
            entry = registry.add(
                key,
                value,
                meta=meta if isinstance(meta, dict) else None,
                pack=self.pack_id,
                generation=self.generation,
                input_schema=schemas.get("input"),
                output_schema=schemas.get("output"),
                source=source if isinstance(source, str) else None,
                override=options.get("override") is True,
                ttl_s=None if ttl_ms is None else ttl_ms / 1000,
            )
        except RequestError as exc:
            raise ValueProblem("value.unsupported", exc.title) from exc
        self.registrations[entry.number] = entry
        return entry.number

    def _on_unregister(self, frame: frames.UnregisterFrame) -> None:
        removed = 0
        for number in frame.registrations:
            entry = self.registrations.pop(number, None)
            if entry is not None:
                removed += self.router.registry.remove({number}, entry.key)
        self._reply(frame.id, removed)

    def forget_registration(self, number: int) -> None:
        """A registration that expired by itself."""
        self.registrations.pop(number, None)

    # --- frames: events

    def _on_subscribe(self, frame: frames.SubscribeFrame) -> None:
        if not self.rights().may_subscribe(frame.topic):
            self.denied("event.subscribe", frame.topic)
            self.send_error(frame.id, Failure("denied", f"{self.pack_id} may not subscribe to {quote(frame.topic)}"))
            return
        if len(self._subscriptions) >= self.limits.subscriptions:
            self.send_error(frame.id, Failure("limit", f"{self.limits.subscriptions} subscriptions exist already"))
            return
        number = max(self._subscriptions, default=0) + 1
        identifier = f"pack:{self.pack_id}:{self.generation}:{number}"
        self._owner.events.subscribe_events(frame.topic, partial(self._event, number), identifier)
        self._subscriptions[number] = (frame.topic, identifier)
        self._reply(frame.id, number)

    def _on_unsubscribe(self, frame: frames.UnsubscribeFrame) -> None:
        known = self._subscriptions.pop(frame.subscription, None)
        self._reply(frame.id, known is not None and self._owner.events.unsubscribe(*known))

    def _on_publish(self, frame: frames.PublishFrame) -> None:
        if not self.rights().may_publish(frame.topic):
            self.denied("event.publish", frame.topic)
            self.send_error(frame.id, Failure("denied", f"{self.pack_id} may not publish {quote(frame.topic)}"))
            return
        payload = RawPayload(self, frame.refs, bytes(memoryview(frame.body)))
        events = self._owner.events

        def load() -> Any:
            return unpack(payload.body, self.references.resolver(payload.refs, ""), max_nodes=self.limits.decode_nodes)

        if frame.refs:
            # who looks later must find the callables alive
            try:
                value = load()
            except ValueProblem as exc:
                self.send_error(frame.id, Failure(exc.type, str(exc)))
                return
            event = Event(events.new_id(), self._source, frame.topic, time.time(), lambda: value, raw=payload)
        else:
            event = Event(events.new_id(), self._source, frame.topic, time.time(), load, raw=payload)
        reached = events.publish_event(event)
        if frame.id:
            self._reply(frame.id, reached)

    def _event(self, number: int, event: Event) -> None:
        """An event for this Pack; when it does not read, the oldest that wait are dropped."""
        if self.dead or not self.rights().may_subscribe(event.type):
            return
        if self.congested:
            if len(self._events_waiting) >= EVENTS_WAITING:
                self._events_waiting.popleft()
                self._events_lost += 1
                self._owner.diagnostics.issue(
                    "events_dropped",
                    Severity.WARN,
                    self.pack_id,
                    "A Pack is too slow for its events",
                    f"{self._events_lost} were dropped, the oldest first.",
                    "Subscribe to a narrower topic, or make the handler faster.",
                )
            self._events_waiting.append((number, event))
            return
        self._send_event(number, event)

    def _send_event(self, number: int, event: Event) -> None:
        refs: list[tuple[int, int]] = []
        raw = event.raw
        if isinstance(raw, RawPayload):
            body = raw.body
            if raw.refs:
                refs = raw.session.references.translate(raw.refs, self, None)
        else:
            body = pack(event.data, self.references.exporter(refs))
        self.send((frames.EVENT, 0, number, event.attributes, refs, Raw(body)))

    # --- frames: requests

    def _on_request(self, frame: frames.RequestFrame) -> None:
        if len(self._tasks) >= self.limits.requests:
            busy = Failure("limit", f"{self.limits.requests} requests are in flight already", retryable=True)
            self.send_error(frame.id, busy)
            return
        try:
            args = unpack(
                frame.body,
                self.references.resolver(frame.refs, frame.operation),
                max_nodes=self.limits.decode_nodes,
            )
        except ValueProblem as exc:
            self.send_error(frame.id, Failure(exc.type, str(exc)))
            return
        self._spawn(self._serve_request(frame.id, frame.operation, args))

    async def _serve_request(self, number: int, operation: str, args: Any) -> None:
        with fail_soft(self._owner.diagnostics, self.pack_id, "request", step_id=operation, quiet=True) as outcome:
            result = await self._owner.request(self, operation, args)
            refs: list[tuple[int, int]] = []
            try:
                self.send((frames.RESULT, number, 0, refs, Raw(pack(result, self.references.exporter(refs)))))
            except (ValueProblem, FrameError) as exc:
                self.send_error(number, Failure(getattr(exc, "type", "value.too_large"), str(exc)))
        if outcome.error is not None:
            self.send_error(number, Failure.of(outcome.error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _reply(self, number: int, value: Any) -> None:
        if number:
            self.send((frames.RESULT, number, 0, _NO_REFS, value))


_HANDLERS: Mapping[type, Callable[[Session, Any], None]] = {
    frames.CallFrame: Session._on_call,  # noqa: SLF001  the table belongs to the class
    frames.ResultFrame: Session._on_result,  # noqa: SLF001
    frames.ErrorFrame: Session._on_error,  # noqa: SLF001
    frames.CancelFrame: Session._on_cancel,  # noqa: SLF001
    frames.ItemFrame: Session._on_item,  # noqa: SLF001
    frames.EndFrame: Session._on_end,  # noqa: SLF001
    frames.CreditFrame: Session._on_credit,  # noqa: SLF001
    frames.HelloFrame: Session._on_hello,  # noqa: SLF001
    frames.PhaseDoneFrame: Session._on_phase_done,  # noqa: SLF001
    frames.PongFrame: Session._on_pong,  # noqa: SLF001
    frames.LogFrame: Session._on_log,  # noqa: SLF001
    frames.RegisterFrame: Session._on_register,  # noqa: SLF001
    frames.UnregisterFrame: Session._on_unregister,  # noqa: SLF001
    frames.ReleaseFrame: Session._on_release,  # noqa: SLF001
    frames.SubscribeFrame: Session._on_subscribe,  # noqa: SLF001
    frames.UnsubscribeFrame: Session._on_unsubscribe,  # noqa: SLF001
    frames.PublishFrame: Session._on_publish,  # noqa: SLF001
    frames.RequestFrame: Session._on_request,  # noqa: SLF001
}


def _unpack_bounded(raw: Raw) -> Any:
    """A small loose map of a frame. What it can't hold ends the connection."""
    try:
        return unpack(raw, max_nodes=META_NODES)
    except ValueProblem as exc:
        raise FrameError(str(exc)) from exc


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
