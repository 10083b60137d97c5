"""Verbs that call: a handler's value, its items one by one, and a Pack's control structure. Pure.

Invariant: what is called is an effect, and names who acts.

Not here: the other verbs (``verbs``), blocks (``blocks``), retries and what happens to a failure (``steps``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from core_runtime.rules.flow import model
from core_runtime.rules.flow.asking import (
    END,
    Await,
    Close,
    Invoke,
    Next,
    Open,
    Opened,
    Produce,
    Routine,
    StepFailed,
)
from core_runtime.rules.flow.doing import CLOSED, Doing
from core_runtime.rules.flow.run import CALL_TIMEOUT_S, Aborted, Block, Returned, error_of, flat_inputs, resolved
from core_runtime.rules.flow.scope import Scope


def call(doing: Doing, step: model.Step, block: Block, scope: Scope, attempt: int, timeout_s: float) -> Routine:
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


def construct(
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


