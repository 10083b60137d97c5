"""What happens around a step's action: conditions, attempts, failures, defaults, ``finally``. Pure.

Order on failure of a step: retry, first matching catch, error handlers of Packs (``hooks``), ``on_error`` (step > block
> phase > flow > kernel default), then ``finally``, always. Kernel defaults: a step's failure is followed by the next
step (``continue``) and the run is *degraded*; inside a block that has ``catch`` or ``retry`` it fails the block, since
somebody is waiting for it; a sealed phase fails closed. A missing handler is skipped and degrades the run.

Invariants:
  * A step whose output is absent because it failed leaves its names *absent*: a step that reads one is skipped with
    reason ``upstream`` and does not run on null.
  * A cancellation and a ``return`` are never caught; ``finally`` runs all the same.
  * A step with ``once`` acts once for each key and supplier in a run; where the key comes again, its value stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.asking import Began, Consult, Fork, Interrupt, Joined, Routine, Sleep, StepFailed
from core_runtime.rules.flow.calling import once_key
from core_runtime.rules.flow.doing import CLOSED, as_child
from core_runtime.rules.flow.hooks import MAX_RETRIES, Hook, Word, told_of
from core_runtime.rules.flow.parse_scalars import RESERVED
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import CALL_TIMEOUT_S, Aborted, Block, Returned, Run, error_of, resolved, truth
from core_runtime.rules.flow.scope import Scope, Upstream
from core_runtime.rules.flow.verbs import act, assign
from core_runtime.rules.globs import matches

ANY = "\0"
"""No separator: ``*`` in an error's pattern covers slashes as well."""


RESTS = "disabled: it failed again and again"


