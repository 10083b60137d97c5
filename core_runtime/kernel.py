"""The kernel: binds names to handlers and performs what the flow machine asks for. It knows no feature and no phase.

Two kinds of names can be called by a step: ``kernel:<name>``, a handler of the host (from official flows only), and an
interface key, whoever provides it. Everything else about a flow is decided in ``rules.flow``.

Invariants:
  * One step's result, failure or time limit is reported to the machine exactly once.
  * A handler's exception is data from here on: ``RumiError`` by its code, anything else as ``error/<ClassName>`` with
    an Issue, because that is a bug.
  * Ending a run ends everything that it started.

Not here: reading flow files (``flow_composer``), what handlers do (``handlers``), order and meaning (``rules.flow``).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backend_core.errors import NotFoundError, PackError, PackTimeout, RumiError
from core_runtime.diagnostics import fail_soft
from core_runtime.flow_composer import FlowComposer
from core_runtime.handlers import interfaces, table
from core_runtime.handlers.host import Host
from core_runtime.rules.flow import model, tasks
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.plan import Plan, plan_flow

KernelHandler = Callable[[Host, Mapping[str, Any]], Awaitable[Any] | Any]
_DIAGNOSTIC_STATUS = {
    model.Status.OK: "success",
    model.Status.SKIPPED: "skipped",
    model.Status.FAILED: "failed",
    model.Status.TIMEOUT: "failed",
    model.Status.CANCELLED: "failed",
}


@dataclass(frozen=True, slots=True)
class StepReport:
    """A step's result with what it took."""

    result: model.StepResult
    started_at: float
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        error = self.result.error
        return {
            "step": self.result.path,
            "phase": self.result.phase,
            "handler": self.result.handler,
            "status": self.result.status.value,
            "reason": self.result.reason,
            "attempts": self.result.attempts,
            "error": error.as_dict() if error else None,
            "started_at": self.started_at,
            "duration_s": round(self.duration_s, 6),
        }


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run, from its id to its output."""

    run_id: str
    flow: str
    status: model.RunStatus
    started_at: float
    duration_s: float
    steps: tuple[StepReport, ...] = ()
    error: model.FlowError | None = None
    output: Any = None

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        return {
            "run_id": self.run_id,
            "flow": self.flow,
            "status": self.status.value,
            "started_at": self.started_at,
            "duration_s": round(self.duration_s, 6),
            "steps": [step.as_dict() for step in self.steps],
            "error": self.error.as_dict() if self.error else None,
        }


class Kernel:
    """Runs flows on behalf of one host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.composer = FlowComposer(
            core=host.settings.project_root / "flow" / "core",
            ecosystem=(host.settings.project_root / "flow" / "ecosystem", host.settings.home / "ecosystem" / "flows"),
            user=(host.settings.home / "user_data" / "flows",),
            diagnostics=host.diagnostics,
        )
        self.last_runs: dict[str, RunReport] = {}
        self._handlers: dict[str, KernelHandler] = dict(table.registered())

    def register_handler(self, name: str, fn: KernelHandler) -> None:
        """Bind ``kernel:<name>``. A name that is bound already is a programming error."""
        if name in self._handlers:
            raise ValueError(f"the kernel handler {name!r} is registered twice")
        self._handlers[name] = fn

    async def run(self, flow_id: str, *, values: Any = None) -> RunReport:
        """Run the flow of that name as the composer found it; ``NotFoundError`` when there is none."""
        flows = await asyncio.to_thread(self.composer.load)
        flow = flows.get(flow_id)
        if flow is None:
            raise NotFoundError(
                f"There is no flow {flow_id!r}",
                detail=f"Known flows: {', '.join(sorted(flows)) or 'none'}.",
                hint="A flow's file may have been refused; see the issues.",
            )
        return await self.run_flow(flow, values=values)

    async def run_flow(self, flow: model.Flow | Plan, *, values: Any = None) -> RunReport:
        """Run one flow to its end. Cancelling this coroutine cancels the run, with its ``finally`` steps."""
        plan = flow if isinstance(flow, Plan) else plan_flow(flow)
        run = _Run(self, plan, values)
        report = await run.drive()
        self.last_runs[report.flow] = report
        return report

    def has_handler(self, name: str) -> bool:
        """Whether a step could call ``name`` now."""
        if name.startswith(model.KERNEL_PREFIX):
            return name.removeprefix(model.KERNEL_PREFIX) in self._handlers
        return self.host.registry.resolve(name) is not None

    async def invoke(self, request: tasks.Invoke) -> Any:
        """Perform one call of a step; raises ``RumiError`` with code ``missing`` when nobody has that name."""
        name = request.handler
        if not name.startswith(model.KERNEL_PREFIX):
            return await interfaces.call(self.host, name, request.args, request.timeout_s or None, caller="kernel")
        handler = self._handlers.get(name.removeprefix(model.KERNEL_PREFIX))
        if handler is None:
            raise NotFoundError(f"No kernel handler is called {name!r}", code="missing")
        result = handler(self.host, request.args if isinstance(request.args, Mapping) else {})
        return await result if inspect.isawaitable(result) else result


