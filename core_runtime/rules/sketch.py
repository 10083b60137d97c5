"""Latency in constant memory: a histogram with logarithmic buckets, four to an octave (±9 %). Pure."""

from __future__ import annotations

_BUCKETS = 128
_LINEAR = 8
_SHORT_US = 4_096


class Sketch:
    """Counts of durations in whole microseconds; quantiles are bucket midpoints."""

    __slots__ = ("_counts", "total_us")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.total_us = 0

    @property
    def count(self) -> int:
        """How many durations: counted when somebody asks, since one is added for each call."""
        return sum(self._counts)

    def add(self, duration_us: int) -> None:
        """Count one duration; negative ones (a clock that stepped) count as zero."""
        self._counts[_bucket(duration_us)] += 1
        self.total_us += duration_us

    def add_with(self, other: Sketch, duration_us: int) -> None:
        """``add`` to both."""
        index = _BUCKET[duration_us] if 0 <= duration_us < _SHORT_US else _bucket(duration_us)
        self._counts[index] += 1
        other._counts[index] += 1
        self.total_us += duration_us
        other.total_us += duration_us

    def copy(self) -> Sketch:
        """As it is now."""
        made = Sketch()
        made._counts, made.total_us = self._counts.copy(), self.total_us
        return made

    def since(self, before: Sketch) -> Sketch:
        """What was counted after ``before``, an earlier copy of this one."""
        made = Sketch()
        made._counts = [now - then for now, then in zip(self._counts, before._counts, strict=True)]
        made.total_us = self.total_us - before.total_us
        return made

    def quantile(self, q: float) -> float:
        """The duration in microseconds below which a share ``q`` of all lies; 0 without any."""
        rank = q * self.count
        seen = 0
        for index, n in enumerate(self._counts):
            seen += n
            if n and seen >= rank:
                return _midpoint(index)
        return 0.0


def _bucket(duration_us: int) -> int:
    if duration_us < _LINEAR:
        return max(duration_us, 0)
    octave = duration_us.bit_length()
    return min((octave - 2) * 4 + ((duration_us >> (octave - 3)) & 3), _BUCKETS - 1)


_BUCKET = bytes(map(_bucket, range(_SHORT_US)))
"""``_bucket`` of what nearly every call takes."""


def _midpoint(index: int) -> float:
    if index < _LINEAR:
        return float(index)
    octave, quarter = divmod(index, 4)
    low = (4 + quarter) << (octave - 1)
    width = 1 << (octave - 1)
    return low + (width - 1) / 2
