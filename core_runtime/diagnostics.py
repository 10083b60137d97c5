"""What happened and what is wrong, as data: the event log, issues with suggestions, and the one fail-soft boundary.

Invariants:
  * Bounded: ``MAX_EVENTS`` events (oldest dropped, totals kept), ``MAX_ISSUES`` issues, one issue for each
    ``(code, subject)`` with a count. Nothing that a Pack does makes this grow without end.
  * ``fail_soft`` (``record_failure`` on hot paths) is the only place where an arbitrary exception ends;
    cancellation and exits pass it.
  * Text in events and issues is bounded here; whoever quotes a Pack does so with ``backend_core.errors.quote``.
Not here: showing any of it, deciding what to do about it (fixups).
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from backend_core.errors import RumiError, quote
from core_runtime.drivers.side_work import Mishap
from core_runtime.rules.issue_words import title_ja

MAX_EVENTS = 10_000
MAX_PHASES = 256
MAX_ISSUES = 2_000
MAX_TEXT_CHARS = 2_000
MAX_TRACE_CHARS = 8_000
STATUSES = frozenset({"success", "failed", "skipped", "disabled", "unknown"})


class Severity(StrEnum):
    """How much an issue matters to the operator."""

    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Suggestion(Struct, frozen=True):
    """What would mend an issue. ``fixup`` names the fix that the host can perform itself, "" when none."""

    title: str
    command: str = ""
    fixup: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)


class Issue(Struct, frozen=True):
    """One thing that is wrong. ``cause`` is the chain of causes, outermost first."""

    id: str
    code: str
    severity: Severity
    subject: str
    title: str
    detail: str = ""
    hint: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    cause: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    count: int = 1
    first_ts: float = 0.0
    last_ts: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON for the API."""
        return {
            "id": self.id,
            "code": self.code,
            "severity": self.severity.value,
            "subject": self.subject,
            "title": self.title,
            "title_ja": title_ja(self.code),
            "detail": self.detail,
            "hint": self.hint,
            "evidence": dict(self.evidence),
            "cause": list(self.cause),
            "suggestions": [
                {"title": s.title, "command": s.command, "fixup": s.fixup, "args": dict(s.args)}
                for s in self.suggestions
            ],
            "count": self.count,
            "first_ts": self.first_ts,
            "last_ts": self.last_ts,
        }


class StepDone(Struct, frozen=True, gc=False):
    """A step of a flow that went well: a line of the log for each, so it is written out only when somebody reads it.

    Its names are those of approved documents, so there is no secret in it to hide.
    """

    ts: float
    phase: str
    step_id: str
    handler: str
    flow: str
    run_id: str
    duration_s: float

    def as_event(self) -> dict[str, Any]:
        """In the documented shape."""
        return {
            "ts": self.ts,
            "phase": self.phase,
            "step_id": self.step_id,
            "handler": self.handler or None,
            "status": "success",
            "target": {"kind": "flow", "id": self.flow},
            "error": None,
            "meta": {"run_id": self.run_id, "reason": "", "duration_s": self.duration_s},
        }


