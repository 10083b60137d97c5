"""Which issues there were, over restarts of the host: ``user_data/logs/issues.sqlite3``.

Invariants:
  * One row for each time that an issue stood, from its first report to its resolution; ``seen`` changes update it.
  * At most ``MAX_ROWS`` rows and ``KEPT_S`` seconds back; what is older goes with the next write.
  * It informs and decides nothing: a damaged file is set aside and begun anew, and a full disk costs rows.
  * One connection, used by one thread at a time: whoever comes second waits.

Not here: which issues stand now (``diagnostics``), when this is written (``diagnosis.record``).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from backend_core.errors import HostError
from backend_core.files import private_folder

FILE: Final = "issues.sqlite3"
MAX_ROWS: Final = 20_000
KEPT_S: Final = 90 * 86_400.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS issues (
    id TEXT NOT NULL, code TEXT NOT NULL, severity TEXT NOT NULL, subject TEXT NOT NULL, title TEXT NOT NULL,
    detail TEXT NOT NULL, hint TEXT NOT NULL, cause TEXT NOT NULL, count INTEGER NOT NULL,
    first_ts REAL NOT NULL, last_ts REAL NOT NULL, gone_ts REAL,
    PRIMARY KEY (id, first_ts)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS issues_by_time ON issues (last_ts);
"""
_COLUMNS: Final = (
    "id", "code", "severity", "subject", "title", "detail", "hint", "cause", "count", "first_ts", "last_ts", "gone_ts"
)  # fmt: skip


class Row(Struct, frozen=True):
    """One time that an issue stood; ``gone_ts`` is ``None`` while it still does, or did when the host ended."""

    id: str
    code: str
    severity: str
    subject: str
    title: str
    detail: str
    hint: str
    cause: tuple[str, ...]
    count: int
    first_ts: float
    last_ts: float
    gone_ts: float | None = None


class IssueHistory:
    """Every method may block and raises ``HostError`` (``history_unusable``) only."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._db: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    def write(self, rows: Sequence[Row], now: float) -> None:
        """Insert or update, and drop what is too old or too much, in one transaction."""
        with self._guarded() as db, db:
            db.executemany(
                f"INSERT OR REPLACE INTO issues ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})",  # noqa: S608
                [_values(row) for row in rows],
            )
            db.execute("DELETE FROM issues WHERE last_ts < ?", (now - KEPT_S,))
            db.execute(
                "DELETE FROM issues WHERE last_ts <="
                " (SELECT last_ts FROM issues ORDER BY last_ts DESC LIMIT 1 OFFSET ?)",
                (MAX_ROWS,),
            )

    def read(self, *, limit: int, subject: str = "", code: str = "") -> list[Row]:
        """Newest first."""
        with self._guarded() as db:
            found = db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM issues WHERE (?1 = '' OR subject = ?1) AND (?2 = '' OR code = ?2)"  # noqa: S608
                " ORDER BY last_ts DESC, id LIMIT ?3",
                (subject, code, limit),
            ).fetchall()
        return [_row(values) for values in found]

    def close(self) -> None:
        """Let go of the file; a later call opens it again."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    # --- inside ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._opened()
            except (sqlite3.Error, OSError) as error:
                self.close()
                raise HostError(
                    "The history of issues can't be used",
                    code="history_unusable",
                    detail=f"{self._path.name}: {error}",
                    hint="Look at the disk and at user_data/logs. Issues that stand now are shown all the same.",
                ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            private_folder(self._path.parent)
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                self._path.rename(
                    self._path.with_name(f"{FILE}.broken-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
                )
                self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
        self._path.touch(0o600)
        db = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db


def _values(row: Row) -> tuple[Any, ...]:
    cause = json.dumps(row.cause, ensure_ascii=False)
    values = (cause if name == "cause" else getattr(row, name) for name in _COLUMNS)
    return tuple(_storable(value) if isinstance(value, str) else value for value in values)


def _storable(text: str) -> str:
    """Names of a Pack's files may be no Unicode; half characters become question marks."""
    return text.encode("utf-8", "replace").decode()


def _row(values: Sequence[Any]) -> Row:
    named = dict(zip(_COLUMNS, values, strict=True))
    return Row(**{**named, "cause": tuple(json.loads(named["cause"]))})
