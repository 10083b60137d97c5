"""Busy polling: after a write the loop looks for what comes for a moment, instead of sleeping until it is woken.

A call is answered within microseconds more often than not, and to wake a processor that went to sleep takes longer than
the call itself, in virtual machines above all. So the loop stays awake for ``POLL_S`` after a write: each of its turns
looks at every connection, and leaves the processor to whoever else wants it. What it looked for in vain too often it
looks for no longer.

Invariants:
  * Nobody waits for it: a turn in which it polls serves everything that any other turn serves.
  * A write is followed by ``POLL_S`` of polling at most, and writes whose answers take longer by one ``PROBE``-th of it
    on average.
  * With one processor nothing is polled: whoever is to answer needs it.

Not here: reading and writing (``link``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from time import monotonic
from typing import Final

POLL_S: Final = 0.0002
"""Waking a processor took 30 to 150 µs where it was measured, a short handler 10 to 60; see ADR 53."""
MOST: Final = 16
"""How many polls in vain, one after the other, end it."""
PROBE: Final = 64
"""Of so many writes one is polled after all, to learn whether answers have become quick."""


if hasattr(os, "sched_yield"):
    _give_way: Callable[[], None] = os.sched_yield
else:  # macOS, Windows

    def _give_way() -> None:
        time.sleep(0)


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class BusyPoll:
    """Of one event loop, and for its thread alone."""

    __slots__ = ("_loop", "_on", "_passed", "_probe", "credit", "until")

    def __init__(self) -> None:
        pays = processors() > 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on = False
        self._passed = 0
        self._probe = PROBE if pays else float("inf")
        self.credit = MOST if pays else 0
        """How many more polls in vain are paid for: one for each that was not."""
        self.until = 0.0
        """When it sleeps again, by ``time.monotonic``. Whoever reads something sets 0: that ends the wait."""

    def wrote(self) -> None:
        """Something left that may be answered soon."""
        if self._on:
            self.until = monotonic() + POLL_S
            return
        if not self.credit:
            self._passed += 1
            if self._passed < self._probe:
                return
            self._passed = 0
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._on = True
        self.until = monotonic() + POLL_S
        loop.call_soon(self._look)

    def _look(self) -> None:
        """Once in each turn of the loop, before it looks at its connections."""
        if not self.until:
            self._on = False
            if self.credit < MOST:
                self.credit += 1
        elif monotonic() < self.until:
            _give_way()
            assert self._loop is not None
            self._loop.call_soon(self._look)
        else:
            self._on = False
            if self.credit:
                self.credit -= 1
