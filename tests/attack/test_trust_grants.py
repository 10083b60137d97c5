"""Attacks on the decision: forged, copied, older, truncated and foreign grants, weak keys, lost counters."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import shutil

import pytest

from backend_core.errors import ConflictError, RumiError, TrustError
from core_runtime.rules.approval import State
from core_runtime.rules.seals import signature_of
from tests.support.trust_home import DOCKER, REDUCED, STANDARD, TrustHome


def refused(home: TrustHome, cause: str, pack_id: str = "alpha", state: State = State.ERROR) -> None:
    """The state says so after a restart, and nothing starts."""
    home.reopen()
    [status] = [item for item in home.approvals.scan() if item.pack_id == pack_id]
    assert (status.state, status.cause) == (state, cause)
    assert home.approvals.grant(pack_id) is None
    with pytest.raises(RumiError) as error:
        home.approvals.open_for_start(pack_id, isolation=STANDARD)
    assert error.value.http_status in {403, 409}


def test_grant_signature_is_the_compatible_one(tmp_path):
    """The format of compat.md, computed here by hand."""
    home = TrustHome(tmp_path)
    home.approved()
    document = json.loads(home.grant_file().read_text())
    key = (home.secrets / ".secret_key").read_text().encode()
    body = {name: value for name, value in document.items() if not name.startswith("_hmac")}
    message = json.dumps(body, sort_keys=True, ensure_ascii=False).encode()
    assert document["_hmac_signature"] == hmac.new(key, message, hashlib.sha256).hexdigest()
    assert document["file_hashes"]["backend/ecosystem.json"].startswith("sha256:")
    assert (home.secrets / ".secret_key").stat().st_mode & 0o777 == 0o600
    assert home.secrets.stat().st_mode & 0o777 == 0o700


def test_forged_grant_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    document = json.loads(home.grant_file().read_text())
    document["permissions"] = [{"type": "userdata.read", "paths": ["shared/**"], "mode": "always"}]
    home.grant_file().write_text(json.dumps(document))
    refused(home, "grant_forged")


def test_unsigned_grant_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    document = json.loads(home.grant_file().read_text())
    del document["_hmac_signature"]
    home.grant_file().write_text(json.dumps(document))
    refused(home, "grant_unsigned")


def test_grant_signed_with_another_key_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    document = json.loads(home.grant_file().read_text())
    document["_hmac_signature"] = signature_of(document, "ab" * 32)
    home.grant_file().write_text(json.dumps(document))
    refused(home, "grant_forged")


def test_copied_grant_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved("alpha")
    home.add("beta", provides=["service.beta"])
    shutil.copy(home.grant_file("alpha"), home.grant_file("beta"))
    refused(home, "grant_copied", "beta")


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_truncated_grant_is_refused(tmp_path, keep):
    home = TrustHome(tmp_path)
    home.approved()
    data = home.grant_file().read_bytes()
    home.grant_file().write_bytes(data[:keep])
    refused(home, "grant_truncated")


def test_older_grant_put_back_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    root = home.approved()
    old = home.grant_file().read_bytes()
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    home.add(version="2.0.0")
    home.approve()
    home.grant_file().write_bytes(old)
    for path, data in files.items():
        path.write_bytes(data)
    refused(home, "grant_rolled_back")


def test_rejected_grant_put_back_stays_blocked(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    old = home.grant_file().read_bytes()
    home.approvals.reject("alpha", reason="no", actor="tester")
    home.grant_file().write_bytes(old)
    refused(home, "rejected", state=State.BLOCKED)


def test_grant_of_a_removed_pack_put_back_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    old = home.grant_file().read_bytes()
    home.approvals.remove("alpha", actor="tester")
    home.add()
    home.grant_file().write_bytes(old)
    refused(home, "grant_revoked", state=State.PENDING)


def test_lost_counters_void_every_grant(tmp_path):
    """Otherwise removing the file would make every older grant fresh again."""
    home = TrustHome(tmp_path)
    home.approved()
    (home.secrets / ".counters").unlink()
    refused(home, "counters_missing")
    home.approve()
    assert home.reopen().scan().state is State.APPROVED


def test_old_grant_with_replaced_counters_is_of_a_foreign_epoch(tmp_path):
    home = TrustHome(tmp_path)
    home.approved("alpha")
    home.add("beta", provides=["service.beta"])
    old = home.grant_file().read_bytes()
    (home.secrets / ".counters").unlink()
    home.reopen().approve("beta")
    home.grant_file().write_bytes(old)
    refused(home, "grant_foreign_epoch")


def test_forged_counters_void_every_grant(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    path = home.secrets / ".counters"
    path.write_bytes(path.read_bytes().replace(b'"alpha": [1', b'"alpha": [0'))
    refused(home, "counters_forged")


def test_one_damaged_slot_takes_no_decision_back(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    old = home.grant_file().read_bytes()
    home.approvals.reject("alpha", reason="no", actor="tester")
    path = home.secrets / ".counters"
    data = path.read_bytes()
    for half in (0, 1):
        damaged = bytearray(data)
        damaged[half * len(data) // 2 : half * len(data) // 2 + 64] = b"x" * 64
        path.write_bytes(bytes(damaged))
        home.grant_file().write_bytes(old)
        refused(home, "rejected", state=State.BLOCKED)


def test_older_counters_with_a_newer_grant_are_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    counters = (home.secrets / ".counters").read_bytes()
    home.approve()
    home.approve()
    (home.secrets / ".counters").write_bytes(counters)
    refused(home, "counters_rolled_back")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_key_that_others_can_read_is_no_key(tmp_path, mode):
    home = TrustHome(tmp_path)
    home.approved()
    (home.secrets / ".secret_key").chmod(mode)
    refused(home, "key_readable_by_others")
    with pytest.raises(TrustError) as error:
        home.approve()
    assert error.value.code == "key_readable_by_others"
    assert "rumi trust rotate-key" in (error.value.hint or "")


def test_missing_key_disables_and_a_new_approval_makes_a_new_one(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    (home.secrets / ".secret_key").unlink()
    refused(home, "key_missing")
    home.approve()
    assert home.reopen().scan().state is State.APPROVED


@pytest.mark.parametrize("content", [b"", b"short", b"Z" * 64, b"ab" * 33, b"\xff" * 64])
def test_malformed_key_is_no_key(tmp_path, content):
    home = TrustHome(tmp_path)
    home.approved()
    (home.secrets / ".secret_key").write_bytes(content)
    refused(home, "key_malformed")


def test_key_that_is_a_link_is_no_key(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    key = home.secrets / ".secret_key"
    key.rename(home.secrets / "elsewhere")
    key.symlink_to("elsewhere")
    refused(home, "key_unreadable")


@pytest.mark.root
def test_foreign_owner_of_the_key_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    os.chown(home.secrets / ".secret_key", 12345, 12345)
    refused(home, "key_foreign")


def test_grant_that_is_a_folder_or_link_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    home.grant_file().rename(home.secrets / "copy.json")
    home.grant_file().symlink_to("copy.json")
    refused(home, "grant_unreadable")
    home.grant_file().unlink()
    home.grant_file().mkdir()
    refused(home, "grant_unreadable")


def test_deleted_grant_is_pending_not_allowed(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    home.grant_file().unlink()
    refused(home, "grant_missing", state=State.PENDING)


def test_grant_made_elsewhere_imports_as_pending(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    home.add("beta", provides=["service.beta"])
    key = (home.secrets / ".secret_key").read_text()
    document = {"pack_id": "beta", "status": "approved", "created_at": "2024-01-01T00:00:00", "file_hashes": {}}
    document["_hmac_signature"] = signature_of(document, key)
    home.grant_file("beta").write_text(json.dumps(document, ensure_ascii=False))
    refused(home, "grant_imported", "beta", State.PENDING)
    home.approve("beta")
    assert home.scan("beta").state is State.APPROVED


def test_document_of_another_purpose_is_no_grant(tmp_path):
    """The counters are signed with a derived key, so their signature can't be passed off as a grant's."""
    home = TrustHome(tmp_path)
    home.approved()
    data = (home.secrets / ".counters").read_bytes()
    home.grant_file().write_bytes(data[: len(data) // 2])
    refused(home, "grant_forged")


def test_weaker_isolation_than_approved_does_not_start(tmp_path):
    home = TrustHome(tmp_path)
    home.add()
    home.approve(isolation=DOCKER)
    for weaker in (STANDARD, REDUCED):
        with pytest.raises(TrustError) as error:
            home.approvals.open_for_start("alpha", isolation=weaker)
        assert error.value.code == "isolation_weaker"
    with pytest.raises(TrustError):
        home.approve(isolation=STANDARD)
    home.approve(isolation=STANDARD, accept_weaker=True)
    home.approvals.open_for_start("alpha", isolation=STANDARD)


def test_rejecting_twice_or_restoring_an_approved_pack_is_a_conflict(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    with pytest.raises(ConflictError):
        home.approvals.restore("alpha", actor="tester")
    home.approvals.reject("alpha", reason="no", actor="tester")
    with pytest.raises(ConflictError):
        home.approvals.reject("alpha", reason="no", actor="tester")


def test_key_rotation_keeps_valid_grants_and_revives_no_forged_one(tmp_path):
    home = TrustHome(tmp_path)
    home.approved("alpha")
    home.approved("beta", provides=["service.beta"])
    document = json.loads(home.grant_file("beta").read_text())
    home.grant_file("beta").write_text(json.dumps({**document, "actor": "forger"}))
    old_key = (home.secrets / ".secret_key").read_text()
    home.approvals.grants.keyring.rotate()
    assert (home.secrets / ".secret_key").read_text() != old_key
    states = {status.pack_id: status.state for status in home.reopen().approvals.scan()}
    assert states == {"alpha": State.APPROVED, "beta": State.ERROR}
    assert home.audit.verify().ok
