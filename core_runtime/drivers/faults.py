"""Named points between persisted steps, so that a test can end the process exactly there.

Invariants:
  * In production ``hit`` does nothing and can't be armed from outside (no environment variable, no setting): only code
    inside the process installs a hook.
  * Every point that is ever hit stands in ``POINTS``; a test walks through all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

POINTS: Final = (
    "store.copied",
    "store.published",
    "approve.ingested",
    "approve.before_grant",
    "approve.granted",
    "approve.counted",
    "revoke.before_counter",
    "revoke.counted",
    "revoke.unlinked",
    "revoke.recorded",
    "narrow.before_grant",
    "narrow.granted",
    "narrow.counted",
    "widen.before_grant",
    "widen.granted",
    "widen.counted",
    "restore.copied",
    "restore.swapped",
    "restore.moved_in",
    "remove.counted",
    "remove.unlinked",
    "remove.forgotten",
    "remove.folder_gone",
    "remove.recorded",
    "remove.done",
    "counters.first_slot",
    "counters.second_slot",
    "publishers.written",
    "stage.copied",
    "stage.placed",
    "update.snapshot",
    "update.recorded",
    "update.before_grant",
    "update.granted",
    "update.counted",
    "update.swapped",
    "update.moved_in",
    "takeover.file",
    "update.done",
    "update.unstaged",
    "rollback.recorded",
    "rollback.copied",
    "rollback.before_grant",
    "rollback.granted",
    "rollback.counted",
    "rollback.swapped",
    "rollback.moved_in",
    "rollback.data_away",
    "rollback.data",
    "rollback.done",
    "run.answered",
    "rotate.prepared",
    "rotate.run_sealed",
    "rotate.resigned",
    "rotate.rekeyed",
    "rotate.switched",
    "secret.before_write",
    "secret.written",
    "secret.removed",
)


class _Hook:
    function: Callable[[str], None] | None = None


def install(hook: Callable[[str], None] | None) -> None:
    """Call ``hook`` with the name of each point that is passed; None takes it away."""
    _Hook.function = hook


def hit(point: str) -> None:
    """Mark a point between two persisted steps."""
    if _Hook.function is not None:
        _Hook.function(point)
