"""Lines of one Pack on their way to the log, within a rate; what exceeds it is dropped and counted in the log."""

from __future__ import annotations

import time
from collections.abc import Callable

from core_runtime.rules import frames
from core_runtime.rules.frames import LOG_CHARS

WARNING = 30
HIGHEST = 50
FRAME_COST = 16
"""Bytes that a line costs beside its text, so that empty ones are not free."""


class PackLog:
    """The log of one session. ``write(level, source, text)`` takes what may pass."""

    def __init__(
        self, write: Callable[[int, str, str], None], bytes_per_s: int, dropped: Callable[[], None] = lambda: None
    ) -> None:
        """``dropped`` is called for each line that may not pass."""
        self._write = write
        self._dropped = dropped
        self._rate = float(bytes_per_s)
        self._budget = self._rate
        self._time = time.monotonic()
        self.lost = 0

    def take(self, frame: frames.LogFrame) -> None:
        """LOG."""
        now = time.monotonic()
        self._budget = min(self._budget + (now - self._time) * self._rate, self._rate)
        self._time = now
        text = frame.text[:LOG_CHARS]
        size = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
        if self._budget < size:
            self.lost += 1
            self._dropped()
            return
        self._budget -= size + FRAME_COST
        if self.lost:
            lost, self.lost = self.lost, 0
            self._write(WARNING, "host", f"{lost} log frames were dropped (rate limit)")
        self._write(min(frame.level, HIGHEST), frame.source, text)
