"""What the steps of one run share: plan, budget, records, and what the run may ask about other flows. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, field

from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.asking import Ended, StepFailed
from core_runtime.rules.flow.hooks import closed_steps
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.scope import Scope
from core_runtime.rules.flow.tasks import Tasks
from core_runtime.rules.flow.values import ExpressionFailed, Value

CALL_TIMEOUT_S = 60.0
Actors = tuple[str, ...]


class Surroundings(Struct, frozen=True):
    """What a run asks about other flows. ``jitter`` gives numbers from 0 to 1 for the spread of retries.

    ``hooks``: those that were there when the run began, and no others, so that it can be answered again.
    ``resting``: steps, by flow and path, that failed so often that they are left out where their failure would be
    passed over; as of the run's begin, too.
    """

    plan_of: Callable[[str], Plan | None] = lambda _flow: None
    may_run: Callable[[Actors, str], bool] = lambda _actors, _flow: True
    jitter: Callable[[], float] = lambda: 0.5
    hooks: frozenset[str] = frozenset()
    resting: frozenset[tuple[str, str]] = frozenset()


class Block(Struct, frozen=True, gc=False):
    """What steps inherit from what is around them. ``place`` tells iterations apart; ``flow`` is the one that runs.

    ``within``: the ids of the flows that run each other, outermost first, this one last. A struct, as is what each step
    leaves behind: some are made for each step.
    """

    flow: model.Flow
    phase: model.Phase
    on_error: model.OnError
    place: str = ""
    depth: int = 0
    within: tuple[str, ...] = ()
    usable: dict[str, bool] = field(default_factory=dict)
    """Whether each step that has ended here left its output, by path: the same path in another iteration is another."""

    def at(self, place: str) -> Block:
        """The same, elsewhere."""
        return Block(self.flow, self.phase, self.on_error, place, self.depth, self.within, {})


@dataclass(slots=True)
class Run:
    """One run. ``memory``: values of its ``once`` steps that ended well, by supplier and key."""

    plan: Plan
    run_id: str
    surroundings: Surroundings
    memory: dict[tuple[Actors, str], Any] = dataclasses.field(default_factory=dict)
    tasks: Tasks = dataclasses.field(init=False)
    results: dict[str, endings.StepResult] = dataclasses.field(default_factory=dict)
    degraded: bool = False
    budget: int = 0
    closed: dict[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    def hears(self, hook: str, step: model.Step, flow: model.Flow) -> bool:
        """Whether hooks of that name are asked about the step."""
        if hook not in self.surroundings.hooks:
            return False
        if flow.id not in self.closed:
            self.closed[flow.id] = closed_steps(flow)
        return step.path not in self.closed[flow.id]

    def spend(self, path: str) -> None:
        """One step more; ``StepFailed`` past the limit, which nothing catches."""
        self.budget -= 1
        if self.budget < 0:
            limit = self.plan.flow.limits.steps
            raise StepFailed(error_of("limit", f"The run took more than {limit} steps", path), stop=True)

    def ended(self, result: endings.StepResult, block: Block) -> None:
        """Record a step's result, and tell of it."""
        self.results[result.path] = result
        block.usable[result.path] = result.usable
        self.tasks.effects.append(Ended(result, block.place))


class Returned(StepFailed):
    """A ``return`` on its way out: nothing catches it, ``finally`` runs."""

    def __init__(self, value: Any) -> None:
        super().__init__(error_of("returned", "The flow has returned", ""), stop=True)
        self.value = value


class Aborted(StepFailed):
    """A handler's word that the flow ends here, on its way out: nothing of the flow catches it, ``finally`` runs."""

    def __init__(self, error: endings.FlowError) -> None:
        super().__init__(error, stop=True)


def error_of(kind: str, title: str, path: str, attempt: int = 1, *, retryable: bool = False) -> endings.FlowError:
    """An error of the kernel's own."""
    return endings.FlowError(kind, title, instance=path, attempt=attempt, retryable=retryable)


def resolved(value: Value | None, scope: Scope, path: str, default: Any = None) -> Any:
    """A value of the document; an expression that fails is the step's failure."""
    if value is None:
        return default
    try:
        return value.get(scope.lookup)
    except ExpressionFailed as failure:
        raise StepFailed(error_of("expression", str(failure), path)) from failure


def truth(value: Value | None, scope: Scope, path: str) -> bool:
    """A condition; none at all holds."""
    return value is None or bool(resolved(value, scope, path))


def flat_inputs(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's variables as its outcome tells them: without what the kernel itself put there."""
    return {name: value for name, value in values.items() if name not in {"input", "run"}}
