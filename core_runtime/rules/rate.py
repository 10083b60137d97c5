"""How often one peer may ask: token buckets as a pure step over values.

Not here: which peer is which (``rules.identity``), the clock and the table of peers (``api.gate``).
"""

from __future__ import annotations

from msgspec import Struct


class Rate(Struct, frozen=True):
    """``burst`` requests at once, refilled by ``per_second``."""

    per_second: float
    burst: float


class Bucket(Struct, frozen=True):
    """What is left at ``at_s`` (monotonic seconds)."""

    left: float
    at_s: float


def take(bucket: Bucket | None, rate: Rate, now_s: float) -> tuple[bool, Bucket]:
    """Whether one more request is admitted, and the bucket afterwards. No bucket yet means a full one."""
    if bucket is None:
        bucket = Bucket(rate.burst, now_s)
    left = min(rate.burst, bucket.left + max(0.0, now_s - bucket.at_s) * rate.per_second)
    if left < 1.0:
        return False, Bucket(left, now_s)
    return True, Bucket(left - 1.0, now_s)


def wait_s(bucket: Bucket, rate: Rate) -> float:
    """Seconds until the next request is admitted."""
    return max(0.0, (1.0 - bucket.left) / rate.per_second)
