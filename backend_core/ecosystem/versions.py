"""Semantic versions and the ranges in which Packs ask for them.

A range is conditions that must all hold, joined by commas or spaces: ``*``, ``1.2.3``, ``1.2.*``, ``>=1.0.0,<2.0.0``,
``^1.2``, ``~1.2.3``. Source of precedence: semver.org 2.0.0, by the ``semver`` package.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import semver

from backend_core.errors import quote

_CONDITION: Final = re.compile(
    r"(?P<operator>>=|<=|==|!=|=|>|<|\^|~)?v?(?P<numbers>\d+(?:\.\d+){0,2})(?P<any>\.[*x])?(?P<rest>[-+][0-9A-Za-z.+-]+)?"
)
_COMPARE: Final[dict[str, Callable[[semver.Version, semver.Version], bool]]] = {
    ">=": lambda have, low: have >= low,
    "<=": lambda have, low: have <= low,
    ">": lambda have, low: have > low,
    "<": lambda have, low: have < low,
    "=": lambda have, low: have == low,
    "==": lambda have, low: have == low,
    "!=": lambda have, low: have != low,
}


def in_range(version: str, wanted: str) -> bool:
    """Whether ``version`` satisfies every condition of ``wanted``. Raises ``ValueError`` when either can't be read."""
    have = semver.Version.parse(version)
    conditions = re.sub(r"([<>=!^~])\s+", r"\1", wanted.strip()).replace(",", " ").split()
    if not conditions:
        msg = "an empty range"
        raise ValueError(msg)
    # a list, not a generator: a bad condition after one that fails is still a bad range
    return all([_satisfies(have, condition) for condition in conditions])  # noqa: C419


def is_version_range(text: str) -> bool:
    """Whether ``text`` is a range that ``in_range`` understands."""
    try:
        in_range("0.0.0", text)
    except ValueError:
        return False
    return True


def _satisfies(have: semver.Version, condition: str) -> bool:
    if condition in {"*", "x"}:
        return True
    match = _CONDITION.fullmatch(condition)
    if match is None or (match["any"] and (match["rest"] or match["operator"] not in {None, "=", "=="})):
        msg = f"not a version condition: {quote(condition, 60)}"
        raise ValueError(msg)
    low = semver.Version.parse(match["numbers"] + (match["rest"] or ""), optional_minor_and_patch=True)
    written = match["numbers"].count(".") + 1
    operator = "~" if match["any"] else match["operator"] or "=="
    if operator in {"^", "~"}:
        return low <= have < _upper(low, operator, written)
    return _COMPARE[operator](have, low)


def _upper(low: semver.Version, operator: str, written: int) -> semver.Version:
    """The first version that ``^low`` or ``~low`` no longer admits; ``written`` is how many numbers stood there."""
    if operator == "~":
        return semver.Version(low.major, low.minor + 1, 0) if written > 1 else semver.Version(low.major + 1, 0, 0)
    if low.major or written == 1:
        return semver.Version(low.major + 1, 0, 0)
    if low.minor or written == 2:
        return semver.Version(0, low.minor + 1, 0)
    return semver.Version(0, 0, low.patch + 1)
