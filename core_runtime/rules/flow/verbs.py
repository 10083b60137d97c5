"""What each verb does: a routine for each type of action. Pure.

Invariants:
  * Branches and iterations write to their own variables, merged in document order when the block succeeds, so a run's
    result does not depend on which branch was faster.
  * Whatever a verb needs from outside is an effect, and names who acts.

Not here: what happens around a step's action (``steps``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from msgspec import structs

from core_runtime.rules.flow import model
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import (
    CALL_TIMEOUT_S,
    Aborted,
    Block,
    Returned,
    Run,
    error_of,
    flat_inputs,
    resolved,
    truth,
)
from core_runtime.rules.flow.scope import Scope, Upstream
from core_runtime.rules.flow.tasks import (
    END,
    Await,
    Close,
    Fork,
    Invoke,
    Joined,
    Listen,
    Next,
    Open,
    Opened,
    Produce,
    Publish,
    Routine,
    Sleep,
    StepFailed,
    Until,
)
from core_runtime.rules.flow.values import Value


class Doing(Protocol):
    """What verbs need of the steps around them."""

    run: Run

    def steps(self, steps: Sequence[model.Step], block: Block, scope: Scope) -> Routine:
        """Run steps one after another; the last one's value."""

    def flow(
        self, plan: Plan, block_depth: int, place: str, scope: Scope, within: tuple[str, ...] = ()
    ) -> Routine:
        """Run a whole flow in a scope of its own; its output. ``within``: the flows around it."""

    def guarded(self, routine: Routine, timeout_s: float, path: str, place: str, attempt: int = 1) -> Routine:
        """Run ``routine`` as a child that has ``timeout_s``."""

    def skipped_missing(self, step: model.Step, block: Block, scope: Scope, error: model.FlowError) -> None:
        """Record that a step's handler is missing and that this is no failure."""


CLOSED = object()
"""A step's value when it has been recorded already."""


def act(doing: Doing, step: model.Step, block: Block, scope: Scope, attempt: int, timeout_s: float) -> Routine:
    """The step's verb, to be performed once."""
    match step.action:
        case model.Set(values):
            return _set(values, step, scope)
        case model.Call():
            return _call(doing, step, block, scope, attempt, timeout_s)
        case model.Do(steps):
            return doing.steps(steps, _below(step, block), scope)
        case model.Choose(cases):
            return _choose(doing, step, cases, _below(step, block), scope)
        case model.Parallel():
            return _parallel(doing, step.action, _below(step, block), scope)
        case model.Each(handler=handler) if handler:
            return _each_streamed(doing, step, step.action, block, scope, attempt)
        case model.Each():
            return _each(doing, step, step.action, _below(step, block), scope)
        case model.Loop():
            return _loop(doing, step, step.action, _below(step, block), scope)
        case model.Construct():
            return _construct(doing, step, step.action, _below(step, block), scope, attempt)
        case _:
            return _plain(doing, step, block, scope)


def _set(values: Sequence[tuple[tuple[str, ...], Value]], step: model.Step, scope: Scope) -> Routine:
    items = [(path, resolved(value, scope, step.path)) for path, value in values]
    for path, item in items:
        scope.assign(path, item)
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


def _below(step: model.Step, block: Block) -> Block:
    waited_for = bool(step.catch) or step.retry is not None
    default = model.OnError.FAIL if waited_for else block.on_error
    policy = step.on_error or default
    return block if policy is block.on_error else structs.replace(block, on_error=policy)


def _failure(step: model.Step, action: model.Fail, scope: Scope) -> model.FlowError:
    kind, title, detail = (str(resolved(v, scope, step.path) or "") for v in (action.type, action.title, action.detail))
    retryable = bool(resolved(action.retryable, scope, step.path))
    pack = step.acts_as[0] if len(step.acts_as) == 1 else ""
    return model.FlowError(kind, title or kind, detail, step.path, retryable, pack=pack)


# --- calls -----------------------------------------------------------------------------------------------------------


