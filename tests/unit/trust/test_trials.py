"""A version on trial beside the approved one: its files, its rights, and what becomes of both versions' writes."""

from __future__ import annotations

import threading
from functools import partial

import pytest

from backend_core.errors import ConflictError, DeniedError, NotFoundError, RequestError, TooLargeError
from core_runtime.drivers import overlay
from core_runtime.generations import Standing, acting
from core_runtime.rules.approval import State
from tests.support.trust_home import STANDARD, TrustHome

OWN = "packs/alpha/"
ASKED = [{"type": "userdata.write", "paths": ["shared/**"], "reason": "old"}]
MORE = [*ASKED, {"type": "userdata.read", "paths": ["notes/**"], "reason": "new"}]
ONCE = [{"type": "userdata.read", "paths": ["notes/**"], "mode": "once"}]


@pytest.fixture
def home(tmp_path):
    home = TrustHome(tmp_path / "home")
    home.approved(permissions=ASKED)
    home.start()
    return home


def nothing() -> None:
    return


def test_a_trial_sees_what_is_there_and_changes_nothing_of_it(home):
    files = home.userdata
    files.write("alpha", OWN + "kept", b"old")
    files.write("alpha", OWN + "doomed", b"old")
    files.write("alpha", "shared/list", b"old")
    trial = files.trial("alpha")
    assert trial.read("alpha", OWN + "kept") == b"old"
    trial.write("alpha", OWN + "kept", b"new")
    trial.write("alpha", OWN + "deep/er", b"new")
    trial.write("alpha", "shared/list", b"new")
    assert trial.delete("alpha", OWN + "doomed")
    assert not trial.delete("alpha", OWN + "doomed")
    assert trial.read("alpha", OWN + "kept") == b"new"
    assert trial.stat("alpha", OWN + "kept")["size_bytes"] == 3
    assert not trial.exists("alpha", OWN + "doomed")
    with pytest.raises(NotFoundError):
        trial.read("alpha", OWN + "doomed")
    assert trial.list("alpha") == [OWN + "deep/er", OWN + "kept"]
    assert files.list("alpha") == [OWN + "doomed", OWN + "kept"]
    assert files.read("alpha", OWN + "kept") == b"old"
    assert (home.user_data / "shared/list").read_bytes() == b"old"
    files.drop("alpha", trial)
    assert files.list("alpha") == [OWN + "doomed", OWN + "kept"]
    assert list((home.user_data / "packs/.trials").iterdir()) == []


def test_what_a_trial_wrote_is_settled_with_the_decision(home):
    files = home.userdata
    files.write("alpha", OWN + "doomed", b"x")
    trial = files.trial("alpha")
    trial.write("alpha", OWN + "made", b"new")
    trial.write("alpha", "shared/list", b"new")
    trial.delete("alpha", OWN + "doomed")
    begun: list[bool] = []
    files.settle("alpha", trial, lambda: begun.append(not files.exists("alpha", OWN + "made")))
    assert begun == [True], "the decision comes first"
    assert files.list("alpha") == [OWN + "made"]
    # what was still under way when it settled goes where everything goes now
    trial.write("alpha", OWN + "late", b"1")
    assert files.read("alpha", OWN + "late") == b"1"
    assert trial.read("alpha", OWN + "made") == b"new"
    files.drop("alpha", trial)
    account = (home.user_data / "packs/.accounts/alpha.json").read_text()
    assert account == '{"shared/list": 3}'
    assert files.usage("alpha")[0] == 3 + 1 + 3 + 3 * 512


@pytest.mark.parametrize(
    "look",
    [
        lambda trial: trial.read("alpha", OWN + "a/state"),
        lambda trial: trial.exists("alpha", OWN + "a/state"),
        lambda trial: trial.list("alpha"),
        lambda trial: trial.list("alpha", OWN + "a"),
        lambda trial: trial.write("alpha", OWN + "a/state", b"2"),
        lambda trial: trial.delete("alpha", OWN + "a/state"),
    ],
)
def test_a_trial_that_depends_on_what_changed_meanwhile_does_not_count(home, look):
    files = home.userdata
    files.write("alpha", OWN + "a/state", b"0")
    trial = files.trial("alpha")
    look(trial)
    files.write("alpha", OWN + "a/state", b"1")
    begun: list[int] = []
    with pytest.raises(ConflictError) as caught:
        files.settle("alpha", trial, partial(begun.append, 1))
    assert caught.value.code == "data_changed"
    assert begun == []
    assert files.read("alpha", OWN + "a/state") == b"1"
    files.drop("alpha", trial)


def test_what_the_trial_never_saw_may_change(home):
    files = home.userdata
    trial = files.trial("alpha")
    trial.write("alpha", OWN + "mine", b"1")
    files.write("alpha", OWN + "yours", b"1")
    files.settle("alpha", trial, nothing)
    files.drop("alpha", trial)
    assert files.list("alpha") == [OWN + "mine", OWN + "yours"]


