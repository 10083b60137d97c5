"""The orchestrator: which isolation driver, and which generation of a Pack serves.

Invariants:
  * At most one generation of a Pack serves. A newer one starts beside it, seen by nobody, and takes over in one turn of
    the loop when it has fully started and whoever asked for it agrees; otherwise the older goes on.
  * The older one then ends the calls that it is serving, bounded by ``TAKEOVER_DRAIN_S``. Whoever stops the Pack ends
    that one as well, at once.
  * Generations count upwards and are never used twice within a run of the host.
  * ``close`` leaves nothing behind. When the engine vanishes, nothing of its Packs runs elsewhere.

Not here: what keeps one Pack alive (``supervision``), one generation's start (``containers``), what may start
(approval_manager), components (component_lifecycle).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend_core.errors import ConflictError, HostError, NotFoundError, SandboxUnavailable
from core_runtime.containers import (
    BusPort,
    ContainerEvent,
    ContainerInfo,
    ContainerState,
    Generation,
    LaunchRequest,
    Prepare,
    RunnableDriver,
    socket_name,
)
from core_runtime.drivers.runtime_folder import PythonAbi, RuntimeFolder
from core_runtime.drivers.side_work import Mishap, Report, costs_only_itself, unheard
from core_runtime.ports import TRIAL_PREFIX, DriverStatus
from core_runtime.rules.operator_view import render_operator_view
from core_runtime.rules.restart import RestartPolicy
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, SandboxSpec
from core_runtime.supervision import ENGINE_GONE, Supervised

PARALLEL_STARTS = 4
DRAIN_S = 5.0
LEFT_OVER = Mishap(
    "leftovers_stay", "isolation", "What the isolation driver left before it was lost could not be removed",
    "Look at it (rumi container list, docker ps -a); the next start of the host removes it.",
)  # fmt: skip
TAKEOVER_DRAIN_S = 30.0
"""The default deadline of a call: one that was in flight when a newer generation took over may use it up."""
TEMPLATES = Path(__file__).resolve().parents[1] / "docker/core/templates"


Agree = Callable[[Any], Awaitable[None]]
"""Asked with the session of a generation that is ready to take over; what it raises keeps the older one serving."""


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
        report: told of what fails beside a start or a stop.
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
        report: Report = unheard,
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
        self.report = report
        self._preference = preference
        self.policy = policy or RestartPolicy()
        self._starts = asyncio.Semaphore(PARALLEL_STARTS)
        self._driver: RunnableDriver | None = None
        self._level = Level.NONE
        self._packs: dict[str, Supervised] = {}
        self._starting: dict[str, Supervised] = {}
        self._retired: dict[asyncio.Task[None], tuple[str, Supervised]] = {}
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
                found = (status.reason,) if status.reason else ()
                return Isolation(driver.kind, status.level, source=status.source, findings=found)
        return None

    async def python(self) -> PythonAbi | None:
        """The Python that sandboxes get here; None without a driver. ``HostError`` when its driver can't say."""
        return None if self._driver is None else await self._driver.python()

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

    async def start(self, request: LaunchRequest, prepare: Prepare, *, agree: Agree | None = None) -> ContainerInfo:
        """Start a Pack, or put a new generation in the place of the one that runs.

        Args:
            request: the verified copy and its grant.
            prepare: runs the components over the new session; called again after each restart.
            agree: has the last word before a new generation takes over, and the first moment in which nothing else
                can come between.

        Raises:
            SandboxUnavailable: no driver.
            TrustError: isolated more weakly than granted.
            HostError: it did not start. A generation that served before still serves.
        """
        if self._closing:
            raise ConflictError("The host is stopping", code="shutting_down")
        if request.pack_id in self._starting:
            raise ConflictError("This Pack is being started already", code="already_starting")
        newer = self._starting[request.pack_id] = Supervised(self, request, prepare)
        try:
            await self._cut_retired(request.pack_id)
            older = self._packs.get(request.pack_id)
            if older is None or older.state is ContainerState.ERROR:
                self._packs[request.pack_id] = newer
                await newer.start()
            else:
                await self._start_beside(newer, agree)
        finally:
            del self._starting[request.pack_id]
        self._packs[request.pack_id] = newer
        newer.watch()
        if older is not None:
            self._retire(request.pack_id, older)
        return newer.info()

    async def _start_beside(self, newer: Supervised, agree: Agree | None) -> None:
        await newer.start(beside=True)
        try:
            session = newer.session()
            if agree is not None:
                await agree(session)
            newer.refuse_if_stopped()
            session.take_over()
        except BaseException:
            await newer.stop("it did not take over", drain_s=0.0)
            raise

    def _retire(self, pack_id: str, older: Supervised) -> None:
        work = older.stop("a newer generation took over", drain_s=TAKEOVER_DRAIN_S)
        task = asyncio.get_running_loop().create_task(work, name=f"end of an older generation of {pack_id}")
        self._retired[task] = (pack_id, older)
        task.add_done_callback(self._retired.pop)

    async def _cut_retired(self, pack_id: str | None = None) -> None:
        """Don't wait for the calls of older generations any longer."""
        tasks = [task for task, (owner, _) in self._retired.items() if pack_id in {None, owner}]
        for task in tasks:
            self._retired[task][1].cut("nothing of this Pack may run on")
        if tasks:
            await asyncio.wait(tasks)

    async def stop(self, pack_id: str, *, reason: str, drain_s: float = DRAIN_S) -> None:
        """Stop a Pack: bounded by ``drain_s`` and a few seconds. ``NotFoundError`` when it has no container."""
        if pack_id in self._starting:
            self._starting[pack_id].forbid()
        self._named(pack_id)
        await asyncio.gather(self._packs.pop(pack_id).stop(reason, drain_s=drain_s), self._cut_retired(pack_id))

    def let_end(self, pack_id: str, why: str) -> None:
        """What serves of a Pack goes on, and is not started again when it ends. ``NotFoundError`` without one."""
        self._named(pack_id).let_end(why)

    def list(self) -> Sequence[ContainerInfo]:
        """Every container, by Pack."""
        return [self._packs[pack_id].info() for pack_id in sorted(self._packs)]

    def get(self, pack_id: str) -> ContainerInfo | None:
        """One Pack's container."""
        found = self._packs.get(pack_id)
        return found.info() if found is not None else None

    def running_as(self, pack_id: str) -> LaunchRequest | None:
        """What a Pack's container was started with; None when it has none."""
        found = self._packs.get(pack_id)
        return found.request if found is not None else None

    async def usage(self, pack_id: str) -> Mapping[str, float]:
        """``{memory_bytes, cpu_s, pids}`` now, where the machine can tell."""
        generation = self._named(pack_id).current
        return await generation.sandbox.usage() if generation is not None and generation.sandbox is not None else {}

    async def output_tail(self, pack_id: str) -> str:
        """What a Pack wrote outside the bus, escaped."""
        generation = self._named(pack_id).current
        sandbox = generation.sandbox if generation is not None else None
        return generation.request.conceal(await sandbox.output_tail()) if generation and sandbox is not None else ""

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
            for folder in self._state_dir.glob(f"{TRIAL_PREFIX}*"):  # of a host that was killed while it probed
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        for name in removed:
            self.tell("leftover_removed", "", 0, name)
        return removed

    async def close(self) -> None:
        """Stop everything, side by side, and give the drivers' connections back."""
        self._closing = True
        for one in self._starting.values():
            one.forbid()
        packs, self._packs = self._packs, {}
        stopping = [one.stop("the host stops", drain_s=DRAIN_S) for one in packs.values()]
        await asyncio.gather(*stopping, self._cut_retired(), return_exceptions=True)
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
            attached=generation.driver.attaches,
        )

    # ---- for supervision

    def tell(self, kind: str, pack_id: str, generation: int, detail: str = "", cause: str = "") -> None:
        """Report an event."""
        self._on_event(ContainerEvent(kind, pack_id, generation, time.time(), detail, cause))

    async def launch(self, request: LaunchRequest, prepare: Prepare, *, beside: bool = False) -> Generation:
        """A new generation, started; a few at a time."""
        async with self._starts:
            driver = self._driver
            if driver is None:
                raise self.unavailable()
            number = self._generations[request.pack_id] = self._generations.get(request.pack_id, 0) + 1
            spec = await self._spec(request, driver, number)
            generation = Generation(request, spec, driver)
            try:
                await generation.begin(self._bus, prepare, beside=beside)
            except BaseException as error:
                for name, detail in (await generation.limits_met()).items():
                    self.tell("limited", request.pack_id, number, detail, name)
                if isinstance(error, HostError) and error.code in ENGINE_GONE:
                    await self.reattached()
                raise
        if not self.statuses[driver.kind].available:  # it came back while nothing of it ran and nobody asked
            await self.reattached()
        return generation

    async def reattached(self) -> bool:
        """Whether the chosen driver works (again), told when that changed. What the lost one left is removed then."""
        driver = self._driver
        if driver is None:
            return False
        async with self._reattaching:  # many Packs ask at once
            before = self.statuses[driver.kind].available
            status = self.statuses[driver.kind] = await driver.probe()
            if status.available is not before:
                self.tell("engine_back" if status.available else "engine_gone", "", 0, status.reason)
            if status.available:
                with costs_only_itself(self.report, LEFT_OVER):
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
                packages_dir=str(request.packages) if request.packages else "",
            )
        except ValueError as error:
            raise HostError("This sandbox can't be described", code="sandbox_invalid", detail=str(error)) from error

    def _named(self, pack_id: str) -> Supervised:
        found = self._packs.get(pack_id)
        if found is None:
            raise NotFoundError("This Pack has no container", code="no_container", fields={"pack_id": pack_id})
        return found