@dataclass(slots=True)
class _Run:
    """One run under way: a queue of answers on one side, tasks on the other."""

    kernel: Kernel
    plan: Plan
    values: Any
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))
    _steps: list[StepReport] = field(default_factory=list)
    _began: dict[str, tuple[float, float]] = field(default_factory=dict)
    _work: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    _answers: asyncio.Queue[tuple[int, Any, model.FlowError | None]] = field(default_factory=asyncio.Queue)

    async def drive(self) -> RunReport:
        machine = Machine(self.plan, run_id=self.run_id, values=self.values, jitter=random.random)
        started_at, started = time.time(), time.monotonic()
        cancelled = False
        try:
            self._perform(machine.start())
            while machine.outcome is None:
                try:
                    token, value, error = await self._answers.get()
                except asyncio.CancelledError:
                    if cancelled:
                        raise
                    cancelled = True
                    self._perform(machine.cancel())
                else:
                    self._work.pop(token, None)
                    self._perform(machine.answer(token, value, error))
        finally:
            await self._end_work()
        if cancelled:
            raise asyncio.CancelledError
        outcome = machine.outcome
        return RunReport(
            self.run_id, self.plan.flow.id, outcome.status, started_at, time.monotonic() - started, tuple(self._steps),
            outcome.error, outcome.output,
        )  # fmt: skip

    def _perform(self, effects: list[tasks.Effect]) -> None:
        for effect in effects:
            match effect:
                case tasks.Began(path):
                    self._began[path] = (time.time(), time.monotonic())
                case tasks.Ended(result):
                    self._note(result)
                case tasks.Abandon(token):
                    task = self._work.pop(token, None)
                    if task is not None:
                        task.cancel()
                case tasks.Sleep(delay_s, token):
                    self._spawn(token, asyncio.sleep(delay_s))
                case tasks.Await(handler, token):
                    self._spawn(token, self._appearance(handler))
                case tasks.Invoke():
                    self._spawn(effect.token, self.kernel.invoke(effect), effect)

    def _spawn(self, token: int, work: Awaitable[Any], request: tasks.Invoke | None = None) -> None:
        self._work[token] = asyncio.ensure_future(self._report(token, work, request))

    async def _report(self, token: int, work: Awaitable[Any], request: tasks.Invoke | None) -> None:
        path, name = (request.path, request.handler) if request else ("", "")
        answer: tuple[int, Any, model.FlowError | None] = (token, None, None)
        with fail_soft(self.kernel.host.diagnostics, name or path, self.plan.flow.id, step_id=path) as bug:
            try:
                answer = (token, await work, None)
            except RumiError as exc:
                answer = (token, None, _known_error(exc, request))
        if bug.error is not None:
            kind = f"error/{type(bug.error).__name__}"
            attempt = request.attempt if request else 1
            answer = (token, None, model.FlowError(kind, str(bug.error)[:500], instance=path, attempt=attempt))
        self._answers.put_nowait(answer)

    async def _appearance(self, handler: str) -> None:
        """Return once a call of ``handler`` could succeed. A kernel handler that is absent never appears."""
        loop, appeared = asyncio.get_running_loop(), asyncio.Event()

        def noticed(_key: str, _old: Any, _new: Any) -> None:
            loop.call_soon_threadsafe(appeared.set)

        observer = self.kernel.host.registry.observe(handler, noticed)
        try:
            while not self.kernel.has_handler(handler):
                appeared.clear()
                await appeared.wait()
        finally:
            self.kernel.host.registry.unobserve(observer)

    def _note(self, result: model.StepResult) -> None:
        now = time.time(), time.monotonic()
        wall, mono = self._began.pop(result.path, now)
        self._steps.append(StepReport(result, wall, now[1] - mono))
        error = result.error
        self.kernel.host.diagnostics.record(
            phase=result.phase or self.plan.flow.id,
            step_id=result.path,
            handler=result.handler or None,
            status=_DIAGNOSTIC_STATUS[result.status],
            target={"kind": "flow", "id": self.plan.flow.id},
            error={"type": error.type, "message": error.title} if error else None,
            meta={"run_id": self.run_id, "reason": result.reason, "duration_s": now[1] - mono},
        )

    async def _end_work(self) -> None:
        left = list(self._work.values())
        for task in left:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)


def _known_error(exc: RumiError, request: tasks.Invoke | None) -> model.FlowError:
    pack = exc.pack_id if isinstance(exc, PackError) else ""
    retryable = exc.retryable if isinstance(exc, PackError) else False
    return model.FlowError(
        "timeout" if isinstance(exc, PackTimeout) else exc.code,
        exc.title,
        detail=exc.detail,
        instance=request.path if request else "",
        attempt=request.attempt if request else 1,
        retryable=retryable,
        cause=exc.hint,
        pack=pack,
    )
