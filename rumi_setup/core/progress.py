"""Says what is being done, on stderr: one line that is redrawn on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_BAR_CELLS = 20
_REDRAW_S = 0.1


class Progress(Protocol):
    """What a setup step reports to; a web page or a rich bar may take the console's place."""

    def note(self, text: str) -> None:
        """A sentence that stays."""

    def step(self, text: str, done: int, total: int) -> None:
        """Step `done` of `total` begins."""

    def finish(self) -> None:
        """The last step is over, well or not."""


class Silent:
    """Reports nothing."""

    def note(self, text: str) -> None:
        del text

    def step(self, text: str, done: int, total: int) -> None:
        del text, done, total

    def finish(self) -> None:
        return


class Console:
    """Draws on a text stream; a thread keeps the elapsed seconds moving while a child process works."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._guard = threading.Lock()
        self._current: tuple[str, int, int] | None = None
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._painter: threading.Thread | None = None

    def note(self, text: str) -> None:
        with self._guard:
            self._wipe()
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def step(self, text: str, done: int, total: int) -> None:
        with self._guard:
            self._wipe()
            self._current = (text, done, total)
            self._began = time.monotonic()
            if not self._live:
                self._stream.write(f"[{done}/{total}] {text}\n")
                self._stream.flush()
                return
        if self._painter is None:
            self._stop.clear()
            self._painter = threading.Thread(target=self._paint, name="progress", daemon=True)
            self._painter.start()

    def finish(self) -> None:
        self._stop.set()
        if self._painter is not None:
            self._painter.join()
            self._painter = None
        with self._guard:
            self._wipe()
            self._current = None

    def _wipe(self) -> None:
        if self._live and self._current is not None:
            self._stream.write("\r\x1b[K")

    def _paint(self) -> None:
        while not self._stop.wait(_REDRAW_S):
            with self._guard:
                if self._current is None:
                    continue
                text, done, total = self._current
                filled = _BAR_CELLS * done // max(total, 1)
                bar = "#" * filled + "-" * (_BAR_CELLS - filled)
                self._stream.write(f"\r\x1b[K[{bar}] {text} {time.monotonic() - self._began:.0f} s")
                self._stream.flush()


@contextmanager
def reporting(progress: Progress | None) -> Iterator[Progress]:
    """The given reporter or a console, wiped at the end whatever happened."""
    reporter: Progress = progress if progress is not None else Console()
    try:
        yield reporter
    finally:
        reporter.finish()
