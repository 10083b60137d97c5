"""Measuring by ratio: rows and floors run interleaved (A B A B …) in one process; medians, no verdict in seconds.

A *subject* is a callable that runs ``n`` operations and returns the seconds they took. All subjects of one group are
run round by round in turn, so that a machine whose speed drifts moves them together.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

Subject = Callable[[int], float]


@dataclass(frozen=True)
class Row:
    """One measured line: median, smallest and largest, and ``ratio`` to the named reference of the same run.

    ``unit``: ``us`` for one operation, ``B`` for memory.
    """

    name: str
    median: float
    low: float
    high: float
    reference: str = ""
    ratio: float | None = None
    must: str = ""
    unit: str = "us"


@dataclass
class Report:
    """All rows of a run, with the machine they were measured on."""

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        """Stable fields: ``{machine, rows: [Row], missing: {row: why}}``."""
        machine = {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processors": os.cpu_count(),
            "time": time.strftime("%FT%TZ", time.gmtime()),
        }
        whole = {"machine": machine, "rows": [asdict(r) for r in self.rows], "missing": self.missing}
        return json.dumps(whole, indent=1, ensure_ascii=False)

    def write(self, path: Path) -> None:
        """Keep the run beside earlier ones."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.as_json() + "\n", encoding="utf-8")

    def table(self) -> str:
        """The rows as aligned text."""
        width = max(46, *(len(r.name) for r in self.rows), *(len(name) for name in self.missing), 0)
        lines = [f"{'row':{width}} {'median':>12} {'min':>11} {'max':>11} {'ratio':>7}  reference"]
        for r in self.rows:
            ratio = f"{r.ratio:.2f}×" if r.ratio is not None else ""
            times = f"{shown(r.median, r.unit):>12} {shown(r.low, r.unit):>11} {shown(r.high, r.unit):>11}"
            demand = f" [{r.must}]" if r.must else ""
            lines.append(f"{r.name:{width}} {times} {ratio:>7}  {r.reference}{demand}".rstrip())
        lines += [f"{name:{width}} not measured: {why}" for name, why in self.missing.items()]
        return "\n".join(lines)


def shown(value: float, unit: str) -> str:
    """A figure for people."""
    if unit == "B":
        return f"{value / 1e6:.2f} MB"
    return _time(value)


def _time(us: float) -> str:
    if us >= 1e6:
        return f"{us / 1e6:.2f} s"
    return f"{us / 1e3:.2f} ms" if us >= 1e3 else f"{us:.2f} µs"


def measure(
    subjects: dict[str, Subject],
    *,
    n: int,
    rounds: int = 7,
    reference: dict[str, tuple[str, float]] | None = None,
    must: dict[str, str] | None = None,
) -> list[Row]:
    """Run every subject ``rounds`` times, interleaved, after one warm-up round of a tenth.

    Args:
        subjects: name → subject.
        n: operations per round.
        reference: name → (name of its floor or peer among ``subjects``, factor): the ratio is the row's median through
            factor × that one's median.
        must: name → the demand, shown beside the ratio.
    """
    for subject in subjects.values():
        subject(max(1, n // 10))
    return rows_of(samples_of(subjects, n=n, rounds=rounds), reference or {}, must or {})


def samples_of(subjects: dict[str, Subject], *, n: int, rounds: int) -> dict[str, list[float]]:
    """Microseconds for one operation, ``rounds`` of them for each subject, taken in turn."""
    samples: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            samples[name].append(subject(n) / n * 1e6)
    return samples


def added(
    samples: dict[str, list[float]], pairs: dict[str, tuple[str, str]], must: dict[str, str] | None = None
) -> list[Row]:
    """What one subject costs over another, round by round: a row for each ``name: (with, without)``."""
    differences = {
        name: [more - less for more, less in zip(samples[with_], samples[without], strict=True)]
        for name, (with_, without) in pairs.items()
    }
    return rows_of(differences, {}, must or {})


def rows_of(
    samples: dict[str, list[float]], reference: dict[str, tuple[str, float]], must: dict[str, str], unit: str = "us"
) -> list[Row]:
    """A row for each name; ``reference`` and ``must`` as in ``measure``."""
    medians = {name: statistics.median(values) for name, values in samples.items()}
    rows = []
    for name, values in samples.items():
        base, factor = reference.get(name, ("", 1.0))
        beside = base if factor == 1 else f"{factor:g} × {base}"
        ratio = medians[name] / (factor * medians[base]) if base else None
        rows.append(
            Row(name, medians[name], min(values), max(values), beside if base else "", ratio, must.get(name, ""), unit)
        )
    return rows


def tail(name: str, values: Sequence[float], must: str = "", base: Row | None = None) -> Row:
    """The 99th percentile of a sample, with p50 and maximum around it, beside its median or beside ``base``."""
    p50, p99 = percentiles(values)
    if base is not None:
        return Row(name, p99, p50, max(values), base.name, p99 / base.median, must)
    return Row(name, p99, p50, max(values), "its p50", p99 / p50, must)


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """(p50, p99) of a sample, by rank."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
