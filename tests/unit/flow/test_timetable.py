"""Schedules on two clocks: what is due when, what was missed, and clocks that are put right."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from core_runtime.rules.flow.timetable import MAX_MISSED, Calendar, Every, Now, Zone

BERLIN = ZoneInfo("Europe/Berlin")
ZONE = Zone(
    lambda seconds: datetime.fromtimestamp(seconds, BERLIN).replace(tzinfo=None),
    lambda local: local.replace(tzinfo=BERLIN, fold=0).timestamp(),
)


def at(text: str) -> float:
    """Seconds of a wall clock's time in Berlin; ``+`` at its end: the second one of an hour that comes twice."""
    return datetime.fromisoformat(text.rstrip("+")).replace(tzinfo=BERLIN, fold=text.endswith("+")).timestamp()


def shown(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, BERLIN).strftime("%d %H:%M")


def dues(cron: str, since: str, until: str, step: timedelta = timedelta(minutes=1)) -> list[str]:
    """When a schedule is due while somebody looks each minute."""
    now_s, end_s = at(since), at(until)
    calendar, found = Calendar(cron, ZONE, Now(now_s, 0)), []
    while now_s <= end_s:
        told = calendar.due(Now(now_s, 0))
        if told is not None:
            found.append(shown(told["due"]))
        now_s += step.total_seconds()
    return found


def test_each_time_is_due_once():
    assert dues("*/20 * * * *", "2026-05-04T10:01", "2026-05-04T11:05") == ["04 10:20", "04 10:40", "04 11:00"]


def test_an_hour_that_does_not_exist_comes_as_much_later():
    assert dues("30 2 * * *", "2026-03-28T12:00", "2026-03-30T12:00") == ["29 03:30", "30 02:30"]


def test_an_hour_that_comes_twice_counts_once():
    found = dues("30 * * * *", "2026-10-25T01:00", "2026-10-25T04:00")
    assert found == ["25 01:30", "25 02:30", "25 03:30"]
    assert dues("30 2 * * *", "2026-10-24T12:00", "2026-10-26T12:00") == ["25 02:30", "26 02:30"]


def test_what_was_missed_comes_once_and_says_so():
    calendar = Calendar("0 * * * *", ZONE, Now(at("2026-05-04T10:30"), 0))
    late = Now(at("2026-05-04T14:20"), 0)
    assert calendar.due(late) == {"due": at("2026-05-04T14:00"), "missed": 3}
    assert calendar.due(late) is None
    assert shown(late.wall_s + calendar.wait_s(late)) == "04 15:00"


def test_a_clock_put_back_repeats_nothing_unless_it_is_another_day():
    calendar = Calendar("0 * * * *", ZONE, Now(at("2026-05-04T10:30"), 0))
    assert calendar.due(Now(at("2026-05-04T11:00"), 0)) is not None
    back = Now(at("2026-05-04T10:30"), 0)
    assert calendar.due(back) is None
    assert calendar.due(Now(at("2026-05-04T11:30"), 0)) is None, "11:00 has been"
    assert calendar.due(Now(at("2026-05-04T12:00"), 0)) is not None
    earlier = Now(at("2026-05-02T08:30"), 0)
    assert calendar.due(earlier) is None
    assert shown(earlier.wall_s + calendar.wait_s(earlier)) == "02 09:00"


def test_a_time_that_never_comes_waits_for_ever():
    calendar = Calendar("0 0 30 2 *", ZONE, Now(0, 0))
    assert (calendar.due(Now(1e9, 0)), calendar.wait_s(Now(0, 0))) == (None, float("inf"))


@pytest.mark.parametrize(
    ("mono_s", "told"),
    [(109.9, None), (110.0, {"due": 1_000.0, "missed": 0}), (145.5, {"due": 964.5, "missed": 3}),
     (1e9, {"due": 110 - 1e9 + 1_000, "missed": MAX_MISSED})],
)  # fmt: skip
def test_a_repeated_time_follows_the_monotonic_clock(mono_s, told):
    every = Every(10, Now(5, 100))
    assert every.due(Now(1_000, mono_s)) == told


def test_a_repeated_time_keeps_its_beat():
    every = Every(10, Now(0, 100))
    assert every.due(Now(0, 145.5)) is not None
    assert (every.wait_s(Now(0, 145.5)), every.due(Now(0, 149.9))) == (4.5, None)


def test_what_is_overdue_does_not_wait():
    assert Every(10, Now(0, 100)).wait_s(Now(0, 105)) == 5
    assert Every(10, Now(0, 100)).wait_s(Now(0, 110)) == 0
    assert Every(10, Now(0, 100)).wait_s(Now(0, 500)) == 0
    calendar = Calendar("0 * * * *", ZONE, Now(at("2026-05-04T10:30"), 0))
    assert calendar.wait_s(Now(at("2026-05-04T10:59"), 0)) == 60
    assert calendar.wait_s(Now(at("2026-05-04T11:05"), 0)) == 0
