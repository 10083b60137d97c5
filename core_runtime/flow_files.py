"""What of runs is on the disk: their journals, those that were cut off among them, and how long they stay.

Invariants:
  * A run's id is never a path.
  * What is kept is bounded, in number and in age; nothing of a run that is under way is thrown away.
  * A file that is no account of ours hides no other.

Not here: which run may be resumed (``flow_runs``), what a journal looks like (``drivers.run_journal``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any, Final

from backend_core.errors import NotFoundError, RequestError, RumiError, TrustError, quote
from core_runtime.drivers.run_journal import SUFFIX, Account, RunJournal, read_account
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.drivers.side_work import Mishap, Report, costs_only_itself, unheard
from core_runtime.flow_reports import RunReport
from core_runtime.rules.flow import model

KEPT_RUNS: Final = 500
KEPT_S: Final = 30 * 86_400.0
UNENDED: Final = Mishap(
    "run_unended", "flow runs", "The end of a run could not be written down",
    "Make room on the disk that holds user_data. The run is shown as one that was cut off; do not resume it.",
)  # fmt: skip
UNPRUNED: Final = Mishap(
    "runs_unpruned", "flow runs", "Journals of old runs can't be removed",
    "Let the user that runs the host remove files in user_data/flows/runs.",
)  # fmt: skip


class RunFiles:
    """The journals of one host's runs."""

    def __init__(self, folder: Path, seals: Callable[[], RunSeals], report: Report = unheard) -> None:
        """``seals`` are asked for each time that a journal is written or read."""
        self._report = report
        self._folder = folder
        self._seals = seals

    def begin(self, flow: model.Flow, report: RunReport, values: Any, head: Mapping[str, Any]) -> RunJournal:
        """The journal of a run that starts; ``head``: what it must find as it was to be resumed."""
        told = {
            "run": report.run_id, "flow": flow.id, "digest": report.digest, "started_at": report.started_at,
            "actor": report.actor, **head,
        }  # fmt: skip
        return RunJournal.create(self._folder, report.run_id, told, values, self._seals(), sync=_synced(flow))

    def reopen(self, flow: model.Flow, run_id: str, account: Account) -> RunJournal:
        """Go on with the journal of a run that was cut off."""
        return RunJournal.reopen(self._path(run_id), account, self._seals(), sync=_synced(flow))

    def account(self, run_id: str) -> Account:
        """What the journal tells. ``NotFoundError``, ``TrustError``."""
        path = self._path(run_id)
        if not path.is_file():
            raise unknown(run_id, "There is no such run")
        return read_account(path, self._seals())

    def end(self, flow: model.Flow, report: RunReport, live: Container[str]) -> None:
        """Tell how a run ended. What can't be written leaves it as one that was cut off."""
        path = self._path(report.run_id)
        with costs_only_itself(self._report, UNENDED):
            seals = self._seals()
            ending = RunJournal.reopen(path, read_account(path, seals), seals, sync=_synced(flow))
            error = report.error.as_dict() if report.error else None
            status = report.status.value if report.status else ""
            told = {"end": status, "ended_at": time.time(), "duration_s": report.duration_s, "error": error}
            ending.end(told, report.output)
        self._prune(live)

    def left(self, known: Callable[[str], bool]) -> list[RunReport]:
        """Runs of which only the journal is left; those without an end may be resumed. Blocks."""
        found = []
        with contextlib.suppress(FileNotFoundError, TrustError):  # without a key nothing of them can be believed
            seals = self._seals()
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                if known(path.name.removesuffix(SUFFIX)):
                    continue
                with contextlib.suppress(RumiError, OSError, ValueError, KeyError):  # no account of ours: none is shown
                    found.append(RunReport.of(read_account(path, seals)))
        return found

    def _prune(self, live: Container[str]) -> None:
        with costs_only_itself(self._report, UNPRUNED):
            paths = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: -path.stat().st_mtime)
            oldest = time.time() - KEPT_S
            for number, path in enumerate(paths):
                over = number >= KEPT_RUNS or path.stat().st_mtime < oldest
                if over and path.name.removesuffix(SUFFIX) not in live:
                    path.unlink(missing_ok=True)

    def _path(self, run_id: str) -> Path:
        if not run_id.isalnum() or len(run_id) > 64:
            raise RequestError("That is no run's id", code="run_id_invalid", detail=quote(run_id, 80))
        return self._folder / f"{run_id}{SUFFIX}"


def unknown(run_id: str, title: str) -> NotFoundError:
    """The error for a run that is not there."""
    return NotFoundError(title, code="run_unknown", detail=quote(run_id, 80), hint="List them: rumi flow runs")


def _synced(flow: model.Flow) -> bool:
    return flow.journal is model.Journal.SYNC
