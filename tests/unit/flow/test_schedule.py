"""What a schedule's five fields admit, and which minute fits next."""

from __future__ import annotations

from datetime import datetime

import pytest

from core_runtime.rules.flow.schedule import BACK_S, cron_fault, next_due, next_time, parse_cron

START = datetime(2026, 5, 4, 10, 30, 15)  # noqa: DTZ001 - a wall clock's time; a Monday


@pytest.mark.parametrize(
    ("field", "minutes"),
    [
        ("*", range(60)),
        ("0", [0]),
        ("59", [59]),
        ("05", [5]),
        ("3-6", [3, 4, 5, 6]),
        ("7-7", [7]),
        ("1,5,3", [1, 3, 5]),
        ("*/20", [0, 20, 40]),
        ("10-30/10", [10, 20, 30]),
        ("50/4", [50, 54, 58]),
        ("*/1", range(60)),
        ("*/59", [0, 59]),
        ("1-3,8/50", [1, 2, 3, 8, 58]),
    ],
)
def test_what_a_field_admits(field, minutes):
    assert parse_cron(f"{field} * * * *").minutes == frozenset(minutes)


@pytest.mark.parametrize("place", range(5))
def test_each_field_has_its_own_range(place):
    low, high = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)][place]

    def fault(value):
        fields = ["*"] * 5
        fields[place] = str(value)
        return cron_fault(" ".join(fields))

    assert fault(low) == fault(high) == fault(f"{low}-{high}") == fault(f"*/{high}") == fault("*/1") == ""
    assert fault(high + 1)
    assert fault(f"*/{high + 1}")
    assert fault("*/0")
    if low:
        assert fault(low - 1)


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "* * * *", "* * * * * *", "6-3 * * * *", "-1 * * * *", "1- * * * *", "1, * * * *", "*/ * * * *", "/5 * * * *",
        "a * * * *", "+1 * * * *", "1.0 * * * *", "001 * * * *", "\u0661 * * * *", "* * * JAN *", "* * * * MON", "*-5 * * * *",
    ],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_schedule(text):
    assert cron_fault(text)
    with pytest.raises(ValueError, match=r"five fields|number from|goes backwards"):
        parse_cron(text)


@pytest.mark.parametrize(
    ("cron", "following"),
    [
        ("* * * * *", "05-04 10:31"),
        ("30 * * * *", "05-04 11:30"),
        ("31 10 * * *", "05-04 10:31"),
        ("30 10 * * *", "05-05 10:30"),
        ("0 9,12 * * *", "05-04 12:00"),
        ("15 10,11 * * *", "05-04 11:15"),
        ("0 0 * * 0", "05-10 00:00"),
        ("0 0 * * 7", "05-10 00:00"),
        ("0 0 * * 1", "05-11 00:00"),
        ("0 0 1 * *", "06-01 00:00"),
        ("0 0 31 * *", "05-31 00:00"),
        ("0 0 31 6,7 *", "07-31 00:00"),
        ("0 0 * 4 *", "04-01 00:00"),
        ("0 0 20 * 3", "05-06 00:00"),  # both day fields: a day that fits either
        ("0 0 5 * 3", "05-05 00:00"),
        ("0 0 */2 * 3", "05-13 00:00"),  # a field that begins with * restricts nothing by itself: both must fit
        ("0 0 20 * */3", "05-20 00:00"),
    ],
)
def test_the_next_minute_that_fits(cron, following):
    found = next_time(parse_cron(cron), START)
    assert found is not None
    assert found.strftime("%m-%d %H:%M") == following
    assert (found.second, found.microsecond) == (0, 0)
    assert found > START


def test_a_leap_day_is_found_over_a_century_that_has_none():
    leap = parse_cron("0 0 29 2 *")
    assert next_time(leap, datetime(2096, 3, 1)) == datetime(2104, 2, 29)  # noqa: DTZ001
    assert next_time(parse_cron("0 0 30 2 *"), START) is None


@pytest.mark.parametrize(
    ("now", "last", "due"),
    [
        (0.0, None, 60.0),
        (59.0, None, 60.0),
        (60.0, None, 120.0),
        (0.0, 60.0, 120.0),
        (300.0, 60.0, 360.0),
        (60.0, 60.0 + BACK_S, 120.0 + BACK_S),  # put back a little: what has been does not come again
        (60.0, 61.0 + BACK_S, 120.0),  # put back far: another day
    ],
)
def test_due_is_later_than_now_and_than_what_has_been(now, last, due):
    epoch = datetime(2026, 1, 1)  # noqa: DTZ001

    def local(seconds):
        return datetime.fromtimestamp(epoch.timestamp() + seconds)  # noqa: DTZ006

    def seconds(moment):
        return moment.timestamp() - epoch.timestamp()

    assert next_due(parse_cron("* * * * *"), now, last, local, seconds) == due
    assert next_due(parse_cron("0 0 30 2 *"), now, last, local, seconds) is None
