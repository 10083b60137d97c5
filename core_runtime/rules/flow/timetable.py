"""When a flow's schedule starts it next, and what it is told then. Pure: whoever keeps it brings both clocks.

Invariants:
  * ``every`` follows the monotonic clock: putting the wall clock right moves nothing. ``cron`` follows the wall clock
    (``schedule.next_due`` says what becomes of times that are left out or come twice).
  * What was missed while nobody looked (a machine that slept, a host that was busy) comes once, and says how often it
    was due; what was due while the host did not run is not made up for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from msgspec import Struct

from core_runtime.rules.flow.schedule import BACK_S, Cron, next_due, parse_cron

MAX_MISSED = 1_000
"""Counting on is no use to anybody."""


class Now(Struct, frozen=True):
    """Both clocks at one moment, in seconds."""

    wall_s: float
    mono_s: float


class Zone(Struct, frozen=True):
    """The wall clock: its time (without a zone) at an instant, and the instant of such a time."""

    local: Callable[[float], datetime]
    seconds: Callable[[datetime], float]


class Every:
    """A schedule that repeats after a time."""

    __slots__ = ("_due_s", "_every_s")

    def __init__(self, every_s: float, now: Now) -> None:
        self._every_s = every_s
        self._due_s = now.mono_s + every_s

    def due(self, now: Now) -> dict[str, Any] | None:
        """``{due, missed}`` when it is time, once for each time."""
        late_s = now.mono_s - self._due_s
        if late_s < 0:
            return None
        missed = int(late_s // self._every_s)
        told = {"due": now.wall_s - late_s, "missed": min(missed, MAX_MISSED)}
        self._due_s += (missed + 1) * self._every_s
        return told

    def wait_s(self, now: Now) -> float:
        """Seconds until it is due."""
        return max(0.0, self._due_s - now.mono_s)


class Calendar:
    """A schedule of the wall clock. ``wait_s`` is infinite when it never comes again."""

    __slots__ = ("_cron", "_due_s", "_looked_s", "_zone")

    def __init__(self, cron: str, zone: Zone, now: Now) -> None:
        self._cron: Cron = parse_cron(cron)
        self._zone = zone
        self._looked_s = now.wall_s
        self._due_s = self._next(now.wall_s, None)

    def due(self, now: Now) -> dict[str, Any] | None:
        """``{due, missed}`` when it is time, once for each time."""
        if now.wall_s < self._looked_s - BACK_S:
            self._due_s = self._next(now.wall_s, None)
        self._looked_s = now.wall_s
        if self._due_s is None or now.wall_s < self._due_s:
            return None
        first = last = self._due_s
        missed = 0
        following = self._next(last, last)
        while following is not None and following <= now.wall_s and missed < MAX_MISSED:
            missed, last = missed + 1, following
            following = self._next(last, last)
        self._due_s = self._next(now.wall_s, last)
        return {"due": first if not missed else last, "missed": missed}

    def wait_s(self, now: Now) -> float:
        """Seconds until it is due."""
        return float("inf") if self._due_s is None else max(0.0, self._due_s - now.wall_s)

    def _next(self, now_s: float, last_s: float | None) -> float | None:
        return next_due(self._cron, now_s, last_s, self._zone.local, self._zone.seconds)
