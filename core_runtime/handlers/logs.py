"""What Packs print and log, kept in memory: a bounded ring for each Pack.

Invariants:
  * A Pack's ring holds at most ``LINES`` lines of ``LINE_CHARS`` characters, whatever the Pack writes.
  * Text is kept as it came; whoever shows it escapes it. Nothing of it is interpreted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from msgspec import Struct

LINES = 2_000
LINE_CHARS = 8_000
PACKS = 5_000


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


class PackLogs:
    """Rings by Pack. Written and read on the event loop's thread."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._rings: dict[str, deque[LogLine]] = {}

    def write(self, pack_id: str, generation: int, level: int, source: str, text: str) -> None:
        """Append; the oldest line goes when the ring is full."""
        ring = self._rings.get(pack_id)
        if ring is None:
            if len(self._rings) >= PACKS:
                return
            ring = self._rings[pack_id] = deque(maxlen=LINES)
        for line in text[:LINE_CHARS].splitlines() or [""]:
            ring.append(LogLine(self._clock(), generation, level, source[:200], line))

    def tail(self, pack_id: str, lines: int) -> list[LogLine]:
        """The newest lines, oldest first."""
        ring = self._rings.get(pack_id, ())
        return list(ring)[-lines:] if lines > 0 else []

    def forget(self, pack_id: str) -> None:
        """The Pack was removed."""
        self._rings.pop(pack_id, None)
