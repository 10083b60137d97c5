"""What happens next in a run: events in, effects out. The kernel performs the effects and knows nothing else of flows.

``start``, then ``answer`` each effect that carries a token, until ``outcome`` is set. The machine asks nobody for the
time, so that a recorded run, answered again in the same order, takes the same way.

Not here: what a step means (``steps``, ``verbs``), structured concurrency (``tasks``), time, handlers, logging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core_runtime.rules.flow import endings
from core_runtime.rules.flow.asking import Effect, Interrupt, Result, Routine, StepFailed
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import Returned, Run, Surroundings, flat_inputs
from core_runtime.rules.flow.scope import Scope
from core_runtime.rules.flow.steps import Steps, signal_error
from core_runtime.rules.flow.tasks import Tasks


class Machine:
    """One run of one plan."""

    def __init__(
        self,
        plan: Plan,
        *,
        run_id: str = "",
        values: Any = None,
        surroundings: Surroundings = Surroundings(),  # noqa: B008 - frozen
    ) -> None:
        """``values`` is the run's ``${input}``."""
        self.plan = plan
        self.outcome: endings.Outcome | None = None
        self._scope = Scope({"input": values, "run": {"id": run_id, "flow": plan.flow.id, "status": "ok"}})
        self._run = Run(plan, run_id, surroundings, budget=plan.flow.limits.steps)
        self._steps = Steps(self._run)
        self._tasks = self._run.tasks = Tasks(self._bounded())

    def start(self) -> list[Effect]:
        """The first effects."""
        self._tasks.run()
        return self._drain()

    def answer(self, token: int, value: Any = None, error: endings.FlowError | None = None) -> list[Effect]:
        """The effects that follow from an effect's outcome."""
        self._tasks.answer(token, value, error)
        return self._drain()

    def run_body(self, token: int, body: Routine, ended: Callable[[Result], None]) -> list[Effect] | None:
        """The effects that follow when the construct asked for by ``token`` runs its steps once; None: it is over."""
        return self._drain() if self._tasks.adopt(token, body, ended) else None

    def cancel(self) -> list[Effect]:
        """End the run; ``finally`` steps still run."""
        self._tasks.interrupt()
        return self._drain()

    def _bounded(self) -> Routine:
        limits = self.plan.flow.limits
        whole = self._steps.flow(self.plan, 0, "", self._scope)
        if limits.wall_s is None:
            return (yield from whole)
        return (yield from self._steps.guarded(whole, limits.wall_s, self.plan.flow.id, self.plan.flow.id))

    def _drain(self) -> list[Effect]:
        effects, self._tasks.effects = self._tasks.effects, []
        if self._tasks.result is not None and self.outcome is None:
            self.outcome = self._concluded(self._tasks.result.value, self._tasks.result.raised)
        return effects

    def _concluded(self, output: Any, raised: StepFailed | Interrupt | None) -> endings.Outcome:
        status = endings.RunStatus.DEGRADED if self._run.degraded else endings.RunStatus.OK
        error = None
        if isinstance(raised, Returned):
            output = raised.value
        elif isinstance(raised, StepFailed):
            status, error = endings.RunStatus.FAILED, raised.error
        elif raised is not None:
            status, error = endings.RunStatus.CANCELLED, signal_error(raised.kind, "")
        return endings.Outcome(
            status, tuple(self._run.results.values()), error, output, flat_inputs(self._scope.flat())
        )
