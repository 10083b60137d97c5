"""The host as one value: every part that the startup flow builds, and the few notes that use cases share.

Invariants:
  * A part is set once, by the handler of the step that builds it; reading it earlier is a ``HostError`` (``starting``),
    so that a request that comes too early gets an answer that says so.
  * Use cases about one Pack exclude each other (``exclusively``), with a bounded wait.

Not here: any use case (``packs``, ``interfaces``), any order (the startup flow).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from msgspec import Struct

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.ecosystem.registry import PackRegistry
from backend_core.errors import ConflictError, HostError, TrustError
from core_runtime.approval_manager import ApprovalManager
from core_runtime.bus.hub import Bus
from core_runtime.component_lifecycle import ComponentLifecycle
from core_runtime.container_orchestrator import ContainerOrchestrator
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.redactions import Redactions
from core_runtime.egress.broker import Broker
from core_runtime.event_bus import EventBus
from core_runtime.event_history import EventHistory
from core_runtime.function_alias import FunctionAlias
from core_runtime.handlers.logs import PackLogs
from core_runtime.host_privilege_manager import HostPrivilegeManager
from core_runtime.install_journal import InstallJournal
from core_runtime.interface_registry import InterfaceRegistry
from core_runtime.permission_manager import PermissionManager
from core_runtime.ports import DriverStatus
from core_runtime.rules.combination import PackNode
from core_runtime.rules.next_step import ABSENT
from core_runtime.rules.resolve import Unit
from core_runtime.rules.sandbox import Isolation
from core_runtime.rules.settings import Settings
from core_runtime.secret_manager import SecretManager
from core_runtime.userdata_manager import UserdataManager

if TYPE_CHECKING:
    from core_runtime.diagnosis.doctor import Doctor
    from core_runtime.diagnosis.record import IssueRecord
    from core_runtime.handlers.metrics import Meter
    from core_runtime.handlers.past_runs import RunHistory
    from core_runtime.tracing import Tracer

BUSY_WAIT_S = 40.0
PACK_THREADS = 8
_T = TypeVar("_T")


class Part(Generic[_T]):
    """A part of the host that a step of the startup flow builds."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __set_name__(self, _owner: type[Host], name: str) -> None:
        self._name = f"_part_{name}"

    @overload
    def __get__(self, host: None, owner: type[Host]) -> Part[_T]: ...
    @overload
    def __get__(self, host: Host, owner: type[Host]) -> _T: ...
    def __get__(self, host: Host | None, owner: type[Host]) -> _T | Part[_T]:
        if host is None:
            return self
        value: _T | None = host.__dict__.get(self._name)
        if value is None:
            raise HostError(
                f"{self._what} is not there yet",
                code="starting",
                detail="The host is still starting, or the step that builds this part failed.",
                hint="Try again in a moment; if it stays so, look at the issues (rumi doctor).",
            )
        return value

    def __set__(self, host: Host, value: _T) -> None:
        host.__dict__[self._name] = value


class Policy(Struct):
    """What the startup flow says about Packs."""

    keep_modified: bool = False
    parallel: int = 4
    start_timeout_s: float = 60.0
    routes_key: str = ""


class Failure(Struct, frozen=True):
    """Why the last start of an approved Pack failed: a cause that never changes its name, and a sentence."""

    cause: str
    detail: str


class Waiting(Struct, frozen=True):
    """An approved Pack of which nothing can start yet: what it consists of, why, and what to do about it."""

    units: tuple[Unit, ...]
    reason: str
    next_step: str = ABSENT


async def _no_flows() -> Sequence[PackNode]:
    return ()


