"""From a ``Flow`` to the order in which its steps run, and every name in it that leads nowhere.

Order of the steps of one block: phase (as the flow lists them), ``order``, place in the document; then moved behind
what they ``need``. Needs that can't be met are problems of the document, found before anything runs.

Not here: execution (``machine``), other flows.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse_scalars import Problem, invalid, suggestion
from core_runtime.rules.schemas import Checker, SchemaRefused


@dataclass(frozen=True, slots=True)
class Plan:
    """A flow whose blocks are in order, cut into its phases. ``handlers`` are all names that it may call.

    ``input_fault``: what is wrong with an input, by the flow's schema, or ``""``.
    """

    flow: model.Flow
    phases: tuple[tuple[model.Phase, tuple[model.Step, ...]], ...]
    handlers: frozenset[str] = field(default_factory=frozenset)
    input_fault: Callable[[Any], str] = field(default=lambda _values: "", compare=False)


def plan_flow(flow: model.Flow) -> Plan:
    """Order ``flow``; raises ``AuthorError`` (code ``flow_invalid``) naming each unknown phase, need and cycle."""
    problems: list[Problem] = []
    names = [phase.name for phase in flow.phases]
    problems += _phase_problems(flow, names)
    rank = {name: index for index, name in enumerate(names)}
    steps = _ordered(flow.steps, rank, problems)
    catches = tuple(replace(catch, do=_ordered(catch.do, {}, problems)) for catch in flow.catch)
    flow = replace(flow, catch=catches, finally_=_ordered(flow.finally_, {}, problems))
    every = [step for block in (steps, *flow.own_blocks()[1:]) for step in walk_steps(block)]
    problems += [
        Problem("a flow ends as a whole: return has no place in branches that run side by side", step.origin, step.path)
        for step in _returns_in_parallel(every)
    ]
    called = [(step, handler) for step in every if (handler := handler_of(step.action))]
    handlers = frozenset(handler for _, handler in called)
    problems += [
        Problem("kernel handlers are callable from official flows only", step.origin, step.path)
        for step, handler in called
        if handler.startswith(model.KERNEL_PREFIX) and (flow.layer is not model.Layer.CORE or step.acts_as)
    ]
    fault, input_fault = _input_check(flow)
    if fault:
        problems.append(Problem(f"input: {fault}", flow.origin, "input"))
    if problems:
        raise invalid(flow.origin.source, problems)
    phases = flow.phases or (model.Phase(""),)
    return Plan(
        replace(flow, steps=steps),
        tuple((phase, tuple(step for step in steps if step.phase == phase.name)) for phase in phases),
        handlers,
        input_fault,
    )


def handler_of(action: model.Action) -> str:
    """The handler that a verb calls by name, or ``""``."""
    return action.handler if isinstance(action, model.Call | model.Each) else ""


def _input_check(flow: model.Flow) -> tuple[str, Callable[[Any], str]]:
    """``(fault of the schema, check)``."""
    if flow.input is None:
        return "", lambda _values: ""
    try:
        checker = Checker(flow.input)
    except SchemaRefused as refused:
        return str(refused), lambda _values: ""
    return "", lambda values: checker.problem(values, len(repr(values))) or ""


def walk_steps(steps: tuple[model.Step, ...]) -> Iterator[model.Step]:
    """Every step of a block and of the blocks below it."""
    for step in steps:
        yield step
        for block in blocks_of(step):
            yield from walk_steps(block)


def blocks_of(step: model.Step) -> Iterator[tuple[model.Step, ...]]:
    """The blocks directly below a step."""
    match step.action:
        case model.Do(steps):
            yield steps
        case model.Parallel(branches):
            yield from (steps for _, steps in branches)
        case model.Choose(cases):
            yield from (case.do for case in cases)
        case model.Each() | model.Loop() | model.Construct():
            yield step.action.do
        case _:
            pass
    yield from (catch.do for catch in step.catch)
    yield step.finally_


def _returns_in_parallel(steps: list[model.Step]) -> Iterator[model.Step]:
    for step in steps:
        action = step.action
        inner: Iterator[model.Step]
        if isinstance(action, model.Parallel):
            inner = (one for _, block in action.branches for one in walk_steps(block))
        elif isinstance(action, model.Construct) or (isinstance(action, model.Each) and action.parallel != 1):
            inner = walk_steps(action.do)
        else:
            continue
        yield from (one for one in inner if isinstance(one.action, model.Return))


def _phase_problems(flow: model.Flow, names: list[str]) -> list[Problem]:
    problems = [
        Problem(f"the phase {name!r} is listed twice", flow.origin, "phases")
        for name in set(names)
        if names.count(name) > 1
    ]
    for step in flow.steps:
        if names and step.phase not in names:
            got = (
                f"names the unknown phase {step.phase!r}.{suggestion(step.phase, names)}"
                if step.phase
                else "names none"
            )
            problems.append(
                Problem(f"each step of a flow with phases belongs to one; {step.id!r} {got}", step.origin, step.path)
            )
        elif step.phase and not names:
            problems.append(Problem("phase is used, but the flow lists no phases", step.origin, step.path))
    nested = (step for top in flow.steps for block in blocks_of(top) for step in walk_steps(block))
    problems += [
        Problem("phase is an adverb of the flow's own steps, not of nested ones", step.origin, step.path)
        for step in nested
        if step.phase
    ]
    return problems


def _ordered(steps: tuple[model.Step, ...], rank: dict[str, int], problems: list[Problem]) -> tuple[model.Step, ...]:
    inner = tuple(_with_ordered_blocks(step, problems) for step in steps)
    position = {step.id: (rank.get(step.phase, 0), step.order, index) for index, step in enumerate(inner)}
    by_id = {step.id: step for step in inner}
    needs: dict[str, set[str]] = {}
    for step in inner:
        needs[step.id] = {need for need in step.needs if _known_need(step, need, by_id, position, problems)}
    followers: dict[str, list[str]] = {}
    for name, wanted in needs.items():
        for need in wanted:
            followers.setdefault(need, []).append(name)
    ready = [(position[name], name) for name, wanted in needs.items() if not wanted]
    heapq.heapify(ready)
    found: list[model.Step] = []
    while ready:
        _, name = heapq.heappop(ready)
        found.append(by_id[name])
        for other in followers.get(name, ()):
            needs[other].discard(name)
            if not needs[other]:
                heapq.heappush(ready, (position[other], other))
    stuck = [step for step in inner if needs[step.id]]
    if stuck:
        names = ", ".join(step.id for step in stuck)
        problems.append(Problem(f"these steps need each other in a circle: {names}", stuck[0].origin, stuck[0].path))
    return tuple(found)


def _known_need(
    step: model.Step, need: str, by_id: dict[str, model.Step], position: dict[str, tuple[int, int, int]],
    problems: list[Problem],
) -> bool:  # fmt: skip
    if need not in by_id:
        text = f"{step.id!r} needs {need!r}, which no step of the same block is called.{suggestion(need, by_id)}"
        problems.append(Problem(text, step.origin, step.path))
        return False
    if position[need][0] > position[step.id][0]:
        text = f"{step.id!r} needs {need!r}, which belongs to a later phase"
        problems.append(Problem(text, step.origin, step.path))
        return False
    return True


def _with_ordered_blocks(step: model.Step, problems: list[Problem]) -> model.Step:
    def block(steps: tuple[model.Step, ...]) -> tuple[model.Step, ...]:
        return _ordered(steps, {}, problems)

    action = step.action
    match action:
        case model.Do(steps):
            action = model.Do(block(steps))
        case model.Parallel():
            action = replace(action, branches=tuple((name, block(steps)) for name, steps in action.branches))
        case model.Choose(cases):
            action = model.Choose(tuple(replace(case, do=block(case.do)) for case in cases))
        case model.Each() | model.Loop() | model.Construct():
            action = replace(action, do=block(action.do))
        case _:
            pass
    catches = tuple(replace(catch, do=block(catch.do)) for catch in step.catch)
    return replace(step, action=action, catch=catches, finally_=block(step.finally_))
