"""What verbs share: what they need of the steps around them, and how errors are treated below them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import structs

from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.asking import Routine
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import Block, Run
from core_runtime.rules.flow.scope import Scope, Upstream


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

    def skipped_missing(self, step: model.Step, block: Block, scope: Scope, error: endings.FlowError) -> None:
        """Record that a step's handler is missing and that this is no failure."""


CLOSED = object()
"""A step's value when it has been recorded already."""


def inherited(step: model.Step, block: Block) -> Block:
    """What a step's own steps inherit."""
    waited_for = bool(step.catch) or step.retry is not None
    default = model.OnError.FAIL if waited_for else block.on_error
    policy = step.on_error or default
    return block if policy is block.on_error else structs.replace(block, on_error=policy)


def as_child(routine: Routine) -> Routine:
    """Let ``Upstream`` travel as a value: a child ends with a result, a step's failure or an interrupt only."""
    try:
        return (yield from routine)
    except Upstream as missing:
        return missing
