"""One generation of one Pack's container: start, compare, prepare, end. And the types that containers are spoken of in.

Invariants:
  * Order of a start: socket → sandbox → HELLO → measured isolation compared with the grant → WELCOME → components. No
    Pack byte is loaded before the comparison has passed.
  * Whatever fails, and wherever: sandbox, session and socket of the generation are gone when ``begin`` raises.

Not here: restarts, health and stopping for a reason (``container_orchestrator``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from msgspec import Struct, field

from backend_core.errors import HostError, PackTimeout, TrustError, quote
from core_runtime.drivers.runtime_folder import PythonAbi
from core_runtime.ports import BusConnection, Exit, Sandbox, SandboxDriver
from core_runtime.rules.contracts import NO_TERMS, Terms
from core_runtime.rules.limits_seen import exceeded
from core_runtime.rules.sandbox import Isolation, Level, Limits, SandboxSpec, at_least

CONNECT_S = 20.0
KILL_S = 3.0


class ContainerState(StrEnum):
    """What a container does now."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    DEGRADED = "degraded"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


class LaunchRequest(Struct, frozen=True):
    """What to run: a verified copy and what the grant says about it. ``rights`` goes to the bus as it is.

    ``conceal`` takes the Pack's secrets out of what it wrote outside the bus, before anybody quotes that.
    """

    pack_id: str
    path: Path
    digest: str
    rights: Any
    granted: Isolation
    limits: Limits = field(default_factory=Limits)
    packages: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    conceal: Callable[[str], str] = str
    terms: Terms = NO_TERMS


class ContainerInfo(Struct, frozen=True):
    """One container, for the API, the console and the doctor. ``started_at`` is wall-clock seconds."""

    id: str
    pack_id: str
    generation: int
    driver: str
    level: Level
    state: ContainerState
    started_at: float
    restarts: int
    last_error: str
    isolation: Isolation | None
    pid: int


class ContainerEvent(Struct, frozen=True):
    """Something happened to a container: ``kind`` is a slug that never changes, ``detail`` a sentence."""

    kind: str
    pack_id: str
    generation: int
    at: float
    detail: str = ""
    cause: str = ""
    """Of ``crashed``: as in ``Exit``. Of ``limited``: which limit."""


class SessionPort(Protocol):
    """What a container needs of a bus session."""

    hello: Mapping[str, Any]
    closed: asyncio.Future[str]

    async def welcome(self, settings: Mapping[str, Any] | None = None) -> None:
        """Admit the Pack."""

    async def ping(self, timeout_s: float = 5.0) -> Mapping[str, Any]:
        """Ask for a sign of life."""

    def overdue(self, grace_s: float) -> int:
        """Calls whose handlers still run ``grace_s`` after their deadlines."""

    async def shutdown(self, grace_s: float) -> None:
        """Ask the agent to finish its calls and exit."""

    def abort(self, reason: str) -> None:
        """Close at once; pending calls fail."""

    def take_over(self) -> None:
        """Take the place of the generation that serves, in this turn of the loop."""


class EndpointPort(Protocol):
    """A listening bus socket."""

    async def connected(self, timeout_s: float, conn: BusConnection | None = None) -> Any:
        """The session, when the agent has sent HELLO; ``conn``: a connection that the sandbox was started with."""

    async def close(self) -> None:
        """Stop listening."""


class BusPort(Protocol):
    """What the orchestrator needs of the bus."""

    async def open(
        self,
        pack_id: str,
        generation: int,
        rights: Any,
        *,
        socket_path: str,
        uid: int | None,
        gid: int | None,
        beside: bool = False,
        terms: Terms = NO_TERMS,
    ) -> EndpointPort:
        """Listen for one generation of a Pack; ``beside``: seen by nobody until it takes over."""


class RunnableDriver(SandboxDriver, Protocol):
    """A driver that can also name the Python that runs inside, for which the runtime folder is built."""

    async def python(self) -> PythonAbi:
        """The sandbox's Python."""


Prepare = Callable[[Any], Awaitable[None]]


