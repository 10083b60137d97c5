"""What each Pack did and used, a minute a row, over restarts: ``user_data/logs/metrics.sqlite3``, mode 0600.

Invariants:
  * At most ``MAX_ROWS`` rows and ``KEPT_S`` seconds back; what is older goes with a later write.
  * It informs and decides nothing: a file that SQLite can't read is set aside and begun anew.
  * Each use opens the file and gives it back: once a minute, and when somebody looks.

Not here: what is measured and when (``handlers.metric_history``).
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
from msgspec.structs import asdict

from backend_core.files import private_folder

FILE: Final = "metrics.sqlite3"
MAX_ROWS: Final = 300_000
KEPT_S: Final = 7 * 86_400.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS samples (
    pack_id TEXT NOT NULL, ts REAL NOT NULL, calls INTEGER NOT NULL, errors INTEGER NOT NULL, p50_us REAL NOT NULL,
    p99_us REAL NOT NULL, restarts INTEGER NOT NULL, memory_bytes REAL, cpu_s REAL, PRIMARY KEY (pack_id, ts)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS samples_by_time ON samples (ts);
"""


class Sample(Struct, frozen=True):
    """One minute of one Pack. ``calls``, ``errors``, quantiles and ``cpu_s`` are of that minute alone."""

    pack_id: str
    ts: float
    calls: int
    errors: int
    p50_us: float
    p99_us: float
    restarts: int
    memory_bytes: float | None = None
    cpu_s: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        return asdict(self)


class MetricHistory:
    """One file. Blocks; raises ``OSError`` and ``sqlite3.Error``."""

    def __init__(self, folder: Path, *, rows: int = MAX_ROWS, kept_s: float = KEPT_S) -> None:
        self._path = folder / FILE
        self._rows = rows
        self._kept_s = kept_s

    def add(self, samples: Sequence[Sample]) -> None:
        """Write, and let go of what is too old or too much."""
        if not samples:
            return
        with self._opened() as db, db:
            db.executemany(
                "INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [tuple(asdict(sample).values()) for sample in samples],
            )
            newest = max(sample.ts for sample in samples)
            db.execute("DELETE FROM samples WHERE ts < ?", (newest - self._kept_s,))
            [(count,)] = db.execute("SELECT count(*) FROM samples")
            if count > self._rows:
                most = self._rows * 9 // 10  # a tenth of room, so that this is rare
                [(border,)] = db.execute("SELECT ts FROM samples ORDER BY ts DESC LIMIT 1 OFFSET ?", (most,))
                db.execute("DELETE FROM samples WHERE ts <= ?", (border,))

    def of(self, pack_id: str, since: float, limit: int) -> list[Sample]:
        """The newest samples of one Pack, oldest first."""
        if not self._path.exists():
            return []
        with self._opened() as db:
            found = db.execute(
                "SELECT * FROM samples WHERE pack_id = ? AND ts >= ? ORDER BY ts DESC LIMIT ?", (pack_id, since, limit)
            )
            return [Sample(*row) for row in found][::-1]

    def forget(self, pack_id: str) -> None:
        """The Pack was removed."""
        if self._path.exists():
            with self._opened() as db, db:
                db.execute("DELETE FROM samples WHERE pack_id = ?", (pack_id,))

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
