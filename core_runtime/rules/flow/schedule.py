"""Schedules: when something that repeats is due next. Pure: the caller brings the time and the time zone.

Cron has five fields, minute hour day-of-month month day-of-week, of the wall clock that the caller's functions know.

Each field is ``*``, a number, a range ``a-b``, a list ``a,b``, any of them with ``/step``. Sunday is 0 and 7. As in the
Open Group's crontab: where both day fields are restricted, a day that fits either is taken. Names of months and days
are not read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache

from msgspec import Struct

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
HORIZON_DAYS = 366 * 8
"""A leap day comes again after eight years at the most; what does not fit in that time never does."""

BACK_S = 3 * 3600.0
"""As far back may the clock go before that is a new time and not a correction."""


class Cron(Struct, frozen=True):
    """A parsed schedule: the numbers that each field admits."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool

    def day_fits(self, day: datetime) -> bool:
        """Whether anything happens on that day."""
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday if self.either_day else by_date and by_weekday


def cron_fault(text: str) -> str:
    """Why ``text`` is no schedule, or ``""``."""
    try:
        parse_cron(text)
    except ValueError as error:
        return str(error)
    return ""


@lru_cache(maxsize=256)
def parse_cron(text: str) -> Cron:
    """Read a schedule; ``ValueError`` with a sentence."""
    parts = text.split()
    if len(parts) != len(FIELDS):
        raise ValueError(f"a schedule has five fields (minute hour day month weekday), got {len(parts)}")
    minutes, hours, days, months, weekdays = (
        _field(part, name, low, high) for part, (name, low, high) in zip(parts, FIELDS, strict=True)
    )
    either = not parts[2].startswith("*") and not parts[4].startswith("*")
    return Cron(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)


def next_time(cron: Cron, after: datetime) -> datetime | None:
    """The first minute later than ``after`` that fits, in the same time zone; None when there is none."""
    moment = (after + timedelta(minutes=1)).replace(second=0, microsecond=0)
    for _ in range(HORIZON_DAYS):
        if cron.day_fits(moment):
            for hour in sorted(h for h in cron.hours if h >= moment.hour):
                least = moment.minute if hour == moment.hour else 0
                minute = min((m for m in cron.minutes if m >= least), default=None)
                if minute is not None:
                    return moment.replace(hour=hour, minute=minute)
        moment = (moment + timedelta(days=1)).replace(hour=0, minute=0)
    return None


def next_due(
    cron: Cron,
    now_s: float,
    last_s: float | None,
    local: Callable[[float], datetime],
    seconds: Callable[[datetime], float],
) -> float | None:
    """Seconds since 1970 of the next time after now and after ``last_s``, the one before; None when there is none.

    ``local`` is the wall clock (without a zone) at an instant, ``seconds`` the instant of a wall clock's time, the
    earlier one where it exists twice.
    """
    least_s = now_s if last_s is None or last_s - now_s > BACK_S else max(now_s, last_s)
    moment = local(least_s)
    for _ in range(24 * 60):  # at most what an hour that comes twice repeats
        found = next_time(cron, moment)
        if found is None:
            return None
        if seconds(found) > least_s:
            return seconds(found)
        moment = found
    return None


def _field(text: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for item in text.split(","):
        span, slash, step_text = item.partition("/")
        step = _number(step_text, name, 1, high) if slash else 1
        if span == "*":
            first, last = low, high
        else:
            first_text, dash, last_text = span.partition("-")
            first = _number(first_text, name, low, high)
            last = _number(last_text, name, low, high) if dash else (high if slash else first)
        if first > last:
            raise ValueError(f"the {name} {item!r:.40} goes backwards")
        found.update(range(first, last + 1, step))
    return frozenset(found)


def _number(text: str, name: str, low: int, high: int) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 2 and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"the {name} is a number from {low} to {high}, got {text!r:.40}")
