"""Checking a hash-chained log against its head. Pure.

Each line is a JSON object with ``seq`` (1, 2, …) and ``prev``, the SHA-256 of the line before (without its newline);
the head, signed and kept elsewhere, names the last line. The chain alone proves order; only the head proves the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from backend_core.canonical import sha256_hex

GENESIS: Final = "0" * 64
MAX_TEXT_CHARS = 2000
MAX_ITEMS = 200
MAX_DEPTH = 6


class Head(Struct, frozen=True):
    """The last line that was written: its number and hash, and those of the last one that was also synced.

    Lines after the synced one may be lost in a power cut; that is counted, and is no fault.
    """

    seq: int
    last: str
    synced: int | None = None
    synced_last: str = ""

    @property
    def certain(self) -> tuple[int, str]:
        """Number and hash of the last line that must be there."""
        return (self.seq, self.last) if self.synced is None else (self.synced, self.synced_last)


class AuditReport(Struct, frozen=True):
    """Outcome of a check. ``bad_record`` is the number of the first record that does not fit, 0 when all do.

    ``problem`` is ``edited`` (content, order or a removed line), ``truncated`` (lines the head knows are gone),
    ``unsigned_tail`` (more lines than a crash can leave), ``head_*``/``key_*`` (the head can't be believed) or ``""``;
    ``torn_bytes`` counts an incomplete last line, ``lost`` unsynced lines that a power cut took: what a crash
    leaves, no fault.
    """

    records: int
    last: str
    good_bytes: int
    problem: str = ""
    bad_record: int = 0
    torn_bytes: int = 0
    lost: int = 0

    @property
    def ok(self) -> bool:
        """Whether the evidence is complete and unchanged; a torn last line is."""
        return not self.problem

    def sentence(self) -> str:
        """For the operator."""
        torn = f" An incomplete last line ({self.torn_bytes} bytes) is what a crash leaves." if self.torn_bytes else ""
        if self.ok:
            return f"{self.records} records, unchanged and complete.{torn}"
        return f"Record {self.bad_record} is the first that does not fit: {self.problem}.{torn}"


def check(data: bytes, head: Head | str) -> AuditReport:
    """Check all lines of ``data``; ``head`` may be the cause why there is none to believe."""
    whole, _, torn = data.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    last, hashes = GENESIS, [GENESIS]
    good = 0
    for number, line in enumerate(lines, start=1):
        record = _record(line)
        if record is None or record.get("seq") != number or record.get("prev") != last:
            return AuditReport(number - 1, last, good, "edited", number, len(data) - good)
        last = sha256_hex(line)
        hashes.append(last)
        good += len(line) + 1
    problem, bad = _against_head(hashes, head)
    lost = max(0, head.seq - len(lines)) if isinstance(head, Head) and not problem else 0
    return AuditReport(len(lines), last, good, problem, bad, len(torn), lost)


def _against_head(hashes: Sequence[str], head: Head | str) -> tuple[str, int]:
    count = len(hashes) - 1
    if isinstance(head, str):
        return head, count + 1
    certain, expected = head.certain
    if certain > count:
        return "truncated", count + 1
    if hashes[certain] != expected:
        return "edited", certain
    if head.seq <= count and hashes[head.seq] != head.last:
        return "edited", head.seq
    if count > head.seq + 1:
        return "unsigned_tail", head.seq + 2
    return "", 0


def _record(line: bytes) -> Mapping[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def bounded(value: Any, depth: int = 0) -> Any:
    """A value as bounded JSON: long texts cut, large collections cut, foreign types as text."""
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT_CHARS else value[:MAX_TEXT_CHARS] + "…"
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)[:64]
    if depth >= MAX_DEPTH:
        return "…"
    if isinstance(value, Mapping):
        return {str(name)[:100]: bounded(item, depth + 1) for name, item in list(value.items())[:MAX_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else list(value)
        return [bounded(item, depth + 1) for item in items[:MAX_ITEMS]]
    return str(value)[:MAX_TEXT_CHARS]
