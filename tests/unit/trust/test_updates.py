"""Updates and the way back, at the approval manager: what may be staged, what a trial leaves, what a rollback gives."""

from __future__ import annotations

import errno
import shutil

import pytest

from backend_core import files
from backend_core.errors import AuthorError, ConflictError, HostError, NotFoundError, RumiError, TrustError
from core_runtime.drivers import pack_folders
from core_runtime.rules.approval import State
from tests.support.kills import ASKED
from tests.support.trust_home import DOCKER, REDUCED, SETUP, STANDARD, TrustHome

MORE = [*ASKED, {"type": "userdata.write", "paths": ["shared/**"], "reason": "needs it"}]


@pytest.fixture
def home(tmp_path):
    return TrustHome(tmp_path / "home")


@pytest.fixture
def author(tmp_path):
    """Where the versions come from: a folder of the operator's, outside of the installation."""
    return TrustHome(tmp_path / "author")


def update(home: TrustHome, source, **options) -> None:
    home.approvals.add(source, actor="tester")
    home.approvals.begin_update("alpha", **{"isolation": STANDARD, "actor": "tester", **options})
    home.approvals.finish_update("alpha")


def kinds(home: TrustHome) -> set[str]:
    return {p["type"] for p in home.scan().approval["permissions"]}


def test_staged_version_changes_nothing_of_the_approved_one(home, author):
    home.approved(permissions=ASKED)
    home.start()
    before = home.grant_file().read_bytes()
    seen = home.approvals.add(author.add(version="2.0.0", permissions=MORE), actor="tester")
    assert seen.state is State.RUNNING
    assert seen.pending_update["version"] == "2.0.0"
    assert home.grant_file().read_bytes() == before
    assert home.approvals.open_for_start("alpha", isolation=STANDARD).metadata.version == "1.0.0"
    review = home.approvals.review_update("alpha")
    assert [item["type"] for item in review.permission_changes.added] == ["userdata.write"]
    assert review.file_changes.changed == ("backend/ecosystem.json", "backend/permissions.json")
    assert review.digest == seen.pending_update["digest"]
    assert home.approvals.review("alpha").as_dict()["pending_update"] == dict(seen.pending_update)
    # a restarted host reads what is staged
    assert home.reopen().scan().pending_update == seen.pending_update


def test_staged_again_is_staged_instead(home, author):
    home.approved()
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    assert home.approvals.add(author.add(version="3.0.0"), actor="tester").pending_update["version"] == "3.0.0"
    assert not list((home.user_data / "staging").glob(".*"))
    assert home.approvals.reject_update("alpha", actor="tester").pending_update == {}
    with pytest.raises(NotFoundError):
        home.approvals.reject_update("alpha", actor="tester")
    with pytest.raises(NotFoundError):
        home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")


