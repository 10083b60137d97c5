"""Verbs with steps of their own that run several times or side by side: ``parallel``, ``each``, ``loop``. Pure.

Invariant: branches and iterations write to their own variables, merged in document order when the block succeeds, so a
run's result does not depend on which branch was faster.

Not here: the other verbs (``verbs``), calls (``calling``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core_runtime.rules.flow import model
from core_runtime.rules.flow.asking import END, Close, Fork, Joined, Next, Open, Opened, Routine, StepFailed
from core_runtime.rules.flow.calling import once_key
from core_runtime.rules.flow.doing import Doing, as_child, inherited
from core_runtime.rules.flow.run import CALL_TIMEOUT_S, Block, error_of, resolved, truth
from core_runtime.rules.flow.scope import Scope, Upstream


def parallel(doing: Doing, action: model.Parallel, below: Block, scope: Scope) -> Routine:
    """Branches side by side: a map from each to the value of its last step."""
    scopes = [scope.inner() for _ in action.branches]
    routines = [
        as_child(doing.steps(steps, below, inner)) for (_, steps), inner in zip(action.branches, scopes, strict=True)
    ]
    limit = _limit(doing, action.max, len(routines))
    values = yield from _joined(routines, action.wait or len(routines), limit, scope, scopes)
    return {name: value for (name, _), value in zip(action.branches, values, strict=True)}


def each(doing: Doing, step: model.Step, action: model.Each, below: Block, scope: Scope) -> Routine:
    """The block once for each entry of a list or a map: a list of what each gave."""
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


def each_streamed(
    doing: Doing, step: model.Step, action: model.Each, block: Block, scope: Scope, attempt: int
) -> Routine:
    """The items of a handler as they come, ``parallel`` of them at a time; no item is taken before its turn."""
    below, place = inherited(step, block), f"{block.place}{step.path}@{attempt}"
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


def loop(doing: Doing, step: model.Step, action: model.Loop, below: Block, scope: Scope) -> Routine:
    """The block again and again, bounded by ``max``: the last one's value."""
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


