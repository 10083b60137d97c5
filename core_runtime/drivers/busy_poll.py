"""Busy polling: after a call the loop looks for its answer for a moment, instead of sleeping until it is woken.

A call is answered within microseconds more often than not, and to wake a processor that went to sleep takes longer than
the call itself, in virtual machines above all. So the loop stays awake for ``POLL_S`` after it sent a call to a Pack,
and after it sent a Pack an answer, which may be followed by that Pack's next call. Each of its turns looks at every
connection, and leaves the processor to whoever else wants it. What it looked for in vain too often, of either, it looks
for no longer.

Invariants:
  * Nobody waits for it: a turn in which it polls serves everything that any other turn serves.
  * What is followed by something within ``POLL_S`` every second time at least is polled for; else one of ``PROBE`` is.
  * With one processor nothing is polled: whoever is to answer needs it.

Not here: reading, writing, and which frames are calls and answers (``link``).
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
"""So many polls in vain, one after the other, end it."""
PROBE: Final = 64
"""One of so many is polled for after all, to learn whether answers have become quick."""
AFTER_CALL, AFTER_ANSWER, NOTHING = 0, 1, -1


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

    __slots__ = ("_left", "_loop", "_on", "_passed", "_probe", "_what", "until")

    def __init__(self) -> None:
        pays = processors() > 1
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on = False
        self._what = AFTER_CALL
        self._left = [MOST, MOST] if pays else [0, 0]
        """How many more polls in vain are paid for, after a call and after an answer: one for each that was not."""
        self._passed = [0, 0]
        self._probe = PROBE if pays else float("inf")
        self.until = 0.0
        """When it sleeps again, by ``time.monotonic``. Whoever reads something sets 0: that ends the wait."""

    def sent(self, what: int, loop: asyncio.AbstractEventLoop) -> None:
        """Calls or answers go out: ``AFTER_CALL``, ``AFTER_ANSWER``, of both the last.

        ``loop``: the one that all of this is of.
        """
        if not self._left[what]:
            self._passed[what] += 1
            if self._passed[what] < self._probe:
                return
            self._passed[what] = 0
        if self._on:
            if not self.until:
                self._came()
        else:
            self._on = True
            self._loop = loop
            loop.call_soon(self._look)
        self._what = what
        self.until = monotonic() + POLL_S

    def _look(self) -> None:
        """Once in each turn of the loop, before it looks at its connections."""
        if not self.until:
            self._on = False
            self._came()
        elif monotonic() < self.until:
            _give_way()
            assert self._loop is not None
            self._loop.call_soon(self._look)
        else:
            self._on = False
            if self._left[self._what]:
                self._left[self._what] -= 1

    def _came(self) -> None:
        if self._left[self._what] < MOST:
            self._left[self._what] += 1