class Diagnostics:
    """Event log and issues. Thread-safe; recording is a few microseconds and never raises."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        max_events: int = MAX_EVENTS,
        conceal: Callable[[Any], Any] | None = None,
    ) -> None:
        """``conceal`` hides known secrets in everything that is recorded, before anything is cut to its length."""
        self._clock = clock
        self._conceal = conceal or _as_it_is
        self._lock = threading.Lock()
        self._events: deque[dict[str, Any] | StepDone] = deque(maxlen=max_events)
        self._counts: Counter[str] = Counter()
        self._phases: dict[str, Counter[str]] = {}
        self._last_failure: dict[str, Any] | None = None
        self._issues: OrderedDict[tuple[str, str], Issue] = OrderedDict()
        self._watchers: tuple[Callable[[Issue], None], ...] = ()
        self._gone_watchers: tuple[Callable[[Issue], None], ...] = ()
        self.started_at = clock()
        self.event_count = 0

    def record(
        self,
        *,
        phase: str,
        status: str,
        step_id: str | None = None,
        handler: str | None = None,
        target: Mapping[str, Any] | None = None,
        error: BaseException | Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Append one event in the documented shape; an unknown status is kept as ``unknown``."""
        shown = status if status in STATUSES else "unknown"
        event: dict[str, Any] = {
            "ts": self._clock(),
            "phase": phase,
            "step_id": step_id,
            "handler": handler,
            "status": shown,
            "target": {"kind": target.get("kind"), "id": target.get("id")} if target else {"kind": None, "id": None},
            "error": error_of(error) if isinstance(error, BaseException) else dict(error) if error else None,
            "meta": dict(meta) if meta else {},
        }
        return self.append(event)

    def append(self, event: dict[str, Any]) -> dict[str, Any]:
        """As ``record``, for an event that has the documented shape already: it is kept, not copied."""
        event = self._conceal(event)
        phase, shown = event["phase"], event["status"]
        with self._lock:
            self._log(event, phase, shown)
            if shown == "failed":
                self._last_failure = event
        return event

    def step_done(self, step: StepDone) -> None:
        """As ``append``, for what every step of every flow costs."""
        with self._lock:
            self._log(step, step.phase, "success")

    def _log(self, event: dict[str, Any] | StepDone, phase: str, shown: str) -> None:
        self._events.append(event)
        self.event_count += 1
        self._counts[shown] += 1
        counter = self._phases.get(phase)
        if counter is None:
            counter = self._phases.setdefault(phase if len(self._phases) < MAX_PHASES else "other", Counter())
        counter[shown] += 1

    def _logged(self) -> list[dict[str, Any]]:
        return [event.as_event() if isinstance(event, StepDone) else event for event in self._events]

    def events(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Newest last."""
        with self._lock:
            kept = self._logged()
        return kept if limit is None else kept[-limit:] if limit > 0 else []

    def as_dict(self) -> dict[str, Any]:
        """The documented document."""
        with self._lock:
            kept = self._logged()
            return {
                "started_at": self.started_at,
                "event_count": self.event_count,
                "events": kept,
                "summary": {
                    "counts": {status: self._counts.get(status, 0) for status in sorted(STATUSES)},
                    "phase_counts": {phase: dict(counts) for phase, counts in self._phases.items()},
                    "failed": self._counts.get("failed", 0),
                    "disabled": self._counts.get("disabled", 0),
                    "last_event_ts": kept[-1]["ts"] if kept else None,
                    "last_failure": self._last_failure,
                },
            }

    def issue(
        self,
        code: str,
        severity: Severity | str = Severity.ERROR,
        subject: str = "",
        title: str = "",
        detail: str = "",
        hint: str = "",
        evidence: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
        suggestions: tuple[Suggestion, ...] = (),
    ) -> Issue:
        """Record an issue, or count it once more when ``(code, subject)`` is known; the newest wording stays."""
        return self._keep(
            self._made(code, severity, subject, title, detail, hint, evidence, cause, suggestions), again=True
        )

    def standing(
        self,
        code: str,
        severity: Severity | str = Severity.ERROR,
        subject: str = "",
        title: str = "",
        detail: str = "",
        hint: str = "",
        evidence: Mapping[str, Any] | None = None,
        cause: BaseException | None = None,
        suggestions: tuple[Suggestion, ...] = (),
    ) -> Issue:
        """As ``issue``, for what is still so and was looked at again: it is not counted once more, and nobody is told
        a second time unless its wording changed.
        """
        return self._keep(
            self._made(code, severity, subject, title, detail, hint, evidence, cause, suggestions), again=False
        )

    def mishap(self, what: Mishap, error: Exception | None) -> None:
        """``side_work.Report``: failed side work as an issue that stands until the work succeeds."""
        if error is None:
            self.resolve(what.code, what.subject)
            return
        known = error if isinstance(error, RumiError) else None
        detail = f"{known.code}: {known.title}. {known.detail}" if known else f"{type(error).__name__}: {error}"
        self.issue(what.code, what.severity, what.subject, what.title, detail, what.hint, None, error)

    def _made(
        self,
        code: str,
        severity: Severity | str,
        subject: str,
        title: str,
        detail: str,
        hint: str,
        evidence: Mapping[str, Any] | None,
        cause: BaseException | None,
        suggestions: tuple[Suggestion, ...],
    ) -> Issue:
        now = self._clock()
        title, detail, hint, evidence = self._conceal([title, detail, hint, dict(evidence or {})])
        return Issue(
            id=f"{code}:{subject}"[:300],
            code=code,
            severity=Severity(severity),
            subject=subject[:MAX_TEXT_CHARS],
            title=title[:MAX_TEXT_CHARS],
            detail=detail[:MAX_TEXT_CHARS],
            hint=hint[:MAX_TEXT_CHARS],
            evidence=evidence,
            cause=tuple(self._conceal(list(cause_chain(cause)))),
            suggestions=suggestions,
            first_ts=now,
            last_ts=now,
        )

    def _keep(self, new: Issue, *, again: bool) -> Issue:
        key = (new.code, new.subject)
        with self._lock:
            old = self._issues.get(key)
            if old is not None:
                if not again and replace(new, first_ts=old.first_ts, last_ts=old.last_ts, count=old.count) == old:
                    return old
                new = replace(new, count=old.count + again, first_ts=old.first_ts)
                del self._issues[key]
            elif len(self._issues) >= MAX_ISSUES:
                self._issues.popitem(last=False)
            self._issues[key] = new
            watchers = self._watchers
        for watcher in watchers:
            with fail_soft(self, "issue watcher", "diagnostics", quiet=True):
                watcher(new)
        return new

    def issues(self, subject: str | None = None) -> list[Issue]:
        """Least recently seen first."""
        with self._lock:
            return [issue for issue in self._issues.values() if subject is None or issue.subject == subject]

    def resolve(self, code: str, subject: str = "") -> bool:
        """Forget an issue whose cause is gone."""
        with self._lock:
            gone = self._issues.pop((code, subject), None)
            watchers = self._gone_watchers if gone is not None else ()
        for watcher in watchers:
            assert gone is not None
            with fail_soft(self, "issue watcher", "diagnostics", quiet=True):
                watcher(gone)
        return gone is not None

    def watch(self, watcher: Callable[[Issue], None], gone: Callable[[Issue], None] | None = None) -> None:
        """Call ``watcher`` with every issue as it is recorded and ``gone`` with every one that is resolved, in the
        thread where that happens.
        """
        with self._lock:
            self._watchers = (*self._watchers, watcher)
            if gone is not None:
                self._gone_watchers = (*self._gone_watchers, gone)


def _as_it_is(value: Any) -> Any:
    return value


def error_of(exc: BaseException, *, with_trace: bool = True) -> dict[str, Any]:
    """``{type, message, trace?}`` of an exception, bounded."""
    shown: dict[str, Any] = {"type": type(exc).__name__, "message": str(exc)[:MAX_TEXT_CHARS]}
    if with_trace and exc.__traceback__ is not None and not isinstance(exc, RumiError):
        shown["trace"] = "".join(traceback.format_exception(exc))[-MAX_TRACE_CHARS:]
    return shown


def cause_chain(exc: BaseException | None) -> tuple[str, ...]:
    """``Type: text`` of an exception and of everything that led to it, outermost first; at most ten, cycles cut."""
    chain: list[str] = []
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen and len(chain) < 10:
        seen.add(id(exc))
        chain.append(f"{type(exc).__name__}: {str(exc)[:300]}")
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return tuple(chain)


class Outcome:
    """What came of a guarded block: ``error`` is None when it went through."""

    __slots__ = ("error",)

    def __init__(self) -> None:
        self.error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether the block ended without an exception."""
        return self.error is None


class fail_soft(Outcome):  # noqa: N801  used as a statement; a class, since every request passes one
    """The fail-soft boundary: an exception of the block becomes an Issue and a failed event, and goes no further.

    The caller looks at the ``Outcome`` that it is and disables what failed. ``quiet`` records the event only (for the
    recorder's own callbacks, which must not recurse). Decisions of trust never stand inside such a block.
    """

    __slots__ = ("_diagnostics", "_phase", "_quiet", "_step_id", "_subject")

    def __init__(
        self, diagnostics: Diagnostics, subject: str, phase: str, *, step_id: str | None = None, quiet: bool = False
    ) -> None:
        super().__init__()
        self._diagnostics = diagnostics
        self._subject = subject
        self._phase = phase
        self._step_id = step_id
        self._quiet = quiet

    def __enter__(self) -> Outcome:
        """The outcome, as far as there is one."""
        return self

    def __exit__(self, _kind: object, exc: BaseException | None, _traceback: object) -> bool:
        """The one place where anything may end; what no ``except Exception`` catches goes on."""
        if not isinstance(exc, Exception):
            return False
        self.error = exc
        record_failure(
            self._diagnostics, exc, self._subject, self._phase, step_id=self._step_id, quiet=self._quiet
        )
        return True


def record_failure(
    diagnostics: Diagnostics,
    exc: Exception,
    subject: str,
    phase: str,
    *,
    step_id: str | None = None,
    quiet: bool = False,
) -> None:
    """What the boundary writes down, for hot paths that catch by themselves: entering it costs more than a handler."""
    diagnostics.record(
        phase=phase, status="failed", step_id=step_id, target={"kind": "subject", "id": subject}, error=exc
    )
    if quiet:
        return
    known = exc if isinstance(exc, RumiError) else None
    diagnostics.issue(
        known.code if known else "unexpected_error",
        Severity.ERROR,
        subject,
        known.title if known else f"{subject} failed unexpectedly",
        known.detail if known else f"{type(exc).__name__}: {quote(str(exc), 500)}",
        known.hint if known else "See the cause chain; `rumi logs` shows what led to it.",
        {**(dict(known.fields) if known else {}), "phase": phase, **error_of(exc)},
        exc,
    )
