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
