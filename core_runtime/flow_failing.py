"""Steps that fail again and again are told, once each, until they succeed; in runs that schedules begin they rest.

Invariants:
  * Nobody can switch off another one's step: only failures in runs that a schedule began count for it, whose input
    stands in the document, and only such runs go without it. What is refused, or asked too much, is no failure of it.
  * A step that rests is tried again after a while, longer each time; with its next success, in whichever run, or with
    the flow's next change it counts as before. Where its failure would end anything it does not rest (``rules.flow``).
  * What is remembered is bounded; a step that succeeds costs one look into a table that is empty as a rule.

Not here: triggers whose runs fail, which are switched off (``flow_triggers``).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Container
from typing import Final

from msgspec import Struct

from backend_core.errors import quote
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.flow import endings

TOLD_AFTER: Final = 10
REST_S: Final = 60.0
REST_MOST_S: Final = 3_600.0
NO_FAULT: Final = frozenset({"schema", "denied", "cancelled", "limit", "missing"})
"""Errors that say nothing about the component that was asked."""
MAX_KEPT: Final = 1_000
CODE: Final = "flow_step_failing"


class _Rest(Struct):
    digest: str
    failures: int = 0
    long_s: float = 0.0
    until_s: float = 0.0


class FailingSteps:
    """Those of one kernel's flows."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._rests: OrderedDict[tuple[str, str], _Rest] = OrderedDict()

    def resting(self, digest: str) -> frozenset[tuple[str, str]]:
        """The steps that a run of the flow with this digest goes without, where a schedule begins it."""
        now_s = time.monotonic()
        return frozenset(
            place for place, rest in self._rests.items() if rest.until_s > now_s and rest.digest == digest
        )

    def note_unattended(self, diagnostics: Diagnostics, flow_id: str, digest: str, result: endings.StepResult) -> None:
        """A step has ended in a run that a schedule began."""
        error = result.error
        failed = result.status is endings.Status.FAILED or result.status is endings.Status.TIMEOUT
        if not failed or error is None or error.type in NO_FAULT:
            return
        place = result.flow or flow_id, result.path
        rest = self._rests.pop(place, None)
        if rest is None or rest.digest != digest:
            rest = _Rest(digest)
        self._rests[place] = rest
        if len(self._rests) > MAX_KEPT:
            self._rests.popitem(last=False)
        rest.failures += 1
        if rest.failures >= TOLD_AFTER:
            rest.long_s = min(REST_MOST_S, rest.long_s * 2 or REST_S)
            rest.until_s = time.monotonic() + rest.long_s
            self._tell(diagnostics, place, result, rest.long_s)

    def note(self, diagnostics: Diagnostics, flow_id: str, result: endings.StepResult) -> None:
        """A step has ended."""
        if result.status is endings.Status.OK and not self._counts and not self._rests:
            return
        failed = result.status is endings.Status.FAILED or result.status is endings.Status.TIMEOUT
        if not failed and not self._counts:
            return
        place = result.flow or flow_id, result.path
        if result.status is endings.Status.OK:
            self._rests.pop(place, None)
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
            self._rests.pop(place, None)
            diagnostics.resolve(CODE, _subject(*place))

    def _tell(
        self, diagnostics: Diagnostics, place: tuple[str, str], result: endings.StepResult, rest_s: float = 0.0
    ) -> None:
        error = result.error
        why = f"{error.type}: {error.title}" if error else result.status.value
        diagnostics.issue(
            CODE, Severity.WARN, _subject(*place), "A step of a flow fails again and again",
            f"{TOLD_AFTER} times in a row, the last time with {quote(why, 300)}"
            + (f"; it calls {quote(result.handler, 120)}." if result.handler else "."),
            "Look at a run (rumi flow runs). "
            f"Runs that a schedule begins go on without it for {rest_s:g} s, then try it again; a run by hand in "
            f"which it succeeds (rumi flow run {place[0]}) ends that."
            if rest_s
            else "Look at a run (rumi flow runs). It is asked as before; a component is switched off by you alone: "
            "user_data/active_ecosystem.json, disabled_components.",
        )  # fmt: skip


def _subject(flow_id: str, path: str) -> str:
    return f"{flow_id} {path}"[:300]
