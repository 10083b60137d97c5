"""What starts flows by itself: events and schedules that a flow names under ``on``.

Invariants:
  * A trigger is the flow's that counts now: whatever is to start is looked up anew, so that a flow whose Pack was
    rejected, stopped counting or changed starts nothing any more.
  * The flow's owner acts. Its Pack must hold ``event.subscribe`` for each event that starts it; the event's sender
    gains nothing, its payload is data.
  * Everything is bounded: events that wait for one trigger (the newest are dropped, and told), starts per second, runs
    that a flow's triggers have under way, and how often runs start each other through events (``MAX_CHAIN``).
  * A trigger whose runs fail ``OFF_AFTER`` times in a row is switched off, with an Issue, until its flow changes.

Not here: what may run beside what (``flow_runs``), when a schedule is due (``rules.flow.timetable``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

from msgspec import Struct, field

from backend_core.errors import RumiError, quote
from core_runtime.diagnostics import Severity, fail_soft
from core_runtime.event_bus import HOST_SOURCE, Event
from core_runtime.flow_reports import RunReport
from core_runtime.handlers.host import Host
from core_runtime.handlers.starting import DECIDED
from core_runtime.rules.flow import model
from core_runtime.rules.flow.asking import StepFailed
from core_runtime.rules.flow.compose import Composition
from core_runtime.rules.flow.run import resolved
from core_runtime.rules.flow.scope import Scope
from core_runtime.rules.flow.timetable import Calendar, Every, Now, Zone
from core_runtime.rules.flow.verbs import matched
from core_runtime.rules.permissions import Deny
from core_runtime.rules.rate import Bucket, Rate, take, wait_s
from core_runtime.tracing import CURRENT

MAX_WAITING: Final = 64
MAX_UNDER_WAY: Final = 64
MAX_CHAIN: Final = 8
OFF_AFTER: Final = 10
STARTS: Final = Rate(per_second=10.0, burst=64.0)
REFRESH_S: Final = 5.0
"""Flow files that are written while the host runs count after this long at the latest."""
ZONE: Final = Zone(datetime.fromtimestamp, datetime.timestamp)

_DECISIONS: Final = "flow-triggers:decisions"

_chain: ContextVar[int] = ContextVar("flow_chain", default=0)
"""How many runs, each started by an event of the one before, led to what happens now."""


class Starting(Protocol):
    """What triggers ask their kernel."""

    host: Host

    async def flows(self) -> Mapping[str, Composition]:
        """Every flow as it would run now."""

    async def settle(self, *, decided: bool) -> None:
        """As ``flows``, and the operator's view of them follows."""

    async def start(self, composition: Composition, *, values: Any, actor: str, unattended: bool) -> RunReport:
        """Run a flow to its end. ``unattended``: nobody chose its input."""


class _Cause(Struct, frozen=True):
    """One occasion: the event (None: a schedule, with what it tells) and how long the chain of runs is by then."""

    chain: int
    event: Event | None = None
    told: Mapping[str, Any] = field(default_factory=dict)


class _Armed(Struct, eq=False):
    """One trigger that counts now, and what came of it."""

    flow: str
    number: int
    said: str
    trigger: model.Trigger
    owner: str
    digest: str
    clock: Every | Calendar | None = None
    subscription: str = ""
    waiting: deque[_Cause] = field(default_factory=deque)
    pump: asyncio.Task[None] | None = None
    bucket: Bucket | None = None
    failures: int = 0
    off: bool = False
    started: int = 0
    dropped: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def words(self) -> str:
        """As the document says it."""
        one = self.trigger
        return f"event {one.event}" if one.event else f"cron {one.cron}" if one.cron else f"every {one.every_s:g}s"


