import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.restart import GiveUp, Restart, RestartPolicy

POLICY = RestartPolicy(base_s=1, factor=2, cap_s=10, attempts=3, window_s=60, jitter=0.5)


@pytest.mark.parametrize(("failures", "delay"), [(1, 1), (2, 2), (3, 4)])
def test_delay_doubles(failures, delay):
    assert POLICY.decide([float(n) for n in range(failures)], 5.0, 0.0) == Restart(delay)


def test_gives_up_above_the_limit_within_the_window():
    assert POLICY.decide([1.0, 2.0, 3.0, 4.0], 5.0, 0.0) == GiveUp(4, 60)


def test_old_failures_are_forgotten():
    assert POLICY.decide([1.0, 2.0, 3.0, 100.0], 100.0, 0.0) == Restart(1)
    assert POLICY.forgotten([1.0, 2.0, 100.0], 100.0) == (100.0,)


@given(attempt=st.integers(1, 10**6), draw=st.floats(allow_nan=False))
def test_delay_stays_within_jitter_and_cap(attempt, draw):
    assert 0.5 <= POLICY.delay_s(attempt, draw) <= 10


def test_the_policy_in_force_gives_a_pack_five_restarts_in_five_minutes():
    policy = RestartPolicy()
    assert [policy.decide([0.0] * n, 1.0, 0.0) for n in range(1, 7)] == [
        Restart(0.5), Restart(1.0), Restart(2.0), Restart(4.0), Restart(8.0), GiveUp(6, 300.0)
    ]  # fmt: skip
    assert policy.delay_s(100, 0.0) == 30.0


@pytest.mark.parametrize(("age", "counted"), [(59.5, True), (60.0, False), (60.5, False)])
def test_a_failure_leaves_the_window_at_its_end(age, counted):
    answer = POLICY.decide([100.0 - age, 98.0, 99.0, 100.0], 100.0, 0.0)
    assert isinstance(answer, GiveUp) is counted
    assert (100.0 - age in POLICY.forgotten([100.0 - age], 100.0)) is counted


@pytest.mark.parametrize(("draw", "delay"), [(-1.0, 4.0), (0.0, 4.0), (0.5, 3.0), (1.0, 2.0), (2.0, 2.0)])
def test_the_draw_shortens_by_half_at_most(draw, delay):
    assert POLICY.delay_s(3, draw) == delay


def test_without_a_failure_in_the_window_the_first_delay_counts():
    assert POLICY.decide([], 100.0, 0.0) == Restart(1)


def test_endless_failures_do_not_overflow():
    assert RestartPolicy(base_s=1, factor=1e300, cap_s=7).delay_s(2, 0.0) == 7
    assert RestartPolicy(base_s=1, factor=2, cap_s=7).delay_s(10**9, 0.0) == 7
