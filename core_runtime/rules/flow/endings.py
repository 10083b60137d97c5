"""How steps and runs end: their status, their errors, what is told of them. Pure data.

Invariant: an error is data (``FlowError``), never an exception object.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field


class Status(StrEnum):
    """Result of one step."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


class RunStatus(StrEnum):
    """Result of one run. ``degraded``: it came to its end, but something on the way did not work."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class FlowError(Struct, frozen=True):
    """A failure as data. ``type`` is one of the kernel's words (missing, timeout, cancelled, …) or a Pack's own."""

    type: str
    title: str
    detail: str = ""
    instance: str = ""
    retryable: bool = False
    attempt: int = 1
    cause: str = ""
    pack: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What ``${error.…}`` and reports see."""
        return {
            "type": self.type,
            "title": self.title,
            "detail": self.detail,
            "instance": self.instance,
            "retryable": self.retryable,
            "attempt": self.attempt,
            "cause": self.cause,
            "pack": self.pack,
        }


class StepResult(Struct, frozen=True, gc=False):
    """How one step ended. ``usable``: its output exists (it succeeded, or a default or a catch stood in).

    ``flow``: whose step it is, of the flows that the run ran.
    """

    path: str
    status: Status
    handler: str = ""
    phase: str = ""
    reason: str = ""
    error: FlowError | None = None
    usable: bool = False
    attempts: int = 0
    flow: str = ""


class Outcome(Struct, frozen=True):
    """How a run ended."""

    status: RunStatus
    results: tuple[StepResult, ...] = ()
    error: FlowError | None = None
    output: Any = None
    variables: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