def _call(doing: Doing, step: model.Step, block: Block, scope: Scope, attempt: int, timeout_s: float) -> Routine:
    assert isinstance(step.action, model.Call)
    handler = step.action.handler
    args = resolved(step.args, scope, step.path, {})
    once = once_key(step, scope)
    policy = step.on_missing or block.flow.defaults.on_missing or model.OnMissing.SKIP
    if block.phase.sealed and step.on_missing is None:
        policy = model.OnMissing.FAIL
    place = f"{block.place}{step.path}@{attempt}"
    while True:
        try:
            if step.stream is not None:
                request = Open(
                    handler, args, step.path, attempt, timeout_s, step.acts_as, step.stream.buffer, once, place
                )  # fmt: skip
                return (yield from _streamed(doing, step, step.stream, scope, (yield request), place))
            value = yield Invoke(handler, args, step.path, attempt, timeout_s, step.acts_as, place, once)
            return _controlled(value, step, block)
        except StepFailed as failure:
            if failure.error.type != "missing" or policy is model.OnMissing.FAIL or isinstance(failure, Returned):
                raise
            if policy is model.OnMissing.SKIP:
                doing.skipped_missing(step, block, scope, failure.error)
                return CLOSED
            place += "+"
            yield from doing.guarded(_appearance(handler, place), timeout_s, step.path, place, attempt)


def _controlled(value: Any, step: model.Step, block: Block) -> Any:
    """``value``, unless it is a handler's word to end the flow and the flow listens to it."""
    if block.flow.defaults.flow_control and isinstance(value, Mapping) and value.get("__flow_control") == "abort":
        reason = value.get("reason")
        title = reason[:500] if isinstance(reason, str) and reason else "A handler ended the flow"
        raise Aborted(error_of("abort", title, step.path))
    return value


def _appearance(handler: str, place: str) -> Routine:
    return (yield Await(handler, place))


def once_key(step: model.Step, scope: Scope) -> str:
    """The key under which a step acts once, ``""`` for one that may act again."""
    if step.once is None:
        return ""
    key = resolved(step.once, scope, step.path)
    if not isinstance(key, str) or not 0 < len(key) <= 200:
        raise StepFailed(error_of("value", "once needs a text of at most 200 characters", step.path))
    return key


def _streamed(
    doing: Doing, step: model.Step, stream: model.Stream, scope: Scope, opened: Any, place: str
) -> Routine:
    """Read every item (a plain answer counts as one); what was produced can't be taken back, so nothing is retried."""
    acc = resolved(stream.start, scope, step.path)
    produced = ended = False
    count = 0
    try:
        while not ended:
            item = opened
            count += 1
            if isinstance(opened, Opened):
                item = yield Next(opened.handle, step.idle_s, f"{place}#{count}")
            ended = item is END or not isinstance(opened, Opened)
            if item is END:
                break
            inner = scope.inner({"item": item, "acc": acc})
            if stream.produce is not None:
                produced = True
                yield Produce(resolved(stream.produce, inner, step.path), f"{place}#{count}!out")
            acc = item if stream.collect is None else resolved(stream.collect, inner, step.path)
    except StepFailed as failure:
        if not produced:
            raise
        error = replace(failure.error, retryable=False)
        raise StepFailed(error, stop=failure.stop, final=True) from None
    finally:
        if isinstance(opened, Opened) and not ended:
            doing.run.tasks.effects.append(Close(opened.handle))
    if stream.bind:
        scope.assign(stream.bind, acc)
    return acc


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


def _construct(
    doing: Doing, step: model.Step, action: model.Construct, below: Block, scope: Scope, attempt: int
) -> Routine:
    """Let a Pack's control structure run the step's block; each time in variables of its own, which are then merged."""
    runs = 0

    def body(values: Mapping[str, Any]) -> Routine:
        nonlocal runs
        runs += 1
        inner = scope.inner(flat_inputs(values))
        value = yield from doing.steps(action.do, below.at(f"{below.place}{step.path}#{runs}/"), inner)
        scope.merge(inner, without=values)
        return value

    args = {
        "config": resolved(action.config, scope, step.path),
        "with": resolved(step.args, scope, step.path, {}),
        "step": {"id": step.id, "path": step.path, "flow": below.flow.id},
    }
    timeout_s = step.timeout_s if step.timeout_s is not None else CALL_TIMEOUT_S
    return (
        yield Invoke(
            f"flow.construct.{action.name}", args, step.path, attempt, timeout_s, step.acts_as,
            f"{below.place}{step.path}@{attempt}", pack=action.pack, body=body,
        )
    )  # fmt: skip


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


# --- blocks ----------------------------------------------------------------------------------------------------------


