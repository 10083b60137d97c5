"""One Pack generation on the bus: its connection, its tables, and how it begins and ends.

Invariants:
  * Identity is the connection: ``pack_id`` and ``generation`` were fixed when the socket was made;
    no frame says who sent it.
  * HELLO comes first and once; nothing else is served before WELCOME went out.
  * Rights are asked for at each use. Everything a session registered, subscribed or handed out ends with it.

Not here: what each frame means (``frame_handlers``), routing (``router``), registrations, events and requests
(``registrations``, ``pack_events``, ``pack_requests``), which sessions exist (``hub``), supervision
(``container_orchestrator``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from typing import Any

from msgspec import Raw

from backend_core.errors import PackError, PackTimeout
from core_runtime.bus.calls import Call, EdgeStats, Failure
from core_runtime.bus.channels import Channels
from core_runtime.bus.complaints import Complaints
from core_runtime.bus.frame_handlers import FrameHandlers
from core_runtime.bus.large import LargeBodies
from core_runtime.bus.memory import Memory
from core_runtime.bus.mirrors import Mirror
from core_runtime.bus.owner import Owner
from core_runtime.bus.pack_events import PackEvents
from core_runtime.bus.pack_log import PackLog
from core_runtime.bus.pack_requests import PackRequests
from core_runtime.bus.phases import PhaseOutcome
from core_runtime.bus.places import Places
from core_runtime.bus.references import References
from core_runtime.bus.registrations import Registrations, as_map
from core_runtime.bus.shadow import Shadow, World
from core_runtime.diagnostics import record_failure
from core_runtime.drivers.link import Link
from core_runtime.drivers.memory_file import Body
from core_runtime.rules import frames
from core_runtime.rules.contracts import NO_TERMS, Terms
from core_runtime.rules.frames import PROTOCOL_VERSION, BusLimits, FrameError
from core_runtime.rules.routing import RightsOf
from core_runtime.rules.sharing import carried_rest_s

_NIL = Raw(b"\xc0")
GIVE_BACK_S = 2.0
LAST_ID = 2**32 - 1
_NO_REFS: tuple[tuple[int, int], ...] = ()
LARGE = frozenset({frames.CALL, frames.RESULT, frames.STREAM_ITEM})
"""Kinds that the host sends with a body in chunks where it is longer than a frame."""


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
        self.memory = Memory(self, owner.router.memory_room)
        self.stats = EdgeStats()
        self.made = 0
        self.abandoned = 0
        self._suspects: list[Call] | None = None
        self.orphans = 0
        self.ready = False
        self.draining = False
        self.takes_batches = False
        self.retired = False
        self.dead = False
        self._idle: asyncio.Future[None] | None = None
        self._owner = owner
        self.handlers = FrameHandlers(self, owner)
        self._by_kind: dict[type, Callable[[Any], None]] = {frames.HelloFrame: self.handlers.hello}
        self._link: Link | None = None
        self.send: Callable[[tuple[Any, ...]], None] = _nowhere
        """Queues a frame. Raises ``FrameError`` when it is too long; silent when the session is over."""
        self._numbers = 0
        self._came_round = False
        self._silent = 0
        self._second = 0.0
        self._calls = 0
        self.waits: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self.events = PackEvents(self, owner.events, owner.diagnostics, live=not beside)
        self.requests = PackRequests(self, owner.request, owner.diagnostics)
        self.channels = Channels(self, owner.channels, owner.diagnostics)
        self.complaints = Complaints(self, owner.diagnostics)
        self.log = PackLog(partial(owner.log, pack_id, generation), limits.log_bytes_per_s, self._log_dropped)

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
        second = self.memory.offer()
        if second is None or self._link is None:
            self.send((frames.WELCOME, 0, told))
        else:
            told["memory"] = {"from_bytes": self.limits.file_bytes}
            with second:
                self._link.hand((frames.WELCOME, 0, told), second)
        self.ready = True
        self._by_kind = self.handlers.table()
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
        handler = self._by_kind.get(type(parsed))
        if handler is None:
            raise FrameError(f"{type(parsed).__name__} before WELCOME")
        try:
            handler(parsed)
        except FrameError:
            raise
        except Exception as exc:
            record_failure(self._owner.diagnostics, exc, self.pack_id, "bus")
            raise FrameError("the host could not handle a frame; see the issue of this Pack") from exc
        refs = parsed.refs
        if refs and not self.dead:
            self.references.settle(refs)

    def on_room(self) -> None:
        """``drivers.link.Peer``: mirrors and events that waited go out."""
        self.large.resume()
        self.mirror.resume()
        self.events.resume()
        self.channels.resume()

    def on_lost(self, reason: str) -> None:
        """``drivers.link.Peer``: everything of this session ends."""
        if self.dead:
            return
        self.dead = True
        self.router.calls.session_lost(self, reason)
        for _kind, waiter in self.waits.values():
            if not waiter.done():
                waiter.set_exception(self.gone())
        self.waits.clear()
        self.requests.cancel()
        self.channels.clear()
        self.events.clear()
        self.registry.clear()
        self.references.clear()
        self.large.clear()
        self.memory.clear()
        self.complaints.clear()
        if not self.greeted.done():
            self.greeted.cancel()
        self.closed.set_result(reason)
        self._owner.ended(self, reason)

    @property
    def congested(self) -> bool:
        """More lies unread than a Pack may leave."""
        return self._link is not None and self._link.congested

    @property
    def unread(self) -> bool:
        """Whether the host has not read all that the Pack may have sent."""
        return self._link is not None and self._link.unread

    @property
    def shares(self) -> bool:
        """Whether others are served beside it now."""
        return self._link is not None and self._link.shares()

    def rest_for(self, seconds: float) -> None:
        """It has the loop carry what it could have let go of, or asked for: it is read from again so much later."""
        if self._link is not None:
            self._link.rest_for(seconds)

    def on_long(self, frame: tuple[Any, ...]) -> bool:
        """``drivers.link.Peer``: a call, an answer or an item may have a body that is longer than a frame."""
        if not (self.large.accepts and type(frame[-1]) is Raw and frame[0] in LARGE):
            return False
        self.large.send(frame)
        return True

    def send_large(self, frame: tuple[Any, ...], sender: Session | None) -> None:
        """Queue a frame whose body may be longer than a frame. Raises ``FrameError`` when it can't go at all.

        ``sender``: the Pack whose body it is, None for the host.
        """
        if self._link is None or self.dead:
            return
        in_order = not self.large.waits(frame)
        if in_order and self.memory.send(frame, sender):
            return
        if type(frame[-1]) is Body:
            if self.large.accepts and in_order:
                caller = sender if frame[0] == frames.CALL else self if frame[0] == frames.RESULT else None
                if caller is not None:
                    caller.rest_for(carried_rest_s(len(memoryview(frame[-1]))))
                self.large.send(frame)
                return
            frame = (*frame[:-1], Raw(frame[-1][:]))
        self.send(frame)

    def keep_order(self, send: Callable[[tuple[Any, ...]], None] | None) -> None:
        """Send what comes through ``send`` from now on; None: straight to the link."""
        if self._link is not None:
            self.send = send or self._link.send

    def put(self, frame: tuple[Any, ...]) -> None:
        """Queue a frame as it is."""
        if self._link is not None:
            self._link.send(frame)

    def owe(self) -> None:
        """Something goes out to the Pack in later turns; see ``drivers.link``."""
        if self._link is not None:
            self._link.owe()

    def send_error(self, number: int, failure: Failure) -> None:
        """Answer a request with an error."""
        if number:
            self.send((frames.ERROR, number, *failure.frame_fields()))

    def send_release(self, numbers: list[int]) -> None:
        """The agent's callables that nobody holds any longer."""
        self.send((frames.RELEASE, 0, numbers))

    def next_id(self) -> int:
        """A host id that is not in use on this connection."""
        number = self._numbers + 1
        if self._came_round or number > LAST_ID:
            return self._free_id()
        self._numbers = number
        return number

    def _free_id(self) -> int:
        """Each id was given out once: those that are still in use are passed over."""
        self._came_round = True
        while True:
            self._numbers = (self._numbers + 1) & LAST_ID
            taken = self._numbers in self.incoming or self._numbers in self.waits or self._numbers in self.channels
            if self._numbers and not taken:
                return self._numbers

    def silent_id(self) -> int:
        """A negative key for a call that wants no answer."""
        self._silent -= 1
        return self._silent

    def called(self, now: float) -> int:
        """Count one call of its own; how many it made in the second that began with the first of them."""
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
        return self.channels.any_open

    def limited(self, limit: str, detail: str) -> None:
        """Tell that the Pack met a limit."""
        self._owner.limited(self.pack_id, limit, detail)

    def may_reach(self, key: str) -> bool:
        """Whether the edge to ``key`` stands (a Pack always reaches its own). Spends nothing."""
        rights = self.rights()
        return rights.may_see(key) or rights.may_register(key)

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
        self.waits[number] = (answer, waiter)
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
            self.waits.pop(number, None)

    def reply(self, number: int, value: Any) -> None:
        """Answer a request with a small value of the host's."""
        if number:
            self.send((frames.RESULT, number, 0, _NO_REFS, value))


def _nowhere(_frame: tuple[Any, ...]) -> None:
    """Before there is a connection nobody listens."""
