"""How long a connection that keeps the host's loop busy leaves it to others afterwards. Pure.

Every call passes through one loop, which serves a connection for a turn and then everybody else. That alone does not
protect a call: it passes the loop four times, and a flood makes it wait for a whole turn each time. So whoever takes
turn after turn while somebody else has something to do has shorter turns, and rests after each.

A rest grows with the cube of the turn: twice the stall comes an eighth as often, since what others lose at their 99th
percentile is the length of a stall wherever it meets more than one call in a hundred; and what kept the loop for long
keeps its receiver busy for as long, on the same processors. Where the receiver takes the processor from the loop in the
middle of the turn that woke it, others wait for that as well.
"""

from __future__ import annotations

from typing import Final

TURN_S: Final = 0.00025
"""Of a connection that nobody else waits beside."""
SHARED_TURN_S: Final = 0.0001
SHARED_FOR_S: Final = 0.02
"""How long a connection counts as sharing the loop after somebody else was last served."""
REST: Final = 5.0
"""Rests for each turn, of the shortest length that rests."""
MIN_REST_S: Final = 0.003
"""A turn sets others to work, for about three times as long as itself, and all that has to be rare: with a millisecond
between two turns a flood of small frames met every second call of others."""
STOPPED_FACTOR: Final = 3.0
"""Of the processor's time of a turn: more of the clock's time does not count, since it may be anybody's doing."""
MAX_REST_S: Final = 0.5
CARRIED_BYTES_PER_S: Final = 10_000_000.0
"""Of a long value that its sender could have handed on as a file: the loop reads it and writes it piece by piece."""
MAX_DEBT_S: Final = 2.0
"""Of such rests one after the other: who is not read from for as long as ``Session.ping`` waits, 5 s, seems stuck."""
MAX_PLACE_REST_S: Final = 0.02
"""Of a place for requests: what took longer has waited, for a disk or for somebody outside, and cost nobody."""


def carried_rest_s(size_bytes: int) -> float:
    """Seconds of rest for who had the loop carry a value of that size by itself, others being served beside it."""
    return min(size_bytes / CARRIED_BYTES_PER_S, MAX_REST_S)


def rests_until_s(until_s: float, now_s: float, seconds: float) -> float:
    """When a rest of ``seconds`` ends for somebody who rests until ``until_s`` already: one follows the other."""
    return min(max(until_s, now_s) + seconds, now_s + MAX_DEBT_S)


def rest_s(cpu_s: float, passed_s: float = 0.0) -> float:
    """Seconds of rest after a turn that took ``cpu_s`` of the processor and ``passed_s`` by the clock, others being
    served beside it.

    A turn within ``SHARED_TURN_S`` needs none: it is what everybody has.
    """
    spent_s = max(cpu_s, min(passed_s, STOPPED_FACTOR * cpu_s))
    if spent_s <= SHARED_TURN_S:
        return 0.0
    return min(max(REST * spent_s * (spent_s / SHARED_TURN_S) ** 2, MIN_REST_S), MAX_REST_S)
