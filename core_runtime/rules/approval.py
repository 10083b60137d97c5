"""The states of a Pack and the only ways between them. Pure; used verbatim by API, command line and console.

Invariants:
  * ``TRANSITIONS`` is complete: an event that it does not list for a state is refused.
  * No event but ``approve`` and ``restore`` (the operator's signed decisions) leaves ``modified`` towards ``approved``.
  * ``judge`` derives a state from facts alone, so that a restart of the host gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from msgspec import Struct


class State(StrEnum):
    """Where a Pack stands. The values are the words of every face and of the grant files."""

    INSTALLED = "installed"
    PENDING = "pending"
    APPROVED = "approved"
    RUNNING = "running"
    MODIFIED = "modified"
    BLOCKED = "blocked"
    ERROR = "error"


class Event(StrEnum):
    """What can happen to a Pack."""

    REVIEWED = "reviewed"
    BROKEN = "broken"
    APPROVED = "approved"
    RESTORED = "restored"
    REJECTED = "rejected"
    EDITED = "edited"
    STARTED = "started"
    STOPPED = "stopped"
    GAVE_UP = "gave_up"


class Mark(StrEnum):
    """What the counters file remembers beside the counter, so that it survives without the grant file."""

    NONE = ""
    BLOCKED = "blocked"
    MODIFIED = "modified"
    REVOKED = "revoked"
    """The grant was taken away with the Pack or its decision; a grant file that is still there is a leftover."""
    REMOVING = "removing"
    """The same, and not everything of the Pack is gone yet: only finishing that may follow."""


_S, _E = State, Event
TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = MappingProxyType(
    {
        _S.INSTALLED: {
            _E.REVIEWED: _S.PENDING,
            _E.BROKEN: _S.ERROR,
            _E.APPROVED: _S.APPROVED,
            _E.REJECTED: _S.BLOCKED,
        },
        _S.PENDING: {_E.APPROVED: _S.APPROVED, _E.REJECTED: _S.BLOCKED},
        # approving again renews the decision (other permissions, say) and leaves the state as it is
        _S.APPROVED: {
            _E.APPROVED: _S.APPROVED,
            _E.STARTED: _S.RUNNING,
            _E.EDITED: _S.MODIFIED,
            _E.REJECTED: _S.BLOCKED,
        },
        _S.RUNNING: {
            _E.APPROVED: _S.RUNNING,
            _E.STOPPED: _S.APPROVED,
            _E.EDITED: _S.MODIFIED,
            _E.GAVE_UP: _S.ERROR,
            _E.REJECTED: _S.BLOCKED,
        },
        _S.MODIFIED: {_E.APPROVED: _S.APPROVED, _E.RESTORED: _S.APPROVED, _E.REJECTED: _S.BLOCKED},
        _S.BLOCKED: {_E.APPROVED: _S.APPROVED},
        _S.ERROR: {_E.APPROVED: _S.APPROVED, _E.STARTED: _S.RUNNING},
    }
)

REMOVAL_UNFINISHED: Final = "removal_unfinished"
UNDECIDED: Final = frozenset({State.INSTALLED, State.PENDING, State.MODIFIED})
"""What waits for the operator: ``GET /api/packs/pending``."""


def following(state: State, event: Event) -> State | None:
    """The state after ``event``, or None where the table has no such edge."""
    return TRANSITIONS[state].get(event)


class Verdict(StrEnum):
    """What the grant file of a Pack is worth."""

    NONE = "none"
    """No grant (never decided, or rejected)."""
    IMPORTED = "imported"
    """Signed by this installation's key, but not counted here: a decision made elsewhere."""
    FAULTY = "faulty"
    """There is one that must not count: forged, copied, rolled back, or the key or counters are unusable."""
    VALID = "valid"


class Facts(Struct, frozen=True):
    """Everything that decides a Pack's state.

    ``folder_fault``: why the folder can't be taken (broken metadata, two folders with one id), a cause slug.
    ``cause``: of a faulty or missing grant. ``differs``: the files are not the granted ones (None: not compared).
    ``run_fault``: why it could not be kept running.
    """

    verdict: Verdict
    cause: str = ""
    mark: Mark = Mark.NONE
    folder_fault: str = ""
    ambiguous: bool = False
    differs: bool | None = None
    reviewed: bool = False
    running: bool = False
    run_fault: str = ""


def judge(facts: Facts) -> tuple[State, str]:
    """The state and its cause (``""`` where the state says it all). Earlier rules win.

    A valid grant is one with a counter that the marks of rejection don't cover any more, so ``blocked`` is asked
    first and only where no valid grant stands against it.
    """
    if facts.verdict is not Verdict.VALID and facts.mark is Mark.BLOCKED:
        return State.BLOCKED, "rejected"
    if facts.verdict is not Verdict.VALID and facts.mark is Mark.REMOVING:
        return State.ERROR, REMOVAL_UNFINISHED
    if facts.verdict is Verdict.FAULTY:
        return State.ERROR, facts.cause
    if facts.verdict is Verdict.VALID:
        return _judge_granted(facts)
    if facts.folder_fault:
        return State.ERROR, facts.folder_fault
    if facts.verdict is Verdict.IMPORTED or facts.cause or facts.reviewed:
        return State.PENDING, facts.cause
    return State.INSTALLED, ""


def _judge_granted(facts: Facts) -> tuple[State, str]:
    if facts.ambiguous:
        return State.ERROR, facts.folder_fault
    if facts.differs:
        return State.MODIFIED, "files_changed"
    if facts.mark is Mark.MODIFIED:
        return State.MODIFIED, "files_changed_before"
    if facts.run_fault:
        return State.ERROR, facts.run_fault
    if facts.running:
        return State.RUNNING, ""
    return State.APPROVED, ""
