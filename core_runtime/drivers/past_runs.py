"""Which flows and sandboxes ran, from when to when and how it ended: ``user_data/logs/runs.sqlite3``, mode 0600.

Invariants:
  * At most ``MAX_ROWS`` rows, ``SUBJECT_ROWS`` of one flow or Pack, and ``KEPT_S`` seconds back: who runs often pushes
    out its own.
  * It informs and decides nothing: a file that SQLite can't read is set aside and begun anew.
  * Each use opens the file and gives it back.

Not here: what is told of runs and when (``handlers.past_runs``), steps and answers of a flow's run (``run_journal``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict, astuple

from backend_core.files import private_folder

FILE: Final = "runs.sqlite3"
MAX_ROWS: Final = 50_000
SUBJECT_ROWS: Final = 2_000
KEPT_S: Final = 30 * 86_400.0
RUNNING: Final = "running"
CUT: Final = "cut"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS runs (
    kind TEXT NOT NULL, subject TEXT NOT NULL, run TEXT NOT NULL, started_at REAL NOT NULL, ended_at REAL,
    status TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (kind, subject, run)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (started_at);
CREATE INDEX IF NOT EXISTS runs_of_one ON runs (kind, subject, started_at);
"""


class PastRun(Struct, frozen=True):
    """One run. ``kind``: ``flow`` or ``pack``; ``ended_at`` None: under way, or not known when it ended (``cut``)."""

    kind: str
    subject: str
    run: str
    started_at: float
    ended_at: float | None
    status: str
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        return asdict(self)


class PastRuns:
    """One file. Blocks; raises ``OSError`` and ``sqlite3.Error``."""

    def __init__(
        self, folder: Path, *, rows: int = MAX_ROWS, of_one: int = SUBJECT_ROWS, kept_s: float = KEPT_S
    ) -> None:
        self._path = folder / FILE
        self._rows = rows
        self._of_one = of_one
        self._kept_s = kept_s

    def cut_off(self) -> None:
        """A host begins: what was under way in the one before is not."""
        if self._path.exists():
            with self._opened() as db, db:
                db.execute("UPDATE runs SET status = ? WHERE status = ?", (CUT, RUNNING))

    def add(self, runs: Sequence[PastRun]) -> None:
        """Write, over what was known of the same run, and let go of what is too old or too much."""
        if not runs:
            return
        with self._opened() as db, db:
            db.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", list(map(astuple, runs)))
            newest = max(run.ended_at or run.started_at for run in runs)
            db.execute("DELETE FROM runs WHERE started_at < ?", (newest - self._kept_s,))
            for kind, subject in {(run.kind, run.subject) for run in runs}:
                db.execute(
                    "DELETE FROM runs WHERE kind = ?1 AND subject = ?2 AND started_at <= (SELECT started_at FROM runs "
                    "WHERE kind = ?1 AND subject = ?2 ORDER BY started_at DESC LIMIT 1 OFFSET ?3)",
                    (kind, subject, self._of_one),
                )
            [(count,)] = db.execute("SELECT count(*) FROM runs")
            if count > self._rows:
                most = self._rows * 9 // 10  # a tenth of room, so that this is rare
                [(border,)] = db.execute(
                    "SELECT started_at FROM runs ORDER BY started_at DESC LIMIT 1 OFFSET ?", (most,)
                )
                db.execute("DELETE FROM runs WHERE started_at <= ?", (border,))

    def newest(self, count: int, *, kind: str = "", subject: str = "") -> list[PastRun]:
        """Newest first; of one kind, of one flow or Pack, or all."""
        if not self._path.exists():
            return []
        with self._opened() as db:
            found = db.execute(
                "SELECT * FROM runs WHERE (?1 = '' OR kind = ?1) AND (?2 = '' OR subject = ?2) "
                "ORDER BY started_at DESC, run LIMIT ?3",
                (kind, subject, count),
            )
            return [PastRun(*row) for row in found]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            db = self._connected()
        except sqlite3.OperationalError:  # a disk or a lock, not what the file holds
            raise
        except sqlite3.DatabaseError:
            self._path.rename(self._path.with_name(f"{FILE}.broken-{secrets.token_hex(4)}"))
            db = self._connected()
        with contextlib.closing(db):
            yield db

    def _connected(self) -> sqlite3.Connection:
        private_folder(self._path.parent)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=5.0)
        try:
            db.executescript(_SCHEMA)
        except BaseException:
            db.close()
            raise
        return db
