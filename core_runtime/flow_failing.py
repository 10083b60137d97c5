"""Steps that fail again and again are told, once each, until they succeed.

Invariants:
  * Nothing is switched off by it: whoever may run a flow chooses its input, so he could switch off steps for everybody.
  * What is remembered is bounded; a step that succeeds costs one look into a table that is empty as a rule.

Not here: triggers whose runs fail, which are switched off (``flow_triggers``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container
from typing import Final

from backend_core.errors import quote
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.flow import endings

TOLD_AFTER: Final = 10
MAX_KEPT: Final = 1_000
CODE: Final = "flow_step_failing"


class FailingSteps:
    """Those of one kernel's flows."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()

    def note(self, diagnostics: Diagnostics, flow_id: str, result: endings.StepResult) -> None:
        """A step has ended."""
        if result.status is endings.Status.OK and not self._counts:
            return
        failed = result.status is endings.Status.FAILED or result.status is endings.Status.TIMEOUT
        if not failed and not self._counts:
            return
        place = result.flow or flow_id, result.path
        if result.status is endings.Status.OK:
            if self._counts.pop(place, 0) >= TOLD_AFTER:
                diagnostics.resolve(CODE, _subject(*place))
        elif failed:
            count = self._counts[place] = self._counts.pop(place, 0) + 1
            if len(self._counts) > MAX_KEPT:
                forgotten, before = self._counts.popitem(last=False)
                if before >= TOLD_AFTER:
                    diagnostics.resolve(CODE, _subject(*forgotten))
            if count == TOLD_AFTER:
                self._tell(diagnostics, place, result)

    def keep(self, diagnostics: Diagnostics, flows: Container[str]) -> None:
        """Of flows that are not there any more nothing is said."""
        for place in [place for place in self._counts if place[0] not in flows]:
            del self._counts[place]
            diagnostics.resolve(CODE, _subject(*place))

    def _tell(self, diagnostics: Diagnostics, place: tuple[str, str], result: endings.StepResult) -> None:
        error = result.error
        why = f"{error.type}: {error.title}" if error else result.status.value
        diagnostics.issue(
            CODE, Severity.WARN, _subject(*place), "A step of a flow fails again and again",
            f"{TOLD_AFTER} times in a row, the last time with {quote(why, 300)}"
            + (f"; it calls {quote(result.handler, 120)}." if result.handler else "."),
            "Look at a run (rumi flow runs). It is asked as before; a component is switched off by you alone: "
            "user_data/active_ecosystem.json, disabled_components.",
        )  # fmt: skip


def _subject(flow_id: str, path: str) -> str:
    return f"{flow_id} {path}"[:300]
