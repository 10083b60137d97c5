"""``kill -9`` at every persisted step: afterwards the state is the one before or the one after, never a third.

Each case runs in its own process, which kills itself at the named point; the parent then opens what is left.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backend_core import files
from backend_core.errors import HostError, RumiError, TrustError
from core_runtime.drivers import faults
from core_runtime.rules.approval import State
from tests.support.kills import CUT_RUNS, cut_runs, runs_left
from tests.support.trust_home import SETUP, STANDARD, TrustHome

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import os, signal, sys
from pathlib import Path
from core_runtime.drivers import faults
from tests.support.trust_home import STANDARD, TrustHome

home, action, point, skip = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
trust = TrustHome(home)
trust.approvals.scan()
seen = 0

def hook(name):
    global seen
    if name == point:
        seen += 1
        if seen > skip:
            os.kill(os.getpid(), signal.SIGKILL)

faults.install(hook)
actions = {
    "approve": lambda: trust.approve(),
    "reject": lambda: trust.approvals.reject("alpha", reason="no", actor="tester"),
    "narrow": lambda: trust.approvals.narrow("alpha", permissions=[], actor="tester"),
    "restore": lambda: trust.approvals.restore("alpha", actor="tester"),
    "remove": lambda: trust.remove(),
    "rotate": lambda: trust.approvals.grants.keyring.rotate(),
}
actions[action]()
print("answered")
"""

ASKED = [{"type": "userdata.read", "paths": ["shared/**"], "reason": "needs it"}]
POINTS = {
    "approve": ["approve.", "counters.", "store."],
    "reject": ["revoke.", "counters."],
    "narrow": ["narrow.", "counters."],
    "restore": ["restore.", "approve.before_grant", "approve.granted", "approve.counted", "counters."],
    "remove": ["remove.", "counters."],
    "rotate": ["rotate."],
}
CASES = [
    (action, point)
    for action, prefixes in POINTS.items()
    for point in faults.POINTS
    if any(point.startswith(prefix) for prefix in prefixes)
]


