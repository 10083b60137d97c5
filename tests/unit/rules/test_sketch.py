"""What a sketch of durations promises: quantiles within the stated error, sums that are exact, copies that stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.sketch import Sketch

DURATIONS = st.lists(st.integers(0, 2**32), min_size=1, max_size=40)


def sketch_of(durations: list[int]) -> Sketch:
    made = Sketch()
    for duration in durations:
        made.add(duration)
    return made


def told(sketch: Sketch) -> tuple[int, int, list[float]]:
    return sketch.count, sketch.total_us, [sketch.quantile(step / 20) for step in range(21)]


def test_an_empty_one_has_no_quantile() -> None:
    assert told(Sketch()) == (0, 0, [0.0] * 21)


@given(DURATIONS, st.sampled_from([0.01, 0.25, 0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_an_eighth_of_the_duration_of_that_rank(durations: list[int], q: float) -> None:
    exact = next(d for number, d in enumerate(sorted(durations), 1) if number >= q * len(durations))
    assert sketch_of(durations).quantile(q) == pytest.approx(exact, rel=0.125, abs=0)


@pytest.mark.parametrize("exponent", range(3, 33))
@pytest.mark.parametrize("quarter", range(4))
def test_four_buckets_to_an_octave_each_told_by_its_middle(exponent: int, quarter: int) -> None:
    width = 1 << (exponent - 2)
    low = (4 + quarter) * width
    for inside in (low, low + width - 1):
        assert sketch_of([inside]).quantile(1.0) == low + (width - 1) / 2


@pytest.mark.parametrize("duration", range(8))
def test_the_first_microseconds_are_exact(duration: int) -> None:
    assert sketch_of([duration]).quantile(0.5) == duration


def test_a_clock_that_stepped_counts_as_nothing_and_an_age_as_the_longest() -> None:
    assert sketch_of([-5]).quantile(1.0) == 0
    assert sketch_of([2**70]).quantile(1.0) == sketch_of([2**34]).quantile(1.0)


@given(DURATIONS)
def test_count_and_sum_are_exact(durations: list[int]) -> None:
    found = sketch_of(durations)
    assert (found.count, found.total_us) == (len(durations), sum(durations))


@given(DURATIONS, DURATIONS)
def test_adding_to_two_is_adding_to_each(first: list[int], second: list[int]) -> None:
    one, other = sketch_of(first), sketch_of(second)
    for duration in first:
        one.add_with(other, duration)
    assert told(one) == told(sketch_of(first + first))
    assert told(other) == told(sketch_of(second + first))


@given(DURATIONS, DURATIONS)
def test_what_came_since_a_copy_is_what_was_added_since(before: list[int], after: list[int]) -> None:
    running = sketch_of(before)
    kept = running.copy()
    for duration in after:
        running.add(duration)
    assert told(kept) == told(sketch_of(before))
    assert told(running.since(kept)) == told(sketch_of(after))
