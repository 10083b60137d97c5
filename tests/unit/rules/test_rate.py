from __future__ import annotations

import pytest

from core_runtime.rules.rate import Bucket, Rate, take, wait_s

RATE = Rate(per_second=2.0, burst=3.0)


def test_a_burst_then_a_steady_rate() -> None:
    bucket: Bucket | None = None
    admitted = []
    for now_s in (0.0, 0.0, 0.0, 0.0, 0.4, 0.5, 0.6):
        ok, bucket = take(bucket, RATE, now_s)
        admitted.append(ok)
    assert admitted == [True, True, True, False, False, True, False]
    assert bucket is not None
    assert wait_s(bucket, RATE) == pytest.approx(0.4)


def test_rest_refills_to_the_burst_and_no_further() -> None:
    _, bucket = take(Bucket(0.0, 0.0), RATE, 1000.0)
    assert bucket.left == 2.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    ok, bucket = take(Bucket(0.5, 100.0), RATE, 0.0)
    assert (ok, bucket.left) == (False, 0.5)