class FlowTriggers:
    """Those of one kernel. For the event loop's thread."""

    def __init__(self, kernel: Starting) -> None:
        self._kernel = kernel
        self._armed: dict[tuple[str, int], _Armed] = {}
        self._runs: dict[asyncio.Task[None], str] = {}
        self._clock: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._stale = True

    # --- from outside

    def begin(self) -> None:
        """From now on flows are started."""
        if self._clock is None:
            self._clock = asyncio.get_running_loop().create_task(self._keep_time(), name="flow triggers")
            self._kernel.host.events.subscribe_events(DECIDED, self._decided, _DECISIONS)

    async def close(self) -> None:
        """Start nothing any more, and end what was started."""
        work = [self._clock] if self._clock is not None else []
        self._clock = None
        self._kernel.host.events.unsubscribe(DECIDED, _DECISIONS)
        for armed in list(self._armed.values()):
            self._disarm(armed)
        ending = [*work, *self._runs]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def adopt(self, flows: Mapping[str, Composition]) -> None:
        """These are the flows now: their triggers count, all others end. Those that are as before go on."""
        if self._clock is None:
            return
        wanted = {
            (flow_id, number): (composition, trigger, repr(_said(composition, number)))
            for flow_id, composition in flows.items()
            for number, trigger in enumerate(composition.plan.flow.triggers)
        }
        for place, armed in list(self._armed.items()):
            known = wanted.get(place)
            owner = known[0].plan.flow.origin.pack if known else ""
            if known is None or (known[2], owner) != (armed.said, armed.owner):
                self._disarm(armed)
            elif known[0].digest != armed.digest:
                armed.digest, armed.off, armed.failures = known[0].digest, False, 0
                self._kernel.host.diagnostics.resolve("flow_trigger_off", _subject(armed))
        for place, (composition, trigger, said) in wanted.items():
            if place not in self._armed:
                self._arm(_Armed(*place, said, trigger, composition.plan.flow.origin.pack, composition.digest))

    def shown(self, flow_id: str) -> list[dict[str, Any]]:
        """What starts a flow, as JSON: ``{on, next_in_s, started, waiting, dropped, off, last}``."""
        now = _now()
        return [
            {
                "on": armed.words(),
                "next_in_s": _finite(armed.clock.wait_s(now)) if armed.clock is not None else None,
                "started": armed.started,
                "waiting": len(armed.waiting),
                "dropped": armed.dropped,
                "off": armed.off,
                "last": dict(armed.last) or None,
            }
            for (flow, _), armed in sorted(self._armed.items())
            if flow == flow_id
        ]

    # --- arming

    def _arm(self, armed: _Armed) -> None:
        trigger, now = armed.trigger, _now()
        if trigger.event:
            identifier = f"trigger:{armed.flow}:{armed.number}"
            armed.subscription = self._kernel.host.events.subscribe_events(
                trigger.event, lambda event: self._heard(armed, event), identifier
            )
        elif trigger.cron:
            armed.clock = Calendar(trigger.cron, ZONE, now)
        else:
            armed.clock = Every(trigger.every_s or 1.0, now)
        self._armed[armed.flow, armed.number] = armed
        self._changed.set()

    def _disarm(self, armed: _Armed) -> None:
        self._armed.pop((armed.flow, armed.number), None)
        armed.waiting.clear()
        if armed.subscription:
            self._kernel.host.events.unsubscribe(armed.trigger.event, armed.subscription)
        if armed.pump is not None:
            armed.pump.cancel()
        for code in ("flow_trigger_off", "flow_trigger_loop", "flow_trigger_busy"):
            self._kernel.host.diagnostics.resolve(code, _subject(armed))

    # --- occasions

    def _heard(self, armed: _Armed, event: Event) -> None:
        """In the publisher's turn: only put down. What it says is looked at when its turn comes."""
        chain = _chain.get()
        if chain >= MAX_CHAIN:
            armed.dropped += 1
            self._issue(
                armed, "flow_trigger_loop", "Flows start each other in a circle",
                f"{chain} runs in a row were each started by an event of the one before; "
                f"{quote(event.type, 100)} starts no further one.",
                "Give the trigger a match that ends the circle, or let the flow publish another topic.",
            )  # fmt: skip
            return
        self._put(armed, _Cause(chain, event))

    def _put(self, armed: _Armed, cause: _Cause) -> None:
        if armed.off:
            return
        if len(armed.waiting) >= MAX_WAITING:
            self._dropped(armed, f"{MAX_WAITING} occasions wait already")
            return
        armed.waiting.append(cause)
        if armed.pump is None or armed.pump.done():
            armed.pump = asyncio.get_running_loop().create_task(self._pump(armed), name=f"trigger of {armed.flow}")

    def _dropped(self, armed: _Armed, why: str) -> None:
        armed.dropped += 1
        if armed.dropped == 1 or armed.dropped % 1_000 == 0:
            self._issue(
                armed, "flow_trigger_busy", "A flow is started more often than it may be",
                f"{armed.dropped} occasions were dropped: {why}.",
                "Use a narrower topic, a match, or a longer time between two runs.",
            )  # fmt: skip

    def _decided(self, event: Event) -> None:
        """What a Pack brings counts, or ends, at once."""
        if event.source == HOST_SOURCE:
            self._stale = True
            self._changed.set()

    async def _keep_time(self) -> None:
        refreshed = 0.0
        while True:
            with fail_soft(self._kernel.host.diagnostics, "flow triggers", "flows"):
                if self._stale or time.monotonic() - refreshed >= REFRESH_S:
                    decided, self._stale = self._stale, False
                    await self._kernel.settle(decided=decided)  # which adopts them
                    refreshed = time.monotonic()
            delay_s = min(REFRESH_S, self.look(_now()))
            if self._stale:
                continue
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._changed.wait()

    def look(self, now: Now) -> float:
        """Start what is due; seconds until there is more to do."""
        waits_s = [float("inf")]
        for armed in list(self._armed.values()):
            if armed.clock is None:
                continue
            told = armed.clock.due(now)
            if told is not None:
                self._put(armed, _Cause(0, told=told))
            waits_s.append(armed.clock.wait_s(now))
        return min(waits_s)

    # --- starting

    async def _pump(self, armed: _Armed) -> None:
        """One occasion after another, so that runs begin in the order of what started them."""
        while armed.waiting:
            admitted, armed.bucket = take(armed.bucket, STARTS, time.monotonic())
            if not admitted:
                await asyncio.sleep(wait_s(armed.bucket, STARTS))
                continue
            cause = armed.waiting.popleft()
            if sum(flow == armed.flow for flow in self._runs.values()) >= MAX_UNDER_WAY:
                self._dropped(armed, f"{MAX_UNDER_WAY} runs that it began are under way")
                continue
            with self._noted(armed):
                wanted = await self._wanted(armed, cause)
                if wanted is not None:
                    armed.started += 1
                    task = asyncio.get_running_loop().create_task(self._run(armed, cause, *wanted))
                    self._runs[task] = armed.flow
                    task.add_done_callback(self._runs.pop)
            await asyncio.sleep(0)

    async def _wanted(self, armed: _Armed, cause: _Cause) -> tuple[Composition, Any] | None:
        """The flow as it is now and its input; None where nothing is to start."""
        composition = (await self._kernel.flows()).get(armed.flow)
        if composition is None or self._armed.get((armed.flow, armed.number)) is not armed:
            return None  # it is another one's now, or nobody's
        event = cause.event
        if event is not None and armed.owner:
            permissions = self._kernel.host.permissions
            answer = await asyncio.to_thread(permissions.check, armed.owner, "event.subscribe", topic=event.type)
            if isinstance(answer, Deny):
                raise answer.error()
        payload = event.data if event is not None else cause.told
        scope = Scope({"event": payload})
        if event is not None and not matched(armed.trigger.match, payload, scope):
            return None
        return composition, resolved(armed.trigger.input, scope, armed.flow, payload if event is not None else {})

    async def _run(self, armed: _Armed, cause: _Cause, composition: Composition, values: Any) -> None:
        """One run, and what is noted of it. What it publishes is one link further in the chain."""
        _chain.set(cause.chain + 1)
        CURRENT.set(cause.event.trace if cause.event is not None else None)  # of this task
        with self._noted(armed):
            report = await self._kernel.start(
                composition, values=values, actor=f"trigger: {armed.words()}", unattended=cause.event is None
            )
            status = report.status.value if report.status else ""
            self._note(armed, status, report.error.title if report.error else "", report.run_id)

    @contextlib.contextmanager
    def _noted(self, armed: _Armed) -> Iterator[None]:
        """Whatever keeps a run from its end is noted, a bug as an Issue, and goes no further."""
        with fail_soft(self._kernel.host.diagnostics, armed.flow, "flows", step_id=armed.words()) as bug:
            try:
                yield
            except asyncio.CancelledError:
                self._note(armed, "cancelled")
                raise
            except StepFailed as failure:
                self._note(armed, "failed", failure.error.title)
            except RumiError as error:
                self._note(armed, "overlapped" if error.code == "run_overlaps" else "failed", str(error))
        if bug.error is not None:
            self._note(armed, "failed", str(bug.error))

    def _note(self, armed: _Armed, status: str, detail: str = "", run_id: str = "") -> None:
        failed, said = status == "failed", quote(detail, 300) if detail else ""
        armed.last = {"at": time.time(), "status": status, "run_id": run_id, "detail": said}
        self._kernel.host.diagnostics.record(
            phase="flows", step_id=armed.words()[:200], status="failed" if failed else "success",
            target={"kind": "flow", "id": armed.flow},
            error={"type": "trigger", "message": detail[:500]} if failed else None,
            meta={"run_id": run_id, "status": status},
        )  # fmt: skip
        armed.failures = armed.failures + 1 if failed else 0
        if armed.failures >= OFF_AFTER and not armed.off:
            armed.off = True
            armed.waiting.clear()
            self._issue(
                armed, "flow_trigger_off", "A flow is no longer started by itself",
                f"Its last {OFF_AFTER} runs failed, the last one with: {quote(detail, 300)}.",
                "Look at a run (rumi flow runs), then correct the flow: with its next change the trigger counts again.",
            )  # fmt: skip

    def _issue(self, armed: _Armed, code: str, title: str, detail: str, hint: str) -> None:
        self._kernel.host.diagnostics.issue(code, Severity.WARN, _subject(armed), title, detail, hint)


def _said(composition: Composition, number: int) -> Any:
    found = composition.document.get("on")
    return found[number] if isinstance(found, list) and number < len(found) else found


def _subject(armed: _Armed) -> str:
    return f"{armed.flow} ({armed.words()})"


def _now() -> Now:
    return Now(time.time(), time.monotonic())


def _finite(seconds: float) -> float | None:
    return None if seconds == float("inf") else round(seconds, 3)
