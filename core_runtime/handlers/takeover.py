"""Use case: another generation of a Pack takes the place of the one that serves, and at no moment does nobody.

It starts beside, on trial: seen by nobody, judged by the grant that it would get, its changes of user data kept aside.
When its components have loaded, the decision is made true (``begin``), its data settled, and it takes over in one turn
of the loop. Until then everything is as it was: a failed trial has nothing to take back.

Invariants:
  * A trial that depends on data which its Pack changed meanwhile does not count, nor one that needed what only the
    generation that serves may do: those start after the old one has stopped (``Verdict.STOP_FIRST``).
  * From ``begin`` until the take-over the old generation writes nothing; afterwards nothing that the new one has seen.

Not here: what is decided (``updates``), the take-over on the bus (``bus.takeover``), stop and start (``starting``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial

from msgspec import Struct

from backend_core.errors import ConflictError, RumiError
from core_runtime.approval_manager import VerifiedCopy
from core_runtime.bus.sessions import Session
from core_runtime.component_lifecycle import ComponentLifecycle, ComponentState
from core_runtime.generations import Standing
from core_runtime.handlers import owners, starting
from core_runtime.handlers.host import Host
from core_runtime.handlers.isolation import launch_request
from core_runtime.rules.grants import Grant
from core_runtime.userdata_manager import UserdataManager


class Verdict(Enum):
    """What came of a trial. ``BEGUN``: it failed after the decision was made true, which must be taken back."""

    TOOK_OVER = "took_over"
    FAILED = "failed"
    BEGUN = "begun"
    STOP_FIRST = "stop_first"


class Outcome(Struct, frozen=True):
    """``cause`` is a sentence for the operator, empty for ``TOOK_OVER``. ``older`` acts on once ``serve`` is called."""

    verdict: Verdict
    cause: str
    older: Standing


async def beside(host: Host, copy: VerifiedCopy, grant: Grant | None, begin: Callable[[], object]) -> Outcome:
    """Try ``copy`` beside what serves, under ``grant`` (None: the one in force); ``begin`` makes the decision true.

    Where the outcome is ``BEGUN``, the older generation's writes wait until its standing is told to serve.
    """
    files = await asyncio.to_thread(host.userdata.trial, copy.pack_id)
    trial = _Trial(host, copy, files, begin)
    try:
        cause = await trial.run(grant)
    finally:
        await asyncio.to_thread(host.userdata.drop, copy.pack_id, files)
    if trial.verdict is not Verdict.TOOK_OVER:
        forget_components(host, copy.pack_id)
    if trial.verdict not in {Verdict.TOOK_OVER, Verdict.BEGUN}:
        trial.older.serve()
    return Outcome(trial.verdict, cause, trial.older)


async def restart(host: Host, pack_id: str) -> None:
    """A fresh sandbox for the same version: beside the one that serves, else by stop and start."""
    async with host.exclusively(pack_id):
        if starting.is_running(host, pack_id) and not await _renew(host, pack_id):
            await starting.start_again(host, pack_id)


async def _renew(host: Host, pack_id: str) -> bool:
    if host.isolation is None:
        return False
    copy = await asyncio.to_thread(host.approvals.open_for_start, pack_id, isolation=host.isolation)
    outcome = await beside(host, copy, None, lambda: None)
    if outcome.verdict is Verdict.TOOK_OVER:
        await starting.mark(host, pack_id, "started", "")
        starting.tell_addons(host, copy)
        starting.show(host, pack_id)
        return True
    outcome.older.serve()
    return False


def forget_components(host: Host, pack_id: str) -> None:
    """Issues about components of a version that is not there any more."""
    for issue in host.diagnostics.issues():
        if issue.subject.startswith(f"{pack_id}:"):
            host.diagnostics.resolve(issue.code, issue.subject)


class _Unfit(Exception):  # noqa: N818  control flow of a trial: why it does not count
    def __init__(self, verdict: Verdict, cause: str) -> None:
        super().__init__(cause)
        self.verdict = verdict


class _Trial:
    """One trial of one copy."""

    def __init__(self, host: Host, copy: VerifiedCopy, files: UserdataManager, begin: Callable[[], object]) -> None:
        self._host = host
        self._copy = copy
        self._files = files
        self._begin = begin
        self._lifecycle: ComponentLifecycle | None = None
        self._limit = asyncio.timeout(host.policy.start_timeout_s)
        running = host.sandboxes.running_as(copy.pack_id)
        self.older: Standing = running.rights.standing if running is not None else Standing(copy.pack_id)
        self.verdict = Verdict.FAILED

    async def run(self, grant: Grant | None) -> str:
        """``""`` when it took over, else why not."""
        request = launch_request(self._host, self._copy)
        standing: Standing = request.rights.standing
        standing.try_out(grant, self._files)
        try:
            async with self._limit:
                await self._host.sandboxes.start(request, self._prepare, agree=partial(self._agree, standing))
                self._adopt()
        except _Unfit as unfit:
            self.verdict = unfit.verdict
            return str(unfit)
        except TimeoutError:
            return "It did not start in time."
        except RumiError as error:
            return f"It did not start: {str(error)[:500]}"
        finally:
            if standing.refused and self.verdict is Verdict.FAILED:  # whatever came of it may come of that
                self.verdict = Verdict.STOP_FIRST
            if self._lifecycle is not None:
                await self._lifecycle.close()
        return ""

    async def _prepare(self, session: Session) -> None:
        """Components of the trial see what it sees; after the take-over a restarted one is like any other."""
        if self.verdict is Verdict.TOOK_OVER:
            await self._host.lifecycle.prepare(session, self._copy.metadata)
            return
        self._lifecycle = self._host.lifecycle.beside(session.world, partial(_withdraw, session))
        await self._lifecycle.prepare(session, self._copy.metadata)

    async def _agree(self, standing: Standing, session: Session) -> None:
        """The last word: after this returns, the session takes over with nothing in between."""
        self._limit.reschedule(None)  # what follows is not given up half-way
        cause = self._fault()
        if cause or standing.refused:
            raise _Unfit(Verdict.FAILED, cause)
        self.older.retire(self._grant_before(), self._files.touched)
        try:
            await asyncio.to_thread(self._host.userdata.settle, self._copy.pack_id, self._files, self._begin)
            _alive(session)
        except BaseException as error:
            if isinstance(error, ConflictError) and error.code == "data_changed":
                raise _Unfit(Verdict.STOP_FIRST, error.detail) from error
            if await asyncio.to_thread(self._host.approvals.on_trial, self._copy.pack_id):
                self.verdict = Verdict.BEGUN
            raise
        owners.appoint(self._host, sorted(self._copy.metadata.provides()), self._copy.pack_id)
        standing.serve()
        self.older.retired()

    def _adopt(self) -> None:
        assert self._lifecycle is not None
        self._host.lifecycle.adopt(self._lifecycle, self._copy.pack_id)
        self._host.permissions.forget(self._copy.pack_id)
        self._host.show_rights(self._copy.pack_id)
        self.verdict = Verdict.TOOK_OVER

    def _fault(self) -> str:
        """Why what started does not count."""
        assert self._lifecycle is not None
        if not self._lifecycle.declared:
            raise _Unfit(Verdict.STOP_FIRST, "the host is still starting")
        records = self._lifecycle.records(self._copy.pack_id)
        off = self._host.active.disabled_components
        for record in records:
            if record.state is ComponentState.DISABLED and record.full_id not in off:
                return f"Its component {record.full_id} failed: {record.cause}"
        if records and all(record.state is ComponentState.WAITING for record in records):
            return f"Nothing of it can start: {records[0].cause}"
        return ""

    def _grant_before(self) -> Callable[[], Grant | None]:
        """What the older generation may do while it ends its calls: as before, while the Pack may run at all."""
        approvals, pack_id = self._host.approvals, self._copy.pack_id
        before = approvals.grant(pack_id)
        return lambda: before if approvals.grant(pack_id) is not None else None


def _alive(session: Session) -> None:
    if session.dead:
        raise session.gone()


def _withdraw(session: Session, pack_id: str, keys: Iterable[str]) -> None:
    """Take back what a failed component of the trial registered."""
    for key in keys:
        slot = session.world.slot(key)
        if slot is not None:
            mine = {e.number for e in slot.entries if (e.pack, e.generation) == (pack_id, session.generation)}
            session.world.remove(mine, key)
