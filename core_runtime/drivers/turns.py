"""Whose turn it is on the loop: what links of one loop share. One read of one link is a turn.

Not here: reading and writing (``link``), how long a rest is (``rules.sharing``).
"""

from __future__ import annotations

from typing import Protocol


class Waits(Protocol):
    """A link as its turn knows it."""

    def flush(self) -> None:
        """Write what was queued."""


class Turn:
    """Which links have something to write when the read under way has been handled, and who is served at all."""

    __slots__ = ("reading", "seen", "waiting")

    def __init__(self) -> None:
        self.reading = False
        self.waiting: list[Waits] = []
        """Each of these writes its frames at the end of the read."""
        self.seen: set[Waits] = set()
        """What has been read from since a link last asked for ``others``."""

    def end(self) -> None:
        """The read has been handled."""
        self.reading = False
        waiting = self.waiting
        if waiting:
            self.waiting = []
            for link in waiting:
                link.flush()

    def others(self, asking: Waits) -> bool:
        """Whether somebody else was read from since a link last asked.

        Whom the turn of ``asking`` has something for does not count: two that call each other need not share.
        """
        others = any(link is not asking and link not in self.waiting for link in self.seen)
        self.seen.clear()
        return others
