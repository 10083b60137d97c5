"""The runs of flows: which there are, which may be beside which, and going on with one that was cut off.

Invariants:
  * A run's ``concurrency`` is decided before its first step; runs of one key never overlap against its mode.
  * A journalled run that has no end is resumable, with the very flow it began with: another digest is refused.
  * What is kept of runs is bounded.

Not here: one run (``flow_run``), what is told of it (``flow_reports``), its journal (``flow_files``), what a flow is
(``flow_composer``), who may ask (``api``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from backend_core.errors import ConflictError, RequestError, RumiError, TooLargeError, quote
from core_runtime.bus.calls import Call
from core_runtime.diagnostics import StepDone
from core_runtime.drivers.run_journal import Account, Recorded, RunJournal
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.flow_calls import Handlers
from core_runtime.flow_errors import known_error
from core_runtime.flow_failing import FailingSteps
from core_runtime.flow_files import KEPT_RUNS, RunFiles, unknown
from core_runtime.flow_reports import MemoryJournal, RunReport, StepReport
from core_runtime.flow_run import Emit, FlowRun
from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.explain import difference
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import Surroundings
from core_runtime.rules.flow.scope import Scope
from core_runtime.rules.values import ValueProblem, pack
from core_runtime.tracing import maybe

MAX_SHOWN_CHARS: Final = 20_000
_DIAGNOSTIC_STATUS = {
    endings.Status.OK: "success",
    endings.Status.SKIPPED: "skipped",
    endings.Status.FAILED: "failed",
    endings.Status.TIMEOUT: "failed",
    endings.Status.CANCELLED: "failed",
}
RUN_EVENT: Final = "flow.run"
STEP_EVENT: Final = "flow.step"


Began = Callable[[RunReport], None]


class _Live(Struct):
    report: RunReport
    key: str
    task: asyncio.Task[RunReport]
    pack: str = ""


class FlowRuns:
    """Those of one kernel. For the event loop's thread."""

    def __init__(
        self, kernel: Handlers, folder: Path, surroundings: Surroundings, seals: Callable[[], RunSeals]
    ) -> None:
        """``seals`` are asked for each time that a journal is written or read."""
        self._kernel = kernel
        self._files = RunFiles(folder, seals, kernel.host.diagnostics.mishap)
        self._surroundings = surroundings
        self._live: dict[str, _Live] = {}
        self._done: OrderedDict[str, RunReport] = OrderedDict()
        self._turns: dict[str, asyncio.Condition] = {}
        self._claimed: set[str] = set()
        self._failing = FailingSteps()

    async def run(
        self, plan: Plan, digest: str, values: Any, *, actor: str = "", emit: Emit | None = None,
        parts: Mapping[str, str] | None = None, parent: Call | None = None,
        document: Any = None, began: Began | None = None, unattended: bool = False,
    ) -> RunReport:  # fmt: skip
        """Run a flow to its end. Cancelling this coroutine cancels the run, with its ``finally`` steps.

        ``parts``: the digests of the flows that it can run, kept in its journal. ``parent``: the Pack's call that
        began it. ``document``: the flow as it is, kept in its journal, so that a change can be shown. ``began`` is told
        its report before its first step. ``unattended``: a schedule begins it, so nobody chose its input.

        Raises:
            RequestError: the input is not what the flow asks for. ConflictError: ``run_overlaps``.
        """
        fault = plan.input_fault(values)
        if fault:
            raise RequestError(
                f"The input does not fit the flow {plan.flow.id}",
                code="input_invalid",
                detail=fault,
                hint=f"Its schema: rumi flow explain {plan.flow.id}",
            )
        report = RunReport(secrets.token_hex(8), plan.flow.id, digest, time.time(), actor, unattended=unattended)
        resting = self._failing.resting(digest) if unattended else frozenset()
        around = replace(self._surroundings, hooks=self._kernel.hooks.present(), resting=resting)
        key = _key(plan.flow, values)
        await self._take_turn(plan.flow, key)
        journal = None
        if plan.flow.is_journalled():
            head = {"parts": dict(parts or {}), "hooks": sorted(around.hooks), "document": document}
            head["resting"] = sorted(resting)
            journal = self._files.begin(plan.flow, report, values, head)
        return await self._start(plan, report, key, values, journal, deque(), emit, around, parent, began)

    async def resume(
        self, run_id: str, plan: Plan, digest: str, account: Account, parts: Mapping[str, str], document: Any = None,
        began: Began | None = None,
    ) -> RunReport:  # fmt: skip
        """Go on with a run that was cut off, from its last finished step. Only under a ``claim``."""
        if account.head.get("digest") != digest:
            raise ConflictError(
                f"The flow {plan.flow.id} has changed since",
                code="flow_changed",
                detail=f"The run began with {account.head.get('digest')}; the flow is {digest} now.",
                hint=f"See what changed (rumi flow explain {plan.flow.id}), then start it anew.",
                fields={"difference": difference(account.head.get("document"), document)[:MAX_SHOWN_CHARS]},
            )
        if account.head.get("parts", {}) != parts:
            raise ConflictError(
                f"A flow that {plan.flow.id} runs has changed since",
                code="flow_changed",
                detail=f"It can run {', '.join(sorted(parts)) or 'no other'} now; one of them was not so at the start.",
                hint="Start it anew; what the run has done so far stands.",
            )
        values = account.head.get("input")
        report = RunReport(run_id, plan.flow.id, digest, float(account.head["started_at"]), str(account.head["actor"]))
        key = _key(plan.flow, values)
        await self._take_turn(plan.flow, key)
        journal = self._files.reopen(plan.flow, run_id, account)
        hooks = frozenset(map(str, account.head.get("hooks") or ()))
        resting = frozenset((str(flow), str(path)) for flow, path in account.head.get("resting") or ())
        around = replace(self._surroundings, hooks=hooks, resting=resting)
        return await self._start(plan, report, key, values, journal, deque(account.answers), None, around, None, began)

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[None]:
        """Hold a run for one resumption, from reading its journal to its end: another is ``ConflictError``."""
        if run_id in self._live or run_id in self._claimed:
            raise ConflictError("The run is under way", code="run_live", detail=quote(run_id, 80))
        self._claimed.add(run_id)
        try:
            yield
        finally:
            self._claimed.discard(run_id)

    def account(self, run_id: str) -> Account:
        """The journal of a run that may be resumed. ``NotFoundError``, ``ConflictError``, ``TrustError``."""
        account = self._files.account(run_id)
        if account.end is not None:
            raise ConflictError("That run came to its end", code="run_ended", detail=str(account.end.get("end")))
        return account

    def cancel(self, run_id: str) -> None:
        """End a run that is under way; its ``finally`` steps run. ``NotFoundError`` when it is not."""
        live = self._live.get(run_id)
        if live is None:
            raise unknown(run_id, "No such run is under way")
        live.task.cancel()

    def end_orphans(self, flows: Container[str]) -> None:
        """End the runs of Packs' flows that are not among ``flows`` any more: their Pack was rejected, or changed."""
        self._failing.keep(self._kernel.host.diagnostics, flows)
        for live in self._live.values():
            if live.pack and live.report.flow not in flows:
                live.task.cancel()

    def listed(self) -> list[dict[str, Any]]:
        """Every known run, newest first. Blocks: looks at the journals of cut-off runs."""
        reports = {**{report.run_id: report for report in self._left()}, **self._done}
        reports |= {run_id: live.report for run_id, live in self._live.items()}
        return [report.summary() for report in sorted(reports.values(), key=lambda r: -r.started_at)]

    def get(self, run_id: str) -> RunReport:
        """One run. Blocks. ``NotFoundError``."""
        live = self._live.get(run_id)
        found = live.report if live else self._done.get(run_id)
        if found is None:
            found = next((report for report in self._left() if report.run_id == run_id), None)
        if found is None:
            raise unknown(run_id, "There is no such run")
        return found

    async def news(self, run_id: str, seen: int) -> tuple[RunReport, list[StepReport]]:
        """A run and its steps behind the first ``seen``, once there are any or it is over; of many the newest.

        ``NotFoundError`` for one that neither is under way nor was since the host started.
        """
        live = self._live.get(run_id)
        report = live.report if live else self._done.get(run_id)
        if report is None:
            raise unknown(run_id, "No such run is under way")
        while report.ended <= seen and run_id in self._live:
            bell = asyncio.Event()
            report.bells.add(bell)
            try:
                await bell.wait()
            finally:
                report.bells.discard(bell)
        new = max(0, report.ended - seen)
        return report, list(report.steps)[-new:] if new else []

    async def close(self) -> None:
        """End every run."""
        tasks = [live.task for live in self._live.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _left(self) -> list[RunReport]:
        return self._files.left(lambda run_id: run_id in self._live or run_id in self._done)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _start(
        self, plan: Plan, report: RunReport, key: str, values: Any, journal: RunJournal | None,
        history: deque[Recorded], emit: Emit | None, around: Surroundings,
        parent: Call | None = None, began: Began | None = None,
    ) -> RunReport:  # fmt: skip
        def note(result: endings.StepResult, started_at: float, duration_s: float, replayed: bool) -> None:  # noqa: FBT001
            self._note(report, StepReport(result, started_at, duration_s, replayed))

        kept = MemoryJournal(report) if plan.flow.journal is model.Journal.MEMORY else journal
        run = FlowRun(
            self._kernel, plan, report.run_id, values, note, around, emit, kept,
            history, parent,
        )  # fmt: skip
        report.under_way = run.under_way
        task = asyncio.ensure_future(self._drive(run, report, journal))
        self._live[report.run_id] = _Live(report, key, task, plan.flow.origin.pack)
        self._told(report)
        if began is not None:
            began(report)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if report.status is None:  # it was ended before its first step
                report.status = endings.RunStatus.CANCELLED
                if journal is not None:
                    self._files.end(run.plan.flow, report, self._live)
            asking = asyncio.current_task()
            if asking is None or asking.cancelling():
                raise
            return report  # somebody else ended the run; whoever asked for it is told so
        finally:
            del self._live[report.run_id]
            self._keep(report)
            self._told(report)
            report.ring()
            turn = self._turn(plan.flow.id, key)
            async with turn:
                turn.notify_all()
            if not self._others(plan.flow.id, key):
                self._turns.pop(f"{plan.flow.id}\0{key}", None)

    async def _drive(self, run: FlowRun, report: RunReport, journal: RunJournal | None) -> RunReport:
        started = time.monotonic()
        try:
            with maybe(self._kernel.host.tracer, f"flow {report.flow}", rumi_flow=report.flow, rumi_run=report.run_id):
                outcome = await run.drive()
        except asyncio.CancelledError:
            report.status, report.duration_s = endings.RunStatus.CANCELLED, time.monotonic() - started
            if journal is not None:
                self._files.end(run.plan.flow, report, self._live)
            raise
        except Exception as exc:
            report.duration_s = time.monotonic() - started
            _failed(report, exc)
            raise
        report.duration_s = time.monotonic() - started
        report.status, report.error = outcome.status, outcome.error
        try:
            report.output = _bounded(outcome.output, run.plan.flow.limits.output_bytes)
        except RequestError as exc:
            _failed(report, exc)
            if journal is not None:
                self._files.end(run.plan.flow, report, self._live)
            raise
        if journal is not None:
            self._files.end(run.plan.flow, report, self._live)
        return report

    def _note(self, report: RunReport, step: StepReport) -> None:
        report.add(step)
        if step.replayed:
            return  # nothing was done; what it was when it was done counted then
        result, error = step.result, step.result.error
        host = self._kernel.host
        self._failing.note(host.diagnostics, report.flow, result)
        if report.unattended:
            self._failing.note_unattended(host.diagnostics, report.flow, report.digest, result)
        if result.status is endings.Status.OK and error is None and not result.reason:
            host.diagnostics.step_done(
                StepDone(
                    step.started_at + step.duration_s, result.phase or report.flow, result.path, result.handler,
                    report.flow, report.run_id, step.duration_s,
                )
            )  # fmt: skip
        else:
            self._note_other(report, step)
        if host.events.wanted(STEP_EVENT):
            host.events.publish(STEP_EVENT, {"run_id": report.run_id, "flow": report.flow, **step.as_dict()})

    def _note_other(self, report: RunReport, step: StepReport) -> None:
        result, error = step.result, step.result.error
        self._kernel.host.diagnostics.append({
            "ts": time.time(),
            "phase": result.phase or report.flow,
            "step_id": result.path,
            "handler": result.handler or None,
            "status": _DIAGNOSTIC_STATUS[result.status],
            "target": {"kind": "flow", "id": report.flow},
            "error": {"type": error.type, "message": error.title} if error else None,
            "meta": {"run_id": report.run_id, "reason": result.reason, "duration_s": step.duration_s},
        })  # fmt: skip

    def _told(self, report: RunReport) -> None:
        self._kernel.host.events.publish(RUN_EVENT, report.summary())

    def _keep(self, report: RunReport) -> None:
        self._done[report.run_id] = report
        while len(self._done) > KEPT_RUNS:
            self._done.popitem(last=False)

    # -- beside each other

    async def _take_turn(self, flow: model.Flow, key: str) -> None:
        """Wait, replace or refuse, as the flow's ``concurrency`` says, until this run may begin."""
        rule = flow.concurrency
        turn = self._turn(flow.id, key)
        async with turn:
            while len(others := self._others(flow.id, key)) >= _allowed(rule):
                if rule.mode is model.Overlap.SINGLE:
                    raise ConflictError(
                        f"A run of {flow.id} is under way",
                        code="run_overlaps",
                        detail=f"{others[0].report.run_id} runs with the same key, and there is one at a time.",
                        hint=f"Wait for it, or end it: rumi flow cancel {others[0].report.run_id}",
                        fields={"run_id": others[0].report.run_id},
                    )
                if rule.mode is model.Overlap.RESTART:
                    for other in others:
                        other.task.cancel()
                await turn.wait()

    def _others(self, flow_id: str, key: str) -> list[_Live]:
        return [live for live in self._live.values() if live.report.flow == flow_id and live.key == key]

    def _turn(self, flow_id: str, key: str) -> asyncio.Condition:
        return self._turns.setdefault(f"{flow_id}\0{key}", asyncio.Condition())


def _key(flow: model.Flow, values: Any) -> str:
    key = flow.concurrency.key
    return "" if key is None else repr(key.get(Scope({"input": values}).lookup))


def _allowed(rule: model.Concurrency) -> float:
    if rule.mode is model.Overlap.PARALLEL:
        return rule.max or float("inf")
    return 1


def _failed(report: RunReport, exc: Exception) -> None:
    """The run itself could not be carried on; where it is journalled, it may be resumed."""
    known = known_error(exc, report.flow) if isinstance(exc, RumiError) else None
    report.status = endings.RunStatus.FAILED
    report.error = known or endings.FlowError(f"error/{type(exc).__name__}", str(exc)[:500], instance=report.flow)


def _bounded(output: Any, limit_bytes: int) -> Any:
    """The output, if it is plain data of at most ``limit_bytes``."""
    try:
        size = len(pack(output))
    except ValueProblem as problem:
        raise RequestError("The flow's output is no plain data", code="value", detail=str(problem)) from problem
    if size > limit_bytes:
        raise TooLargeError(
            "The flow's output is too large", code="output_too_large", detail=f"{size} bytes; at most {limit_bytes}.",
            hint="Put large data into user_data and return its path, or raise limits.output_bytes.",
        )  # fmt: skip
    return output
