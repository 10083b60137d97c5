"""The last hour of a Pack's calls as a line of one minute steps: numbers in, coordinates and sums out. Pure.

Invariants: a minute that was not measured (the Pack did not run, the host was down) is a gap, not a zero; nothing here
is text of a Pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MINUTES: Final = 60
WIDTH, HEIGHT, EDGE = 240, 40, 3


@dataclass(frozen=True, slots=True)
class Sparkline:
    """``lines``: points of each unbroken stretch. ``marks``: where there were errors. ``minutes``: newest first."""

    lines: tuple[str, ...]
    marks: tuple[tuple[float, float], ...]
    calls: int
    errors: int
    most: int
    minutes: tuple[Mapping[str, Any], ...]


def sparkline(samples: Sequence[Mapping[str, Any]], now_s: float) -> Sparkline | None:
    """None where nothing was measured in the last hour. A sample is of the minute that ends with its ``ts``."""
    minutes: dict[int, tuple[int, int]] = {}
    for sample in samples:
        at = MINUTES - 1 - int((now_s - sample["ts"]) // 60)
        if 0 <= at < MINUTES:
            calls, errors = minutes.get(at, (0, 0))
            minutes[at] = (calls + sample["calls"], errors + sample["errors"])
    if not minutes:
        return None
    most = max(calls for calls, _ in minutes.values())
    places = {at: _place(at, calls, most) for at, (calls, _) in minutes.items()}
    return Sparkline(
        lines=tuple(" ".join(f"{x:g},{y:g}" for x, y in stretch) for stretch in _stretches(places)),
        marks=tuple(places[at] for at, (_, errors) in sorted(minutes.items()) if errors),
        calls=sum(calls for calls, _ in minutes.values()),
        errors=sum(errors for _, errors in minutes.values()),
        most=most,
        minutes=tuple(one for one in reversed(samples) if one["calls"] and now_s - one["ts"] < MINUTES * 60),
    )


def _place(at: int, calls: int, most: int) -> tuple[float, float]:
    x = EDGE + at * (WIDTH - 2 * EDGE) / (MINUTES - 1)
    y = HEIGHT - EDGE - (calls / most if most else 0.0) * (HEIGHT - 2 * EDGE)
    return round(x, 1), round(y, 1)


def _stretches(places: Mapping[int, tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Minutes that follow each other. One that stands alone is drawn as a short line, since a point has no length."""
    found: list[list[tuple[float, float]]] = []
    before = -2
    for at in sorted(places):
        if at != before + 1:
            found.append([])
        found[-1].append(places[at])
        before = at
    return [one if len(one) > 1 else [one[0], (one[0][0] + 2, one[0][1])] for one in found]
