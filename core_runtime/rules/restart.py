"""When a sandbox that ended by itself is started again, and when not any more. Pure.

Invariant: within any window of ``window_s`` at most ``attempts`` restarts happen; then the answer is ``GiveUp``.

Not here: clocks and randomness (both come in as values), and waiting.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct


class Restart(Struct, frozen=True):
    """Start again after ``delay_s``."""

    delay_s: float


class GiveUp(Struct, frozen=True):
    """Too many failures: ``failures`` within ``window_s``."""

    failures: int
    window_s: float


class RestartPolicy(Struct, frozen=True):
    """Exponential backoff with jitter. One crash costs half a second, a Pack that can't run costs six starts."""

    base_s: float = 0.5
    factor: float = 2.0
    cap_s: float = 30.0
    attempts: int = 5
    window_s: float = 300.0
    jitter: float = 0.5
    """The delay is drawn from ``[1 - jitter, 1]`` of the full one, so that Packs that fell together rise apart."""

    def decide(self, failures_at: Sequence[float], now_s: float, draw: float) -> Restart | GiveUp:
        """What follows the latest failure.

        Args:
            failures_at: times of failures, the latest included, in seconds of one monotonic clock.
            now_s: the same clock, now.
            draw: a random number from 0 to 1.
        """
        recent = [moment for moment in failures_at if moment > now_s - self.window_s]
        if len(recent) > self.attempts:
            return GiveUp(len(recent), self.window_s)
        return Restart(self.delay_s(max(len(recent), 1), draw))

    def delay_s(self, attempt: int, draw: float) -> float:
        """Delay before the ``attempt``-th try in a row (1 = first)."""
        exponent = min(attempt - 1, 63)  # beyond, the cap rules anyway and the power would overflow
        full = min(self.cap_s, self.base_s * self.factor**exponent)
        return full * (1.0 - self.jitter * min(max(draw, 0.0), 1.0))

    def forgotten(self, failures_at: Sequence[float], now_s: float) -> tuple[float, ...]:
        """``failures_at`` without those that no later decision counts."""
        return tuple(moment for moment in failures_at if moment > now_s - self.window_s)
