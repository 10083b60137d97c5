"""Which of many Packs break a call: what to try next, and what was found. Pure.

The candidates stand in an order in which each comes after what it needs. A trial runs the first so many of them,
beside those already found; where its outcome turns from good to bad stands one that is needed to break the call.

Invariants:
  * With n candidates one culprit costs at most ``ceil(log2 n)`` trials, each further one that it needs so many more
    and one.
  * What is found breaks the call together, and each of it was seen to be needed; assumed is that Packs only add to
    what breaks it, never mend it.

Not here: starting, stopping, calling (``handlers.bisect``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

MOST_FOUND: Final = 4
"""Packs that break a call only together; beyond that the search gives up and names those found."""


class Search:
    """One search. It begins after two trials: without any candidate the call is good, with all of them bad."""

    def __init__(self, candidates: Sequence[str]) -> None:
        self._candidates = tuple(candidates)
        self._good, self._bad = 0, len(self._candidates)
        self.found: tuple[str, ...] = ()
        self.done = not self._candidates
        self._alone = False
        self._narrow()

    def trial(self) -> frozenset[str]:
        """The candidates that are to run now."""
        count = 0 if self._alone else (self._good + self._bad) // 2
        return frozenset(self._candidates[:count]).union(self.found)

    def tell(self, *, bad: bool) -> None:
        """How the trial came out."""
        if self._alone:
            self._alone = False
            self.done = bad or len(self.found) >= MOST_FOUND
            if self.done:
                return
        elif bad:
            self._bad = (self._good + self._bad) // 2
        else:
            self._good = (self._good + self._bad) // 2
        self._narrow()

    def _narrow(self) -> None:
        """Where one step lies between good and bad, the candidate of that step is needed."""
        if self.done or self._bad - self._good > 1:
            return
        self.found = (*self.found, self._candidates[self._bad - 1])
        self._good, self._bad = 0, self._bad - 1
        self._alone = True
        self.done = self._bad == 0  # nothing else is left that it could need


def closure(names: Iterable[str], needs: Mapping[str, Iterable[str]]) -> frozenset[str]:
    """``names`` with everything that they need."""
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left.extend(needs.get(name, ()))
    return frozenset(found)


def in_order(names: Iterable[str], needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """``names``, each after those of them that it needs, as far as no circle is in the way; else by name."""
    wanted = set(names)
    placed: dict[str, None] = {}
    for first in sorted(wanted):
        stack = [(first, False)]
        entered: set[str] = set()
        while stack:
            name, left = stack.pop()
            if left:
                placed.setdefault(name)
            elif name not in placed and name not in entered:
                entered.add(name)
                stack.append((name, True))
                stack.extend((need, False) for need in sorted(needs.get(name, ()), reverse=True) if need in wanted)
    return tuple(placed)
