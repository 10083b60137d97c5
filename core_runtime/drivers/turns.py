"""Whose turn it is on the loop: what links of one loop share. One read of one link is a turn.

Not here: reading and writing (``link``), how long a rest is (``rules.sharing``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from core_runtime.drivers.busy_poll import BusyPoll
from core_runtime.rules.sharing import SHARED_FOR_S


class Waits(Protocol):
    """A link as its turn knows it."""

    only: Waits | None
    """Whom its turns last had something for."""
    mixed_at: float
    """When that last was another one than before, by ``time.monotonic``."""

    def flush(self) -> None:
        """Write what was queued."""


class Turn:
    """Which links have something to write when the read under way has been handled, and who is served at all."""

    __slots__ = ("poll", "reading", "seen", "waiting")

    def __init__(self) -> None:
        self.reading = False
        self.waiting: list[Waits] = []
        """Each of these writes its frames at the end of the read."""
        self.seen: dict[Waits, float] = {}
        """When each was last read from, by ``time.monotonic``; what is old goes when somebody asks."""
        self.poll = BusyPoll()

    def end(self, reader: Waits) -> None:
        """The read of ``reader`` has been handled."""
        self.reading = False
        waiting = self.waiting
        if waiting:
            self.waiting = []
            if waiting[0] is not reader.only or len(waiting) > 1:
                self._note(reader, waiting)
            for link in waiting:
                link.flush()

    @staticmethod
    def _note(reader: Waits, waiting: list[Waits]) -> None:
        for link in waiting:
            if link is not reader and link is not reader.only:
                if reader.only is not None:
                    reader.mixed_at = time.monotonic()
                reader.only = link

    def others(self, asking: Waits, partners: Partners) -> bool:
        """Whether somebody else was read from lately, the partners of ``asking`` apart.

        A partner who has something for others as well is one of these others: else a link could stall whom it likes
        by sending each of them a word. Two whose turns had something for each other alone stay partners in turns that
        have nothing for anybody yet: a value that comes in pieces is the other's once it is whole.
        """
        partners.note(self.waiting)
        return self.shared(asking, partners)

    def shared(self, asking: Waits, partners: Partners) -> bool:
        """The same of somebody whose turn this is not."""
        since = time.monotonic() - SHARED_FOR_S
        for link in [link for link, at in self.seen.items() if at < since]:
            del self.seen[link]
        alone = asking.only if asking.mixed_at < since else None
        return any(
            link is not asking
            and (
                link.mixed_at >= since
                or not (link.only is asking or (link.only is None and link in partners))
                or (link is not alone and link not in partners)
            )
            for link in self.seen
        )


class Partners:
    """Whom the turns of one link lately had something for: two that call each other need not share.

    Lately: within one to two times ``rules.sharing.SHARED_FOR_S``.
    """

    __slots__ = ("_before", "_now", "_until")

    def __init__(self) -> None:
        self._now: set[Waits] = set()
        self._before: set[Waits] = set()
        self._until = 0.0

    def __contains__(self, link: Waits) -> bool:
        return link in self._now or link in self._before

    def note(self, links: Iterable[Waits]) -> None:
        """These are partners from now on."""
        now = time.monotonic()
        if now >= self._until:
            stale = now >= self._until + SHARED_FOR_S
            self._before, self._now, self._until = set() if stale else self._now, set(), now + SHARED_FOR_S
        self._now.update(links)