@pytest.mark.parametrize("exchanges", [True, False])
def test_folder_without_exchange_is_swapped_all_the_same(home, author, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(pack_folders, "_RENAMEAT2", None)
    home.approved()
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    update(home, author.add(version="3.0.0"))
    assert home.scan().state is State.APPROVED
    assert home.scan().metadata.version == "3.0.0"
    home.approvals.rollback("alpha", actor="tester")
    assert home.scan().metadata.version == "1.0.0"


def test_new_pack_comes_in_as_installed_under_its_own_id(home, author, tmp_path):
    source = author.add()
    renamed = tmp_path / "downloaded-alpha-main"
    shutil.copytree(source, renamed)
    assert home.approvals.add(renamed, actor="tester").state is State.INSTALLED
    assert (home.packs_dir / "alpha" / SETUP).stat().st_mode & 0o777 == 0o644
    home.approve()
    with pytest.raises(ConflictError) as refused:
        home.approvals.add(renamed, actor="tester")
    assert refused.value.code == "nothing_new"


def test_undecided_folder_is_not_replaced(home, author):
    home.add()
    with pytest.raises(ConflictError) as refused:
        home.approvals.add(author.add(version="2.0.0"), actor="tester")
    assert refused.value.code == "pack_exists"


def test_another_identity_is_no_update(home, author):
    home.approved()
    with pytest.raises(ConflictError) as refused:
        home.approvals.add(author.add(identity="github:mallory/alpha", version="2.0.0"), actor="tester")
    assert refused.value.code == "identity_changed"
    # nor when the staged files are changed afterwards
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    staged = home.user_data / "staging/alpha/backend/ecosystem.json"
    staged.write_text(staged.read_text().replace("github:author/alpha", "github:mallory/alpha"))
    with pytest.raises(ConflictError):
        home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    assert home.scan().state is State.APPROVED


def test_staged_files_changed_after_the_review_are_stale(home, author):
    home.approved()
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    shown = home.approvals.review_update("alpha").digest
    (home.user_data / "staging/alpha" / SETUP).write_text("import os\n")
    for decide in (home.approvals.check_update, home.approvals.begin_update):
        with pytest.raises(ConflictError) as refused:
            decide("alpha", digest=shown, isolation=STANDARD, actor="tester")
        assert refused.value.code == "digest_stale"


def test_weaker_isolation_needs_a_word_for_an_update_too(home, author):
    home.add()
    home.approve(isolation=DOCKER)
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    with pytest.raises(TrustError):
        home.approvals.check_update("alpha", isolation=REDUCED, actor="tester")
    home.approvals.check_update("alpha", isolation=REDUCED, actor="tester", accept_weaker=True)


def test_what_nobody_may_grant_is_refused_when_added(home, author):
    home.approved()
    asked = [{"type": "userdata.write", "paths": ["permissions/**"], "reason": "let me"}]
    with pytest.raises(AuthorError):
        home.approvals.add(author.add(version="2.0.0", permissions=asked), actor="tester")
    assert not list((home.user_data / "staging").iterdir())


def test_rollback_brings_rights_of_then_but_none_that_was_revoked_since(home, author):
    home.approved(permissions=MORE)
    update(home, author.add(version="2.0.0", permissions=MORE))
    home.approvals.narrow("alpha", permissions=["userdata.read"], actor="tester")
    home.approvals.rollback("alpha", actor="tester")
    assert home.scan().metadata.version == "1.0.0"
    assert kinds(home) == {"userdata.read"}


def test_rollback_without_a_revocation_brings_all_rights_of_then(home, author):
    home.approved(permissions=MORE)
    update(home, author.add(version="2.0.0", permissions=ASKED))
    assert kinds(home) == {"userdata.read"}
    home.approvals.rollback("alpha", actor="tester")
    assert kinds(home) == {"userdata.read", "userdata.write"}


def test_right_used_once_is_not_fresh_after_a_rollback(home, author):
    home.add(permissions=ASKED)
    home.approve(permissions=[{"type": "userdata.read", "paths": ["shared/**"], "mode": "once"}])
    grant = home.approvals.grant("alpha")
    assert grant is not None
    assert home.approvals.grants.spend("alpha", 0, grant.counter)
    update(home, author.add(version="2.0.0", permissions=ASKED))
    home.approvals.rollback("alpha", actor="tester")
    assert kinds(home) == set()


def test_no_way_back_after_rejection_and_after_another_approval(home, author):
    home.approved()
    update(home, author.add(version="2.0.0"))
    (home.packs_dir / "alpha" / SETUP).write_text("import os\n")
    home.approve()
    with pytest.raises(ConflictError) as refused:
        home.approvals.rollback("alpha", actor="tester")
    assert refused.value.code == "no_previous_version"
    home.approvals.reject("alpha", reason="no", actor="tester")
    with pytest.raises(ConflictError):
        home.approvals.rollback("alpha", actor="tester")
    assert home.scan().state is State.BLOCKED


def test_record_forged_copied_or_torn_leads_nowhere(home, author):
    home.approved()
    update(home, author.add(version="2.0.0"))
    record = home.secrets / "alpha.update.json"
    genuine = record.read_bytes()
    for forged in (genuine.replace(b'"1.0.0"', b'"0.9.0"'), genuine[:-20], b"{}", b""):
        record.write_bytes(forged)
        assert home.reopen().scan().state is State.APPROVED
        with pytest.raises(ConflictError):
            home.approvals.rollback("alpha", actor="tester")
    home.approved("beta")
    (home.secrets / "beta.update.json").write_bytes(genuine)
    with pytest.raises(ConflictError):
        home.approvals.rollback("beta", actor="tester")
    (home.secrets / "beta.update.json").unlink()
    record.write_bytes(genuine)
    # the way back survives another key, and a record that could not be read had nothing thrown away
    home.approvals.grants.keyring.rotate()
    home.reopen().approvals.rollback("alpha", actor="tester")
    assert home.scan().metadata.version == "1.0.0"


def test_full_disk_at_the_update_keeps_the_old_version(home, author, monkeypatch):
    home.approved()
    home.approvals.add(author.add(version="2.0.0"), actor="tester")

    def no_room(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_room)
        with pytest.raises(HostError):
            home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    seen = home.reopen().scan()
    assert (seen.state, seen.approval["version"], seen.pending_update["version"]) == (State.APPROVED, "1.0.0", "2.0.0")
    assert not list((home.user_data / "rollback").iterdir())
    assert [path.name for path in home.packs_dir.iterdir()] == ["alpha"]


def test_trial_that_ends_with_the_host_is_taken_back_at_the_next_start(home, author):
    home.approved()
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    assert home.scan().approval["version"] == "2.0.0"
    seen = home.reopen().scan()
    assert (seen.state, seen.approval["version"], seen.metadata.version) == (State.APPROVED, "1.0.0", "1.0.0")
    assert "pack.update_interrupted" in {record["event"] for record in home.audit.tail(20)}


def test_trial_whose_files_were_changed_waits_for_a_decision_at_the_next_start(home, author):
    home.approved(permissions=ASKED)
    before = home.scan().approval["digest"]
    home.approvals.add(author.add(version="2.0.0", permissions=ASKED), actor="tester")
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    (home.packs_dir / "alpha" / SETUP).write_text("# edited\n")
    assert home.scan().state is State.MODIFIED
    for _ in range(2):
        assert home.reopen().scan().state is State.MODIFIED, "the version before runs again, and nobody decided that"
    home.approvals.rollback("alpha", actor="tester")
    seen = home.scan()
    assert (seen.state, seen.approval["digest"]) == (State.APPROVED, before)


def test_rejection_during_a_trial_stands(home, author):
    home.approved()
    home.approvals.add(author.add(version="2.0.0"), actor="tester")
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    home.approvals.reject("alpha", reason="no", actor="tester")
    assert home.reopen().scan().state is State.BLOCKED
    with pytest.raises(RumiError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    # and a later approval of what lies there is not taken back to what was rejected
    home.approve()
    seen = home.reopen().scan()
    assert (seen.state, seen.approval["version"]) == (State.APPROVED, "2.0.0")


def test_right_taken_away_during_a_trial_stays_away(home, author):
    home.approved(permissions=MORE)
    home.approvals.add(author.add(version="2.0.0", permissions=MORE), actor="tester")
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    home.approvals.narrow("alpha", permissions=["userdata.read"], actor="tester")
    home.approvals.return_update("alpha", cause="it did not start")
    assert home.scan().approval["version"] == "1.0.0"
    assert kinds(home) == {"userdata.read"}


def test_renewed_approval_of_the_same_files_keeps_the_way_back(home, author):
    home.approved(permissions=MORE)
    update(home, author.add(version="2.0.0", permissions=MORE))
    home.approve()
    home.approvals.rollback("alpha", actor="tester")
    assert home.scan().approval["version"] == "1.0.0"


def test_removing_takes_everything_of_an_update_along(home, author):
    home.approved()
    update(home, author.add(version="2.0.0"))
    home.approvals.add(author.add(version="3.0.0"), actor="tester")
    home.approvals.remove("alpha", actor="tester")
    assert not list((home.user_data / "staging").iterdir())
    assert not list((home.user_data / "rollback").iterdir())
    assert not (home.secrets / "alpha.update.json").exists()


def test_a_staged_version_is_reviewed_with_the_aliases_that_concern_it(home, author):
    home.add("beta", provides=["db.get"])
    home.approve("beta")
    home.approved()
    home.approvals.add(author.add(version="2.0.0", provides=["service.alpha", "store.get", "db.get"]), actor="tester")
    aliases = {"db.get": ["store.get"], "service.alpha": ["alpha"]}
    told = [(one.alias, one.effect, one.owner) for one in home.approvals.review_update("alpha", aliases=aliases).aliases]
    assert told == [("store.get", "hides", "beta"), ("alpha", "reaches", ""), ("store.get", "reaches", "beta")]
    [now] = home.approvals.review("alpha", aliases=aliases).aliases
    assert (now.alias, now.effect, now.owner) == ("alpha", "reaches", ""), "what is its own already has no other owner"
