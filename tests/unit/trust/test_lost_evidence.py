"""A record that can't be written is told at once, and the trail itself says afterwards what is missing in it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import HostError, TrustError
from core_runtime.approval_manager import ApprovalManager
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers import audit as module
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.latest_time import LatestTime
from core_runtime.install_journal import InstallJournal
from core_runtime.permission_manager import PermissionManager
from core_runtime.rules.approval import State
from tests.support.trust_home import TrustHome


class Disk:
    """One that is full while ``full``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *places: tuple[Any, str]) -> None:
        self.full = False
        for owner, name in places:
            monkeypatch.setattr(owner, name, self._checked(getattr(owner, name)))

    def _checked(self, real: Any) -> Any:
        def write(*args: Any, **fields: Any) -> Any:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **fields)

        return write


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch, (module, "write_all"))


def test_a_lost_record_is_an_issue_until_one_is_written_and_the_trail_says_what_is_missing(tmp_path: Path, disk: Disk) -> None:
    diagnostics = Diagnostics()
    audit = AuditLog(tmp_path, report=diagnostics.mishap)
    audit.append("host.started")
    disk.full = True
    with pytest.raises(HostError):
        audit.append("pack.approved")
    audit.happened("pack.rejected", pack_id="alpha")
    audit.happened("permission.denied", sync=False, pack_id="alpha")
    audit.happened("permission.denied", sync=False, pack_id="alpha")
    [issue] = diagnostics.issues()
    assert (issue.code, issue.subject, issue.count, issue.severity) == ("audit_unwritable", "audit", 4, "error")
    assert "permission.denied was lost" in issue.detail
    assert issue.hint
    assert any("No space left on device" in cause for cause in issue.cause)

    disk.full = False
    audit.happened("pack.scanned")
    assert diagnostics.issues() == []
    assert [record["event"] for record in audit.tail(9)] == ["host.started", "evidence.lost", "pack.scanned"]
    lost = audit.tail(2)[0]
    assert (lost["count"], lost["events"]) == (4, ["pack.approved", "pack.rejected", "permission.denied"])
    assert audit.verify().ok
    audit.append("host.stopped")
    assert [record["event"] for record in audit.tail(2)] == ["pack.scanned", "host.stopped"]


def test_the_install_journal_is_an_issue_of_its_own(tmp_path: Path, disk: Disk) -> None:
    diagnostics = Diagnostics()
    journal = InstallJournal(tmp_path, report=diagnostics.mishap)
    disk.full = True
    with pytest.raises(HostError):
        journal.append("pack.added", scope="pack", ref="alpha")
    assert [(issue.code, issue.subject) for issue in diagnostics.issues()] == [("audit_unwritable", "install")]
    disk.full = False
    journal.append("pack.added", scope="pack", ref="alpha")
    assert diagnostics.issues() == []


def test_rejecting_without_room_counts_and_tells_both_that_were_lost(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    home = TrustHome(tmp_path)
    diagnostics = Diagnostics()
    home.audit = AuditLog(home.home, clock=home.clock, report=diagnostics.mishap)
    home.approvals = ApprovalManager(
        home.home, home.registry, home.audit, clock=home.clock, monotonic=home.clock.monotonic, report=diagnostics.mishap
    )
    home.approved()
    grants = Disk(monkeypatch, (type(home.approvals.grants), "record_rejection"))
    disk.full = grants.full = True
    assert home.approvals.reject("alpha", reason="no", actor="tester").state is State.BLOCKED
    assert {(issue.code, issue.subject) for issue in diagnostics.issues()} == {("rejection_unwritable", "alpha"), ("audit_unwritable", "audit")}
    disk.full = grants.full = False
    home.approve()
    assert diagnostics.issues() == []
    assert "evidence.lost" in {record["event"] for record in home.audit.tail(9)}


def test_a_denial_stays_a_denial_and_what_is_not_counted_any_more_is_told(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    home = TrustHome(tmp_path)
    diagnostics = Diagnostics()
    audit = AuditLog(home.home, report=diagnostics.mishap)
    permissions = PermissionManager(home.approvals.grant, audit, files=home.approvals.grants, report=diagnostics.mishap)
    counts = Disk(monkeypatch, (type(permissions._usage_file), "store"))
    home.add()
    home.approve()
    disk.full = counts.full = True
    refused = permissions.check("alpha", "userdata.read", path="shared/x")
    assert type(refused).__name__ == "Deny"
    permissions._count("alpha", "userdata.read", "x")
    permissions.keep_uses()
    assert {issue.code for issue in diagnostics.issues()} == {"audit_unwritable", "uses_unwritable"}
    disk.full = counts.full = False
    permissions.keep_uses()
    assert {issue.code for issue in diagnostics.issues()} == {"audit_unwritable"}


def test_a_latest_time_that_is_not_kept_is_told(tmp_path: Path) -> None:
    class Ledger:
        faulty = True

        def trusted(self) -> Any:
            raise TrustError("no counters", code="counters_missing")

        def advance_clock(self, _now: float) -> None:
            if self.faulty:
                raise OSError(errno.ENOSPC, "No space left on device")

    diagnostics = Diagnostics()
    now = [1000.0]
    ledger: Any = Ledger()
    latest = LatestTime(
        ledger, AuditLog(tmp_path), clock=lambda: now[0], monotonic=lambda: now[0], report=diagnostics.mishap
    )
    now[0] += 60
    assert latest.now() == 1060
    assert [issue.code for issue in diagnostics.issues()] == ["clock_unwritable"]
    ledger.faulty = False
    now[0] += 60
    assert latest.now() == 1120
    assert diagnostics.issues() == []
