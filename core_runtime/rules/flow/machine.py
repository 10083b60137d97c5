"""What happens next in a run: events in, effects out. The kernel performs the effects and knows nothing else of flows.

Order on failure of a step: retry, first matching catch, ``on_error`` (step > block > phase > flow > kernel default),
then ``finally``, always. Kernel defaults: a step's failure is followed by the next step (``continue``) and the run is
*degraded*; inside a block that has ``catch`` or ``retry`` it fails the block, since somebody is waiting for it; a
sealed phase fails closed. A missing handler is skipped and degrades the run.

Invariants:
  * A step whose output is absent because it failed leaves its names *absent*: a step that reads one is skipped with
    reason ``upstream`` and does not run on null.
  * Branches and iterations write to their own variables, merged in document order when the block succeeds, so a run's
    result does not depend on which branch was faster.
  * A cancellation is never caught; ``finally`` runs all the same.

Not here: time, handlers, logging.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core_runtime.rules.flow import model
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.tasks import (
    Await,
    Began,
    Effect,
    Ended,
    Fork,
    Interrupt,
    Invoke,
    Joined,
    Routine,
    Sleep,
    StepFailed,
    Tasks,
)
from core_runtime.rules.flow.values import Value, walk

CALL_TIMEOUT_S = 60.0
_CLOSED = object()


class Upstream(Exception):  # noqa: N818  (a signal between two functions of this module)
    """A value reads something that a failed step did not leave behind."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.name = name
        self.path = path


