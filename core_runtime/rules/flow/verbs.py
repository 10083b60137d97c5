"""What each verb does: a routine for each type of action. Pure.

Invariant: whatever a verb needs from outside is an effect, and names who acts.

Not here: verbs that call (``calling``), that run steps several times (``blocks``), what happens around a step's action
(``steps``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core_runtime.rules.flow import blocks, calling, endings, model
from core_runtime.rules.flow.asking import Listen, Produce, Publish, Routine, Sleep, StepFailed, Until
from core_runtime.rules.flow.doing import Doing, inherited
from core_runtime.rules.flow.run import Aborted, Block, Returned, error_of, resolved, truth
from core_runtime.rules.flow.scope import Scope
from core_runtime.rules.flow.values import Value


def act(doing: Doing, step: model.Step, block: Block, scope: Scope, attempt: int, timeout_s: float) -> Routine:
    """The step's verb, to be performed once."""
    match step.action:
        case model.Set():
            return _set(step.action, step, scope)
        case model.Call():
            return calling.call(doing, step, block, scope, attempt, timeout_s)
        case model.Do(steps):
            return doing.steps(steps, inherited(step, block), scope)
        case model.Choose(cases):
            return _choose(doing, step, cases, inherited(step, block), scope)
        case model.Parallel():
            return blocks.parallel(doing, step.action, inherited(step, block), scope)
        case model.Each(handler=handler) if handler:
            return blocks.each_streamed(doing, step, step.action, block, scope, attempt)
        case model.Each():
            return blocks.each(doing, step, step.action, inherited(step, block), scope)
        case model.Loop():
            return blocks.loop(doing, step, step.action, inherited(step, block), scope)
        case model.Construct():
            return calling.construct(doing, step, step.action, inherited(step, block), scope, attempt)
        case _:
            return _plain(doing, step, block, scope)


def assign(action: model.Set, step: model.Step, scope: Scope) -> None:
    """The verb ``set``, which asks for nothing: all values are resolved before the first is assigned."""
    items = [(path, resolved(value, scope, step.path)) for path, value in action.values]
    for path, item in items:
        scope.assign(path, item)


def _set(action: model.Set, step: model.Step, scope: Scope) -> Routine:
    assign(action, step, scope)
    yield from ()  # a routine, like every verb


def _choose(
    doing: Doing, step: model.Step, cases: Sequence[model.Case], below: Block, scope: Scope
) -> Routine:
    for case in cases:
        if case.when is None or truth(case.when, scope, step.path):
            return (yield from doing.steps(case.do, below, scope))
    return None


def _plain(doing: Doing, step: model.Step, block: Block, scope: Scope) -> Routine:
    """The verbs without steps of their own."""
    match step.action:
        case model.Subflow(flow_id):
            return (yield from _subflow(doing, step, flow_id, block, scope))
        case model.Wait():
            return (yield from _wait(step, step.action, scope, block))
        case model.Emit(topic):
            name = resolved(topic, scope, step.path)
            if not isinstance(name, str) or not name:
                raise StepFailed(error_of("value", "emit needs a topic that is text", step.path))
            payload = resolved(step.args, scope, step.path, {})
            yield Publish(name, payload, step.acts_as, f"{block.place}{step.path}")
            return None
        case model.Yield(value):
            yield Produce(resolved(value, scope, step.path), f"{block.place}{step.path}")
            return None
        case model.Return(value):
            raise Returned(resolved(value, scope, step.path))
        case model.Fail():
            raise StepFailed(_failure(step, step.action, scope))
    raise AssertionError(step.action)


def _failure(step: model.Step, action: model.Fail, scope: Scope) -> endings.FlowError:
    kind, title, detail = (str(resolved(v, scope, step.path) or "") for v in (action.type, action.title, action.detail))
    retryable = bool(resolved(action.retryable, scope, step.path))
    pack = step.acts_as[0] if len(step.acts_as) == 1 else ""
    return endings.FlowError(kind, title or kind, detail, step.path, retryable, pack=pack)


def _subflow(doing: Doing, step: model.Step, flow_id: str, block: Block, scope: Scope) -> Routine:
    run = doing.run
    plan = run.surroundings.plan_of(flow_id)
    if plan is None:
        raise StepFailed(error_of("missing", f"There is no flow {flow_id}", step.path))
    if not run.surroundings.may_run(step.acts_as, flow_id):
        raise StepFailed(error_of("denied", f"{', '.join(step.acts_as)} may not run {flow_id}", step.path))
    if block.depth + 1 > run.plan.flow.limits.depth:
        limit = run.plan.flow.limits.depth
        raise StepFailed(error_of("limit", f"Flows run each other deeper than {limit} levels", step.path), stop=True)
    again = plan.flow.limits.recursion
    if again is not None and block.within.count(flow_id) > again:
        often = f" more than {again} times" if again else ""
        raise StepFailed(error_of("limit", f"{flow_id} would run within itself{often}", step.path))
    values = resolved(step.args, scope, step.path, {})
    fault = plan.input_fault(values)
    if fault:
        raise StepFailed(error_of("schema", f"The input of {flow_id}: {fault}", step.path))
    inner = Scope({"input": values, "run": {"id": run.run_id, "flow": flow_id}})
    place = f"{block.place}{step.path}/{flow_id}:"
    try:
        return (yield from doing.flow(plan, block.depth + 1, place, inner, block.within))
    except Aborted as aborted:  # it ended that flow, not this one
        raise StepFailed(aborted.error) from None


def _wait(step: model.Step, action: model.Wait, scope: Scope, block: Block) -> Routine:
    place = f"{block.place}{step.path}"
    if action.delay_s is not None:
        yield Sleep(action.delay_s, place)
        return None
    if action.until is not None:
        yield Until(resolved(action.until, scope, step.path), place)
        return None

    def accepts(payload: Any) -> bool:
        return matched(action.match, payload, scope)

    return (yield Listen(action.event, accepts, step.acts_as, place))


def matched(match: Value | None, payload: Any, scope: Scope) -> bool:
    """Whether an event's payload is wanted: a condition over ``event``, or a map of parts that must be equal."""
    if match is None:
        return True
    inner = scope.inner({"event": payload})
    if isinstance(match.source, Mapping):
        wanted = resolved(match, inner, "")
        return isinstance(payload, Mapping) and all(payload.get(name) == value for name, value in wanted.items())
    return truth(match, inner, "")
