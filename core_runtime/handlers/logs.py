"""What Packs print and log, kept in memory: a bounded ring for each Pack.

Invariants:
  * A Pack's ring holds at most ``LINES`` lines of ``LINE_CHARS`` characters, and no more memory than its limit of kept
    log (``Limits.log_bytes_kept``) plus one line, whatever the Pack writes: the oldest lines go.
  * Text is kept as it came; whoever shows it escapes it. Nothing of it is interpreted.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from core_runtime.rules.sandbox import Limits

LINES = 2_000
LINE_CHARS = 8_000
PACKS = 5_000
LINE_COST = 200
"""Bytes that a line takes beside its text and source."""


class LogLine(Struct, frozen=True):
    """One line. ``level`` in Python's numbers; ``source`` is ``stdout``, ``stderr`` or ``log:<logger>``."""

    ts: float
    generation: int
    level: int
    source: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        return {
            "ts": self.ts,
            "generation": self.generation,
            "level": self.level,
            "source": self.source,
            "text": self.text,
        }


class _Ring:
    """The lines of one Pack, and the memory that they take."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self.held = 0

    def add(self, line: LogLine, most: int) -> None:
        self.lines.append(line)
        self.held += _cost(line)
        while len(self.lines) > LINES or (self.held > most and len(self.lines) > 1):
            self.held -= _cost(self.lines.popleft())


class PackLogs:
    """Rings by Pack. Written and read on the event loop's thread."""

    def __init__(self, *, clock: Callable[[], float] = time.time, kept_bytes: int = Limits().log_bytes_kept) -> None:
        self._clock = clock
        self._kept_bytes = kept_bytes
        self._rings: dict[str, _Ring] = {}

    def write(self, pack_id: str, generation: int, level: int, source: str, text: str) -> None:
        """Append; the oldest line goes when the ring is full."""
        ring = self._rings.get(pack_id)
        if ring is None:
            if len(self._rings) >= PACKS:
                return
            ring = self._rings[pack_id] = _Ring()
        now, source = self._clock(), source[:200]
        for line in text[:LINE_CHARS].splitlines() or [""]:
            ring.add(LogLine(now, generation, level, source, line), self._kept_bytes)

    def tail(self, pack_id: str, lines: int) -> list[LogLine]:
        """The newest lines, oldest first."""
        ring = self._rings.get(pack_id)
        return list(ring.lines)[-lines:] if ring is not None and lines > 0 else []

    def held_bytes(self, pack_id: str) -> int:
        """Memory that a Pack's lines take."""
        ring = self._rings.get(pack_id)
        return ring.held if ring is not None else 0

    def forget(self, pack_id: str) -> None:
        """The Pack was removed."""
        self._rings.pop(pack_id, None)


def _cost(line: LogLine) -> int:
    # a character takes one byte or four, as the widest in its text does
    return LINE_COST + sys.getsizeof(line.text) + sys.getsizeof(line.source)
