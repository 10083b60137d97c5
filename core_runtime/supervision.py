"""The supervised life of one Pack: its current generation, and the task that keeps it alive.

Invariants:
  * A sandbox that ends by itself is started again by ``RestartPolicy``; one that is isolated more weakly is not, and
    one that becomes so while it runs is ended.
  * One that only goes on (``let_end``) is not started again by anything here.
  * Stopping is bounded: drain, TERM, KILL. Afterwards nothing of the Pack is left, whatever was under way.
  * When the engine vanishes the Pack is *degraded*: it costs no attempt, and it comes back with the engine.

Not here: which driver, which generation takes over from which (``container_orchestrator``), one generation's start
(``containers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from backend_core.errors import ConflictError, HostError, RumiError, TrustError
from core_runtime.containers import (
    ContainerInfo,
    ContainerState,
    Generation,
    LaunchRequest,
    Prepare,
    SessionPort,
    described,
)
from core_runtime.drivers.side_work import Mishap, Report, costs_only_itself
from core_runtime.ports import Exit
from core_runtime.rules.limits_seen import said
from core_runtime.rules.restart import GiveUp, RestartPolicy
from core_runtime.rules.sandbox import Level

HEALTH_EVERY_S = 10.0
HEALTH_DEADLINE_S = 5.0
HEALTH_MISSES = 2
MEASURE_EVERY = 6
"""Every so many health checks the isolation is measured again: limits can be taken away from outside."""
WEAKER = "weaker"
ENDING_S = 2.0
"""How long after a look at it a sandbox that was ending then is known to have ended."""
STUCK_S = 10.0
STUCK_MOST = 24
"""Half of an agent's threads: a handler that hangs can't be interrupted, and with all of them nothing is answered."""
TERM_S = 2.0
SETTLE_S = 0.5
ENGINE_CHECK_S = 2.0
ENGINE_CHECK_CAP_S = 30.0
ENGINE_GONE = frozenset({"engine_unavailable", "launcher_lost"})


class Owner(Protocol):
    """What the supervision of one Pack needs of the orchestrator."""

    policy: RestartPolicy
    report: Report

    def tell(self, kind: str, pack_id: str, generation: int, detail: str = "", cause: str = "") -> None:
        """Report an event."""

    async def launch(self, request: LaunchRequest, prepare: Prepare, *, beside: bool = False) -> Generation:
        """A new generation, started."""

    async def reattached(self) -> bool:
        """Whether the engine works (again)."""


class Supervised:
    """See the module docstring. Belongs to the event loop's thread."""

    def __init__(self, owner: Owner, request: LaunchRequest, prepare: Prepare) -> None:
        self._owner = owner
        self.request = request
        self._prepare = prepare
        self._stopping = asyncio.Event()
        self._last = ""
        self._failures: tuple[float, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._started_at = time.time()
        self._restarts = 0
        self._last_error = ""
        self.state = ContainerState.STARTING
        self.current: Generation | None = None

    async def start(self, *, beside: bool = False) -> None:
        """The first generation; raises when it does not come up, or is stopped before it has.

        ``beside``: it starts while another one serves, and is seen by nobody until ``session.take_over``.
        """
        launching = asyncio.ensure_future(self._launch(beside=beside))
        forbidden = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([launching, forbidden], return_when=asyncio.FIRST_COMPLETED)
            self.refuse_if_stopped()
            launching.result()
        except BaseException as error:
            self.state, self._last_error = ContainerState.ERROR, str(error)
            launching.cancel()
            await asyncio.gather(launching, return_exceptions=True)
            if self.current is not None:
                await self.current.end(reason="stopped while it started")
                self.current = None
            raise
        finally:
            forbidden.cancel()

    def watch(self) -> None:
        """From now on it is kept alive."""
        self._task = asyncio.create_task(self._watch())

    def refuse_if_stopped(self) -> None:
        """``ConflictError`` once it was stopped."""
        if self._stopping.is_set():
            raise ConflictError("This Pack was stopped while it started", code="stopped_while_starting")

    def session(self) -> SessionPort:
        """That of the generation that was started."""
        assert self.current is not None
        assert self.current.session is not None
        return self.current.session

    def cut(self, reason: str) -> None:
        """Don't let it end its calls."""
        if self.current is not None and self.current.session is not None:
            self.current.session.abort(reason)

    def forbid(self) -> None:
        """From now on nothing of this starts any more."""
        self._stopping.set()

    def let_end(self, why: str) -> None:
        """What serves goes on; when it ends by itself, nothing takes its place, for this reason."""
        self._last = why

    async def stop(self, reason: str, *, drain_s: float) -> None:
        """End the supervision, then the generation."""
        self._stopping.set()
        if self.state is not ContainerState.ERROR:
            self.state = ContainerState.STOPPING
        generation = self.current
        if generation is not None:
            ended = await generation.end(reason=reason, drain_s=drain_s, grace_s=TERM_S)
            await self._tell_limits(generation)
            self._tell("stopped", f"{reason}; {ended.cause if ended else 'ended'}")
        if self._task is not None:
            await asyncio.wait([self._task], timeout=SETTLE_S)  # it sees the end; a launch under way is cancelled
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self.current is not None and self.current is not generation:  # came up between the two
            await self.current.end(reason=reason)
        self.current, self.state = None, ContainerState.STOPPED

    def info(self) -> ContainerInfo:
        """As seen now."""
        generation = self.current
        isolation = generation.isolation if generation is not None else None
        sandbox = generation.sandbox if generation is not None else None
        return ContainerInfo(
            id=sandbox.id if sandbox is not None else "",
            pack_id=self.request.pack_id,
            generation=generation.spec.generation if generation is not None else 0,
            driver=generation.driver.kind.value if generation is not None else "",
            level=isolation.level if isolation is not None else Level.NONE,
            state=self.state,
            started_at=self._started_at,
            restarts=self._restarts,
            last_error=self._last_error,
            isolation=isolation,
            pid=getattr(sandbox, "pid", 0),
        )

    async def _launch(self, *, beside: bool = False) -> None:
        self.current = await self._owner.launch(self.request, self._prepare, beside=beside)
        self._started_at = time.time()
        self.state = ContainerState.RUNNING
        self._tell("started", self.current.sandbox.id if self.current.sandbox else "")

    async def _watch(self) -> None:
        """Until stopped: wait for the end, decide, start again."""
        while not self._stopping.is_set():
            assert self.current is not None
            ended = await self._ended(self.current)
            if self._stopping.is_set():
                return
            self._last_error = described(ended)
            if ended.cause != WEAKER:
                self._tell("crashed", self._last_error, ended.cause)
            await self._cleared(self.current, ended)
            await self._tell_limits(self.current)
            if ended.cause == WEAKER:
                self._give_up(WEAKER, ended.detail)
                return
            if ended.cause == "lost" and not self._last:
                await self._wait_for_engine()
            if not await self._restart():
                return

    async def _cleared(self, generation: Generation, ended: Exit) -> None:
        """Remove what is left of a sandbox that ended by itself."""
        left = Mishap(
            "sandbox_stays", self.request.pack_id, "What is left of a Pack's sandbox could not be removed",
            "Look at it (rumi container list, docker ps -a); the next start of the host removes it.",
        )  # fmt: skip
        gone = ended.cause == "lost"  # then there is nobody to remove it yet: `reattached` does
        with contextlib.suppress(HostError) if gone else costs_only_itself(self._owner.report, left):
            await generation.end(reason="its sandbox ended")

    async def _ended(self, generation: Generation) -> Exit:
        """The end of a generation, found by itself or by a health check."""
        assert generation.session is not None
        ending = asyncio.ensure_future(generation.ended())
        misses = looks = 0
        counted: Mapping[str, float] = {}
        try:
            while True:
                await asyncio.wait([ending], timeout=HEALTH_EVERY_S)
                if ending.done():
                    return ending.result()
                try:
                    counted = said(await generation.session.ping(HEALTH_DEADLINE_S))
                    misses = 0
                except (RumiError, TimeoutError):  # counted, and told when there are too many
                    misses += 1
                if misses >= HEALTH_MISSES:
                    self._tell("unhealthy", f"no answer to {misses} health checks")
                    generation.session.abort("it does not answer")
                    return Exit(None, "unhealthy", f"no answer within {HEALTH_DEADLINE_S:g} s, {misses} times")
                stuck = generation.session.overdue(STUCK_S)
                if stuck >= STUCK_MOST:
                    told = f"{stuck} handlers still run {STUCK_S:g} s after their deadlines"
                    self._tell("unhealthy", told)
                    generation.session.abort(f"stuck: {told}")
                    return Exit(None, "unhealthy", told)
                await self._tell_limits(generation, counted)
                looks += 1
                if looks % MEASURE_EVERY == 0 and (weaker := await _weaker(generation)):
                    # of one that is ending nothing can be seen either: that is no weakness
                    await asyncio.wait([ending], timeout=ENDING_S)
                    if ending.done():
                        return ending.result()
                    generation.session.abort("it is isolated more weakly than granted")
                    return Exit(None, WEAKER, weaker)
        finally:
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ending

    async def _tell_limits(self, generation: Generation, counted: Mapping[str, float] = MappingProxyType({})) -> None:
        """Of what was met since the last look; also of a generation that has ended, so that none is missed.

        ``counted``: by its agent.
        """
        for name, detail in (await generation.limits_met(counted)).items():
            self._tell("limited", detail, name)

    async def _restart(self) -> bool:
        """Try until one generation serves; ``False`` when it was stopped, given up or refused."""
        while True:
            if self._is_last():
                return self._give_up("gave_up", self._last)
            now = time.monotonic()
            self._failures = (*self._owner.policy.forgotten(self._failures, now), now)
            decision = self._owner.policy.decide(self._failures, now, random.random())  # noqa: S311 - jitter, no secret
            if isinstance(decision, GiveUp):
                return self._give_up("gave_up", f"{decision.failures} failures in {decision.window_s:g} s")
            self.state = ContainerState.RESTARTING
            self._tell("restarting", f"in {decision.delay_s:.2f} s")
            if await self._stopped_within(decision.delay_s):
                return False
            if self._is_last():
                return self._give_up("gave_up", self._last)
            self._restarts += 1
            try:
                await self._launch()
            except TrustError as error:
                return self._give_up(WEAKER, str(error))
            except RumiError as error:
                self._last_error = str(error)
                self._tell("crashed", self._last_error)
                if error.code in ENGINE_GONE:
                    await self._wait_for_engine()
            else:
                return True
            if self._stopping.is_set():
                return False

    def _is_last(self) -> bool:
        return bool(self._last)

    async def _wait_for_engine(self) -> None:
        """The engine went away: not the Pack's failure, so it costs no attempt. Look again, ever less often."""
        self.state = ContainerState.DEGRADED
        self._tell("degraded", "the isolation engine does not answer")
        delay_s = ENGINE_CHECK_S
        while not await self._owner.reattached():
            if await self._stopped_within(delay_s):
                return
            delay_s = min(delay_s * 2, ENGINE_CHECK_CAP_S)
        self._failures = ()
        self._tell("reattached")

    async def _stopped_within(self, delay_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay_s)
        return self._stopping.is_set()

    def _give_up(self, kind: str, why: str) -> bool:
        self.state, self._last_error = ContainerState.ERROR, why
        self._tell(kind, why)
        return False

    def _tell(self, kind: str, detail: str = "", cause: str = "") -> None:
        generation = self.current.spec.generation if self.current is not None else 0
        self._owner.tell(kind, self.request.pack_id, generation, detail, cause)


async def _weaker(generation: Generation) -> str:
    """Why it is no longer isolated as it was granted; empty when it is."""
    try:
        await generation.compare()
    except TrustError as error:
        return str(error)
    return ""
