"""Append-only evidence: JSON lines, each with the hash of the line before, and a signed head kept elsewhere.

Invariants:
  * A line is written and synced before the head names it, so the head is at most one line behind and never ahead; a
    head that is ahead proves that lines were taken away.
  * A torn last line (a crash while writing) is told from truncation by the head. It is cut off, and that is recorded.
  * ``append`` never fails for what the fields hold: they are bounded and written as ASCII with escapes.

  * A line that could not be written is told at once (``side_work``), and the next one that can be says which were lost.

``verify`` names the first bad record. Without a usable key lines are still written; only the head can't be.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from backend_core.canonical import sha256_hex
from backend_core.errors import HostError, TrustError, quote
from backend_core.files import private_folder, write_all
from core_runtime.drivers.counters import SlotFile
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.side_work import Mishap, Report, unheard
from core_runtime.rules.chain import GENESIS, AuditReport, Head, bounded, check

HEAD_SLOT_BYTES: Final = 2048
TAIL_BLOCK_BYTES: Final = 64 * 1024
RECOVERED = "evidence.recovered"
LOST: Final = "evidence.lost"
MOST_LOST_NAMED: Final = 20


class _Cursor(Struct):
    seq: int
    last: str
    synced: int
    synced_last: str


class ChainedLog:
    """One hash-chained file with its head. Thread-safe; one process writes."""

    def __init__(
        self,
        path: Path,
        head: str,
        keyring: Keyring,
        *,
        clock: Callable[[], float] = time.time,
        report: Report = unheard,
    ) -> None:
        self.path = path
        self._report = report
        self._mishap = Mishap(
            "audit_unwritable", path.stem, "Evidence can't be written",
            "Make room on the disk that holds user_data; decisions wait until then.", "error",
        )  # fmt: skip
        self._lost = 0
        self._lost_events: list[str] = []
        self._keyring = keyring
        self._head = SlotFile(keyring.folder / head, keyring, slot_bytes=HEAD_SLOT_BYTES)
        self._clock = clock
        self._mutex = threading.Lock()
        self._cursor: _Cursor | None = None

    def append(self, record: Mapping[str, Any], *, sync: bool = True) -> dict[str, Any]:
        """Write one record; ``seq``, ``ts`` and ``prev`` are added. Raises ``HostError`` when it can't be written."""
        try:
            with self._mutex:
                written, recovered = self._append(record, sync=sync)
        except HostError as failure:
            self._report(self._mishap, failure)
            raise
        if recovered:
            self._report(self._mishap, None)
        return written

    def tail(self, count: int) -> list[dict[str, Any]]:
        """The last ``count`` complete records, oldest first; unreadable lines are passed over."""
        lines: list[bytes] = []
        try:
            with self.path.open("rb") as file:
                position = file.seek(0, os.SEEK_END)
                data = b""
                while position > 0 and data.count(b"\n") <= count:
                    step = min(TAIL_BLOCK_BYTES, position)
                    position = file.seek(position - step)
                    data = file.read(step) + data
                lines = data.splitlines()[-count:] if count > 0 else []
        except FileNotFoundError:
            return []
        records = (_loads(line) for line in lines)
        return [record for record in records if record is not None]

    def verify(self) -> AuditReport:
        """Read everything and compare with the head."""
        with self._mutex:
            try:
                data = self.path.read_bytes()
            except FileNotFoundError:
                data = b""
            return check(data, self._read_head())

    def _read_head(self) -> Head | str:
        """The head, the zero head without a file, or the cause why the one that is there can't be believed."""
        found = self._head.load()
        if found is None:
            return Head(0, GENESIS)
        if not isinstance(found, dict):
            return found.cause
        return Head(int(found["seq"]), str(found["last"]), int(found["synced"]), str(found["synced_last"]))

    def _open(self) -> _Cursor:
        """Find the end of the chain, cut off what a crash left, and record both that and missing lines."""
        private_folder(self.path.parent)
        self._keyring.ensure_fresh()
        report = check(self.path.read_bytes() if self.path.exists() else b"", self._read_head())
        cursor = _Cursor(report.records, report.last, report.records, report.last)
        if report.torn_bytes:
            os.truncate(self.path, report.good_bytes)
        if report.torn_bytes or report.problem:
            self._write(
                cursor, {"event": RECOVERED, "torn_bytes": report.torn_bytes, "problem": report.problem}, sync=True
            )
        return cursor

    def _append(self, record: Mapping[str, Any], *, sync: bool) -> tuple[dict[str, Any], bool]:
        """The record as written, and whether it is the first one after some that were lost."""
        try:
            cursor = self._cursor or self._open()
            recovered = self._tell_lost(cursor)
            written = self._write(cursor, record, sync=sync)
        except OSError as error:
            event = str(record.get("event", ""))[:100]
            self._cursor = None
            self._lost += 1
            if len(self._lost_events) < MOST_LOST_NAMED and event not in self._lost_events:
                self._lost_events.append(event)
            raise HostError(
                self._mishap.title,
                code=self._mishap.code,
                detail=f"{self.path.name}: {error.strerror}; the record {event} was lost.",
                hint=self._mishap.hint,
            ) from error
        self._cursor = cursor
        return written, recovered

    def _tell_lost(self, cursor: _Cursor) -> bool:
        """Before anything else, what is missing here: a gap that nobody sees would be one that anybody could make."""
        if not self._lost:
            return False
        told = {"event": LOST, "count": self._lost, "events": self._lost_events}
        self._write(cursor, told, sync=True)
        self._lost, self._lost_events = 0, []
        return True

    def _write(self, cursor: _Cursor, record: Mapping[str, Any], *, sync: bool) -> dict[str, Any]:
        full = {**bounded(record), "seq": cursor.seq + 1, "ts": round(self._clock(), 3), "prev": cursor.last}
        line = json.dumps(full, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, line)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        cursor.seq, cursor.last = cursor.seq + 1, sha256_hex(line[:-1])
        if sync:
            cursor.synced, cursor.synced_last = cursor.seq, cursor.last
        if not self._keyring.fault():
            head = {"seq": cursor.seq, "last": cursor.last, "synced": cursor.synced, "synced_last": cursor.synced_last}
            self._head.store(head, both=False, sync=sync)
        return full


