"""Tells what becomes of issues: as events on the bus and in the history, a little later and each change once.

Invariants:
  * Reporting an issue costs the reporter one entry in a table. The rest happens at most once in ``EVERY_S``, so that a
    subscriber whose failure is an issue again is told of it once a second and no more.
  * What waits is bounded by the number of issues that stand or went within that time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Final

from backend_core.errors import HostError
from core_runtime.diagnostics import Issue
from core_runtime.drivers.issue_history import IssueHistory, Row

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

EVERY_S: Final = 1.0
CHANGED: Final = "issue.changed"
MOST_WAITING: Final = 5_000


class IssueRecord:
    """One per host; ``run`` is its background work."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.history = IssueHistory(host.settings.user_data / "logs")
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, float], Row] = {}
        self._writing = asyncio.Lock()
        host.diagnostics.watch(self._found, self._gone)
        for issue in host.diagnostics.issues():
            self._found(issue)

    async def run(self) -> None:
        """Until the host closes."""
        while not self._host.closing:
            await asyncio.sleep(EVERY_S)
            await self.tell()

    async def tell(self) -> None:
        """Publish and write what waits. A history that can't be written is an issue and costs its rows."""
        async with self._writing:
            with self._lock:
                rows, self._waiting = list(self._waiting.values()), {}
            if not rows:
                return
            for row in rows:
                self._host.events.publish(
                    CHANGED,
                    {
                        "id": row.id, "code": row.code, "severity": row.severity, "subject": row.subject,
                        "title": row.title, "count": row.count, "change": "found" if row.gone_ts is None else "gone",
                    },
                )  # fmt: skip
            try:
                await asyncio.to_thread(self.history.write, rows, time.time())
            except HostError as error:
                self._host.diagnostics.standing(
                    error.code, "warn", "issues", error.title, error.detail, error.hint, cause=error
                )
            else:
                self._host.diagnostics.resolve("history_unusable", "issues")

    async def close(self) -> None:
        """Write what waits, then let go of the file."""
        await self.tell()
        self.history.close()

    # --- inside ------------------------------------------------------------------------------------------------------

    def _found(self, issue: Issue) -> None:
        self._keep(_row(issue, None))

    def _gone(self, issue: Issue) -> None:
        self._keep(_row(issue, time.time()))

    def _keep(self, row: Row) -> None:
        with self._lock:
            if len(self._waiting) < MOST_WAITING:
                self._waiting[row.id, row.first_ts] = row


def _row(issue: Issue, gone_ts: float | None) -> Row:
    return Row(
        issue.id, issue.code, issue.severity.value, issue.subject, issue.title, issue.detail, issue.hint, issue.cause,
        issue.count, issue.first_ts, issue.last_ts, gone_ts,
    )  # fmt: skip
