"""The order of a phased document's steps: phase, priority, id, and then behind what they depend on. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

from msgspec import Struct

Rank = tuple[int, int, str]


class Place(Struct, frozen=True):
    """One step: what it is ordered by, and the ids that it comes after."""

    id: str
    rank: Rank
    after: tuple[str, ...]


def ordered(steps: Sequence[Place]) -> tuple[list[int], list[int]]:
    """Numbers of the steps in their order, and of those that wait for each other in a circle.

    A dependency on an id that is not there, or that a later phase holds, is the caller's problem: it is ignored here.
    """
    numbers: Mapping[str, int] = {step.id: number for number, step in enumerate(steps)}
    waits: list[set[int]] = []
    followers: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        wanted = {numbers[one] for one in step.after if one in numbers and not _later(steps[numbers[one]], step)}
        waits.append(wanted)
        for other in wanted:
            followers.setdefault(other, []).append(number)
    ready = [(steps[number].rank, number) for number, wanted in enumerate(waits) if not wanted]
    heapq.heapify(ready)
    found: list[int] = []
    while ready:
        _, number = heapq.heappop(ready)
        found.append(number)
        for other in followers.get(number, ()):
            waits[other].discard(number)
            if not waits[other]:
                heapq.heappush(ready, (steps[other].rank, other))
    done = set(found)
    return found, [number for number in range(len(steps)) if number not in done]


def _later(one: Place, other: Place) -> bool:
    return one.rank[0] > other.rank[0]