class AuditLog:
    """Every decision of the host: who, what, about which Pack, and its outcome."""

    def __init__(
        self,
        home: Path,
        *,
        clock: Callable[[], float] = time.time,
        conceal: Callable[[Any], Any] | None = None,
        report: Report = unheard,
    ) -> None:
        """The log lives in ``user_data/audit/``, its head in ``user_data/permissions/``.

        ``conceal`` is applied to the fields of every record: a refused path or name may spell a Pack's secret.
        ``report`` is told of every record that could not be written.
        """
        self._conceal = conceal
        keyring = Keyring(home / "user_data" / "permissions")
        path = home / "user_data" / "audit" / "audit.jsonl"
        self._log = ChainedLog(path, ".audit_head", keyring, clock=clock, report=report)

    @property
    def path(self) -> Path:
        """The file of JSON lines."""
        return self._log.path

    def append(self, event: str, **fields: Any) -> None:
        """Record a decision, durably. Raises ``HostError``: what can't be recorded is not done."""
        self._log.append({**self._concealed(fields), "event": event})

    def note(self, event: str, **fields: Any) -> None:
        """Record what happens often (denials, uses) without waiting for the disk."""
        self._log.append({**self._concealed(fields), "event": event}, sync=False)

    def happened(self, event: str, *, sync: bool = True, **fields: Any) -> None:
        """Record what is so already and must not fail for want of room. A record that is lost is an issue."""
        with contextlib.suppress(HostError):  # `append` of the log told it
            self._log.append({**self._concealed(fields), "event": event}, sync=sync)

    def tail(self, count: int) -> list[dict[str, Any]]:
        """The last records, oldest first."""
        return self._log.tail(count)

    def verify(self) -> AuditReport:
        """Whether anything was edited, reordered or taken away."""
        return self._log.verify()

    def require(self) -> None:
        """Raise ``TrustError`` when the evidence does not verify."""
        report = self.verify()
        if not report.ok:
            raise TrustError("The audit trail does not verify", code="audit_broken", detail=report.sentence())

    def _concealed(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields if self._conceal is None else dict(self._conceal(fields))


def _loads(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else {"event": quote(record)}
