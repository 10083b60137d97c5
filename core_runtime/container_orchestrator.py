"""The orchestrator: which isolation driver, and every container's life from start to stop.

Invariants:
  * At most one generation of a Pack serves; a newer one takes over only when it has fully started, otherwise the older
    goes on.
  * Generations count upwards and are never used twice within a run of the host.
  * A sandbox that ends by itself is started again by ``RestartPolicy``; one that is isolated more weakly is not.
  * Stopping is bounded: drain, TERM, KILL. ``close`` leaves nothing behind.
  * When the engine vanishes, its Packs are *degraded*: nothing of them runs elsewhere, they come back with it.

Not here: one generation's start (``containers``), what may start (approval_manager), components (component_lifecycle).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backend_core.errors import ConflictError, HostError, NotFoundError, RumiError, SandboxUnavailable, TrustError
from core_runtime.containers import (
    BusPort,
    ContainerEvent,
    ContainerInfo,
    ContainerState,
    Generation,
    LaunchRequest,
    Prepare,
    RunnableDriver,
    described,
    socket_name,
)
from core_runtime.drivers.runtime_folder import RuntimeFolder
from core_runtime.ports import DriverStatus, Exit
from core_runtime.rules.operator_view import render_operator_view
from core_runtime.rules.restart import GiveUp, RestartPolicy
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, SandboxSpec

PARALLEL_STARTS = 4
HEALTH_EVERY_S = 10.0
HEALTH_DEADLINE_S = 5.0
HEALTH_MISSES = 2
DRAIN_S = 5.0
TERM_S = 2.0
SETTLE_S = 0.5
ENGINE_CHECK_S = 2.0
ENGINE_CHECK_CAP_S = 30.0
TEMPLATES = Path(__file__).resolve().parents[1] / "docker/core/templates"
ENGINE_GONE = frozenset({"engine_unavailable", "launcher_lost"})


class ContainerOrchestrator:
    """Starts, watches and stops the containers of all Packs.

    Args:
        drivers: those of this machine, in any order.
        bus: opens a socket per generation.
        installation_id: label and name of everything that is started.
        state_dir: folder of the sockets; short. Made when missing.
        runtime_dir: folder in which runtimes are built.
        uids: a Pack's own uid.
        on_event: told everything that happens; must not block.
        preference: ``auto``, ``docker`` or ``embedded``.
    """

    def __init__(
        self,
        drivers: Sequence[RunnableDriver],
        bus: BusPort,
        *,
        installation_id: str,
        state_dir: Path,
        runtime_dir: Path,
        uids: Callable[[str], int],
        on_event: Callable[[ContainerEvent], None],
        preference: str = "auto",
        policy: RestartPolicy | None = None,
        runtime: RuntimeFolder | None = None,
    ) -> None:
        self._drivers = sorted(drivers, key=lambda driver: -driver.kind.rank)
        self._bus = bus
        self._installation_id = installation_id
        self._state_dir = state_dir
        self._runtime = runtime or RuntimeFolder(runtime_dir)
        self._uids = uids
        self._on_event = on_event
        self._preference = preference
        self.policy = policy or RestartPolicy()
        self._starts = asyncio.Semaphore(PARALLEL_STARTS)
        self._driver: RunnableDriver | None = None
        self._level = Level.NONE
        self._packs: dict[str, _Supervised] = {}
        self._starting: dict[str, _Supervised] = {}
        self._generations: dict[str, int] = {}
        self._closing = False
        self._reattaching = asyncio.Lock()
        self.statuses: dict[DriverKind, DriverStatus] = {}
        """What each driver's last probe said."""

    # ---- which isolation

    async def choose(self) -> Isolation | None:
        """Probe every driver that the operator admits; the best that works. ``None``: no Pack can run here."""
        admitted = [d for d in self._drivers if self._preference in {"auto", d.kind.value}]
        for status in await asyncio.gather(*(driver.probe() for driver in admitted)):
            self.statuses[status.kind] = status
        self._driver, self._level = None, Level.NONE
        for driver in admitted:
            status = self.statuses[driver.kind]
            if status.available:
                self._driver, self._level = driver, status.level
                return Isolation(driver.kind, status.level, findings=(status.reason,) if status.reason else ())
        return None

    def unavailable(self) -> SandboxUnavailable:
        """The error for "nothing here can isolate a Pack", with each driver's reason."""
        tried = [f"{kind.value}: {status.reason or 'not available'}" for kind, status in self.statuses.items()]
        hints = [status.hint for status in self.statuses.values() if status.hint]
        return SandboxUnavailable(
            "Docker is required but not available",
            detail="; ".join(tried) or f"no isolation driver matches RUMI_ISOLATION={self._preference}",
            hint=" Or: ".join(hints) or "Install Docker or bubblewrap, then: rumi doctor",
            fields={"drivers": {kind.value: status.reason for kind, status in self.statuses.items()}},
        )

    # ---- containers

    async def start(self, request: LaunchRequest, prepare: Prepare) -> ContainerInfo:
        """Start a Pack, or put a new generation in the place of the one that runs.

        Args:
            request: the verified copy and its grant.
            prepare: runs the components over the new session; called again after each restart.

        Raises:
            SandboxUnavailable: no driver.
            TrustError: isolated more weakly than granted.
            HostError: it did not start. A generation that served before still serves.
        """
        if self._closing:
            raise ConflictError("The host is stopping", code="shutting_down")
        if request.pack_id in self._starting:
            raise ConflictError("This Pack is being started already", code="already_starting")
        older = self._packs.get(request.pack_id)
        newer = self._starting[request.pack_id] = _Supervised(self, request, prepare)
        if older is None or older.state is ContainerState.ERROR:
            self._packs[request.pack_id] = newer
        try:
            await newer.start()
        finally:
            del self._starting[request.pack_id]
        self._packs[request.pack_id] = newer
        if older is not None:
            await older.stop("a newer generation took over", drain_s=DRAIN_S)
        return newer.info()

    async def stop(self, pack_id: str, *, reason: str, drain_s: float = DRAIN_S) -> None:
        """Stop a Pack: bounded by ``drain_s`` and a few seconds. ``NotFoundError`` when it has no container."""
        if pack_id in self._starting:
            self._starting[pack_id].forbid()
        self._named(pack_id)
        await self._packs.pop(pack_id).stop(reason, drain_s=drain_s)

    def list(self) -> Sequence[ContainerInfo]:
        """Every container, by Pack."""
        return [self._packs[pack_id].info() for pack_id in sorted(self._packs)]

    def get(self, pack_id: str) -> ContainerInfo | None:
        """One Pack's container."""
        found = self._packs.get(pack_id)
        return found.info() if found is not None else None

    async def usage(self, pack_id: str) -> Mapping[str, float]:
        """``{memory_bytes, cpu_s, pids}`` now, where the machine can tell."""
        generation = self._named(pack_id).current
        return await generation.sandbox.usage() if generation is not None and generation.sandbox is not None else {}

    async def output_tail(self, pack_id: str) -> str:
        """What a Pack wrote outside the bus, escaped."""
        generation = self._named(pack_id).current
        sandbox = generation.sandbox if generation is not None else None
        return await sandbox.output_tail() if sandbox is not None else ""

    async def remove_leftovers(self) -> Sequence[str]:
        """Remove what an earlier run of this installation left, sockets included. For the boot, before any start."""
        removed: Sequence[str] = []
        for driver in self._drivers:
            status = self.statuses.get(driver.kind)
            if status is None or status.available:
                with contextlib.suppress(HostError):  # an engine that is not there holds nothing that runs
                    removed = [*removed, *await driver.remove_leftovers(self._installation_id)]
        if not self._packs:
            for path in self._state_dir.glob("*.sock"):
                path.unlink(missing_ok=True)
        for name in removed:
            self.tell("leftover_removed", "", 0, name)
        return removed

    async def close(self) -> None:
        """Stop everything, side by side, and give the drivers' connections back."""
        self._closing = True
        for one in self._starting.values():
            one.forbid()
        packs, self._packs = self._packs, {}
        await asyncio.gather(
            *(one.stop("the host stops", drain_s=DRAIN_S) for one in packs.values()), return_exceptions=True
        )
        for driver in self._drivers:
            await driver.close()
        with contextlib.suppress(OSError):  # sockets that somebody still holds stay for the next boot
            self._state_dir.rmdir()

    def operator_view(self, pack_id: str) -> dict[str, str]:
        """Files of ``ecosystem/docker/<pack_id>/sandbox/``."""
        generation = self._named(pack_id).current
        if generation is None:
            return {}
        status = self.statuses.get(generation.driver.kind)
        docker = generation.driver.kind is DriverKind.DOCKER
        texts = {
            "Dockerfile": "Dockerfile.pack.template",
            "docker-compose.yml": "docker-compose.pack.template.yml",
        }
        return render_operator_view(
            generation.spec,
            generation.driver.render(generation.spec),
            templates={name: (TEMPLATES / file).read_text(encoding="utf-8") for name, file in texts.items()},
            image=status.version.rpartition("image ")[2] if docker and status is not None else "rumi-pack-base:1",
            isolation=generation.isolation,
        )

    # ---- for _Supervised

    def tell(self, kind: str, pack_id: str, generation: int, detail: str = "") -> None:
        """Report an event."""
        self._on_event(ContainerEvent(kind, pack_id, generation, time.time(), detail))

    async def launch(self, request: LaunchRequest, prepare: Prepare) -> Generation:
        """A new generation, started; a few at a time."""
        async with self._starts:
            driver = self._driver
            if driver is None:
                raise self.unavailable()
            number = self._generations[request.pack_id] = self._generations.get(request.pack_id, 0) + 1
            spec = await self._spec(request, driver, number)
            generation = Generation(request, spec, driver)
            await generation.begin(self._bus, prepare)
            return generation

    async def reattached(self) -> bool:
        """Whether the chosen driver works (again). Containers of the lost engine's time are removed then."""
        driver = self._driver
        if driver is None:
            return False
        async with self._reattaching:  # many Packs ask at once
            status = self.statuses[driver.kind] = await driver.probe()
            if status.available:
                with contextlib.suppress(HostError):
                    await driver.remove_leftovers(self._installation_id)
        return status.available

    async def _spec(self, request: LaunchRequest, driver: RunnableDriver, number: int) -> SandboxSpec:
        root = os.geteuid() == 0
        folder = self._state_dir
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711 if root else 0o700)
        runtime = await asyncio.to_thread(self._runtime.build, await driver.python())
        embedded = driver.kind is DriverKind.EMBEDDED
        uid = self._uids(request.pack_id) if root or not embedded else os.geteuid()
        try:
            return SandboxSpec(
                pack_id=request.pack_id,
                generation=number,
                installation_id=self._installation_id,
                uid=uid,
                gid=uid if root or not embedded else os.getegid(),
                pack_dir=str(request.path),
                runtime_dir=str(runtime),
                socket_path=str(folder / socket_name(request.pack_id, number)),
                digest=request.digest,
                limits=request.limits,
            )
        except ValueError as error:
            raise HostError("This sandbox can't be described", code="sandbox_invalid", detail=str(error)) from error

    def _named(self, pack_id: str) -> _Supervised:
        found = self._packs.get(pack_id)
        if found is None:
            raise NotFoundError("This Pack has no container", code="no_container", fields={"pack_id": pack_id})
        return found


