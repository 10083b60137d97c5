"""The latest time that was ever seen: what is granted until a time ends by this clock.

Invariants:
  * It never goes back: not when the wall clock is moved back, where it goes on by what has passed since, and not over
    a restart, where it begins at what was written down.
  * That an awaited moment has come is written down before it is told for the first time, so that it does not come
    again after a crash. Otherwise a crash loses less than ``PERSIST_S``.

Not here: what ends then (``rules.permissions.in_force``).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from backend_core.errors import TrustError
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.counters import Ledger
from core_runtime.drivers.side_work import Mishap, Report, unheard

PERSIST_S: Final = 30.0
UNKEPT: Final = Mishap(
    "clock_unwritable", "clock", "The latest time can't be written down",
    "Make room on the disk that holds user_data; until then a clock that is set back while the host is down may "
    "lengthen what was granted until a time.",
)  # fmt: skip


class LatestTime:
    """Wall time in seconds. Thread-safe."""

    def __init__(
        self,
        ledger: Ledger | None,
        audit: AuditLog,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        report: Report = unheard,
    ) -> None:
        """Without a ``ledger`` it lasts as long as this object."""
        self._report = report
        self._ledger = ledger
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic
        self._mutex = threading.Lock()
        self._persisted = self._first()
        self._latest = max(self._persisted, clock())
        self._seen_mono = monotonic()

    def now(self, awaited: float | None = None) -> float:
        """The latest time. ``awaited``: the moment for whose coming it is asked."""
        awaited = math.inf if awaited is None else awaited
        with self._mutex:
            passed = self._monotonic() - self._seen_mono
            self._latest = max(self._latest + max(0.0, passed), self._clock())
            self._seen_mono = self._monotonic()
            now = self._latest
            due = now - self._persisted >= PERSIST_S or self._persisted < awaited <= now
            if due:
                self._persisted = now
        if due and self._ledger is not None:
            try:
                self._ledger.advance_clock(now)
            except (OSError, TrustError) as error:  # must not turn an answer into an error
                self._report(UNKEPT, error)
                self._audit.happened("clock.unpersisted", cause=str(error))
            else:
                self._report(UNKEPT, None)
        return now

    def _first(self) -> float:
        """What an earlier run of the host wrote down."""
        if self._ledger is None:
            return self._clock()
        try:
            return self._ledger.trusted().clock
        except TrustError:
            return self._clock()  # no grant counts either while the counters can't be read