class Host:
    """Everything that belongs to one running host."""

    bus: Part[Bus] = Part("The bus")
    audit: Part[AuditLog] = Part("The audit trail")
    journal: Part[InstallJournal] = Part("The install journal")
    packs: Part[PackRegistry] = Part("The Pack registry")
    active: Part[ActiveEcosystem] = Part("The ecosystem's settings")
    approvals: Part[ApprovalManager] = Part("The approval manager")
    permissions: Part[PermissionManager] = Part("The permission manager")
    userdata: Part[UserdataManager] = Part("The user data access")
    privileges: Part[HostPrivilegeManager] = Part("The privilege manager")
    egress: Part[Broker] = Part("The egress broker")
    secrets: Part[SecretManager] = Part("The secret manager")
    lifecycle: Part[ComponentLifecycle] = Part("The component lifecycle")
    meter: Part[Meter] = Part("The meter")
    issues: Part[IssueRecord] = Part("The record of issues")
    past_runs: Part[RunHistory] = Part("The history of runs")
    doctor: Part[Doctor] = Part("The doctor")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redactions = Redactions()
        self.diagnostics = Diagnostics(conceal=self.redactions.hide_any_in)
        self.registry = InterfaceRegistry(self.diagnostics)
        self.tracer: Tracer | None = None
        """Where an endpoint for traces was configured."""
        self.history = EventHistory(self.diagnostics, self.redactions.hide_any_in)
        self.events = EventBus(self.diagnostics, history=self.history)
        self.aliases = FunctionAlias()
        self.log = PackLogs()
        self.policy = Policy()
        self.pack_work = ThreadPoolExecutor(PACK_THREADS, thread_name_prefix="pack-request")
        """Where what Packs ask for may block; the operator's own work runs elsewhere."""
        self.prepared_orchestrator: ContainerOrchestrator | None = None
        """Made by the engine check; in place as ``orchestrator`` from the orchestrator's own step on."""
        self.orchestrator: ContainerOrchestrator | None = None
        self.isolation: Isolation | None = None
        self.flow_joins: Callable[[], Awaitable[Sequence[PackNode]]] = _no_flows
        """The flows that there are now, as what they join; the kernel's."""
        self.ready_to_serve = asyncio.Event()
        self.waiting: dict[str, Waiting] = {}
        self.starting: set[str] = set()
        self.failures: dict[str, Failure] = {}
        """Approved Packs whose last start failed → why."""
        self.bisecting = False
        self.held_off: set[str] = set()
        """Packs that a bisect stopped and will start again, unless somebody starts or stops them before."""
        self.evidence_fault = ""
        """Why the audit trail can't be believed; while this is not empty nothing starts and nothing is granted."""
        self.owners_timer: asyncio.TimerHandle | None = None
        """When it is looked again who owns which key, while a replacement was granted for a time."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._background: set[asyncio.Task[Any]] = set()
        self._closing = False

    @property
    def statuses(self) -> tuple[DriverStatus, ...]:
        """What each isolation driver said when it was last asked, which is not only at boot; none before that."""
        orchestrator = self.orchestrator or self.prepared_orchestrator
        return tuple(orchestrator.statuses.values()) if orchestrator is not None else ()

    @property
    def lost_driver(self) -> DriverStatus | None:
        """What the driver that isolates Packs said, where it answers no more."""
        if self.isolation is None:
            return None
        kind = self.isolation.driver
        return next((status for status in self.statuses if status.kind is kind and not status.available), None)

    @property
    def sandboxes(self) -> ContainerOrchestrator:
        """The orchestrator, or the error that it is not there."""
        if self.orchestrator is None:
            raise HostError(
                "The container orchestrator is not there yet",
                code="starting",
                detail="The host is still starting, or the step that builds this part failed.",
                hint="Try again in a moment; if it stays so, look at the issues (rumi doctor).",
            )
        return self.orchestrator

    def built(self, name: str) -> bool:
        """Whether the part of that name is there."""
        return self.__dict__.get(f"_part_{name}") is not None

    @contextlib.asynccontextmanager
    async def exclusively(self, pack_id: str) -> AsyncIterator[None]:
        """One use case at a time for each Pack; ``ConflictError`` when the one before takes too long."""
        lock = self._locks.setdefault(pack_id, asyncio.Lock())
        try:
            async with asyncio.timeout(BUSY_WAIT_S):
                await lock.acquire()
        except TimeoutError:
            raise ConflictError(
                f"Another operation on {pack_id} is under way",
                code="busy",
                detail=f"It did not end within {BUSY_WAIT_S:g} s.",
                hint=f"Look at it with: rumi pack show {pack_id}",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def require_evidence(self) -> None:
        """``TrustError`` while the audit trail was found damaged and the operator has not said to go on."""
        if self.evidence_fault:
            raise TrustError(
                "The audit trail was changed",
                code="audit_broken",
                detail=self.evidence_fault,
                hint="Look at what is missing (rumi audit verify), then: rumi audit acknowledge",
            )

    def show_rights(self, pack_id: str) -> None:
        """Have a running Pack shown what it may see now, and end what it may no longer have open, after what is being
        done. For the event loop's thread.
        """
        if self.built("bus") and not self._closing:
            asyncio.get_running_loop().call_soon(self.bus.rights_changed, pack_id)
            if self.built("egress"):
                asyncio.get_running_loop().call_soon(self.egress.recheck, pack_id)

    def in_background(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Let ``work`` go on by itself; what it raises becomes an issue, ``close`` ends it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    async def close(self) -> None:
        """Stop Packs, then the bus. Bounded by the orchestrator's own limits."""
        self._closing = True
        if self.owners_timer is not None:
            self.owners_timer.cancel()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self.built("meter"):
            self.meter.close()
        if self.built("egress"):
            await self.egress.close()
        if self.built("lifecycle"):
            await self.lifecycle.close()
        if self.prepared_orchestrator is not None:
            await self.prepared_orchestrator.close()
        if self.built("bus"):
            await self.bus.close()
        self.pack_work.shutdown(wait=False, cancel_futures=True)
        if self.built("permissions"):
            await asyncio.to_thread(self.permissions.keep_uses)
        if self.built("userdata"):
            self.userdata.close()
        await self._close_records()

    async def _close_records(self) -> None:
        """What happened until now is written."""
        for name in ("issues", "past_runs"):
            if self.built(name):
                await getattr(self, name).close()
        await asyncio.to_thread(self.history.close)
        if self.tracer is not None:
            await asyncio.to_thread(self.tracer.close)

    @property
    def closing(self) -> bool:
        """Whether the host is on its way down; nothing new starts then."""
        return self._closing

    def note_error(self, subject: str, error: BaseException, evidence: Mapping[str, Any] | None = None) -> None:
        """An Issue from an exception that ended work nobody waits for."""
        code = getattr(error, "code", "unexpected_error")
        title = getattr(error, "title", f"{type(error).__name__} in work about {subject}")
        detail = getattr(error, "detail", "") or str(error)
        hint = getattr(error, "hint", "")
        self.diagnostics.issue(str(code), "error", subject, title, detail, hint, evidence, error)

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.note_error(task.get_name(), error)
