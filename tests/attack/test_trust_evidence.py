"""Attacks on the evidence: edited, reordered, truncated, extended; and what a crash leaves, which is none of these."""

from __future__ import annotations

import json

import pytest

from core_runtime.drivers.audit import AuditLog
from core_runtime.install_journal import InstallJournal
from tests.support.trust_home import TrustHome


@pytest.fixture
def audit(tmp_path):
    log = AuditLog(tmp_path)
    for number in range(5):
        log.append("event", number=number)
    return log


def lines(audit: AuditLog) -> list[bytes]:
    return audit.path.read_bytes().splitlines(keepends=True)


def test_untouched_audit_verifies(audit, tmp_path):
    assert audit.verify().ok
    assert AuditLog(tmp_path).verify().records == 5
    assert [record["number"] for record in audit.tail(2)] == [3, 4]


def test_edited_audit_names_the_first_bad_record(audit):
    changed = lines(audit)
    changed[2] = changed[2].replace(b'"number":2', b'"number":9')
    audit.path.write_bytes(b"".join(changed))
    report = audit.verify()
    assert (report.ok, report.problem, report.bad_record) == (False, "edited", 4)  # the line after no longer fits


def test_edited_last_record_is_noticed_by_the_head(audit):
    changed = lines(audit)
    changed[4] = changed[4].replace(b'"number":4', b'"number":9')
    audit.path.write_bytes(b"".join(changed))
    report = audit.verify()
    assert (report.problem, report.bad_record) == ("edited", 5)


def test_reordered_audit_is_noticed(audit):
    changed = lines(audit)
    changed[1], changed[2] = changed[2], changed[1]
    audit.path.write_bytes(b"".join(changed))
    assert audit.verify().bad_record == 2


def test_removed_record_is_noticed(audit):
    changed = lines(audit)
    del changed[1]
    audit.path.write_bytes(b"".join(changed))
    assert audit.verify().bad_record == 2


@pytest.mark.parametrize("keep", [0, 1, 4])
def test_truncated_audit_is_told_from_a_torn_line(audit, keep):
    audit.path.write_bytes(b"".join(lines(audit)[:keep]))
    report = audit.verify()
    assert (report.problem, report.bad_record, report.torn_bytes) == ("truncated", keep + 1, 0)


def test_cutting_within_the_last_record_is_truncation(audit):
    audit.path.write_bytes(audit.path.read_bytes()[:-20])
    report = audit.verify()
    assert report.problem == "truncated"
    assert report.torn_bytes > 0


def test_torn_last_line_is_a_crash_not_a_fault(audit, tmp_path):
    with audit.path.open("ab") as file:
        file.write(b'{"event":"half')
    report = AuditLog(tmp_path).verify()
    assert report.ok
    assert report.torn_bytes == 14
    again = AuditLog(tmp_path)
    again.append("after")
    assert again.verify().ok
    assert [record["event"] for record in again.tail(2)] == ["evidence.recovered", "after"]


def test_forged_records_at_the_end_are_noticed(audit):
    import hashlib

    last = lines(audit)[-1].rstrip(b"\n")
    forged = b""
    for number in (6, 7):
        record = {"event": "forged", "seq": number, "ts": 0, "prev": hashlib.sha256(last).hexdigest()}
        last = json.dumps(record).encode()
        forged += last + b"\n"
    with audit.path.open("ab") as file:
        file.write(forged)
    report = audit.verify()
    assert (report.problem, report.bad_record) == ("unsigned_tail", 7)


def test_removed_head_is_noticed(audit, tmp_path):
    (tmp_path / "user_data/permissions/.audit_head").unlink()
    assert not audit.verify().ok


def test_forged_head_is_noticed(audit, tmp_path):
    head = tmp_path / "user_data/permissions/.audit_head"
    head.write_bytes(head.read_bytes().replace(b'"seq": 5', b'"seq": 3').replace(b'"seq": 4', b'"seq": 2'))
    assert audit.verify().problem == "audit_forged"


def test_truncation_stays_on_record_after_the_host_wrote_again(audit, tmp_path):
    audit.path.write_bytes(b"".join(lines(audit)[:2]))
    again = AuditLog(tmp_path)
    again.append("after")
    [recovered] = [record for record in again.tail(9) if record["event"] == "evidence.recovered"]
    assert recovered["problem"] == "truncated"


def test_unsynced_notes_lost_in_a_power_cut_are_counted_not_blamed(audit, tmp_path):
    before = audit.path.read_bytes()
    audit.note("permission.denied")
    audit.note("permission.denied")
    audit.path.write_bytes(before)
    report = AuditLog(tmp_path).verify()
    assert report.ok
    assert report.lost == 2


def test_hostile_text_can_not_forge_a_line(audit):
    audit.append("event", text='x"}\n{"event":"forged"}\n\x1b[2J\u202e', big="y" * 100_000, deep=[[[[[[[[[1]]]]]]]]])
    assert audit.verify().ok
    assert audit.path.read_bytes().isascii()
    assert len(lines(audit)[-1]) < 10_000
    assert all(record["event"] == "event" for record in audit.tail(99))


def test_every_decision_is_on_record(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    home.start()
    home.approvals.mark("alpha", "stopped")
    home.permissions.check("alpha", "userdata.read", path="shared/x")
    home.approvals.reject("alpha", reason="no", actor="tester")
    events = [record["event"] for record in home.audit.tail(50)]
    assert events == [
        "pack.approving", "pack.approved", "pack.started", "pack.stopped", "permission.denied", "pack.rejected",
    ]  # fmt: skip
    assert home.audit.verify().ok


def test_journal_is_chained_as_well(tmp_path):
    journal = InstallJournal(tmp_path)
    for number in range(3):
        journal.append("made", scope="host", ref="x", created=[f"user_data/cache/{number}"])
    assert journal.verify().ok
    path = tmp_path / "user_data/journal/install.jsonl"
    path.write_bytes(path.read_bytes().replace(b"cache/1", b"cache/9"))
    assert not journal.verify().ok
