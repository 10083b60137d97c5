"""Measurements as text that Prometheus reads (exposition format 0.0.4). Pure.

Invariants:
  * Names of metrics and labels are the host's own. Values of labels may be anybody's: they are bounded, printable and
    escaped, so that none of them can end its line or pass for another sample.
  * Two samples of a family never have the same labels: a later one would make the whole answer unreadable, so those
    whose labels became the same by being bounded are added up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct, field

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
LABEL_CHARS: Final = 128
QUANTILES: Final = (0.5, 0.99)
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Labels = tuple[tuple[str, str], ...]


class Kind(StrEnum):
    """What Prometheus makes of a family."""

    COUNTER = "counter"
    GAUGE = "gauge"
    SUMMARY = "summary"


class Family(Struct):
    """One metric with all its samples: suffix of the name, labels → value."""

    name: str
    kind: Kind
    help: str
    samples: dict[tuple[str, Labels], float] = field(default_factory=dict)

    def add(self, value: float, /, **labels: str) -> None:
        """One sample."""
        self._put("", _labels(labels), value)

    def summary(self, quantiles: Mapping[float, float], total: float, count: float, /, **labels: str) -> None:
        """The three parts of one summary."""
        known = _labels(labels)
        for quantile, value in quantiles.items():
            self.samples["", (*known, ("quantile", str(quantile)))] = value
        self._put("_sum", known, total)
        self._put("_count", known, count)

    def _put(self, suffix: str, labels: Labels, value: float) -> None:
        self.samples[suffix, labels] = self.samples.get((suffix, labels), 0.0) + value


def render(families: Iterable[Family]) -> bytes:
    """The answer to a scrape. Families without samples are left out."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines += (f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind.value}")
            lines += (_line(family.name + suffix, labels, value) for (suffix, labels), value in family.samples.items())
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _line(name: str, labels: Labels, value: float) -> str:
    shown = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels)
    return f"{name}{{{shown}}} {_number(value)}" if shown else f"{name} {_number(value)}"


def _number(value: float) -> str:
    if math.isfinite(value):
        return str(int(value)) if value == int(value) else repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def _labels(given: Mapping[str, str]) -> Labels:
    return tuple((name, _printable(text)) for name, text in given.items())


def _printable(text: str) -> str:
    short = text if len(text) <= LABEL_CHARS else text[: LABEL_CHARS - 1] + "…"
    if short.isprintable():
        return short
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in short)