class Generation:
    """One started sandbox with its session."""

    def __init__(self, request: LaunchRequest, spec: SandboxSpec, driver: RunnableDriver) -> None:
        self.request = request
        self.spec = spec
        self.driver = driver
        self.sandbox: Sandbox | None = None
        self.session: SessionPort | None = None
        self.isolation: Isolation | None = None
        self._endpoint: EndpointPort | None = None
        self._exit: Exit | None = None
        self._counted: Mapping[str, float] = {}

    async def begin(self, bus: BusPort, prepare: Prepare, *, beside: bool = False) -> None:
        """Everything up to a serving Pack, or to one that could take over from the one ``beside``.

        Raises:
            HostError: it did not start or connect; ``detail`` holds the end of its output.
            TrustError: it is isolated more weakly than it was granted.
        """
        try:
            self._endpoint = await bus.open(
                self.spec.pack_id,
                self.spec.generation,
                self.request.rights,
                socket_path="" if self.driver.attaches else self.spec.socket_path,
                uid=self.spec.uid,
                gid=self.spec.gid,
                beside=beside,
                terms=self.request.terms,
            )
            if not self.driver.attaches:
                _admit(self.spec)
            self.sandbox = await self.driver.start(self.spec)
            self.session = await self._connected()
            await self.compare()
            await self.session.welcome(self.request.settings)
            await self._alive(prepare(self.session), "while its components started")
        except BaseException:
            await self.end(reason="failed to start")
            raise

    async def ended(self) -> Exit:
        """When the session closes or the sandbox ends, whichever is first."""
        assert self.session is not None
        assert self.sandbox is not None
        gone = asyncio.ensure_future(self.sandbox.wait())
        try:
            waiting: tuple[asyncio.Future[Any], ...] = (self.session.closed, gone)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return gone.result()
            with contextlib.suppress(TimeoutError):  # an agent that exits closes its socket a moment before
                return await asyncio.wait_for(asyncio.shield(gone), KILL_S)
            return Exit(None, "killed", f"its connection closed: {quote(self.session.closed.result())}")
        finally:
            gone.cancel()

    async def end(self, *, reason: str, drain_s: float = 0.0, grace_s: float = 0.0) -> Exit | None:
        """Drain, TERM, KILL; each bounded. Afterwards nothing of this generation is left."""
        if self.session is not None:
            if drain_s > 0 and not self.session.closed.done():
                with contextlib.suppress(TimeoutError, HostError, OSError):  # whoever does not drain is ended
                    await asyncio.wait_for(self.session.shutdown(drain_s), drain_s + 1.0)
            self.session.abort(reason)
        result = None
        try:
            if self.sandbox is not None:
                result = self._exit = await self.sandbox.stop(grace_s)
        finally:
            if self._endpoint is not None:
                await self._endpoint.close()
            await asyncio.to_thread(Path(self.spec.socket_path).unlink, missing_ok=True)
        return result

    async def limits_met(self, said: Mapping[str, float] = MappingProxyType({})) -> Mapping[str, str]:
        """Limits met since the last time this was asked, each with what was counted; also once it has ended.

        ``said``: what its agent counted.
        """
        if self._exit is not None:
            now = self._exit.counted
        else:
            now = await self.sandbox.usage() if self.sandbox is not None else {}
        before, self._counted = self._counted, {**self._counted, **now, **said}
        return exceeded(before, self._counted)

    async def _connected(self) -> SessionPort:
        assert self._endpoint is not None
        assert self.sandbox is not None
        try:
            session: SessionPort = await self._alive(
                self._endpoint.connected(CONNECT_S, self.sandbox.connection()), "before it connected"
            )
        except (TimeoutError, PackTimeout) as error:
            raise await self._died(Exit(None, "timeout", f"no answer in {CONNECT_S:g} s"), "unconnected") from error
        return session

    async def _alive(self, work: Awaitable[Any], when: str) -> Any:
        """The result of ``work``, or at once an error when the sandbox ends first."""
        assert self.sandbox is not None
        doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(self.sandbox.wait())
        try:
            await asyncio.wait([doing, gone], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            raise await self._died(gone.result(), when)
        finally:
            doing.cancel()
            gone.cancel()
            await asyncio.gather(doing, gone, return_exceptions=True)

    async def _died(self, ended: Exit, when: str) -> HostError:
        assert self.sandbox is not None
        said = self.request.conceal((await self.sandbox.output_tail()).strip())[-1000:]
        code = {"lost": "engine_unavailable", "oom": "out_of_memory"}.get(ended.cause, "sandbox_died")
        return HostError(
            f"The sandbox of {self.spec.pack_id} ended {when}",
            code=code,
            detail=f"{described(ended)}; it wrote {quote(said, 1000)}",
            hint=f"rumi logs {self.spec.pack_id}",
            fields={"cause": ended.cause},
        )

    async def compare(self) -> None:
        """Effective isolation against the grant: the gate before the first Pack byte, and again while it runs.

        The agent's part is what it said in HELLO: later its word counts for nothing. Raises ``TrustError``.
        """
        assert self.sandbox is not None
        assert self.session is not None
        probe = self.session.hello.get("probe")
        measured = await self.sandbox.measure(probe if isinstance(probe, Mapping) else {})
        self.isolation = measured
        granted = self.request.granted
        if measured.level is Level.NONE or not at_least(measured, granted):
            raise TrustError(
                f"{self.spec.pack_id} is isolated more weakly than it was approved",
                code="isolation_weaker",
                detail=(
                    f"approved: {granted.driver.value} {granted.level.name.lower()}; "
                    f"measured: {measured.driver.value} {measured.level.name.lower()}"
                    + "".join(f"; {finding}" for finding in measured.findings)
                ),
                hint=f"Restore the isolation, or approve again: rumi pack approve {self.spec.pack_id} --accept-weaker",
                fields={"findings": list(measured.findings)},
            )


def described(ended: Exit) -> str:
    """How a sandbox ended, in a few words."""
    return " ".join(filter(None, (ended.cause, "" if ended.code is None else str(ended.code), ended.detail)))


def socket_name(pack_id: str, generation: int) -> str:
    """Short, since a socket's whole path may have 107 bytes and a Pack's id has up to 64."""
    return f"{hashlib.sha256(pack_id.encode()).hexdigest()[:12]}-{generation}.sock"


def _admit(spec: SandboxSpec) -> None:
    """Let exactly the Pack's own uid connect.

    Root gives the socket away. Another host can't: a container's uid differs from its own, so anyone may connect who
    can reach the socket, and the folder (0700) lets nobody but the bind mount do that.
    """
    if os.geteuid() == 0:
        os.chown(spec.socket_path, spec.uid, spec.gid)
        os.chmod(spec.socket_path, 0o600)  # noqa: PTH101 - beside chown
    else:
        os.chmod(spec.socket_path, 0o600 if spec.uid == os.geteuid() else 0o666)  # noqa: PTH101
