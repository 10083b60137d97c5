"""The journal of events on disk: ``user_data/events/journal.db``, SQLite in WAL mode, mode 0600.

A row holds what the operator may see of an event (``shown``: JSON without known secrets) and, sealed under a key that
is derived from the installation's, its topic and payload as they were published, for replay to Packs.

Invariants:
  * Bounded: ``Retention``, for the whole and for each source, so that a source that publishes much pushes out its own
    events and nobody else's. What goes, and what was never written, moves ``gap``: whoever asks for events after an
    older place is told that some are missing.
  * A row is sealed together with its id, source and time: moved to another, it opens no more.
  * A file that SQLite can't read is put aside and begun anew; events are no evidence (the audit trail is).

Not here: which events are kept, threads, turning rows into events (``event_history``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from backend_core.files import private_folder
from core_runtime.rules.seals import key_for

PURPOSE: Final = "events"
RUNS_KEPT: Final = 64
_NONCE_BYTES: Final = 12
_TOPIC_BYTES: Final = 2
_AGE_CHECK_S: Final = 600.0
_LAST_SEQ: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'"
"""The last one that was given, also when its row has gone."""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, number INTEGER NOT NULL, source TEXT NOT NULL,
    time_s REAL NOT NULL, shown BLOB NOT NULL, sealed BLOB, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_source ON events (source, seq);
CREATE INDEX IF NOT EXISTS events_by_run ON events (run, number);
CREATE TABLE IF NOT EXISTS runs (run TEXT PRIMARY KEY, after_seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class Retention(Struct, frozen=True):
    """What is kept at most: together, of one source, and for how long."""

    events: int = 20_000
    size_bytes: int = 48 * 1024 * 1024
    source_events: int = 4_000
    source_bytes: int = 8 * 1024 * 1024
    age_s: float = 7 * 86_400.0


class Row(Struct, frozen=True):
    """One event. ``seq`` is 0 until it was written."""

    run: str
    number: int
    source: str
    time_s: float
    shown: bytes
    sealed: bytes | None = None
    seq: int = 0

    @property
    def size_bytes(self) -> int:
        """What it counts."""
        return len(self.shown) + len(self.sealed or b"") + len(self.source)


class Place(Struct, frozen=True):
    """Where an id stands: after ``seq``. ``complete``: nothing after it has gone."""

    seq: int
    complete: bool


class Page(Struct, frozen=True):
    """Rows after a place. ``complete``: nothing after that place had gone when they were read."""

    rows: list[Row]
    complete: bool


class EventJournal:
    """One file. Everything but ``read``, ``place`` and ``oldest`` belongs to one writing thread."""

    def __init__(self, path: Path, run: str, retention: Retention | None = None) -> None:
        """Opens or makes the file, and notes the run. Raises ``OSError`` or ``sqlite3.Error`` when neither works."""
        self._path = path
        self._limits = retention or Retention()
        self.put_aside = ""
        """Where a file that could not be read was put."""
        self._counts: dict[str, list[int]] = {}
        self._aged = 0.0
        private_folder(path.parent)
        try:
            self._open(run)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # a disk or a lock, not what the file holds
                raise
            self._set_aside()
            self._open(run)

    def append(self, rows: Sequence[Row], *, missed: bool = False) -> None:
        """Write in one transaction, then let go of what is too much. ``missed``: others came that are not kept."""
        with self._change() as db:
            db.executemany(
                "INSERT INTO events (run, number, source, time_s, shown, sealed, bytes) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(r.run, r.number, r.source, r.time_s, r.shown, r.sealed, r.size_bytes) for r in rows],
            )
            if missed:
                self._gap(f"SELECT 1 + ({_LAST_SEQ})")
            for row in rows:
                count = self._counts.setdefault(row.source, [0, 0])
                count[0] += 1
                count[1] += row.size_bytes
            self._prune({row.source for row in rows})

    def place(self, run: str, number: int) -> Place | None:
        """Where the id stands, also one that is not kept itself; None for a run that is not known."""
        with self._reading() as db:
            found = db.execute("SELECT after_seq FROM runs WHERE run = ?", (run,)).fetchone()
            if found is None:
                return None
            kept = db.execute("SELECT max(seq) FROM events WHERE run = ? AND number <= ?", (run, number)).fetchone()
            seq = found[0] if kept[0] is None else kept[0]
            return Place(seq, _gap_of(db) <= seq)

    def oldest(self) -> Place:
        """Before everything that is kept."""
        with self._reading() as db:
            return Place(0, _gap_of(db) == 0)

    def read(self, after_seq: int, limit: int) -> Page:
        """At most ``limit`` rows in their order."""
        with self._reading() as db:
            db.execute("BEGIN")  # rows and gap of one moment
            found = db.execute(
                "SELECT run, number, source, time_s, shown, sealed, seq FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
                (after_seq, limit),
            )
            return Page([Row(*row) for row in found], _gap_of(db) <= after_seq)

    def newest(self, source: str, limit: int, upto: int | None = None) -> list[Row]:
        """The last rows up to the place ``upto`` (of one source, if it is not ``""``), oldest first."""
        given: dict[str, object] = {"source = ?": source} if source else {}
        given |= {} if upto is None else {"seq <= ?": upto}
        which = f"WHERE {' AND '.join(given)}" if given else ""
        with self._reading() as db:
            found = db.execute(
                "SELECT run, number, source, time_s, shown, sealed, seq FROM events "  # noqa: S608 - two constants
                f"{which} ORDER BY seq DESC LIMIT ?",
                (*given.values(), limit),
            )
            return [Row(*row) for row in found][::-1]

    def totals(self) -> tuple[int, int]:
        """Rows, and their bytes."""
        return sum(c[0] for c in self._counts.values()), sum(c[1] for c in self._counts.values())

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    # --- inside

    def _open(self, run: str) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.close(fd)
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA journal_size_limit = 4194304")
        self._db.executescript(_SCHEMA)
        with self._change() as db:
            db.execute(
                f"INSERT OR IGNORE INTO runs VALUES (?, ({_LAST_SEQ}))",  # noqa: S608 - a constant
                (run,),
            )
            db.execute(
                "DELETE FROM runs WHERE rowid NOT IN (SELECT rowid FROM runs ORDER BY rowid DESC LIMIT ?)", (RUNS_KEPT,)
            )
        found = self._db.execute("SELECT source, count(*), sum(bytes) FROM events GROUP BY source")
        self._counts = {source: [count, size] for source, count, size in found}

    def _set_aside(self) -> None:
        with contextlib.suppress(AttributeError):
            self._db.close()
        self.put_aside = f"{self._path.name}.lost-{secrets.token_hex(4)}"
        self._path.rename(self._path.with_name(self.put_aside))
        for suffix in ("-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None, timeout=5.0)) as db:
            db.execute("PRAGMA query_only = 1")
            yield db

    def _prune(self, sources: set[str]) -> None:
        limits = self._limits
        for source in sources:
            count, size = self._counts[source]
            if count > limits.source_events or size > limits.source_bytes:
                self._trim(source, limits.source_events * 9 // 10, limits.source_bytes * 9 // 10)
        events, size = self.totals()
        if events > limits.events or size > limits.size_bytes:
            self._trim("", limits.events * 9 // 10, limits.size_bytes * 9 // 10)
        now = time.time()
        if now - self._aged > _AGE_CHECK_S:
            self._aged = now
            self._delete("time_s < ?", (now - limits.age_s,))

    def _trim(self, source: str, events: int, size_bytes: int) -> None:
        """Keep the newest rows that are within both bounds; a tenth of room is made, so that this is rare."""
        which, given = ("source = ?", (source,)) if source else ("1", ())
        kept = 0
        for seq, size in self._db.execute(
            f"SELECT seq, bytes FROM events WHERE {which} ORDER BY seq DESC",  # noqa: S608 - two constants
            given,
        ):
            events -= 1
            size_bytes -= size
            if events < 0 or size_bytes < 0:
                break
            kept = seq
        self._delete(f"{which} AND seq < ?" if kept else which, (*given, kept) if kept else given)

    def _delete(self, where: str, given: tuple[Any, ...]) -> None:
        self._gap(f"SELECT max(seq) FROM events WHERE {where}", given)  # noqa: S608 - constants of this module
        gone = self._db.execute(f"SELECT source, count(*), sum(bytes) FROM events WHERE {where} GROUP BY source", given)  # noqa: S608 - as above
        for source, count, size in gone.fetchall():
            left = self._counts[source]
            left[0] -= count
            left[1] -= size
            if not left[0]:
                del self._counts[source]
        self._db.execute(f"DELETE FROM events WHERE {where}", given)  # noqa: S608 - as above

    def _gap(self, query: str, given: tuple[Any, ...] = ()) -> None:
        self._db.execute(
            f"INSERT INTO facts SELECT 'gap', ({query}) WHERE ({query}) IS NOT NULL "
            "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
            (*given, *given),
        )


def _gap_of(db: sqlite3.Connection) -> int:
    found = db.execute("SELECT value FROM facts WHERE name = 'gap'").fetchone()
    return 0 if found is None else int(found[0])


class Sealer:
    """Seals topic and payload for one installation."""

    def __init__(self, key_text: str) -> None:
        self._cipher = AESGCM(bytes.fromhex(key_for(key_text, PURPOSE)))

    def seal(self, topic: str, body: bytes, bound_to: str) -> bytes:
        """Nonce and ciphertext."""
        name = topic.encode()
        nonce = secrets.token_bytes(_NONCE_BYTES)
        clear = len(name).to_bytes(_TOPIC_BYTES, "big") + name + body
        return nonce + self._cipher.encrypt(nonce, clear, bound_to.encode())

    def open(self, sealed: bytes, bound_to: str) -> tuple[str, bytes] | None:
        """Topic and payload; None for what was sealed under another key, or was changed."""
        try:
            clear = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to.encode())
        except (InvalidTag, ValueError):
            return None
        end = _TOPIC_BYTES + int.from_bytes(clear[:_TOPIC_BYTES], "big")
        return clear[_TOPIC_BYTES:end].decode(), clear[end:]
