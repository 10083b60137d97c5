"""What Packs' hooks may say about a step, and which steps no hook reaches. Pure.

========================== =================================== ===================================================
key                        asked                               may answer
========================== =================================== ===================================================
flow.hooks.before_step     before a step begins                null, ``{"_skip": true}``, ``{"_abort": true}``
flow.hooks.after_step      when it has ended                   nothing that counts
flow.error_handler         after its retries and catches       ``retry``, ``continue``, ``abort``, or null: on_error
========================== =================================== ===================================================

Invariants:
  * A hook changes no more than a modifier could: nothing sealed is told to anybody, and neither a step that holds a
    sealed one nor one that a sealed one needs is skipped.
  * A hook may end a run; it can't make one succeed that failed.

Not here: who may be asked about which flow, and calling them (``flow_hooks``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from core_runtime.rules.flow import model
from core_runtime.rules.flow.plan import blocks_of

MAX_RETRIES: Final = 3
"""How often an error handler may have one step tried again."""


class Hook(StrEnum):
    """The keys under which Packs register them."""

    BEFORE = "flow.hooks.before_step"
    AFTER = "flow.hooks.after_step"
    ERROR = "flow.error_handler"


class Word(StrEnum):
    """What a hook wants. ``NONE``: it has nothing to say."""

    NONE = ""
    SKIP = "skip"
    ABORT = "abort"
    RETRY = "retry"
    CONTINUE = "continue"


def word_of(hook: Hook, answer: Any) -> Word:
    """What an answer means; anything that has no meaning says nothing."""
    if hook is Hook.BEFORE and isinstance(answer, Mapping):
        if answer.get("_abort") is True:
            return Word.ABORT
        return Word.SKIP if answer.get("_skip") is True else Word.NONE
    if hook is Hook.ERROR and answer in (Word.ABORT, Word.RETRY, Word.CONTINUE):
        return Word(answer)
    return Word.NONE


def told_of(step: model.Step, flow_id: str, phase: str) -> dict[str, Any]:
    """A step as hooks see it."""
    handler = step.action.handler if isinstance(step.action, model.Call) else ""
    return {
        "id": step.id, "path": step.path, "type": type(step.action).__name__.lower(), "handler": handler,
        "flow": flow_id, "phase": phase, "tags": list(step.tags), "acts_as": list(step.acts_as),
    }  # fmt: skip


def closed_steps(flow: model.Flow) -> frozenset[str]:
    """Paths of the steps that no hook hears of: sealed ones, what they hold, what holds them, what they need."""
    closed: set[str] = set()
    for block in flow.own_blocks():
        _close(block, flow, closed, sealed=flow.sealed)
    return frozenset(closed)


def _close(block: Iterable[model.Step], flow: model.Flow, closed: set[str], *, sealed: bool) -> bool:
    """Whether anything in the block is sealed."""
    steps = {step.id: step for step in block}
    found = False
    for step in steps.values():
        own = sealed or step.sealed or flow.phase(step.phase).sealed
        below = [_close(inner, flow, closed, sealed=own) for inner in blocks_of(step)]
        if own or any(below):
            found = True
            needed = [step.id]
            while needed:
                name = needed.pop()
                if name in steps and steps[name].path not in closed:
                    closed.add(steps[name].path)
                    needed += steps[name].needs
    return found

