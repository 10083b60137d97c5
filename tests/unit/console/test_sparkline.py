"""The line of a Pack's calls: what is drawn, what is said, and what is a gap."""

from __future__ import annotations

from console.sparkline import EDGE, HEIGHT, WIDTH, sparkline

NOW = 1_000_000.0


def sample(minutes_ago: float, calls: int, errors: int = 0) -> dict[str, float]:
    return {"ts": NOW - 60 * minutes_ago, "calls": calls, "errors": errors}


def points(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]


def test_nothing_measured_is_nothing_drawn() -> None:
    assert sparkline([], NOW) is None
    assert sparkline([sample(61, 5), sample(-2, 5)], NOW) is None


def test_an_hour_from_left_to_right_and_from_none_to_most() -> None:
    found = sparkline([sample(ago + 0.5, 59 - ago) for ago in reversed(range(60))], NOW)
    assert found is not None
    (line,) = found.lines
    drawn = points(line)
    assert (drawn[0], drawn[-1]) == ((EDGE, HEIGHT - EDGE), (WIDTH - EDGE, EDGE))
    assert drawn == sorted(drawn)
    assert (found.calls, found.errors, found.most, found.marks) == (sum(range(60)), 0, 59, ())
    assert [one["calls"] for one in found.minutes] == list(range(59, 0, -1))


def test_what_was_not_measured_is_a_gap() -> None:
    found = sparkline([sample(10.5, 4), sample(9.5, 2, 1), sample(3.5, 4)], NOW)
    assert found is not None
    assert [len(points(line)) for line in found.lines] == [2, 2]
    assert found.marks == (points(found.lines[0])[1],)


def test_without_a_call_the_line_lies_at_the_bottom() -> None:
    found = sparkline([sample(1.5, 0), sample(0.5, 0)], NOW)
    assert found is not None
    assert {y for _, y in points(found.lines[0])} == {HEIGHT - EDGE}
    assert found.minutes == ()


def test_two_samples_of_one_minute_are_added() -> None:
    found = sparkline([sample(0.9, 1, 1), sample(0.1, 2, 0)], NOW)
    assert found is not None
    assert (found.calls, found.errors, found.most) == (3, 1, 3)