def test_a_trial_that_looked_at_too_much_depends_on_everything(home, monkeypatch):
    monkeypatch.setattr(overlay, "MAX_SEEN", 3)
    files = home.userdata
    trial = files.trial("alpha")
    for number in range(5):
        trial.exists("alpha", f"{OWN}{number}")
    files.write("alpha", OWN + "other", b"1")
    with pytest.raises(ConflictError):
        files.settle("alpha", trial, nothing)
    files.drop("alpha", trial)


def test_a_trial_is_bounded_and_confined_like_its_pack(home):
    files = home.userdata
    trial = files.trial("alpha")
    with pytest.raises(DeniedError):
        trial.write("alpha", "packs/beta/x", b"")
    with pytest.raises(DeniedError):
        trial.read("alpha", "packs/.trials/x")
    with pytest.raises(RequestError):
        trial.write("alpha", OWN + "../../x", b"")
    (home.user_data / "packs/alpha").mkdir(exist_ok=True)
    (home.user_data / "packs/alpha/link").symlink_to("/etc/passwd")
    for refused in (partial(trial.read, "alpha", OWN + "link"), partial(trial.write, "alpha", OWN + "link", b"")):
        with pytest.raises(RequestError):
            refused()
    for number in range(4):
        trial.write("alpha", f"{OWN}{number}", bytes(15 * 1024 * 1024))
    with pytest.raises(TooLargeError):
        trial.write("alpha", OWN + "more", bytes(15 * 1024 * 1024))
    files.drop("alpha", trial)


def test_the_older_generation_writes_nothing_that_the_newer_has_seen(home):
    files = home.userdata
    trial = files.trial("alpha")
    trial.write("alpha", OWN + "state", b"2")
    older = Standing("alpha")
    older.retire(lambda: home.approvals.grant("alpha"), trial.touched)
    waiting = threading.Thread(target=lambda: errors.append(_write(files, older, OWN + "state")))
    errors: list[object] = []
    waiting.start()
    files.settle("alpha", trial, nothing)
    older.retired()
    waiting.join(10)
    assert errors == ["superseded"]
    assert files.read("alpha", OWN + "state") == b"2"
    assert _write(files, older, OWN + "else") == ""
    files.drop("alpha", trial)


def test_the_older_generations_writes_go_on_when_the_newer_does_not_take_over(home):
    files = home.userdata
    older = Standing("alpha")
    older.retire(lambda: home.approvals.grant("alpha"), lambda _path: True)
    answers: list[object] = []
    waiting = threading.Thread(target=lambda: answers.append(_write(files, older, OWN + "state")))
    waiting.start()
    older.serve()
    waiting.join(10)
    assert answers == [""]


def _write(files, standing: Standing, path: str) -> str:
    try:
        with acting(standing):
            files.write("alpha", path, b"1")
    except ConflictError as error:
        return error.code
    return ""


def test_each_generation_is_judged_by_its_own_grant(home, tmp_path):
    home.approvals.add(TrustHome(tmp_path / "author").add(version="2.0.0", permissions=MORE), actor="tester")
    copy = home.approvals.open_trial("alpha", isolation=STANDARD, actor="tester")
    assert copy.metadata.version == "2.0.0"
    assert copy.path.name in copy.digest
    trial, may = Standing("alpha"), partial(home.permissions.has, "alpha", "userdata.read", path="notes/x")
    trial.try_out(copy.grant, None)
    before = home.approvals.grant("alpha")
    assert not may()
    with acting(trial):
        assert may()
        assert not home.permissions.has("beta", "userdata.read", path="notes/x")
    # nothing is decided by trying
    assert home.scan().state is State.RUNNING
    assert home.approvals.grant("alpha") == before
    assert not home.approvals.on_trial("alpha")
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester", digest=copy.digest)
    assert home.approvals.on_trial("alpha")
    older = Standing("alpha")
    older.retire(lambda: before if home.approvals.grant("alpha") else None, lambda _path: False)
    assert may()
    with acting(older):
        assert not may()
    home.approvals.finish_update("alpha")
    home.approvals.reject("alpha", reason="no", actor="tester")
    with acting(older):
        assert not home.permissions.has("alpha", "userdata.write", path="shared/x")


def test_a_trial_spends_no_right_that_was_granted_for_one_use(home, tmp_path):
    home.approvals.add(TrustHome(tmp_path / "author").add(version="2.0.0", permissions=MORE), actor="tester")
    options = {"isolation": STANDARD, "actor": "tester", "permissions": ONCE}
    copy = home.approvals.open_trial("alpha", **options)
    trial = Standing("alpha")
    trial.try_out(copy.grant, None)
    with acting(trial):
        assert not home.permissions.has("alpha", "userdata.read", path="notes/x")
    home.approvals.begin_update("alpha", digest=copy.digest, **options)
    assert home.permissions.has("alpha", "userdata.read", path="notes/x")


def test_a_copy_on_trial_is_kept_until_the_trial_is_over(home, tmp_path):
    home.approvals.add(TrustHome(tmp_path / "author").add(version="2.0.0"), actor="tester")
    copy = home.approvals.open_trial("alpha", isolation=STANDARD, actor="tester")
    home.approvals.reject_update("alpha", actor="tester")
    home.approvals.scan()
    assert copy.path.is_dir()
    home.approvals.close_trial("alpha")
    assert not copy.path.exists()