class _Supervised:
    """One Pack under supervision: its current generation, and the task that keeps it alive."""

    def __init__(self, owner: ContainerOrchestrator, request: LaunchRequest, prepare: Prepare) -> None:
        self._owner = owner
        self._request = request
        self._prepare = prepare
        self._stopping = asyncio.Event()
        self._failures: tuple[float, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._started_at = time.time()
        self._restarts = 0
        self._last_error = ""
        self.state = ContainerState.STARTING
        self.current: Generation | None = None

    async def start(self) -> None:
        """The first generation; raises when it does not come up, or is stopped before it has."""
        launching = asyncio.ensure_future(self._launch())
        forbidden = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait([launching, forbidden], return_when=asyncio.FIRST_COMPLETED)
            self._refuse_if_stopped()
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
        self._task = asyncio.create_task(self._watch())

    def _refuse_if_stopped(self) -> None:
        if self._stopping.is_set():
            raise ConflictError("This Pack was stopped while it started", code="stopped_while_starting")

    def forbid(self) -> None:
        """From now on nothing of this starts any more."""
        self._stopping.set()

    async def stop(self, reason: str, *, drain_s: float) -> None:
        """End the supervision, then the generation."""
        self._stopping.set()
        if self.state is not ContainerState.ERROR:
            self.state = ContainerState.STOPPING
        generation = self.current
        if generation is not None:
            ended = await generation.end(reason=reason, drain_s=drain_s, grace_s=TERM_S)
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
            pack_id=self._request.pack_id,
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

    async def _launch(self) -> None:
        self.current = await self._owner.launch(self._request, self._prepare)
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
            self._tell("crashed", self._last_error)
            with contextlib.suppress(HostError):
                await self.current.end(reason="its sandbox ended")
            if ended.cause == "lost":
                await self._wait_for_engine()
            if not await self._restart():
                return

    async def _ended(self, generation: Generation) -> Exit:
        """The end of a generation, found by itself or by a health check."""
        assert generation.session is not None
        ending = asyncio.ensure_future(generation.ended())
        misses = 0
        try:
            while True:
                await asyncio.wait([ending], timeout=HEALTH_EVERY_S)
                if ending.done():
                    return ending.result()
                try:
                    await generation.session.ping(HEALTH_DEADLINE_S)
                    misses = 0
                except (RumiError, TimeoutError):
                    misses += 1
                if misses >= HEALTH_MISSES:
                    self._tell("unhealthy", f"no answer to {misses} health checks")
                    generation.session.abort("it does not answer")
                    return Exit(None, "unhealthy", f"no answer within {HEALTH_DEADLINE_S:g} s, {misses} times")
        finally:
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ending

    async def _restart(self) -> bool:
        """Try until one generation serves; ``False`` when it was stopped, given up or refused."""
        while True:
            now = time.monotonic()
            self._failures = (*self._owner.policy.forgotten(self._failures, now), now)
            decision = self._owner.policy.decide(self._failures, now, random.random())  # noqa: S311 - jitter, no secret
            if isinstance(decision, GiveUp):
                return self._give_up("gave_up", f"{decision.failures} failures in {decision.window_s:g} s")
            self.state = ContainerState.RESTARTING
            self._tell("restarting", f"in {decision.delay_s:.2f} s")
            if await self._stopped_within(decision.delay_s):
                return False
            self._restarts += 1
            try:
                await self._launch()
            except TrustError as error:
                return self._give_up("weaker", str(error))
            except RumiError as error:
                self._last_error = str(error)
                self._tell("crashed", self._last_error)
                if error.code in ENGINE_GONE:
                    await self._wait_for_engine()
            else:
                return True
            if self._stopping.is_set():
                return False

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

    def _tell(self, kind: str, detail: str = "") -> None:
        generation = self.current.spec.generation if self.current is not None else 0
        self._owner.tell(kind, self._request.pack_id, generation, detail)
