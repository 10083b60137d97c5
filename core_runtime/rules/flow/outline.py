"""A flow's steps as a tree that a face can draw: groups (phases, its own ``catch`` and ``finally``), steps, lanes.

A lane is a block of steps below a step, with the words that say when it runs. Steps are numbered as ``explain`` lists
them, from 0, so that a drawing and the list beside it name the same ones.

Not here: places on a page (whoever draws), the list (``explain``). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from msgspec import Struct

from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Composition
from core_runtime.rules.flow.explain import as_written, groups_of, lanes_of, verb_of


class Lane(Struct, frozen=True):
    """``kind``: do, branch, when, default, catch or finally; ``words``: its name, condition or pattern."""

    kind: str
    words: str
    steps: tuple[Outlined, ...]


class Outlined(Struct, frozen=True):
    """A step. ``what``: the handler, flow, topic or time that its verb names; ``by``: Packs other than the owner."""

    number: int
    id: str
    path: str
    verb: str
    what: str
    when: str
    by: tuple[str, ...]
    changed: bool
    sealed: bool
    off: bool
    lanes: tuple[Lane, ...]


class Group(Struct, frozen=True):
    """``kind``: phase, catch or finally."""

    kind: str
    words: str
    sealed: bool
    steps: tuple[Outlined, ...]


def outline(found: Composition) -> tuple[Group, ...]:
    """The whole flow. A group without steps is left out."""
    changed = {change.step for change in found.changes}
    drawn = _Outline(found.plan.flow, changed, count())
    return tuple(
        Group(kind, words, sealed, drawn.steps(steps)) for kind, words, sealed, steps in groups_of(found.plan) if steps
    )


class _Outline:
    def __init__(self, flow: model.Flow, changed: set[str], numbers: Iterator[int]) -> None:
        self._owner = flow.origin.pack
        self._changed = changed
        self._numbers = numbers

    def steps(self, steps: Sequence[model.Step]) -> tuple[Outlined, ...]:
        return tuple(self._step(step) for step in steps)

    def _step(self, step: model.Step) -> Outlined:
        number = next(self._numbers)
        by = () if step.acts_as == (self._owner,) else step.acts_as
        return Outlined(
            number, step.id, step.path, verb_of(step), _what(step.action), as_written(step.when), by,
            step.path in self._changed, step.sealed, not step.enabled, tuple(self._lanes(step)),
        )  # fmt: skip

    def _lanes(self, step: model.Step) -> Iterator[Lane]:
        return (Lane(kind, words, self.steps(steps)) for kind, words, steps in lanes_of(step))


def _what(action: model.Action) -> str:
    match action:
        case model.Call(handler):
            return handler
        case model.Subflow(flow):
            return flow
        case model.Emit(topic):
            return as_written(topic)
        case model.Wait(event=event) if event:
            return event
        case model.Wait(delay_s=delay_s) if delay_s is not None:
            return f"{delay_s:g}s"
        case model.Wait(until=until) if until is not None:
            return as_written(until)
        case model.Each(source, handler=handler):
            return handler or as_written(source)
        case model.Construct(pack, name):
            return f"{pack}:{name}" if pack else name
        case model.Set(values):
            return ", ".join(".".join(path) for path, _ in values)
        case _:
            return ""


def as_data(groups: Sequence[Group]) -> list[Mapping[str, Any]]:
    """Plain maps and lists."""
    return [_plain(group) for group in groups]


def _plain(value: Any) -> Any:
    if isinstance(value, Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
