"""Components from "its sandbox runs" to "its setup file ran", in the order that interface keys demand, across Packs.

The startup flow declares which phases there are and which file each one runs; this module knows neither. Every attached
Pack's components wait until each key that they require exists in the registry, then run one after another within
their Pack and side by side across Packs. A key that appears later (a Pack approved later, an event handler that
registers) lets the waiting ones go on.

Invariants:
  * A component runs once per generation of its sandbox, and again only by ``reload``; never two of one Pack at once.
  * A component that fails is disabled and recorded, what it registered is withdrawn; the rest goes on. One that hangs
    costs its own time limit and delays nobody but those who require its keys.
  * All state changes happen on the event loop's thread.

Not here: which Packs run (``handlers.packs``), sandboxes and restarts (``container_orchestrator``), the order itself
(``rules.resolve``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol

from msgspec import Struct, field
from msgspec.structs import replace

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import ConflictError, NotFoundError, PackError, quote
from core_runtime.component_phases import Failure, PhaseRunner, PhaseSession, PhaseSpec
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.component_work import Work, works_of
from core_runtime.rules.resolve import Present, Unit, resolve, runnable

NO_MOUNTS: Mapping[str, str] = MappingProxyType({})


class ComponentState(StrEnum):
    """Where a component stands."""

    WAITING = "waiting"
    STARTING = "starting"
    LOADED = "loaded"
    DISABLED = "disabled"
    STOPPED = "stopped"


class ComponentRecord(Struct, frozen=True):
    """What is known of one component of an attached Pack. ``cause`` is a sentence for the operator."""

    full_id: str
    pack_id: str
    state: ComponentState
    cause: str = ""
    waits_for: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    duration_s: float = 0.0


class Keys(Protocol):
    """The part of the interface registry that this module uses."""

    def resolve(self, key: str) -> Any: ...
    def observe(self, key: str, callback: Callable[[str, Any, Any], None]) -> Any: ...
    def unobserve(self, observer: Any) -> Any: ...


class _Pack(Struct):
    session: PhaseSession
    works: dict[str, Work]
    records: dict[str, ComponentRecord]
    busy: bool = False
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)


class ComponentLifecycle:
    """Loads components of attached Packs as their requirements appear."""

    def __init__(
        self,
        keys: Keys,
        diagnostics: Diagnostics,
        *,
        withdraw: Callable[[str, Iterable[str]], None] = lambda _pack_id, _keys: None,
        disabled: Callable[[], frozenset[str]] = frozenset,
        mounts: Callable[[], Mapping[str, str]] = lambda: NO_MOUNTS,
        clock: Callable[[], float] = time.time,
        parallel: int = 8,
    ) -> None:
        """``withdraw(pack_id, keys)`` takes back registrations; ``disabled()`` names what the operator switched off."""
        self._keys = keys
        self._diagnostics = diagnostics
        self._withdraw = withdraw
        self._disabled = disabled
        self._mounts = mounts
        self._clock = clock
        self._runner = PhaseRunner(diagnostics, clock=clock, mounts=mounts)
        self._parallel = parallel
        self._phases: tuple[PhaseSpec, ...] = ()
        self._handler_phase: PhaseSpec | None = None
        self._packs: dict[str, _Pack] = {}
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._observer: Any = None

    # -- what the flow says -------------------------------------------------------------------------------------------

    def declare(self, phases: Iterable[PhaseSpec], handlers: PhaseSpec | None, *, parallel: int = 8) -> None:
        """From now on attached Packs run these phases. Without a declaration they are only attached."""
        self._phases, self._handler_phase, self._parallel = tuple(phases), handlers, max(1, parallel)
        self._loop = asyncio.get_running_loop()
        if self._observer is None:
            self._observer = self._keys.observe("*", self._key_changed)
        self._kick()

    def beside(self, keys: Keys, withdraw: Callable[[str, Iterable[str]], None]) -> ComponentLifecycle:
        """One like this for a generation that is tried beside the one that serves; ``keys`` is what it sees."""
        trial = ComponentLifecycle(
            keys, self._diagnostics, withdraw=withdraw, disabled=self._disabled, mounts=self._mounts, clock=self._clock
        )
        if self.declared:
            trial.declare(self._phases, self._handler_phase, parallel=self._parallel)
        return trial

    def adopt(self, trial: ComponentLifecycle, pack_id: str) -> None:
        """The generation that was tried serves now: its components are taken care of here, as they stand."""
        self.detach(pack_id)
        self._packs[pack_id] = trial._packs.pop(pack_id)
        trial.release()
        self._kick()

    def release(self) -> None:
        """Stop looking at keys."""
        if self._observer is not None:
            self._keys.unobserve(self._observer)
            self._observer = None

    @property
    def declared(self) -> bool:
        """Whether the flow has come to its component phases."""
        return bool(self._phases)

    # -- Packs come and go --------------------------------------------------------------------------------------------

    async def prepare(self, session: PhaseSession, metadata: PackMetadata) -> None:
        """Attach a new generation and, once phases are declared, wait until nothing of this Pack can go on."""
        self.attach(session, metadata)
        if self.declared:
            await self.settled([session.pack_id])

    def attach(self, session: PhaseSession, metadata: PackMetadata) -> None:
        """A new generation of a Pack: all of its components wait, whatever became of the generation before."""
        self.detach(session.pack_id)
        switched_off = self._disabled()
        works = {work.unit.full_id: work for work in works_of(metadata)}
        self._packs[session.pack_id] = _Pack(
            session,
            works,
            {
                name: ComponentRecord(
                    name,
                    session.pack_id,
                    ComponentState.DISABLED if name in switched_off else ComponentState.WAITING,
                    "switched off by the operator" if name in switched_off else "",
                )
                for name in works
            },
        )
        self._kick()

    def detach(self, pack_id: str) -> None:
        """The Pack's sandbox is gone; phases under way are given up."""
        pack = self._packs.pop(pack_id, None)
        if pack is not None:
            for task in pack.tasks:
                task.cancel()
            self._notify()

    async def close(self) -> None:
        """Give up everything that is under way."""
        tasks = [task for pack in self._packs.values() for task in pack.tasks]
        for pack_id in list(self._packs):
            self.detach(pack_id)
        self.release()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settled(self, pack_ids: Iterable[str] | None = None) -> None:
        """Return when no component (of these Packs) runs or could run now. Bounded by the phases' time limits."""
        scope = None if pack_ids is None else frozenset(pack_ids)
        while self.declared and self._moving(scope):
            self._changed.clear()
            await self._changed.wait()

    async def reload(self, pack_id: str, full_id: str) -> ComponentRecord:
        """Run a component's files again; what it offered before serves until the new is there, and after a failure.

        Raises ``NotFoundError`` for a component that is not there, ``ConflictError`` for one that waits or is switched
        off, ``PackError`` when the files fail: then it stands as before.
        """
        while True:
            pack = self._packs.get(pack_id)
            if pack is None or full_id not in pack.works:
                raise NotFoundError(
                    "No such component", detail=f"{quote(full_id)} of {quote(pack_id)} is not in a sandbox that runs.",
                    hint=f"Start the Pack, then see its components: rumi pack show {pack_id}",
                )  # fmt: skip
            if not pack.busy:
                break
            self._changed.clear()
            await self._changed.wait()
        record = pack.records[full_id]
        if not self.declared or record.state not in {ComponentState.LOADED, ComponentState.DISABLED}:
            raise ConflictError(
                "This component was not loaded yet",
                detail=f"{full_id} is {record.state.value}. {record.cause}".strip(),
                hint="It loads by itself as soon as what it requires is there.",
            )  # fmt: skip
        if full_id in self._disabled():
            raise ConflictError(
                "This component is switched off", detail=f"{full_id} is switched off by the operator.",
                hint="Take it out of the switched off ones in user_data/active_ecosystem.json, then start the Pack.",
            )  # fmt: skip
        pack.records[full_id] = replace(record, state=ComponentState.STARTING)
        pack.busy = True
        task = asyncio.get_running_loop().create_task(
            self._again(pack, pack.works[full_id], record), name=f"component {full_id}"
        )
        pack.tasks.add(task)
        task.add_done_callback(partial(self._finished, pack))
        failure = await asyncio.shield(task)
        if failure is not None:
            cause, evidence = failure
            raise PackError(
                f"The component {full_id} could not be loaded again", code="component_failed", detail=cause,
                hint=f"What it offered before goes on. Read its log: rumi logs {pack_id}",
                trace=str(evidence.get("trace", "")), pack_id=pack_id,
            )  # fmt: skip
        return pack.records[full_id]

    # -- what is known ------------------------------------------------------------------------------------------------

    def records(self, pack_id: str | None = None) -> list[ComponentRecord]:
        """Records of one Pack, or of all, waiting ones with the reason in a sentence."""
        reasons = self._reasons()
        found = []
        for owner, pack in sorted(self._packs.items()):
            if pack_id in {None, owner}:
                for record in pack.records.values():
                    keys, reason = reasons.get(record.full_id, ((), ""))
                    waits = record.state is ComponentState.WAITING
                    found.append(replace(record, cause=reason, waits_for=keys) if waits and reason else record)
        return found

    def attached(self) -> frozenset[str]:
        """Packs whose components this module takes care of."""
        return frozenset(self._packs)

    # -- the pump -----------------------------------------------------------------------------------------------------

    def _key_changed(self, _key: str, _old: Any, _new: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._kick)

    def _kick(self) -> None:
        """Start what may start. Runs on the loop's thread, so checking and marking are one step."""
        if not self.declared:
            return
        for work, pack in self._startable():
            record = pack.records[work.unit.full_id]
            pack.records[record.full_id] = replace(record, state=ComponentState.STARTING, cause="")
            pack.busy = True
            task = asyncio.get_running_loop().create_task(self._run(pack, work), name=f"component {record.full_id}")
            pack.tasks.add(task)
            task.add_done_callback(partial(self._finished, pack))
        self._notify()

    def _finished(self, pack: _Pack, task: asyncio.Task[Any]) -> None:
        pack.tasks.discard(task)
        pack.busy = False
        if not task.cancelled() and task.exception() is not None:
            self._diagnostics.issue(
                "component_lifecycle", Severity.ERROR, pack.session.pack_id, "Loading a component failed in the host",
                cause=task.exception(),
            )  # fmt: skip
        self._kick()

    def _startable(self) -> list[tuple[Work, _Pack]]:
        """One component for each idle Pack, in a fixed order, as far as the limit goes."""
        waiting = {
            unit: (pack.works[unit.full_id], pack)
            for pack in self._packs.values()
            for unit in self._waiting_units(pack)
        }
        room = self._parallel - sum(pack.busy for pack in self._packs.values())
        chosen: list[tuple[Work, _Pack]] = []
        taken: set[str] = set()
        libraries_move = self._libraries_move()
        for unit in runnable(waiting, self._present()):
            work, pack = waiting[unit]
            held_back = libraries_move and not unit.library
            if not pack.busy and unit.pack_id not in taken and not held_back and len(chosen) < room:
                chosen.append((work, pack))
                taken.add(unit.pack_id)
        return chosen

    def _moving(self, scope: frozenset[str] | None) -> bool:
        inside = [pack for name, pack in self._packs.items() if scope is None or name in scope]
        if any(pack.busy for pack in inside):
            return True
        present = self._present()
        return any(not unit.unmet(present) for pack in inside for unit in self._waiting_units(pack))

    @staticmethod
    def _waiting_units(pack: _Pack) -> list[Unit]:
        return [work.unit for name, work in pack.works.items() if pack.records[name].state is ComponentState.WAITING]

    def _libraries_move(self) -> bool:
        """A library that is starting keeps the rest back; its phases are bounded, so nobody waits for ever."""
        return any(
            work.unit.library and pack.records[name].state is ComponentState.STARTING
            for pack in self._packs.values()
            for name, work in pack.works.items()
        )

    def _present(self) -> Present:
        """Keys of the registry with their versions; not those whose provider is still in its phase: it may yet fail."""
        unfinished = {
            key
            for pack in self._packs.values()
            for name, work in pack.works.items()
            if pack.records[name].state is ComponentState.STARTING
            for key in work.unit.provides
        }
        waiting = (unit for pack in self._packs.values() for unit in self._waiting_units(pack))
        wanted = {key for unit in waiting for key in unit.requires}
        found = {key: self._keys.resolve(key) for key in wanted - unfinished}
        return {key: (entry.version,) for key, entry in found.items() if entry is not None}

    def _reasons(self) -> dict[str, tuple[tuple[str, ...], str]]:
        waiting = [unit for pack in self._packs.values() for unit in self._waiting_units(pack)]
        present = self._present()
        blocked = resolve(waiting, available=present).blocked
        return {item.unit.full_id: (tuple(item.unit.unmet(present)), item.reason) for item in blocked}

    def _notify(self) -> None:
        self._changed.set()

    # -- one component ------------------------------------------------------------------------------------------------

    async def _run(self, pack: _Pack, work: Work) -> None:
        started = time.monotonic()
        registered: list[str] = []
        failure = await self._runner.run_all(pack.session, work, self._runs_of(work), registered)
        record = pack.records[work.unit.full_id]
        record = replace(record, registered=tuple(registered), duration_s=time.monotonic() - started)
        if failure is None:
            self._loaded(pack, record)
        else:
            self._disable(pack, replace(record, registered=()), failure, registered)

    async def _again(self, pack: _Pack, work: Work, before: ComponentRecord) -> Failure | None:
        """Load beside what it left before; then take that back, or the new."""
        started, timeout_s = time.monotonic(), self._phases[0].timeout_s
        registered: list[str] = []
        broken = await self._runner.reload(pack.session, work, "begin", timeout_s)
        if broken is not None:
            pack.records[before.full_id] = before
            return broken
        failure = await self._runner.run_all(pack.session, work, self._runs_of(work), registered)
        broken = await self._runner.reload(pack.session, work, "keep" if failure is None else "undo", timeout_s)
        now = replace(before, registered=tuple(registered), duration_s=time.monotonic() - started)
        if broken is not None:  # nobody can say what serves now, so nothing of it may
            self._disable(pack, replace(now, registered=()), failure or broken, [*before.registered, *registered])
            return failure or broken
        if failure is None:
            self._loaded(pack, now)
        elif before.state is ComponentState.DISABLED:
            self._disable(pack, replace(now, registered=()), failure, registered)
        else:
            pack.records[before.full_id] = before
        return failure

    def _loaded(self, pack: _Pack, record: ComponentRecord) -> None:
        pack.records[record.full_id] = replace(record, state=ComponentState.LOADED, cause="")
        self._diagnostics.resolve("component_disabled", record.full_id)

    def _runs_of(self, work: Work) -> list[tuple[PhaseSpec, str, str]]:
        if not work.handler_file:
            return [(phase, phase.file, "") for phase in self._phases]
        return [(self._handler_phase, work.handler_file, work.handler_key)] if self._handler_phase else []

    def _disable(
        self, pack: _Pack, record: ComponentRecord, failure: Failure, registered: list[str]
    ) -> None:
        cause, evidence = failure
        pack.records[record.full_id] = replace(record, state=ComponentState.DISABLED, cause=cause)
        if registered:
            self._withdraw(record.pack_id, registered)
        self._diagnostics.record(
            phase=str(evidence["phase"]), status="disabled", target={"kind": "component", "id": record.full_id},
        )  # fmt: skip
        self._diagnostics.issue(
            "component_disabled",
            Severity.ERROR,
            record.full_id,
            f"The component {record.full_id} is disabled",
            cause,
            f"Read its traceback and log (rumi logs {record.pack_id}), correct the file, then approve the Pack again.",
            evidence,
        )


