"""The life of a Pack as the operator sees it: states, review, updates, restore, removal, and what stays on disk."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from backend_core.errors import AuthorError, ConflictError, DeniedError, NotFoundError, RequestError, TrustError
from core_runtime.rules.approval import State
from core_runtime.rules.combination import PackNode
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from tests.support.trust_home import SETUP, STANDARD, TrustHome

READS = [{"type": "userdata.read", "paths": ["settings/my_config.json"], "reason": "設定を読み込むため"}]


@pytest.fixture
def home(tmp_path):
    return TrustHome(tmp_path)


def test_life_of_a_pack(home):
    home.add(permissions=READS)
    assert [status.state for status in home.approvals.scan()] == [State.INSTALLED]
    review = home.approvals.review("alpha")
    assert home.approvals.status("alpha").state is State.PENDING
    grant = home.approve(digest=review.digest)
    assert home.approvals.status("alpha").state is State.APPROVED
    copy = home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert (copy.digest, copy.metadata.pack_id) == (grant.digest, "alpha")
    assert home.approvals.mark("alpha", "started").state is State.RUNNING
    assert home.approvals.mark("alpha", "stopped").state is State.APPROVED
    status = home.approvals.reject("alpha", reason="no longer", actor="tester")
    assert (status.state, status.approval["rejection_reason"]) == (State.BLOCKED, "no longer")
    with pytest.raises(DeniedError) as refused:
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert refused.value.http_status == 403
    home.approve()
    home.approvals.remove("alpha", actor="tester")
    assert home.approvals.list() == []
    assert not (home.packs_dir / "alpha").exists()
    assert list((home.user_data / "store/trees").iterdir()) == []


def test_review_tells_the_flows_that_are_added_and_changed_and_what_they_join(home):
    home.add("reader", provides=["reader.read"], permissions=READS)
    home.approve("reader")
    files = {
        "backend/flows/own.flow.yaml": "flow: alpha.own\nsteps: [{id: a, call: service.alpha}]\n",
        "backend/flows/change.yaml": 'modify: ["acme.*"]\nid: more\nops: [{insert: {last_in: /}, steps: [{id: b, call: service.alpha}]}]\n',
        "backend/flows/broken.json": "{",
        "backend/flows/deeper/no.yaml": "flow: alpha.deeper\nsteps: []\n",
    }
    sends = [{"type": "network", "domains": ["example.org"], "reason": "r"}, {"type": "flow.modify", "flows": ["acme.*"], "reason": "r"}]
    home.add(permissions=sends, files=files)
    flows = [PackNode.flow("acme.answer", ["reader.read"], []), PackNode.flow("else", ["reader.read"], [])]
    review = home.approvals.review("alpha", flows=flows)
    told = {one["file"]: one for one in review.as_dict()["flows"]}
    assert told["own.flow.yaml"] == {"file": "own.flow.yaml", "adds": ["alpha.own"]}
    assert told["change.yaml"] == {"file": "change.yaml", "modifies": ["acme.*"]}
    assert sorted(told["broken.json"]) == ["fault", "file"]
    assert len(told) == 3
    assert review.combination is not None
    assert review.combination.paths["private-data"] == ("alpha", "flow acme.answer", "reader")


def test_a_start_on_another_base_than_approved_is_on_record(home):
    home.approvals.base_runtime = "sha256:" + "a" * 64
    home.approved()
    assert home.approvals.status("alpha").approval["base_runtime"] == "sha256:" + "a" * 64
    home.start()
    assert "pack.runtime_changed" not in {record["event"] for record in home.audit.tail(50)}
    home.reopen().approvals.scan()
    home.start()  # on what is not known: nothing to compare with
    home.approvals.base_runtime = "python-3.11.2 glibc-2.36"
    assert home.start().is_dir(), "it is told, not refused"
    [told] = [record for record in home.audit.tail(50) if record["event"] == "pack.runtime_changed"]
    assert (told["approved"], told["now"]) == (f"'sha256:{'a' * 64}'", "'python-3.11.2 glibc-2.36'")


def test_a_scan_with_news_is_on_record_and_one_without_leaves_no_trace(home):
    home.add("alpha")
    home.approved("beta", provides=["service.beta"])
    for _ in range(3):
        home.approvals.scan()
    home.approvals.remove("beta", actor="tester")
    (home.packs_dir / "Bad\x1b[2J").mkdir()
    home.approvals.scan()
    records = [record for record in home.audit.tail(50) if record["event"] == "packs.scanned"]
    assert [(r["news"], r["gone"]) for r in records] == [
        (["alpha: installed", "beta: approved"], []), (["Bad\\x1b[2J: error"], ["beta"]),
    ]  # fmt: skip
    assert [(r["count"], r["more"]) for r in records] == [(2, False), (2, False)]


def test_review_lists_everything_for_the_decision(home):
    home.approved("beta", provides=["service.beta"])
    home.add(permissions=READS, uses=["service.beta"], files={"lib/x.so": "\x7fELF", "note.py": "x = '\u202e'\n"})
    document = json.loads(json.dumps(home.approvals.review("alpha").as_dict()))
    edge = {"key": "service.beta", "required": False, "provider": "beta", "wanted": "", "why_not": ""}
    assert document["edges"] == [edge]
    assert {finding["code"] for finding in document["findings"]} == {"native_code", "invisible_text"}
    asked = {item["type"]: item for item in document["permissions"]}
    assert asked["userdata.read"]["reason"] == "設定を読み込むため"
    assert set(asked["userdata.read"]["words"]) == {"ja", "en"}
    rating = document["rating"]
    assert rating["score"] == 100 - sum(line["points"] for line in rating["deductions"])
    assert all(line["reason"] and line["reason_ja"] for line in rating["deductions"])


def test_review_of_an_update_shows_both_differences(home):
    home.approved(permissions=READS)
    more = [*READS, {"type": "userdata.write", "paths": ["shared/**"], "reason": "r"}]
    home.add(version="2.0.0", permissions=more, files={"new.py": "x = 1\n"})
    review = home.approvals.review("alpha")
    assert review.approved_version == "1.0.0"
    assert review.file_changes.added == ("new.py",)
    assert "backend/ecosystem.json" in review.file_changes.changed
    assert [item["type"] for item in review.permission_changes.added] == ["userdata.write"]
    assert review.permission_changes.removed == ()


def test_running_pack_that_is_edited_is_modified_and_stopping_it_decides_nothing(home):
    root = home.approved()
    home.start()
    (root / SETUP).write_text("import os\n")
    assert home.scan().state is State.MODIFIED
    assert home.approvals.mark("alpha", "stopped").state is State.MODIFIED
    with pytest.raises(TrustError):
        home.approvals.mark("alpha", "started")


def test_restore_puts_the_approved_bytes_back_and_sets_the_others_aside(home):
    root = home.approved(files={"tool.sh": "#!/bin/sh\n"})
    (root / "tool.sh").chmod(0o755)
    home.approve()
    (root / SETUP).write_text("mine\n")
    (root / "extra").write_text("mine\n")
    home.scan()
    assert home.approvals.restore("alpha", actor="tester").state is State.APPROVED
    assert (root / SETUP).read_text() == "def run(context):\n    pass\n"
    assert os.access(root / "tool.sh", os.X_OK)
    assert not (root / "extra").exists()
    [aside] = (home.user_data / "store/set_aside").iterdir()
    assert (aside / "extra").read_text() == "mine\n"
    assert home.reopen().scan().state is State.APPROVED
    (root / SETUP).write_text("can be edited again\n")


def test_giving_up_is_an_error_that_a_start_by_the_operator_may_leave(home):
    home.approved()
    home.start()
    assert home.approvals.mark("alpha", "gave_up", "crash_loop").cause == "crash_loop"
    assert home.approvals.status("alpha").state is State.ERROR
    assert home.approvals.grant("alpha") is None
    home.start()
    assert home.approvals.status("alpha").state is State.RUNNING
    with pytest.raises(RequestError):
        home.approvals.mark("alpha", "exploded")


def test_failed_start_of_an_approved_pack_is_an_error(home):
    home.approved()
    assert home.approvals.mark("alpha", "gave_up", "no_hello").state is State.ERROR


def test_unknown_and_impossible_ids(home):
    for act in (home.approvals.status, home.approvals.review, home.approvals.scan):
        with pytest.raises(NotFoundError):
            act("nobody")
        for bad in ("../x", "A", "", "a" * 65, "a\n"):
            with pytest.raises(RequestError):
                act(bad)
    with pytest.raises(NotFoundError):
        home.approve("nobody")
    with pytest.raises(NotFoundError):
        home.approvals.remove("nobody", actor="tester")
    assert home.approvals.list() == []


def test_broken_metadata_is_an_error_that_another_scan_may_clear(home):
    root = home.add()
    good = (root / "backend/ecosystem.json").read_text()
    (root / "backend/ecosystem.json").write_text("{")
    assert home.approvals.scan()[0].state is State.ERROR
    with pytest.raises(AuthorError):
        home.approve()
    (root / "backend/ecosystem.json").write_text(good)
    assert home.approvals.scan()[0].state is State.INSTALLED


def test_folder_named_differently_than_its_id_is_an_error(home):
    home.add().rename(home.packs_dir / "other")
    [status] = home.approvals.scan()
    assert (status.pack_id, status.state) == ("other", State.ERROR)


def test_folder_with_an_impossible_name_is_listed_as_an_error(home):
    (home.packs_dir / "Not A Pack").mkdir()
    [status] = home.approvals.scan()
    assert (status.pack_id, status.state) == ("Not A Pack", State.ERROR)


def test_folder_that_vanished_is_modified_and_can_be_restored(home):
    root = home.approved()
    root.rename(home.home / "gone")
    status = home.approvals.scan()[0]
    assert status.state is State.MODIFIED
    assert SETUP in status.changed_paths
    assert home.approvals.restore("alpha", actor="tester").state is State.APPROVED
    assert root.is_dir()


def test_store_is_passable_but_not_listable_and_read_only(home):
    home.approved()
    copy = home.start()
    modes = [path.stat().st_mode & 0o777 for path in (home.user_data / "store", copy.parent, copy, copy / SETUP)]
    assert modes == [0o711, 0o711, 0o555, 0o444]


def test_copies_that_nothing_needs_are_collected_but_not_one_in_use(home):
    home.approved()
    home.approvals.scan()
    first = home.start()
    home.add(version="2.0.0")
    home.approve()
    assert first.is_dir(), "the older version still runs"
    home.approvals.mark("alpha", "stopped")
    assert not first.exists()
    assert len(list(first.parent.iterdir())) == 1


def test_copies_stay_while_a_grant_can_not_be_read(home):
    home.approved()
    home.approvals.scan()
    copy = home.start()
    (home.secrets / ".secret_key").chmod(0o644)
    home.reopen().approvals.scan()
    assert copy.is_dir()
    (home.secrets / ".secret_key").chmod(0o600)
    assert home.approvals.scan()[0].state is State.APPROVED


def test_no_isolation_approves_nothing(home):
    home.add()
    with pytest.raises(TrustError):
        home.approve(isolation=Isolation(DriverKind.EMBEDDED, Level.NONE))


def test_listing_reads_no_files_again(home, monkeypatch):
    home.approved()
    home.approvals.scan()
    monkeypatch.setattr("core_runtime.drivers.inspection.read_tree", None)
    assert [status.state for status in home.approvals.list()] == [State.APPROVED]
    assert home.approvals.status("alpha").state is State.APPROVED


def test_grant_survives_in_every_field(home):
    home.add(permissions=READS, uses=["service.x"])
    made = home.approve(until=home.clock.now + 50)
    home.reopen().approvals.scan()
    assert home.approvals.grant("alpha").permissions == made.permissions
    assert home.approvals.grant("alpha").files == made.files
    assert home.approvals.grant("alpha").since == {"service.alpha": home.clock.now}


def test_approving_twice_renews_and_restoring_without_change_conflicts(home):
    home.approved()
    home.start()
    home.approve(permissions=[])
    assert home.approvals.status("alpha").state is State.RUNNING
    with pytest.raises(ConflictError):
        home.approvals.restore("alpha", actor="tester")


def test_decisions_side_by_side_do_not_collect_each_others_copies(tmp_path):
    home = TrustHome(tmp_path)
    packs = [f"pack{number:02}" for number in range(40)]
    for pack_id in packs:
        home.add(pack_id, provides=(f"service.{pack_id}",), files={"backend/data.txt": pack_id})
    home.approvals.scan()

    def approve(pack_id):
        home.approvals.approve(pack_id, isolation=STANDARD, actor="test")
        return home.approvals.open_for_start(pack_id, isolation=STANDARD)

    with ThreadPoolExecutor(8) as eight:
        copies = list(eight.map(approve, packs))
    assert [(copy.path / "backend/data.txt").read_text() for copy in copies] == packs
