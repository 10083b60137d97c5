"""A turn that everybody has needs no rest; a longer one does, and twice the stall comes an eighth as often."""

from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.sharing import (
    MAX_DEBT_S,
    MAX_REST_S,
    MIN_REST_S,
    REST,
    SHARED_TURN_S,
    STOPPED_FACTOR,
    TURN_S,
    rest_s,
    rests_until_s,
)

SPENT = st.floats(min_value=0, max_value=10, allow_nan=False)


def test_the_turn_that_everybody_has_needs_no_rest():
    assert rest_s(0.0) == rest_s(SHARED_TURN_S) == 0.0


@given(SPENT)
def test_a_rest_is_no_shorter_than_a_timer_counts_and_no_longer_than_is_bearable(spent):
    assert spent <= SHARED_TURN_S or MIN_REST_S <= rest_s(spent) <= MAX_REST_S


@given(SPENT, SPENT)
def test_more_is_never_rested_from_for_less(one, other):
    assert one > other or rest_s(one) <= rest_s(other)


@given(st.floats(min_value=TURN_S, max_value=0.0015))
def test_twice_the_stall_comes_an_eighth_as_often(spent):
    assert rest_s(2 * spent) == 8 * rest_s(spent) or rest_s(2 * spent) == MAX_REST_S
    assert rest_s(spent) >= REST * spent


@given(SPENT, SPENT)
def test_a_turn_in_whose_middle_somebody_else_had_the_processor_counts_longer_up_to_a_limit(cpu, passed):
    assert rest_s(cpu, passed) >= rest_s(cpu)
    assert rest_s(cpu, passed) == rest_s(max(cpu, min(passed, STOPPED_FACTOR * cpu)))


def test_a_machine_that_stops_the_process_is_nobodys_doing():
    assert rest_s(SHARED_TURN_S / 10, 1.0) == 0.0
    assert rest_s(SHARED_TURN_S, 1.0) == rest_s(STOPPED_FACTOR * SHARED_TURN_S) < MAX_REST_S


def test_rests_follow_each_other_up_to_a_limit():
    assert rests_until_s(0.0, 100.0, 0.5) == 100.5
    assert rests_until_s(100.5, 100.2, 0.5) == 101.0
    assert rests_until_s(100.2 + MAX_DEBT_S, 100.2, 0.5) == 100.2 + MAX_DEBT_S