class Steps:
    """The steps of one run; see ``verbs.Doing``."""

    def __init__(self, run: Run) -> None:
        self.run = run

    # -- flows and blocks

    def flow(
        self, plan: Plan, block_depth: int, place: str, scope: Scope, within: tuple[str, ...] = ()
    ) -> Routine:
        """Run a whole flow: its phases, its own ``catch`` and ``finally``; its output."""
        flow = plan.flow
        block = Block(flow, model.Phase(""), model.OnError.FAIL, place, block_depth, (*within, flow.id))
        try:
            value = yield from self._caught_flow(plan, block, scope)
        except (Interrupt, StepFailed):
            yield from self.steps(flow.finally_, block, scope)
            raise
        yield from self.steps(flow.finally_, block, scope)
        return value

    def _caught_flow(self, plan: Plan, block: Block, scope: Scope) -> Routine:
        try:
            return (yield from self._phases(plan, block, scope))
        except Returned as returned:
            return returned.value
        except StepFailed as failure:
            if not failure.stop:
                for catch in plan.flow.catch:
                    if self._catches(catch, failure.error, scope):
                        self.run.degraded = True
                        inner = scope.inner({catch.bind: failure.error.as_dict()})
                        value = yield from self.steps(catch.do, block, inner)
                        scope.merge(inner, without=(catch.bind,))
                        return self._output(plan.flow, scope, value)
            raise

    def _phases(self, plan: Plan, block: Block, scope: Scope) -> Routine:
        value = None
        spread = resolved(plan.flow.spread, scope, plan.flow.id)
        for name, item in spread.items() if isinstance(spread, Mapping) else ():
            if name not in RESERVED:
                scope.assign((name,), item)
        for name, source in plan.flow.variables:
            scope.assign((name,), resolved(source, scope, plan.flow.id))
        for phase, steps in plan.phases:
            within = replace(block, phase=phase, on_error=self._phase_default(plan.flow, phase))
            value = yield from self.steps(steps, within, scope)
        return self._output(plan.flow, scope, value)

    def _output(self, flow: model.Flow, scope: Scope, value: Any) -> Any:
        if flow.output is None:
            return value if flow is not self.run.plan.flow else None
        try:
            return resolved(flow.output, scope, flow.id)
        except Upstream:
            self.run.degraded = True
            return None

    @staticmethod
    def _phase_default(flow: model.Flow, phase: model.Phase) -> model.OnError:
        if phase.sealed:
            return phase.on_error or model.OnError.FAIL
        return phase.on_error or flow.defaults.on_error or model.OnError.CONTINUE

    def steps(self, steps: Sequence[model.Step], block: Block, scope: Scope) -> Routine:
        """Run steps one after another; the last one's value."""
        value = None
        around = self.run.surroundings
        settled = self._hooked if around.hooks else self._settled
        for step in steps:
            if step.when is not None or step.needs or not step.enabled or around.resting:
                skip = self._skip_reason(step, block, scope)
                if skip is not None:
                    value = self._skipped(step, block, scope, skip)
                    continue
            self.run.tasks.effects.append(Began(step.path, block.flow.id, block.place))
            routine = settled(step, block, scope)
            value = yield from (self._finished(routine, step, block, scope) if step.finally_ else routine)
        return value

    # -- one step
    #
    # What has nothing to add hands on the next one's routine instead of standing around it: each that stands in
    # between costs every step of every flow.

    def _finished(self, routine: Routine, step: model.Step, block: Block, scope: Scope) -> Routine:
        try:
            value = yield from routine
        except (Interrupt, StepFailed):
            yield from self.steps(step.finally_, block, scope)
            raise
        yield from self.steps(step.finally_, block, scope)
        return value

    def _hooked(self, step: model.Step, block: Block, scope: Scope) -> Routine:
        """The step between what hooks say before it and what they are told after it."""
        word = yield from self._consulted(Hook.BEFORE, step, block, scope, {})
        if word == Word.SKIP:
            return self._skipped(step, block, scope, "skipped by a hook")
        if word == Word.ABORT:
            error = error_of("aborted", "A hook ended the run", step.path)
            self._ended(step, block, endings.Status.FAILED, error=error)
            raise StepFailed(error, stop=True)
        value = None
        try:
            value = yield from self._settled(step, block, scope)
        except StepFailed:
            yield from self._told(step, block, scope, None)
            raise
        yield from self._told(step, block, scope, value)
        return value

    def _told(self, step: model.Step, block: Block, scope: Scope, value: Any) -> Routine:
        result = self.run.results[step.path]
        error = result.error.as_dict() if result.error else None
        told = {"result": value, "status": result.status.value, "error": error}
        yield from self._consulted(Hook.AFTER, step, block, scope, told)

    def _consulted(
        self, hook: Hook, step: model.Step, block: Block, scope: Scope, told: Mapping[str, Any], tries: int = 0
    ) -> Routine:
        if not self.run.hears(hook, step, block.flow):
            return Word.NONE
        about = {"step": told_of(step, block.flow.id, block.phase.name), **told}
        place = f"{block.place}{step.path}!{hook.name.lower()}{tries or ''}"
        return (yield Consult(hook, block.flow.id, step.path, scope.flat(), about, place))

    def _tried(self, step: model.Step, block: Block, scope: Scope) -> Routine:
        """The step's value; where it fails and no catch of its own matches, error handlers have their say."""
        tries, within = 0, block
        while True:
            try:
                return (yield from self._once(step, within, scope))
            except Returned:
                raise
            except StepFailed as failure:
                error = failure.error
                if failure.stop or any(self._catches(catch, error, scope) for catch in step.catch):
                    raise
                told = {"error": error.as_dict()}
                word = yield from self._consulted(Hook.ERROR, step, block, scope, told, tries)
                tries += 1
                if word != Word.RETRY or failure.final or tries > MAX_RETRIES:
                    stop, forgiven = word == Word.ABORT, word == Word.CONTINUE
                    raise StepFailed(error, stop=stop, final=failure.final, forgiven=forgiven) from None
                within = block.at(f"{block.place}{step.path}!again{tries}/")

    def _settled(self, step: model.Step, block: Block, scope: Scope) -> Routine:
        """The step's value after retries, catches and ``on_error``; recorded."""
        try:
            try:
                if self.run.surroundings.hooks and self.run.hears(Hook.ERROR, step, block.flow):
                    value = yield from self._tried(step, block, scope)
                elif type(step.action) is model.Set and _is_bare(step):
                    self.run.spend(step.path)
                    assign(step.action, step, scope)
                    value = None
                else:
                    value = yield from self._once(step, block, scope)
            except Returned:
                self._ended(step, block, endings.Status.OK, usable=True)
                raise
            except Aborted as aborted:
                self._ended(step, block, endings.Status.FAILED, error=aborted.error)
                raise
            except StepFailed as failure:
                return (yield from self._failed(step, block, scope, failure))
        except Upstream as missing:
            return self._skipped(step, block, scope, f"upstream: {missing.name} was not left by {missing.path}")
        except Interrupt as signal:
            self._ended(step, block, endings.Status.CANCELLED, error=signal_error(signal.kind, step.path))
            raise
        if value is CLOSED:
            return None
        if step.bind:
            scope.assign(step.bind, value)
        self._ended(step, block, endings.Status.OK, usable=True)
        return value

    def _once(self, step: model.Step, block: Block, scope: Scope) -> Routine:
        return self._attempts(step, block, scope) if step.once is None else self._remembered(step, block, scope)

    def _remembered(self, step: model.Step, block: Block, scope: Scope) -> Routine:
        key = step.acts_as, once_key(step, scope)
        if key in self.run.memory:
            return self.run.memory[key]
        value = yield from self._attempts(step, block, scope)
        if value is not CLOSED:
            self.run.memory[key] = value
        return value

    def _skip_reason(self, step: model.Step, block: Block, scope: Scope) -> str | None:
        if not step.enabled:
            return "disabled in the document"
        if step.needs:
            parent = step.path.rpartition("/")[0]
            for need in step.needs:
                if not block.usable.get(f"{parent}/{need}" if parent else need):
                    return f"upstream: {need} did not succeed"
        if step.when is not None:
            try:
                if not truth(step.when, scope, step.path):
                    return "when"
            except Upstream as missing:
                return f"upstream: {missing.name} was not left by {missing.path}"
        resting = self.run.surroundings.resting
        return RESTS if resting and (block.flow.id, step.path) in resting and _may_rest(step, block) else None

    def _skipped(self, step: model.Step, block: Block, scope: Scope, reason: str) -> Any:
        value = self._stand_in(step, block, scope, owed=reason not in {"when", "disabled in the document"})
        self.run.degraded = self.run.degraded or reason.startswith(("upstream", "disabled:"))
        self._ended(step, block, endings.Status.SKIPPED, reason=reason, usable=step.default is not None)
        return value

    def skipped_missing(self, step: model.Step, block: Block, scope: Scope, error: endings.FlowError) -> None:
        """Record that a step's handler is missing and that this is no failure; the run is degraded."""
        self.run.degraded = True
        self._stand_in(step, block, scope, owed=True)
        usable = step.default is not None
        self._ended(step, block, endings.Status.SKIPPED, reason="missing", error=error, usable=usable)

    # -- failures

    def _failed(self, step: model.Step, block: Block, scope: Scope, failure: StepFailed) -> Routine:
        error = failure.error
        if not failure.stop:
            for catch in step.catch:
                if self._catches(catch, error, scope):
                    return (yield from self._caught(step, catch, block, scope, error))
        status = endings.Status.TIMEOUT if error.type == "timeout" else endings.Status.FAILED
        policy = model.OnError.STOP if failure.stop else step.on_error or block.on_error
        if failure.forgiven:
            policy = model.OnError.CONTINUE
        if policy is model.OnError.CONTINUE:
            self.run.degraded = True
            value = self._stand_in(step, block, scope, owed=True)
            self._ended(step, block, status, error=error, usable=step.default is not None)
            return value
        self._ended(step, block, status, error=error)
        raise StepFailed(error, stop=policy is model.OnError.STOP, final=failure.final)

    def _catches(self, catch: model.Catch, error: endings.FlowError, scope: Scope) -> bool:
        if error.type == "cancelled" or not matches(catch.error, error.type, ANY):
            return False
        return truth(catch.when, scope.inner({catch.bind: error.as_dict()}), error.instance)

    def _caught(
        self, step: model.Step, catch: model.Catch, block: Block, scope: Scope, error: endings.FlowError
    ) -> Routine:
        inner = scope.inner({catch.bind: error.as_dict()})
        try:
            value = yield from self.steps(catch.do, replace(block, on_error=model.OnError.FAIL), inner)
        except Returned:
            self._ended(step, block, endings.Status.OK, reason=f"caught {error.type}", error=error, usable=True)
            raise
        except StepFailed:
            self._ended(step, block, endings.Status.FAILED, error=error)
            raise
        scope.merge(inner, without=(catch.bind,))
        if step.bind and step.default is not None:
            self._stand_in(step, block, scope, owed=False)
        self._ended(step, block, endings.Status.OK, reason=f"caught {error.type}", error=error, usable=True)
        return value

    # -- attempts

    def _attempts(self, step: model.Step, block: Block, scope: Scope) -> Routine:
        calling = isinstance(step.action, model.Call)
        retry = step.retry or (block.flow.defaults.retry if calling else None)
        return self._attempt(step, block, scope, 1) if retry is None else self._retried(step, block, scope, retry)

    def _retried(self, step: model.Step, block: Block, scope: Scope, retry: model.Retry) -> Routine:
        attempt = 1
        while True:
            try:
                return (yield from self._attempt(step, block, scope, attempt))
            except StepFailed as failure:
                if failure.stop or failure.final or attempt > retry.max:
                    raise
                if not truth(retry.when, scope.inner({"error": failure.error.as_dict()}), step.path):
                    raise
                yield Sleep(self._delay_s(retry, attempt), f"{block.place}{step.path}@{attempt}!retry")
                attempt += 1

    def _attempt(self, step: model.Step, block: Block, scope: Scope, attempt: int) -> Routine:
        self.run.spend(step.path)
        timeout_s = step.timeout_s
        if isinstance(step.action, model.Call):
            if timeout_s is None:
                timeout_s = block.flow.defaults.timeout_s
            if timeout_s is None:
                timeout_s = CALL_TIMEOUT_S
            if step.stream is None:  # whoever performs the call answers in time; no child, no timer
                return act(self, step, block, scope, attempt, timeout_s)
        routine = act(self, step, block, scope, attempt, timeout_s or 0.0)
        if timeout_s is None or isinstance(step.action, model.Construct):
            return routine
        return self.guarded(routine, timeout_s, step.path, f"{block.place}{step.path}@{attempt}", attempt)

    def guarded(self, routine: Routine, timeout_s: float, path: str, place: str, attempt: int = 1) -> Routine:
        """Run ``routine`` as a child that has ``timeout_s``."""
        joined: Joined = yield Fork([as_child(routine)], wait=1, timeout_s=timeout_s, place=place)
        result = joined.results[0]
        if joined.timed_out and (result is None or result.raised is not None):
            error = error_of("timeout", f"No result within {timeout_s:g} s", path, attempt, retryable=True)
            final = isinstance(result.raised, StepFailed) and result.raised.final if result else False
            raise StepFailed(error, final=final)
        if result is not None and result.raised is not None:
            raise result.raised
        value = result.value if result else None
        if isinstance(value, Upstream):
            raise value
        return value

    def _delay_s(self, retry: model.Retry, attempt: int) -> float:
        base = min(retry.delay_s * retry.backoff ** (attempt - 1), retry.max_delay_s)
        return base * (1 + retry.jitter * (2 * self.run.surroundings.jitter() - 1))

    # -- records

    def _stand_in(self, step: model.Step, block: Block, scope: Scope, *, owed: bool) -> Any:
        """The default in place of a result; without one the step's names are owed, unless the flow runs on null."""
        if step.default is not None:
            try:
                value = resolved(step.default, scope, step.path)
            except (Upstream, StepFailed):
                value = None
            if step.bind:
                scope.assign(step.bind, value)
            return value
        if owed and block.flow.defaults.on_absent is model.OnAbsent.SKIP:
            for name in (step.bind, step.stream.bind if step.stream else ()):
                if name:
                    scope.owe(name, step.path)
        return None

    def _ended(
        self, step: model.Step, block: Block, status: endings.Status, *, reason: str = "",
        error: endings.FlowError | None = None, usable: bool = False,
    ) -> None:  # fmt: skip
        handler = step.action.handler if isinstance(step.action, model.Call) else ""
        attempts = error.attempt if error else 1
        self.run.ended(
            endings.StepResult(
                step.path, status, handler, block.phase.name, reason, error, usable, attempts, block.flow.id
            ),
            block,
        )


def _is_bare(step: model.Step) -> bool:
    """Whether nothing stands around the step's verb but its record."""
    return step.once is None and step.retry is None and step.timeout_s is None


def _may_rest(step: model.Step, block: Block) -> bool:
    """Whether leaving it out is what its failure would be: the flow goes on without what it leaves. Nothing sealed."""
    sealed = step.sealed or block.phase.sealed or block.flow.sealed
    return (step.on_error or block.on_error) is model.OnError.CONTINUE and not step.catch and not sealed


def signal_error(kind: str, path: str) -> endings.FlowError:
    """The error of what was interrupted."""
    title = "The run was cancelled" if kind == "cancelled" else "A surrounding step ran out of time"
    return endings.FlowError(kind, title, instance=path)
