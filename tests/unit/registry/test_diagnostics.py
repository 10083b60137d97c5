from __future__ import annotations

import pytest

from backend_core.errors import TrustError
from core_runtime.diagnostics import Diagnostics, Issue, Severity, Suggestion, cause_chain, fail_soft


def test_the_documented_document():
    now = iter(range(100))
    diagnostics = Diagnostics(clock=lambda: next(now), max_events=3)
    diagnostics.record(phase="setup", status="success", step_id="s", handler="h", target={"kind": "pack", "id": "a"})
    diagnostics.record(phase="setup", status="failed", error=ValueError("no"))
    diagnostics.record(phase="boot", status="odd", meta={"x": 1})
    diagnostics.record(phase="boot", status="disabled", error={"type": "T", "message": "m"})
    document = diagnostics.as_dict()
    assert document["started_at"] == 0
    assert document["event_count"] == 4
    assert len(document["events"]) == 3
    failed, odd, disabled = document["events"]
    assert set(failed) == {"ts", "phase", "step_id", "handler", "status", "target", "error", "meta"}
    assert failed["error"] == {"type": "ValueError", "message": "no"}
    assert odd["status"] == "unknown"
    assert odd["meta"] == {"x": 1}
    assert odd["target"] == {"kind": None, "id": None}
    assert disabled["error"] == {"type": "T", "message": "m"}
    summary = document["summary"]
    assert summary["counts"] == {"disabled": 1, "failed": 1, "skipped": 0, "success": 1, "unknown": 1}
    assert summary["phase_counts"] == {"setup": {"success": 1, "failed": 1}, "boot": {"unknown": 1, "disabled": 1}}
    assert (summary["failed"], summary["disabled"], summary["last_event_ts"]) == (1, 1, 4)
    assert summary["last_failure"] is failed
    assert diagnostics.events(1) == [disabled]
    assert diagnostics.events(0) == []


def test_issues_are_counted_bounded_and_resolvable(monkeypatch):
    monkeypatch.setattr("core_runtime.diagnostics.MAX_ISSUES", 3)
    diagnostics = Diagnostics()
    seen: list[Issue] = []
    diagnostics.watch(seen.append)
    diagnostics.watch(lambda issue: issue.evidence["absent"])
    last = diagnostics.issue("c", "warn", "s", "t")
    for _ in range(4):
        last = diagnostics.issue("c", "warn", "s", "t", suggestions=(Suggestion("do", "rumi do"),))
    assert last.count == 5
    assert last.severity is Severity.WARN
    assert len(seen) == 5
    assert last.as_dict()["suggestions"] == [{"title": "do", "command": "rumi do", "fixup": "", "args": {}}]
    for i in range(3):
        diagnostics.issue("c", subject=str(i))
    assert [issue.subject for issue in diagnostics.issues()] == ["0", "1", "2"]
    assert diagnostics.issues("1")[0].subject == "1"
    assert diagnostics.resolve("c", "1")
    assert not diagnostics.resolve("c", "1")
    assert diagnostics.as_dict()["summary"]["failed"] == 8, "a failing watcher is an event"


def test_the_boundary_records_a_cause_chain_and_stops_the_exception():
    diagnostics = Diagnostics()
    error = ValueError("outer")
    error.__cause__ = KeyError("inner")

    def fail(exc: Exception) -> None:
        raise exc

    with fail_soft(diagnostics, "component x", "setup") as outcome:
        fail(error)
    assert not outcome.ok
    assert isinstance(outcome.error, ValueError)
    [issue] = diagnostics.issues()
    assert issue.cause == ("ValueError: outer", "KeyError: 'inner'")
    assert issue.evidence["phase"] == "setup"
    assert "trace" in issue.evidence
    with fail_soft(diagnostics, "component x", "setup") as outcome:
        fail(TrustError("no", code="digest_differs", detail="d", hint="h", fields={"a": 1}))
    issue = diagnostics.issues()[-1]
    assert (issue.code, issue.title, issue.hint, issue.evidence["a"]) == ("digest_differs", "no", "h", 1)
    with fail_soft(diagnostics, "x", "y") as outcome:
        pass
    assert outcome.ok
    assert len(diagnostics.issues()) == 2


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exits_pass_the_boundary(leaving):
    with pytest.raises(leaving), fail_soft(Diagnostics(), "x", "y"):
        raise leaving


def test_cyclic_causes_end():
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    assert cause_chain(a) == ("ValueError: a", "ValueError: b")
    assert cause_chain(None) == ()