def _parallel(doing: Doing, action: model.Parallel, below: Block, scope: Scope) -> Routine:
    scopes = [scope.inner() for _ in action.branches]
    routines = [
        as_child(doing.steps(steps, below, inner)) for (_, steps), inner in zip(action.branches, scopes, strict=True)
    ]
    limit = _limit(doing, action.max, len(routines))
    values = yield from _joined(routines, action.wait or len(routines), limit, scope, scopes)
    return {name: value for (name, _), value in zip(action.branches, values, strict=True)}


def _each(doing: Doing, step: model.Step, action: model.Each, below: Block, scope: Scope) -> Routine:
    source = resolved(action.source, scope, step.path)
    if source is None:
        source = ()
    if isinstance(source, str | bytes) or not isinstance(source, Mapping | Sequence):
        got = type(source).__name__
        raise StepFailed(error_of("value", f"each goes through a list or a map, got {got}", step.path))
    entries = list(source.items()) if isinstance(source, Mapping) else list(enumerate(source))
    scopes = []
    for key, item in entries:
        inner = scope.inner({action.bind: item, action.at: key})
        if not truth(action.proceed, inner, step.path):
            break
        scopes.append(inner)
    routines = [
        as_child(_iteration(doing, step, action, below.at(f"{below.place}{step.path}#{number}/"), inner))
        for number, inner in enumerate(scopes)
    ]
    limit = _limit(doing, action.parallel, len(routines))
    return (yield from _joined(routines, len(routines), limit, scope, scopes, (action.bind, action.at)))


def _each_streamed(
    doing: Doing, step: model.Step, action: model.Each, block: Block, scope: Scope, attempt: int
) -> Routine:
    """The items of a handler as they come, ``parallel`` of them at a time; no item is taken before its turn."""
    below, place = _below(step, block), f"{block.place}{step.path}@{attempt}"
    args = resolved(action.args, scope, step.path, {})
    timeout_s = CALL_TIMEOUT_S if step.timeout_s is None else step.timeout_s
    request = Open(
        action.handler, args, step.path, attempt, timeout_s, step.acts_as, model.STREAM_BUFFER,
        once_key(step, scope), place,
    )  # fmt: skip
    opened = yield request
    ended, count, values = False, 0, []
    try:
        while not ended:
            scopes: list[Scope] = []
            while not ended and len(scopes) < max(1, action.parallel):
                item = opened
                if isinstance(opened, Opened):
                    item = yield Next(opened.handle, None, f"{place}#{count + 1}")
                ended = item is END or not isinstance(opened, Opened)
                inner = scope.inner({action.bind: item, action.at: count})
                if item is END or not truth(action.proceed, inner, step.path):
                    break
                count += 1
                scopes.append(inner)
            first = count - len(scopes)
            routines = [
                as_child(_iteration(doing, step, action, below.at(f"{below.place}{step.path}#{number}/"), inner))
                for number, inner in enumerate(scopes, first)
            ]
            if routines:
                limit = _limit(doing, action.parallel, len(routines))
                hidden = (action.bind, action.at)
                values += yield from _joined(routines, len(routines), limit, scope, scopes, hidden)
            if len(scopes) < max(1, action.parallel):
                break
    finally:
        if isinstance(opened, Opened) and not ended:
            doing.run.tasks.effects.append(Close(opened.handle))
    return values


def _iteration(doing: Doing, step: model.Step, action: model.Each, below: Block, inner: Scope) -> Routine:
    value = yield from doing.steps(action.do, below, inner)
    return value if action.collect is None else resolved(action.collect, inner, step.path)


def _loop(doing: Doing, step: model.Step, action: model.Loop, below: Block, scope: Scope) -> Routine:
    value = None
    for number in range(action.max):
        if action.at:
            scope.assign((action.at,), number)
        if not truth(action.proceed, scope, step.path):
            break
        value = yield from doing.steps(action.do, below.at(f"{below.place}{step.path}#{number}/"), scope)
        if action.until is not None and truth(action.until, scope, step.path):
            break
    return value


def _limit(doing: Doing, wanted: int, count: int) -> int:
    return min(wanted or count, doing.run.plan.flow.limits.parallel or count)


def _joined(
    routines: list[Routine], wait: int, limit: int, scope: Scope, scopes: list[Scope], hidden: tuple[str, ...] = (),
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


def as_child(routine: Routine) -> Routine:
    """Let ``Upstream`` travel as a value: a child ends with a result, a step's failure or an interrupt only."""
    try:
        return (yield from routine)
    except Upstream as missing:
        return missing
