"""One Pack generation on the bus: its connection, its tables, and what each of its frames means.

Invariants:
  * Identity is the connection: ``pack_id`` and ``generation`` were fixed when the socket was made;
    no frame says who sent it.
  * HELLO comes first and once; nothing else is served before WELCOME went out.
  * Rights are asked for at each use. Everything a session registered, subscribed or handed out ends with it.

Not here: routing (``router``), registrations, events and requests (``registrations``, ``pack_events``,
``pack_requests``), which sessions exist (``bus``), supervision (``container_orchestrator``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any, Protocol

from msgspec import Raw

from backend_core.errors import PackError, PackTimeout, quote
from core_runtime.bus.calls import Call, EdgeStats, Failure
from core_runtime.bus.channels import Channels
from core_runtime.bus.channels import Serve as ServeChannel
from core_runtime.bus.large import LargeBodies, in_chunks
from core_runtime.bus.mirrors import Mirror
from core_runtime.bus.pack_events import PackEvents
from core_runtime.bus.pack_log import PackLog
from core_runtime.bus.pack_requests import PackRequests
from core_runtime.bus.phases import PhaseOutcome
from core_runtime.bus.places import Places
from core_runtime.bus.references import References
from core_runtime.bus.registrations import Registrations, as_map, unpack_bounded
from core_runtime.bus.router import Router
from core_runtime.bus.shadow import Shadow, World
from core_runtime.diagnostics import Diagnostics, Severity, record_failure
from core_runtime.drivers.link import Link
from core_runtime.drivers.redactions import Redactions
from core_runtime.event_bus import EventBus
from core_runtime.rules import frames
from core_runtime.rules.contracts import NO_TERMS, Terms
from core_runtime.rules.frames import PROTOCOL_VERSION, BusLimits, FrameError
from core_runtime.rules.routing import RightsOf

_NIL = Raw(b"\xc0")
GIVE_BACK_S = 2.0
_WithBody = frames.CallFrame | frames.ResultFrame | frames.ItemFrame | frames.RequestFrame
_NO_REFS: tuple[tuple[int, int], ...] = ()
LARGE = frozenset({frames.CALL, frames.RESULT, frames.STREAM_ITEM})
"""Kinds that the host sends with a body in chunks where it is longer than a frame."""
INCOMPATIBLE = "interface_incompatible"


class Owner(Protocol):
    """What a session needs of its bus."""

    router: Router
    events: EventBus
    diagnostics: Diagnostics
    redactions: Redactions

    def denied(self, pack_id: str, operation: str, subject: str) -> None:
        """Record a refusal."""

    def limited(self, pack_id: str, limit: str, detail: str) -> None:
        """A Pack met a limit; names as in ``rules.limits_seen``."""

    def log(self, pack_id: str, generation: int, level: int, source: str, text: str) -> None:
        """A line that the Pack printed or logged."""

    def ended(self, session: Session, reason: str) -> None:
        """The session is over."""

    def welcomed(self, session: Session) -> None:
        """The session serves from now on."""

    def take_over(self, session: Session) -> None:
        """The session takes the place of the one that serves."""

    async def request(self, session: Session, operation: str, args: Any) -> Any:
        """Serve an operation of kind 64."""

    @property
    def channels(self) -> Mapping[str, ServeChannel]:
        """Operations of kind 64 that open a channel."""


class Session:
    """See the module docstring. All methods belong to the event loop's thread."""

    def __init__(
        self,
        owner: Owner,
        pack_id: str,
        generation: int,
        rights: RightsOf,
        limits: BusLimits,
        *,
        beside: bool = False,
        terms: Terms = NO_TERMS,
    ) -> None:
        """``beside``: another generation serves; this one is seen by nobody until it takes over.

        ``terms``: what its approved manifest promises of its keys, and needs of others'.
        """
        self.pack_id = pack_id
        self.generation = generation
        self.rights = rights
        self.limits = limits
        self.terms = terms
        self.router = owner.router
        self.loop = asyncio.get_running_loop()
        self.hello: Mapping[str, Any] = {}
        self.greeted: asyncio.Future[None] = self.loop.create_future()
        self.closed: asyncio.Future[str] = self.loop.create_future()
        registry = owner.router.registry
        self.world: World = Shadow(registry, pack_id, self._own_changed) if beside else registry
        self.references = References(self, limits.references)
        self.mirror = Mirror(self, owner.diagnostics)
        self.incoming: dict[int, Call] = {}
        self.places = Places(limits)
        self.outgoing: dict[int, Call] = {}
        self.registry = Registrations(self)
        self.registrations = self.registry.entries
        self.large = LargeBodies(self, owner.router.room)
        self.stats = EdgeStats()
        self.made = 0
        self.abandoned = 0
        self._suspects: list[Call] | None = None
        self.orphans = 0
        self.ready = False
        self.draining = False
        self.retired = False
        self.dead = False
        self._idle: asyncio.Future[None] | None = None
        self._owner = owner
        self._handlers: dict[type, Callable[[Any], None]] = {frames.HelloFrame: self._on_hello}
        self._link: Link | None = None
        self.send: Callable[[tuple[Any, ...]], None] = _nowhere
        """Queues a frame. Raises ``FrameError`` when it is too long; silent when the session is over."""
        self._numbers = 0
        self._silent = 0
        self._second = 0.0
        self._calls = 0
        self._waits: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self.events = PackEvents(self, owner.events, owner.diagnostics, live=not beside)
        self._requests = PackRequests(self, owner.request, owner.diagnostics)
        self._channels = Channels(self, owner.channels, owner.diagnostics)
        self._strays = 0
        self.unsuited: dict[str, str] = {}
        self._log = PackLog(partial(owner.log, pack_id, generation), limits.log_bytes_per_s, self._log_dropped)

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
        self._handlers = self._all_handlers()
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
        return PhaseOutcome.of(self._owner.redactions.hide_in(self.pack_id, as_map(raw)))

    async def ping(self, timeout_s: float = 5.0) -> Mapping[str, Any]:
        """``{threads, stuck, calls}`` as the agent says; raises ``PackTimeout`` when it does not answer."""
        raw = await self._ask(lambda number: (frames.PING, number), frames.PONG, timeout_s, "ping")
        return as_map(raw)

    async def shutdown(self, grace_s: float) -> None:
        """Let the calls in flight end, and what they need, then have the agent leave; ``grace_s`` later it is cut off.

        New calls are refused from the first moment.
        """
        if self.dead:
            return
        self.draining = True
        left_s = grace_s
        if len(self.incoming) > self.abandoned:
            until = self.loop.time() + grace_s
            self._idle = self.loop.create_future()
            either: tuple[asyncio.Future[Any], ...] = (self._idle, self.closed)
            await asyncio.wait(either, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
            left_s = max(0.0, until - self.loop.time())
        if not self.dead:
            self.send((frames.SHUTDOWN, 0, int(left_s * 1000)))
            await asyncio.wait([self.closed], timeout=left_s)
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
        for key in {*self.world.keys(), *self.mirror.shown}:
            self.mirror.push(key)

    def take_over(self) -> None:
        """Take the place of the generation that serves; see ``bus.takeover``."""
        self._owner.take_over(self)

    def retire(self) -> None:
        """A newer generation serves now: what is in flight here ends here, and nothing else begins."""
        self.retired = self.draining = True
        self.registry.withdrawn()
        self.events.clear()

    # --- link

    def attach(self, link: Link) -> None:
        """The connection, right after it was accepted."""
        self._link = link
        self.send = link.send

    def on_frame(self, frame: memoryview) -> None:
        """``drivers.link.Peer``."""
        parsed = frames.parse(frame)
        handler = self._handlers.get(type(parsed))
        if handler is None:
            raise FrameError(f"{type(parsed).__name__} before WELCOME")
        try:
            handler(parsed)
        except FrameError:
            raise
        except Exception as exc:
            record_failure(self._owner.diagnostics, exc, self.pack_id, "bus")
            raise FrameError("the host could not handle a frame; see the issue of this Pack") from exc
        refs = getattr(parsed, "refs", None)
        if refs and not self.dead:
            self.references.settle(refs)

    def on_room(self) -> None:
        """``drivers.link.Peer``: mirrors and events that waited go out."""
        self.large.resume()
        self.mirror.resume()
        self.events.resume()
        self._channels.resume()

    def on_lost(self, reason: str) -> None:
        """``drivers.link.Peer``: everything of this session ends."""
        if self.dead:
            return
        self.dead = True
        self.router.calls.session_lost(self, reason)
        for _kind, waiter in self._waits.values():
            if not waiter.done():
                waiter.set_exception(self.gone())
        self._waits.clear()
        self._requests.cancel()
        self._channels.clear()
        self.events.clear()
        self.registry.clear()
        self.references.clear()
        self.large.clear()
        self._forget_unsuited()
        if not self.greeted.done():
            self.greeted.cancel()
        self.closed.set_result(reason)
        self._owner.ended(self, reason)

    @property
    def congested(self) -> bool:
        """More lies unread than a Pack may leave."""
        return self._link is not None and self._link.congested

    @property
    def shares(self) -> bool:
        """Whether others are served beside it now."""
        return self._link is not None and self._link.shares()

    def on_long(self, frame: tuple[Any, ...]) -> bool:
        """``drivers.link.Peer``: a call, an answer or an item may have a body that is longer than a frame."""
        if not (self.large.accepts and type(frame[-1]) is Raw and frame[0] in LARGE):
            return False
        self.large.send(frame)
        return True

    def keep_order(self, send: Callable[[tuple[Any, ...]], None] | None) -> None:
        """Send what comes through ``send`` from now on; None: straight to the link."""
        if self._link is not None:
            self.send = send or self._link.send

    def put(self, frame: tuple[Any, ...]) -> None:
        """Queue a frame as it is."""
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
            taken = self._numbers in self.incoming or self._numbers in self._waits or self._numbers in self._channels
            if self._numbers and not taken:
                return self._numbers

    def silent_id(self) -> int:
        """A negative key for a call that wants no answer."""
        self._silent -= 1
        return self._silent

    def called(self) -> int:
        """Count one call of its own; how many it made in the second that began with the first of them."""
        now = monotonic()
        if now - self._second >= 1.0:
            self._second, self._calls = now, 0
        self._calls += 1
        return self._calls

    def denied(self, operation: str, subject: str) -> None:
        """Record a refusal."""
        self._owner.denied(self.pack_id, operation, subject)

    @property
    def activity(self) -> int:
        """A number that grows with each call to it, and with each call and request of its own."""
        return self.stats.calls + self.made

    @property
    def connected(self) -> bool:
        """Whether a channel of it is open: what it waits for there would be missed."""
        return self._channels.any_open

    def limited(self, limit: str, detail: str) -> None:
        """Tell that the Pack met a limit."""
        self._owner.limited(self.pack_id, limit, detail)

    def may_reach(self, key: str) -> bool:
        """Whether the edge to ``key`` stands (a Pack always reaches its own). Spends nothing."""
        rights = self.rights()
        return rights.may_see(key) or rights.may_register(key)

    def broke_contract(self, key: str, problem: str) -> None:
        """Something else was registered than the approved manifest declares."""
        self._owner.diagnostics.issue(
            "contract_broken",
            Severity.ERROR,
            self.pack_id,
            "A Pack registers something else than was approved",
            f"{quote(key)}: {problem}. It was refused.",
            f"Look at what it declares: rumi pack review {self.pack_id}. Its author has to make both agree.",
            {"key": key},
        )

    def note_unsuited(self, key: str, why: str) -> None:
        """What answers a key is out of the range that the Pack needs, or ("") is not, or no longer."""
        if self.unsuited.get(key, "") == why:
            return
        if why:
            self.unsuited[key] = why
        else:
            del self.unsuited[key]
        if not self.unsuited:
            self._owner.diagnostics.resolve(INCOMPATIBLE, self.pack_id)
            return
        self._owner.diagnostics.issue(
            INCOMPATIBLE,
            Severity.WARN,
            self.pack_id,
            "A Pack can't use what is provided now",
            " ".join(self.unsuited[name] for name in sorted(self.unsuited)[:10]),
            "Update one of the two Packs, or choose another provider; until then it sees no such interface.",
            {"keys": sorted(self.unsuited)[:100]},
        )

    def _forget_unsuited(self) -> None:
        """Unless another generation of the Pack meets the same."""
        others = (one for one in self.router.sessions if one is not self and one.pack_id == self.pack_id)
        if self.unsuited and not any(one.unsuited for one in others):
            self._owner.diagnostics.resolve(INCOMPATIBLE, self.pack_id)

    def check_abandoned(self) -> None:
        """Cut a Pack off that sits on too many cancelled calls: on the same ones, and for ``GIVE_BACK_S``.

        Hundreds may be cancelled at once, which is their caller's doing.
        """
        if self.abandoned > self.limits.abandoned and self._suspects is None:
            self._suspects = [call for call in self.incoming.values() if call.abandoned]
            self.loop.call_later(GIVE_BACK_S, self._judge)

    def _judge(self) -> None:
        suspects, self._suspects = self._suspects or [], None
        if self.dead:
            return
        kept = sum(self.incoming.get(call.number) is call for call in suspects)
        if kept > self.limits.abandoned:
            self.abort(f"stuck: {kept} cancelled calls were never given back")
        else:
            self.check_abandoned()

    def check_idle(self) -> None:
        """Tell who drains this session that nothing is owed any more."""
        if self._idle is not None and not self._idle.done() and len(self.incoming) <= self.abandoned:
            self._idle.set_result(None)

    def overdue(self, grace_s: float) -> int:
        """Calls whose callers were answered and whose handlers still run, ``grace_s`` after their deadlines."""
        if not self.abandoned:
            return 0
        limit = monotonic() - grace_s
        return sum(call.abandoned and call.deadline < limit for call in self.incoming.values())

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

    def _log_dropped(self) -> None:
        self.limited("log", f"It writes more than {self.limits.log_bytes_per_s} bytes a second.")

    def _own_changed(self, key: str) -> None:
        """A shadow's own key: nobody else is told."""
        self.loop.call_soon(self.mirror.push, key)

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

    def _all_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            frames.CallFrame: self._on_call,
            frames.ResultFrame: self._on_result,
            frames.ErrorFrame: self._on_error,
            frames.CancelFrame: self._on_cancel,
            frames.ItemFrame: self._on_item,
            frames.EndFrame: self._on_end,
            frames.CreditFrame: self._on_credit,
            frames.ChunkFrame: self.large.chunk,
            frames.HelloFrame: self._on_hello,
            frames.PhaseDoneFrame: self._on_phase_done,
            frames.PongFrame: self._on_pong,
            frames.LogFrame: self._on_log,
            frames.RegisterFrame: self.registry.register,
            frames.UnregisterFrame: self.registry.unregister,
            frames.ReleaseFrame: self._on_release,
            frames.SubscribeFrame: self.events.subscribe,
            frames.UnsubscribeFrame: self.events.unsubscribe,
            frames.PublishFrame: self.events.publish,
            frames.RequestFrame: self._on_request,
        }

    # --- frames: life

    def _on_hello(self, frame: frames.HelloFrame) -> None:
        if self.greeted.done():
            raise FrameError("a second HELLO")
        hello = as_map(unpack_bounded(frame.hello))
        if PROTOCOL_VERSION not in (hello.get("protocols") or ()):
            raise FrameError(f"no common protocol version (the host speaks {PROTOCOL_VERSION})")
        self.hello = hello
        self.large.accepts = hello.get("chunks") is True
        self.references.takes_sources = hello.get("sources") is True
        self.greeted.set_result(None)

    def _on_answer(self, number: int, kind: int, raw: Raw) -> None:
        waiting = self._waits.get(number)
        if waiting is None or waiting[0] != kind:
            self._stray(number)
            return
        if not waiting[1].done():
            waiting[1].set_result(unpack_bounded(raw))

    def _on_phase_done(self, frame: frames.PhaseDoneFrame) -> None:
        self._on_answer(frame.id, frames.PHASE_DONE, frame.outcome)

    def _on_pong(self, frame: frames.PongFrame) -> None:
        self._on_answer(frame.id, frames.PONG, frame.state)

    def _on_log(self, frame: frames.LogFrame) -> None:
        self._log.take(frame)

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
        self.made += 1
        dropped = self._joined(frame)
        if dropped is not None:
            self.send_error(frame.id, dropped)
            return
        self.router.from_pack(self, frame)

    def _on_result(self, frame: frames.ResultFrame) -> None:
        dropped = self._joined(frame)
        call = self.incoming.get(frame.id)
        if call is None or call.streaming:
            self._stray(frame.id)
        elif dropped is not None:
            self.router.error(call, dropped)
        else:
            self.router.result(call, frame)

    def _joined(self, frame: _WithBody) -> Failure | None:
        """Put a body that came in chunks in its place; why not, where it was dropped."""
        if not in_chunks(frame.body):
            return None
        body = self.large.body(frame)
        if isinstance(body, Failure):
            return body
        frame.body = body
        return None

    def _on_error(self, frame: frames.ErrorFrame) -> None:
        call = self.incoming.get(frame.id)
        if call is None:
            self._stray(frame.id)
        else:
            self.router.error(
                call, self._failure((frame.type_, frame.title, frame.detail, frame.retryable, frame.trace))
            )

    def _on_cancel(self, frame: frames.CancelFrame) -> None:
        call = self.outgoing.get(frame.id)
        if call is not None:
            self.router.calls.abandon(call, Failure("cancelled", "the caller cancelled"))
        else:
            self._channels.cancel(frame.id)

    def _on_item(self, frame: frames.ItemFrame) -> None:
        dropped = self._joined(frame)
        call = self.incoming.get(frame.id)
        if call is not None:
            self.router.streams.item(call, frame, dropped)
        elif not self._channels.item(frame):
            self._stray(frame.id)

    def _on_end(self, frame: frames.EndFrame) -> None:
        call = self.incoming.get(frame.id)
        failure = self._failure(frame.error) if frame.error is not None else None
        if call is not None:
            self.router.streams.end(call, failure)
        elif not self._channels.end(frame.id, failure):
            self._stray(frame.id)

    def _failure(self, fields: tuple[str, str, str, bool, str]) -> Failure:
        """What a sandbox says went wrong, without the secrets of its Pack: others read it."""
        failure, redactions = Failure.from_agent(*fields), self._owner.redactions
        return failure.without(partial(redactions.hide, self.pack_id)) if redactions.knows(self.pack_id) else failure

    def _on_credit(self, frame: frames.CreditFrame) -> None:
        call = self.outgoing.get(frame.id)
        if call is not None:
            self.router.streams.credit(call, frame.n)
        else:
            self._channels.credit(frame.id, frame.n)

    def _on_request(self, frame: frames.RequestFrame) -> None:
        self.made += 1
        dropped = self._joined(frame)
        if dropped is not None:
            self.send_error(frame.id, dropped)
            return
        if self._channels.serves(frame.operation):
            self._channels.take(frame)
        else:
            self._requests.take(frame)

    def _on_release(self, frame: frames.ReleaseFrame) -> None:
        self.references.released(frame.numbers)

    def reply(self, number: int, value: Any) -> None:
        """Answer a request with a small value of the host's."""
        if number:
            self.send((frames.RESULT, number, 0, _NO_REFS, value))


def _nowhere(_frame: tuple[Any, ...]) -> None:
    """Before there is a connection nobody listens."""