def crash(home: Path, action: str, point: str, skip: int = 0) -> bool:
    """Run ``action`` until it passes ``point``; True when it was killed there, False when it ended before."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(home), action, point, str(skip)],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    assert (done.returncode == 0) == ("answered" in done.stdout)
    return done.returncode == -signal.SIGKILL


def describe(home: TrustHome) -> tuple[str, str, int]:
    """What the operator would see: state, approved version, number of granted permissions."""
    found = {status.pack_id: status for status in home.approvals.scan()}
    if "alpha" not in found:
        return "absent", "", 0
    status = found["alpha"]
    granted = [p for p in status.approval.get("permissions", ()) if p["type"] == "userdata.read"]
    return status.state.value, str(status.approval.get("version", "")), len(granted)


def before(home: TrustHome, action: str) -> None:
    home.add(permissions=ASKED)
    if action == "approve":  # an update: the older version stays approved in the grant until the new one is
        home.approve()
        home.add(version="2.0.0", permissions=ASKED)
        home.scan()
        return
    home.approve()
    if action == "rotate":
        cut_runs(home)
    if action == "restore":
        (home.packs_dir / "alpha" / SETUP).write_text("import os\n")
        home.scan()


LEGAL = {
    "approve": {("modified", "1.0.0", 1), ("approved", "2.0.0", 1)},
    "reject": {("approved", "1.0.0", 1), ("blocked", "", 0)},
    "narrow": {("approved", "1.0.0", 1), ("approved", "1.0.0", 0)},
    "restore": {("modified", "1.0.0", 1), ("approved", "1.0.0", 1)},
    "remove": {("approved", "1.0.0", 1), ("absent", "", 0)},
    "rotate": {("approved", "1.0.0", 1)},
}


DONE = {
    "reject": {("blocked", "", 0)},
    "restore": {("approved", "1.0.0", 1)},
    "remove": {("absent", "", 0)},
}


@pytest.mark.parametrize(("action", "point"), CASES, ids=[f"{action}-{point}" for action, point in CASES])
def test_kill_at_a_persisted_step_leaves_a_legal_state(tmp_path, action, point):
    home = TrustHome(tmp_path)
    before(home, action)
    was_killed = crash(tmp_path, action, point)
    assert was_killed, "the action never passed this point: the table of points is wrong"
    home.reopen()
    assert describe(home) in LEGAL[action]
    report = home.audit.verify()
    assert report.ok, report.sentence()
    assert runs_left(home) == (list(CUT_RUNS) if action == "rotate" else [])
    assert not list((tmp_path / "user_data/store/trees").glob(".incoming-*"))

    # the same decision taken again comes to its end
    if describe(home) not in DONE.get(action, set()):
        assert not crash(tmp_path, action, "nowhere")
        assert describe(home.reopen()) in LEGAL[action]


@pytest.mark.parametrize("action", ["reject", "remove"])
def test_answered_revocation_is_never_undone(tmp_path, action):
    home = TrustHome(tmp_path)
    before(home, action)
    old = home.grant_file().read_bytes()
    assert not crash(tmp_path, action, "nowhere")
    home.grant_file().write_bytes(old)
    if action == "remove":
        home.add(permissions=ASKED)
    home.reopen()
    assert describe(home)[0] in {"blocked", "pending"}
    with pytest.raises(RumiError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)


# --- a full disk ------------------------------------------------------------------------------------------------------


def no_room(*_args: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_while_approving_changes_nothing(tmp_path, monkeypatch):
    home = TrustHome(tmp_path)
    home.add()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_room)
        with pytest.raises(HostError):
            home.approve()
    assert describe(home.reopen())[0] in {"installed", "pending"}
    assert not home.grant_file().exists()


def test_full_disk_does_not_stop_a_rejection(tmp_path, monkeypatch):
    """The counters file is preallocated and overwritten in place, so that less is always possible."""
    home = TrustHome(tmp_path)
    home.approved()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_room)
        patch.setattr("core_runtime.drivers.audit.write_all", no_room)
        assert home.approvals.reject("alpha", reason="no", actor="tester").state is State.BLOCKED
    assert describe(home.reopen())[0] == "blocked"


def failing_at(point: str):
    def hook(name: str) -> None:
        if name == point:
            raise OSError(errno.EIO, "Input/output error")

    return hook


@pytest.mark.parametrize("point", ["revoke.counted", "counters.first_slot"])
def test_rejection_counts_at_once_where_the_disk_fails_in_the_middle(tmp_path, point):
    home = TrustHome(tmp_path)
    home.add(permissions=ASKED)
    home.approve()
    faults.install(failing_at(point))
    try:
        with pytest.raises(HostError):
            home.approvals.reject("alpha", reason="no", actor="tester")
    finally:
        faults.install(None)
    assert home.approvals.grant("alpha") is None, "the running host does not go on with what it remembers"
    with pytest.raises(RumiError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert describe(home.reopen())[0] in {"blocked", "pending"}


def test_rejection_where_the_counters_can_not_be_written_takes_the_file(tmp_path, monkeypatch):
    home = TrustHome(tmp_path)
    home.approved()

    def broken(*_args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", broken)
        with pytest.raises(HostError):
            home.approvals.reject("alpha", reason="no", actor="tester")
    assert not home.grant_file().exists()
    assert home.approvals.grant("alpha") is None
    assert describe(home.reopen())[0] == "pending"


def test_full_disk_while_narrowing_takes_the_whole_grant(tmp_path, monkeypatch):
    home = TrustHome(tmp_path)
    home.add(permissions=ASKED)
    home.approve()
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_room)
        with pytest.raises(HostError):
            home.approvals.narrow("alpha", permissions=[], actor="tester")
    assert home.approvals.grant("alpha") is None
    assert describe(home.reopen())[0] == "installed"


def test_full_disk_while_writing_userdata_keeps_the_old_file(tmp_path, monkeypatch):
    home = TrustHome(tmp_path)
    home.approved()
    home.userdata.write("alpha", "packs/alpha/a.txt", b"old")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_room)
        with pytest.raises(HostError):
            home.userdata.write("alpha", "packs/alpha/a.txt", b"new")
    assert home.userdata.read("alpha", "packs/alpha/a.txt") == b"old"
    assert home.userdata.list("alpha") == ["packs/alpha/a.txt"]


def test_interrupted_rotation_is_finished_at_the_next_start(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    assert crash(tmp_path, "rotate", "rotate.prepared")
    assert (home.secrets / ".secret_key.next").exists()
    home.reopen()
    assert not (home.secrets / ".secret_key.next").exists()
    assert home.scan().state is State.APPROVED


def test_unusable_next_key_does_not_take_the_current_one(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    (home.secrets / ".secret_key.next").write_text("nonsense")
    home.reopen()
    assert home.scan().state is State.APPROVED
    with pytest.raises(TrustError):
        home.approvals.grants.keyring.rotate()
