"""What is told of a run: its report with the steps as they end, and, for ``journal: memory``, what it was answered.

Invariant: what one run can make the host keep is bounded, in steps, answers and bytes.

Not here: which runs there are (``flow_runs``), what of them is on the disk (``flow_files``).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct, field

from core_runtime.drivers.run_journal import Account
from core_runtime.rules.flow import endings
from core_runtime.rules.values import ValueProblem, pack, unpack

MAX_STEPS_KEPT: Final = 2_000
MAX_ANSWERS_KEPT: Final = 500
MAX_ANSWER_BYTES: Final = 4_096
"""Of one answer in memory: 500 runs are kept."""


class StepReport(Struct, frozen=True, gc=False):
    """A step's result with what it took.

    ``replayed``: it follows from what the run's journal tells; its times are those of reading that.
    """

    result: endings.StepResult
    started_at: float
    duration_s: float
    replayed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        error = self.result.error
        return {
            "flow": self.result.flow,
            "step": self.result.path,
            "phase": self.result.phase,
            "handler": self.result.handler,
            "status": self.result.status.value,
            "reason": self.result.reason,
            "attempts": self.result.attempts,
            "replayed": self.replayed,
            "error": error.as_dict() if error else None,
            "started_at": self.started_at,
            "duration_s": round(self.duration_s, 6),
        }


class Under(Struct, frozen=True, gc=False):
    """A step that has begun and not ended."""

    flow: str
    path: str
    at_s: float
    monotonic_s: float


class RunReport(Struct):
    """One run, from its id to its output. ``status`` None: under way. ``ended`` counts the steps that are over."""

    run_id: str
    flow: str
    digest: str
    started_at: float
    actor: str = ""
    status: endings.RunStatus | None = None
    duration_s: float = 0.0
    steps: deque[StepReport] = field(default_factory=lambda: deque(maxlen=MAX_STEPS_KEPT))
    error: endings.FlowError | None = None
    output: Any = None
    resumable: bool = False
    answers: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_ANSWERS_KEPT))
    """With ``journal: memory``: what the run was answered with, the newest of it."""
    ended: int = 0
    unattended: bool = False
    """Whether a schedule began it: nobody chose its input."""
    under_way: Mapping[tuple[str, str], Under] = field(default_factory=dict)
    """Its steps that have begun and not ended."""
    bells: set[asyncio.Event] = field(default_factory=set)
    """Of those who wait for what comes next."""

    @classmethod
    def of(cls, account: Account) -> RunReport:
        """As its journal tells."""
        head: Mapping[str, Any] = account.head
        report = cls(str(head["run"]), str(head["flow"]), str(head["digest"]), float(head["started_at"]))
        report.actor = str(head.get("actor", ""))
        if account.end is None:
            report.resumable = True
            return report
        report.status = endings.RunStatus(account.end["end"])
        report.duration_s = float(account.end.get("duration_s", 0.0))
        report.output = account.end["output"]
        error = account.end.get("error")
        report.error = endings.FlowError(**error) if isinstance(error, dict) else None
        return report

    def add(self, step: StepReport) -> None:
        """A step is over."""
        self.steps.append(step)
        self.ended += 1
        if self.bells:
            self.ring()

    def going(self) -> list[str]:
        """The paths of the flow's own steps that are under way."""
        return sorted({one.path for one in self.under_way.values() if one.flow == self.flow})

    def ring(self) -> None:
        """Let those who wait look again."""
        for bell in self.bells:
            bell.set()

    def summary(self) -> dict[str, Any]:
        """JSON for lists."""
        return {
            "run_id": self.run_id,
            "flow": self.flow,
            "digest": self.digest,
            "actor": self.actor,
            "status": self.status.value if self.status else "cut" if self.resumable else "running",
            "resumable": self.resumable,
            "started_at": self.started_at,
            "duration_s": round(self.duration_s, 6),
            "error": self.error.as_dict() if self.error else None,
        }

    def as_dict(self) -> dict[str, Any]:
        """JSON of the whole, without the output."""
        return {**self.summary(), "steps": [step.as_dict() for step in self.steps]}


class MemoryJournal:
    """Keeps the answers of one run in its report. Large ones are told by their size."""

    def __init__(self, report: RunReport) -> None:
        self._answers = report.answers

    def answer(self, place: str, value: Any, error: endings.FlowError | None, *, stream: str = "") -> None:
        """Tell of one answer."""
        told: dict[str, Any] = {"place": place}
        if stream:
            told["stream"] = stream
        elif error is not None:
            told["error"] = error.as_dict()
        else:
            told["value"] = _kept(value)
        self._answers.append(told)

    def close(self) -> None:
        """Nothing to give back."""


def _kept(value: Any) -> Any:
    """A copy, as plain data; what it was where it is large or no data."""
    try:
        data = pack(value)
    except ValueProblem as problem:
        return {"_omitted": str(problem)[:200]}
    return unpack(data) if len(data) <= MAX_ANSWER_BYTES else {"_omitted": f"{len(data)} bytes"}
