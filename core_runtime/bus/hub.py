"""The bus: one connection per Pack generation, the calls between them and the host, and what everybody may see.

Invariants:
  * A socket is the Pack's identity; a generation number is used once per Pack and only grows.
  * What the host does for a Pack (a flow step, ``caller=``) needs that Pack's edge as if the Pack had called.

Not here: routing (``router``), telling Packs of changes (``pushes``), where they connect (``endpoint``), one
connection's frames (``sessions``), supervision, approval.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from backend_core.errors import ConflictError, DeniedError, HostError, RequestError, quote
from core_runtime.bus.calls import KERNEL, CallContext, HostContext
from core_runtime.bus.channels import Serve as ServeChannel
from core_runtime.bus.endpoint import Endpoint
from core_runtime.bus.holding import Hold
from core_runtime.bus.pushes import Pushes
from core_runtime.bus.registry_requests import SOURCE, source_of
from core_runtime.bus.router import Router
from core_runtime.bus.sessions import Session
from core_runtime.bus.shadow import Shadow
from core_runtime.bus.sleeping import Sleep
from core_runtime.bus.takeover import take_over
from core_runtime.diagnostics import Diagnostics, Severity, fail_soft, record_failure
from core_runtime.drivers.redactions import Redactions
from core_runtime.drivers.turns import Turn
from core_runtime.event_bus import EventBus
from core_runtime.interface_registry import InterfaceRegistry
from core_runtime.rules.contracts import NO_TERMS, Terms
from core_runtime.rules.frames import BusLimits
from core_runtime.rules.routing import NO_RIGHTS, PackRights, RightsOf

RequestHandler = Callable[[Session, str, Any], Awaitable[Any]]
LogSink = Callable[[str, int, int, str, str], None]
OnLimit = Callable[[str, str, str], None]
"""``(pack_id, limit, detail)``; at most once a second for each Pack and limit."""
OnDenied = Callable[[str, str, str, int], None]
"""``(pack_id, operation, subject, count)``; count is how often since it was last told."""

DENIAL_INTERVAL_S = 1.0
LIMIT_INTERVAL_S = 1.0
MAX_DENIALS = 4_096


class Bus:
    """See the module docstring. Everything but ``registry`` and ``events`` belongs to the loop's thread."""

    def __init__(
        self,
        registry: InterfaceRegistry,
        events: EventBus,
        diagnostics: Diagnostics,
        *,
        requests: RequestHandler | None = None,
        limits: BusLimits | None = None,
        log_sink: LogSink | None = None,
        on_denied: OnDenied | None = None,
        on_limit: OnLimit | None = None,
        redactions: Redactions | None = None,
    ) -> None:
        """``redactions``: secrets that are hidden in what Packs log and in the errors that they answer with."""
        self.registry = registry
        self.events = events
        self.diagnostics = diagnostics
        self.limits = limits or BusLimits()
        self.requests = requests
        self.log_sink = log_sink
        self.on_denied = on_denied
        self.channels: dict[str, ServeChannel] = {}
        """Operations of kind 64 that open a channel; filled before the first Pack connects."""
        self.on_limit = on_limit
        self._limits_told: dict[tuple[str, str], float] = {}
        self.redactions = redactions or Redactions()
        self.turn = Turn()
        self.router = Router(registry, diagnostics, self.limits)
        self.sessions: dict[str, Session] = {}
        self.sleep = Sleep(self)
        self._endpoints: set[Endpoint] = set()
        self._generations: dict[str, int] = {}
        self._rights: dict[str, RightsOf] = {}
        self._terms: dict[str, Terms] = {}
        self._pushes = Pushes(registry, diagnostics, self.router.sessions)
        self._denials: dict[tuple[str, str, str], tuple[float, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Bind to the running loop."""
        if self._loop is not None:
            raise ConflictError(
                "The bus runs already",
                code="bus_running",
                detail="start() was called twice.",
                hint="Use one bus for each host.",
            )
        self._loop = asyncio.get_running_loop()
        self.router.calls.bind(self._loop)
        self._pushes.bind(self._loop)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one that everything belongs to, once it was started."""
        assert self._loop is not None
        return self._loop

    async def close(self) -> None:
        """Cut every connection and take every socket back."""
        for endpoint in tuple(self._endpoints):
            await endpoint.close()
        self._pushes.close()
        # connections report their end in a later turn
        for session in tuple(self.router.sessions):
            session.abort("the host stops")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([session.closed], timeout=1.0)

    async def open(
        self,
        pack_id: str,
        generation: int,
        rights: PackRights | RightsOf,
        *,
        socket_path: str,
        uid: int | None = None,
        gid: int | None = None,
        beside: bool = False,
        terms: Terms = NO_TERMS,
    ) -> Endpoint:
        """Listen for one generation of a Pack. ``rights``: an object, or a callable asked at each use (revocation).

        ``socket_path``: empty where the sandbox brings its connection with it.
        ``beside``: another generation goes on serving until this one takes over.
        ``terms``: what its approved manifest promises and needs.
        ``uid``: the user that must connect; None where the peer's uid says nothing. Raises ``ConflictError`` for a
        generation that was used before, ``HostError`` when the socket can't be made.
        """
        if self._loop is None:
            raise HostError(
                "The bus does not run", code="bus_stopped", detail="start() comes first.", hint="Start the host again."
            )
        if generation <= self._generations.get(pack_id, 0):
            raise ConflictError(
                "A generation is used once",
                code="generation_replayed",
                detail=f"{pack_id} had generation {self._generations[pack_id]}; came {generation}.",
                hint="Start the Pack anew: each start gets the next number.",
            )
        self._generations[pack_id] = generation
        current = self._guarded(pack_id, rights) if callable(rights) else _constant(rights)
        session = Session(self, pack_id, generation, current, self.limits, beside=beside, terms=terms)
        endpoint = Endpoint(self, session, socket_path, uid, gid)
        if not beside:
            self._rights[pack_id] = current
            self._terms[pack_id] = terms
        self._endpoints.add(endpoint)
        return endpoint

    async def call(
        self,
        key: str,
        args: Any = None,
        *,
        caller: str = "",
        timeout_s: float | None = None,
        context: CallContext | HostContext | None = None,
        idempotency_key: str | None = None,
        ahead: int | None = None,
    ) -> Any:
        """Call an interface from the host: a value, or an async iterator where the provider streams.

        ``caller``: "" for the operator, "kernel", or the Pack that the call is made for. ``ahead``: how many items of a
        stream its provider may make before the first is read, if fewer than usual. Raises ``NotFoundError``
        (``missing``), ``DeniedError``, ``PackTimeout``, ``PackError``.
        """
        acting = caller
        if context is None:
            context = CallContext(caller=caller) if caller else None
        elif not caller and isinstance(context, CallContext):
            acting = context.caller
        judge = None
        if acting and acting != KERNEL:
            self._check_acting(acting, key, spend=False)  # before anything waits, or wakes up
            judge = partial(self._check_acting, acting, key, spend=True)
        return await self.router.call_key(
            key, args, context=context, timeout_s=timeout_s, idempotency_key=idempotency_key, ahead=ahead, judge=judge
        )

    def rights_changed(self, pack_id: str) -> None:
        """Show a Pack what it may see now; calls ask its rights anyway."""
        for session in tuple(self.router.sessions):
            if session.pack_id == pack_id:
                session.refresh()

    def statistics(self) -> dict[str, Any]:
        """``{packs: {id: …}, edges: [{caller, key, …}]}``."""
        return {
            "packs": {
                pack_id: {
                    "generation": s.generation,
                    "in_flight": len(s.incoming),
                    "abandoned": s.abandoned,
                    "registrations": len(s.registrations),
                    "large_values": s.memory.report(),
                    **s.stats.as_dict(),
                }
                for pack_id, s in self.sessions.items()
            },
            "edges": [
                {"caller": caller, "key": key, **stats.as_dict()} for (caller, key), stats in self.router.edges.items()
            ],
        }

    def large_values(self, pack_id: str) -> dict[str, Any] | None:
        """Which way large values of the generation that serves go, and why; None where none is connected."""
        session = self.sessions.get(pack_id)
        return session.memory.report() if session is not None else None

    # --- for sessions

    def denied(self, pack_id: str, operation: str, subject: str) -> None:
        """Record a refusal; a Pack that repeats one is told on once a second, with the count."""
        now = time.monotonic()
        known = (pack_id, operation, subject)
        if known not in self._denials and len(self._denials) >= MAX_DENIALS:
            known = (pack_id, operation, "(other subjects)")
        last, count = self._denials.get(known, (float("-inf"), 0))
        if now - last < DENIAL_INTERVAL_S:
            self._denials[known] = (last, count + 1)
            return
        self._denials[known] = (now, 0)
        self.diagnostics.issue(
            "denied",
            Severity.WARN,
            pack_id,
            f"{operation} was refused",
            f"{pack_id} tried {operation} on {quote(subject)} without the right.",
            f"If it should: `rumi pack review {pack_id}`; if it should not, the Pack deserves a look.",
            {"operation": operation, "subject": subject[:300], "count": count + 1},
        )
        if self.on_denied is not None:
            with fail_soft(self.diagnostics, "audit of a denial", "bus"):
                self.on_denied(pack_id, operation, subject, count + 1)

    def limited(self, pack_id: str, limit: str, detail: str) -> None:
        """A Pack met a limit of the bus."""
        now = time.monotonic()
        if self.on_limit is None or now - self._limits_told.get((pack_id, limit), -LIMIT_INTERVAL_S) < LIMIT_INTERVAL_S:
            return
        self._limits_told[pack_id, limit] = now
        with fail_soft(self.diagnostics, "telling of a limit", "bus"):
            self.on_limit(pack_id, limit, detail)

    def log(self, pack_id: str, generation: int, level: int, source: str, text: str) -> None:
        """Hand a Pack's line to the sink."""
        if self.log_sink is not None:
            with fail_soft(self.diagnostics, "log sink", "bus"):
                hide = self.redactions.hide
                self.log_sink(pack_id, generation, level, hide(pack_id, source), hide(pack_id, text))

    def welcomed(self, session: Session) -> None:
        """A session serves: it is the Pack's current one if it is the newest."""
        self.router.sessions.add(session)
        if isinstance(session.world, Shadow):
            return
        current = self.sessions.get(session.pack_id)
        if current is None or current.generation < session.generation:
            self.sessions[session.pack_id] = session

    def take_over(self, session: Session) -> None:
        """A session that was opened beside takes the place of the one that serves, in this turn."""
        take_over(self, session)
        self._rights[session.pack_id] = session.rights
        self._terms[session.pack_id] = session.terms

    @contextlib.contextmanager
    def holding(self, pack_id: str) -> Iterator[Hold]:
        """While the block runs, calls of what the Pack answers for wait instead of failing."""
        hold = self.router.holds.begin(pack_id, self.loop)
        try:
            yield hold
        finally:
            self.router.holds.end(hold)

    def ended(self, session: Session, reason: str) -> None:
        """A session is over. What a Pack did wrong becomes an Issue; a stop does not."""
        if self.sessions.get(session.pack_id) is session:
            del self.sessions[session.pack_id]
        for endpoint in [e for e in self._endpoints if e.session is session]:
            endpoint.stop_listening()
            self._endpoints.discard(endpoint)
        if reason.partition(":")[0] in {"protocol", "backlog", "stuck"}:
            self.diagnostics.issue(
                f"bus_{reason.partition(':')[0]}",
                Severity.ERROR,
                session.pack_id,
                "A Pack was cut off from the bus",
                f"{reason[:500]} (generation {session.generation})",
                f"`rumi logs {session.pack_id}` shows what it did; it is restarted within its limits.",
            )

    async def request(self, session: Session, operation: str, args: Any) -> Any:
        """Serve kind 64: of the registry here, the rest through whoever was bound."""
        if operation == SOURCE:
            return source_of(session, args)
        if self.requests is None:
            raise RequestError(
                f"Operation {quote(operation)} is not served",
                code="unknown_operation",
                detail="This host offers no operations to Packs.",
                hint="Ask the operator which version runs.",
            )
        return await self.requests(session, operation, args)

    # --- acting for a Pack

    def _guarded(self, pack_id: str, rights: RightsOf) -> RightsOf:
        """Rights that can't be told are no rights."""

        def asked() -> PackRights:
            try:
                return rights()
            except Exception as exc:  # noqa: BLE001  a check that can't finish is a refusal; the cause is recorded
                record_failure(self.diagnostics, exc, pack_id, "rights")
                return NO_RIGHTS

        return asked

    def _may_act(self, pack_id: str, key: str, *, spend: bool) -> bool:
        asked = self._rights.get(pack_id)
        if asked is None:
            return False
        entry, rights = self.registry.resolve(key), asked()
        may = rights.may_call(key) if spend else rights.may_see(key)
        return may or (entry is not None and entry.pack == pack_id)

    def _check_acting(self, acting: str, key: str, *, spend: bool) -> None:
        """Whoever acts for a Pack reaches what that Pack would. Raises ``DeniedError``, ``ConflictError``.

        ``spend``: the call goes out, and takes what was granted for one use.
        """
        if not self._may_act(acting, key, spend=spend):
            self.denied(acting, "interface.call", key)
            raise DeniedError(
                f"{acting} may not call {quote(key)}",
                detail="The call is made for that Pack, and the edge was not granted.",
                hint=f"`rumi pack permissions {acting}` shows what it may do.",
                fields={"pack_id": acting, "key": key},
            )
        terms = self._terms.get(acting, NO_TERMS)
        entry = self.registry.resolve(key) if terms.ranges else None
        if entry is not None and entry.pack != acting and not terms.admits(key, entry.version):
            raise ConflictError(
                f"{acting} can't use what provides {quote(key)} now",
                code="incompatible",
                detail=terms.why_not(key, entry.version, entry.pack),
                hint=f"`rumi interface show {key}` shows its version; update one of the two Packs.",
                fields={"pack_id": acting, "key": key},
            )

    def forget(self, endpoint: Endpoint) -> None:
        """An endpoint is closed."""
        self._endpoints.discard(endpoint)


def _constant(rights: PackRights) -> RightsOf:
    return lambda: rights