class Scope:
    """Variables of a block: what it wrote itself over what its surroundings hold."""

    def __init__(self, values: Mapping[str, Any] | None = None, outer: Scope | None = None) -> None:
        self.own: dict[str, Any] = dict(values or {})
        self.absent: dict[str, str | None] = {}
        self.outer = outer

    def inner(self, values: Mapping[str, Any] | None = None) -> Scope:
        """A scope whose writes stay its own until they are merged."""
        return Scope(values, self)

    def lookup(self, path: tuple[str, ...]) -> Any:
        """The value at ``path``; raises ``Upstream`` when a failed step owes it."""
        scope: Scope | None = self
        while scope is not None:
            owed = scope.absent.get(path[0])
            if owed is not None:
                raise Upstream(path[0], owed)
            if path[0] in scope.own:
                return walk(scope.own[path[0]], path[1:])
            scope = scope.outer
        return None

    def assign(self, path: tuple[str, ...], value: Any) -> None:
        """Set ``path``; maps on the way are copied, so nobody else's value changes."""
        if len(path) > 1:
            value = _with(self._current(path[0]), path[1:], value)
        self.own[path[0]] = value
        self.absent[path[0]] = None

    def owe(self, path: tuple[str, ...], step_path: str) -> None:
        """Mark what ``step_path`` should have written."""
        self.absent[path[0]] = step_path

    def merge(self, inner: Scope, *, without: Iterable[str] = ()) -> None:
        """Take over what an inner scope wrote, except its own loop variables."""
        hidden = frozenset(without)
        for name, value in inner.own.items():
            if name not in hidden:
                self.own[name] = value
        for name, owed in inner.absent.items():
            if name not in hidden:
                self.absent[name] = owed

    def flat(self) -> dict[str, Any]:
        """Everything that is visible here."""
        return {**(self.outer.flat() if self.outer else {}), **self.own}

    def _current(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return None


@dataclass(frozen=True, slots=True)
class _Block:
    """What steps inherit from their surroundings."""

    phase: model.Phase
    on_error: model.OnError
    bindings: Scope


class Machine:
    """One run of one plan. ``start``, then ``answer`` each effect that carries a token, until ``outcome`` is set."""

    def __init__(
        self, plan: Plan, *, run_id: str = "", values: Any = None, jitter: Callable[[], float] = lambda: 0.5
    ) -> None:
        """``values`` is the run's ``${input}``; ``jitter`` gives numbers from 0 to 1 for the spread of retries."""
        self.plan = plan
        self.outcome: model.Outcome | None = None
        self._defaults = plan.flow.defaults
        self._jitter = jitter
        self._scope = Scope({"input": values, "run": {"id": run_id, "flow": plan.flow.id}})
        self._results: dict[str, model.StepResult] = {}
        self._degraded = False
        self._budget = plan.flow.limits.steps
        self._tasks = Tasks(self._bounded_run())

    def start(self) -> list[Effect]:
        """The first effects."""
        self._tasks.run()
        return self._drain()

    def answer(self, token: int, value: Any = None, error: model.FlowError | None = None) -> list[Effect]:
        """The effects that follow from an effect's outcome."""
        self._tasks.answer(token, value, error)
        return self._drain()

    def cancel(self) -> list[Effect]:
        """End the run; ``finally`` steps still run."""
        self._tasks.interrupt()
        return self._drain()

    def _drain(self) -> list[Effect]:
        effects, self._tasks.effects = self._tasks.effects, []
        if self._tasks.result is not None and self.outcome is None:
            self.outcome = self._concluded(self._tasks.result.value, self._tasks.result.raised)
        return effects

    def _concluded(self, output: Any, raised: StepFailed | Interrupt | None) -> model.Outcome:
        status = model.RunStatus.DEGRADED if self._degraded else model.RunStatus.OK
        error = None
        if isinstance(raised, StepFailed):
            status, error = model.RunStatus.FAILED, raised.error
        elif raised is not None:
            status, error = model.RunStatus.CANCELLED, _signal_error(raised.kind, "")
        values = {name: value for name, value in self._scope.flat().items() if name not in {"input", "run"}}
        return model.Outcome(status, tuple(self._results.values()), error, output, values)

    # -- the run ---------------------------------------------------------------------------------------------------

    def _bounded_run(self) -> Routine:
        wall_s = self.plan.flow.limits.wall_s
        if wall_s is None:
            return (yield from self._run())
        return (yield from self._guarded(self._run(), wall_s, self.plan.flow.id))

    def _run(self) -> Routine:
        for name, value in self.plan.flow.variables:
            self._scope.assign((name,), value.get(self._scope.lookup))
        for phase, steps in self.plan.phases:
            yield from self._steps(steps, _Block(phase, self._phase_default(phase), self._scope), self._scope)
        try:
            return self._resolved(self.plan.flow.output, self._scope, None)
        except Upstream:
            self._degraded = True
            return None

    def _phase_default(self, phase: model.Phase) -> model.OnError:
        if phase.sealed:
            return phase.on_error or model.OnError.FAIL
        return phase.on_error or self._defaults.on_error or model.OnError.CONTINUE

    def _steps(self, steps: Sequence[model.Step], block: _Block, scope: Scope) -> Routine:
        value = None
        for step in steps:
            value = yield from self._step(step, block, scope)
        return value

    # -- one step --------------------------------------------------------------------------------------------------

    def _step(self, step: model.Step, block: _Block, scope: Scope) -> Routine:
        skip = self._skip_reason(step, scope)
        if skip is not None:
            return self._skipped(step, block, scope, skip)
        self._tasks.effects.append(Began(step.path))
        try:
            value = yield from self._settled(step, block, scope)
        except (Interrupt, StepFailed):
            yield from self._steps(step.finally_, block, scope)
            raise
        yield from self._steps(step.finally_, block, scope)
        return value

    def _settled(self, step: model.Step, block: _Block, scope: Scope) -> Routine:
        """The step's value after retries, catches and ``on_error``; recorded."""
        try:
            try:
                value = yield from self._attempts(step, block, scope)
            except StepFailed as failure:
                return (yield from self._failed(step, block, scope, failure))
        except Upstream as missing:
            return self._skipped(step, block, scope, f"upstream: {missing.name} was not left by {missing.path}")
        except Interrupt as signal:
            self._ended(step, block, model.Status.CANCELLED, error=_signal_error(signal.kind, step.path))
            raise
        if value is _CLOSED:
            return None
        self._bind(step, scope, value)
        self._ended(step, block, model.Status.OK, usable=True)
        return value

    def _skip_reason(self, step: model.Step, scope: Scope) -> str | None:
        if not step.enabled:
            return "disabled in the document"
        parent = step.path.rpartition("/")[0]
        for need in step.needs:
            result = self._results.get(f"{parent}/{need}" if parent else need)
            if result is None or not result.usable:
                return f"upstream: {need} did not succeed"
        if step.when is not None:
            try:
                if not step.when.get(scope.lookup):
                    return "when"
            except Upstream as missing:
                return f"upstream: {missing.name} was not left by {missing.path}"
        return None

    def _skipped(self, step: model.Step, block: _Block, scope: Scope, reason: str) -> Any:
        value = self._stand_in(step, scope, owed=reason not in {"when", "disabled in the document"})
        self._degraded = self._degraded or reason.startswith("upstream")
        self._ended(step, block, model.Status.SKIPPED, reason=reason, usable=step.default is not None)
        return value

    def _failed(self, step: model.Step, block: _Block, scope: Scope, failure: StepFailed) -> Routine:
        error = failure.error
        if not failure.stop:
            for catch in step.catch:
                if self._catches(catch, error, scope):
                    return (yield from self._caught(step, catch, block, scope, error))
        status = model.Status.TIMEOUT if error.type == "timeout" else model.Status.FAILED
        policy = model.OnError.STOP if failure.stop else step.on_error or block.on_error
        if policy is model.OnError.CONTINUE:
            self._degraded = True
            value = self._stand_in(step, scope, owed=True)
            self._ended(step, block, status, error=error, usable=step.default is not None)
            return value
        self._ended(step, block, status, error=error)
        raise StepFailed(error, stop=policy is model.OnError.STOP)

    def _catches(self, catch: model.Catch, error: model.FlowError, scope: Scope) -> bool:
        if error.type == "cancelled" or not fnmatch.fnmatchcase(error.type, catch.error):
            return False
        if catch.when is None:
            return True
        return bool(self._condition(catch.when, scope.inner({catch.bind: error.as_dict()})))

    def _caught(
        self, step: model.Step, catch: model.Catch, block: _Block, scope: Scope, error: model.FlowError
    ) -> Routine:
        inner = scope.inner({catch.bind: error.as_dict()})
        try:
            value = yield from self._steps(catch.do, _Block(block.phase, model.OnError.FAIL, inner), inner)
        except StepFailed:
            self._ended(step, block, model.Status.FAILED, error=error)
            raise
        scope.merge(inner, without=(catch.bind,))
        if step.bind and step.default is not None:
            self._stand_in(step, scope, owed=False)
        self._ended(step, block, model.Status.OK, reason=f"caught {error.type}", error=error, usable=True)
        return value

    # -- attempts --------------------------------------------------------------------------------------------------

    def _attempts(self, step: model.Step, block: _Block, scope: Scope) -> Routine:
        retry = step.retry or (self._defaults.retry if isinstance(step.action, model.Call) else None) or model.Retry(0)
        attempt = 1
        while True:
            try:
                return (yield from self._attempt(step, block, scope, attempt))
            except StepFailed as failure:
                if failure.stop or attempt > retry.max or not self._retries(retry, failure.error, scope):
                    raise
                yield Sleep(self._delay_s(retry, attempt))
                attempt += 1

    def _attempt(self, step: model.Step, block: _Block, scope: Scope, attempt: int) -> Routine:
        self._budget -= 1
        if self._budget < 0:
            limit = self.plan.flow.limits.steps
            raise StepFailed(_error("limit", f"The run took more than {limit} steps", step.path), stop=True)
        timeout_s = step.timeout_s
        if timeout_s is None and isinstance(step.action, model.Call):
            timeout_s = self._defaults.timeout_s if self._defaults.timeout_s is not None else CALL_TIMEOUT_S
        routine = self._act(step, block, scope, attempt, timeout_s or 0.0)
        if timeout_s is None:
            return (yield from routine)
        return (yield from self._guarded(routine, timeout_s, step.path, attempt))

    def _guarded(self, routine: Routine, timeout_s: float, path: str, attempt: int = 1) -> Routine:
        """Run ``routine`` as a child that has ``timeout_s``."""
        joined: Joined = yield Fork([_reraising(routine)], wait=1, timeout_s=timeout_s)
        result = joined.results[0]
        if joined.timed_out and (result is None or result.raised is not None):
            raise StepFailed(_error("timeout", f"No result within {timeout_s:g} s", path, attempt, retryable=True))
        if result is not None and result.raised is not None:
            raise result.raised
        value = result.value if result else None
        if isinstance(value, Upstream):
            raise value
        return value

    def _retries(self, retry: model.Retry, error: model.FlowError, scope: Scope) -> bool:
        if retry.when is None:
            return True
        return bool(self._condition(retry.when, scope.inner({"error": error.as_dict()})))

    def _delay_s(self, retry: model.Retry, attempt: int) -> float:
        base = min(retry.delay_s * retry.backoff ** (attempt - 1), retry.max_delay_s)
        return base * (1 + retry.jitter * (2 * self._jitter() - 1))

    # -- verbs -----------------------------------------------------------------------------------------------------

    def _act(self, step: model.Step, block: _Block, scope: Scope, attempt: int, timeout_s: float) -> Routine:
        below = self._below(step, block, scope)
        match step.action:
            case model.Call():
                return (yield from self._call(step, block, scope, attempt, timeout_s))
            case model.Do(steps):
                return (yield from self._steps(steps, below, scope))
            case model.Set(values):
                resolved = [(path, value.get(scope.lookup)) for path, value in values]
                for path, item in resolved:
                    scope.assign(path, item)
                return None
            case model.Parallel():
                return (yield from self._parallel(step.action, below, scope))
            case model.Choose(cases):
                for case in cases:
                    if case.when is None or self._condition(case.when, scope):
                        return (yield from self._steps(case.do, below, scope))
                return None
            case model.Each():
                return (yield from self._each(step, step.action, below, scope))
            case model.Loop():
                return (yield from self._loop(step.action, below, scope))

    def _below(self, step: model.Step, block: _Block, scope: Scope) -> _Block:
        waited_for = bool(step.catch) or step.retry is not None
        default = model.OnError.FAIL if waited_for else block.on_error
        return _Block(block.phase, step.on_error or default, scope)

    def _call(self, step: model.Step, block: _Block, scope: Scope, attempt: int, timeout_s: float) -> Routine:
        assert isinstance(step.action, model.Call)
        handler = step.action.handler
        args = self._resolved(step.args, scope, {})
        policy = step.on_missing or self._defaults.on_missing or model.OnMissing.SKIP
        if block.phase.sealed and step.on_missing is None:
            policy = model.OnMissing.FAIL
        while True:
            try:
                return (yield Invoke(handler, args, step.path, attempt, timeout_s))
            except StepFailed as failure:
                if failure.error.type != "missing" or policy is model.OnMissing.FAIL:
                    raise
                if policy is model.OnMissing.SKIP:
                    self._degraded = True
                    self._stand_in(step, scope, owed=True)
                    usable = step.default is not None
                    self._ended(step, block, model.Status.SKIPPED, reason="missing", error=failure.error, usable=usable)
                    return _CLOSED
                yield Await(handler)

    def _parallel(self, action: model.Parallel, block: _Block, scope: Scope) -> Routine:
        scopes = [scope.inner() for _ in action.branches]
        routines = [
            _reraising(self._steps(steps, replace(block, bindings=inner), inner))
            for (_, steps), inner in zip(action.branches, scopes, strict=True)
        ]
        values = yield from self._joined(routines, action.wait or len(routines), action.max, scope, scopes)
        return {name: value for (name, _), value in zip(action.branches, values, strict=True)}

    def _each(self, step: model.Step, action: model.Each, block: _Block, scope: Scope) -> Routine:
        source = action.source.get(scope.lookup)
        if source is None:
            source = ()
        if isinstance(source, str | bytes) or not isinstance(source, Mapping | Sequence):
            got = type(source).__name__
            raise StepFailed(_error("value", f"each goes through a list or a map, got {got}", step.path))
        entries = list(source.items()) if isinstance(source, Mapping) else list(enumerate(source))
        scopes = []
        for key, item in entries:
            inner = scope.inner({action.bind: item, action.at: key})
            if action.proceed is not None and not self._condition(action.proceed, inner):
                break
            scopes.append(inner)
        routines = [_reraising(self._iteration(action, block, inner)) for inner in scopes]
        hidden = (action.bind, action.at)
        return (yield from self._joined(routines, len(routines), action.parallel, scope, scopes, hidden))

    def _iteration(self, action: model.Each, block: _Block, inner: Scope) -> Routine:
        value = yield from self._steps(action.do, replace(block, bindings=inner), inner)
        return value if action.collect is None else action.collect.get(inner.lookup)

    def _loop(self, action: model.Loop, block: _Block, scope: Scope) -> Routine:
        value = None
        for _ in range(action.max):
            if action.proceed is not None and not self._condition(action.proceed, scope):
                break
            value = yield from self._steps(action.do, block, scope)
            if action.until is not None and self._condition(action.until, scope):
                break
        return value

    def _joined(
        self, routines: list[Routine], wait: int, limit: int, scope: Scope, scopes: list[Scope],
        hidden: tuple[str, ...] = (),
    ) -> Routine:  # fmt: skip
        """Run side by side; merge what the successful ones wrote, in document order."""
        joined: Joined = yield Fork(routines, wait=wait, limit=limit)
        raised = [result.raised for result in joined.results if result and result.raised]
        good = [result for result in joined.results if result and result.raised is None]
        failures = [error for error in raised if isinstance(error, StepFailed)]
        if len(good) < wait and failures:
            raise next((failure for failure in failures if failure.stop), failures[0])
        values = []
        for result, inner in zip(joined.results, scopes, strict=True):
            done = result is not None and result.raised is None
            if result is not None and isinstance(result.value, Upstream):
                raise result.value
            if done:
                scope.merge(inner, without=hidden)
            values.append(result.value if result is not None and done else None)
        return values

    # -- values and records ----------------------------------------------------------------------------------------

    @staticmethod
    def _condition(value: Value, scope: Scope) -> bool:
        return bool(value.get(scope.lookup))

    @staticmethod
    def _resolved(value: Value | None, scope: Scope, default: Any) -> Any:
        return default if value is None else value.get(scope.lookup)

    @staticmethod
    def _bind(step: model.Step, scope: Scope, value: Any) -> None:
        if step.bind:
            scope.assign(step.bind, value)

    @staticmethod
    def _stand_in(step: model.Step, scope: Scope, *, owed: bool) -> Any:
        """The default in place of a result; without one the step's names are owed."""
        if step.default is not None:
            try:
                value = step.default.get(scope.lookup)
            except Upstream:
                value = None
            if step.bind:
                scope.assign(step.bind, value)
            return value
        if step.bind and owed:
            scope.owe(step.bind, step.path)
        return None

    def _ended(
        self, step: model.Step, block: _Block, status: model.Status, *, reason: str = "",
        error: model.FlowError | None = None, usable: bool = False,
    ) -> None:  # fmt: skip
        handler = step.action.handler if isinstance(step.action, model.Call) else ""
        attempts = error.attempt if error else 1
        result = model.StepResult(step.path, status, handler, block.phase.name, reason, error, usable, attempts)
        self._results[step.path] = result
        self._tasks.effects.append(Ended(result))


def _reraising(routine: Routine) -> Routine:
    """Let ``Upstream`` travel as a value: a child ends with a result, a step's failure or an interrupt only."""
    try:
        return (yield from routine)
    except Upstream as missing:
        return missing


def _error(kind: str, title: str, path: str, attempt: int = 1, *, retryable: bool = False) -> model.FlowError:
    return model.FlowError(kind, title, instance=path, attempt=attempt, retryable=retryable)


def _signal_error(kind: str, path: str) -> model.FlowError:
    title = "The run was cancelled" if kind == "cancelled" else "A surrounding step ran out of time"
    return model.FlowError(kind, title, instance=path)


def _with(current: Any, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy = dict(current) if isinstance(current, Mapping) else {}
    copy[path[0]] = _with(copy.get(path[0]), path[1:], value) if len(path) > 1 else value
    return copy
