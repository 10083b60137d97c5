"""What came of one component phase inside a sandbox: the agent's loose map, made a value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from core_runtime.bus.calls import Failure
from core_runtime.rules.routing import PHASE_WORDS


class PhaseOutcome(Struct, frozen=True):
    """What came of one component phase inside the sandbox."""

    ok: bool
    error: Failure | None
    registered: tuple[str, ...]
    duration_us: int
    asynchronous: bool

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> PhaseOutcome:
        """The ``outcome`` of PHASE_DONE. A sandbox wrote it: what is missing or of another shape counts as failed."""
        error = outcome.get("error")
        failure: Failure | None = None
        if isinstance(error, list) and len(error) == 5:
            type_, title, detail, retryable, trace = error
            failure = Failure.from_agent(
                str(type_), str(title), str(detail), bool(retryable), str(trace), PHASE_WORDS
            )  # fmt: skip
        elif error is not None:
            failure = Failure("error/Exception", str(error)[:500])
        ok = outcome.get("ok") is True
        registered = outcome.get("registered")
        duration = outcome.get("duration_us")
        return cls(
            ok=ok,
            error=None if ok else failure or Failure("error/Exception", "the phase failed without saying why"),
            registered=tuple(str(key)[:256] for key in registered) if isinstance(registered, list) else (),
            duration_us=duration if isinstance(duration, int) else 0,
            asynchronous=outcome.get("asynchronous") is True,
        )
