"""Attacks on the bytes: change after approval in every form, hostile trees, twins, and the race between hash and copy."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import unicodedata
from pathlib import Path

import pytest

from backend_core.errors import ConflictError, RumiError, TrustError
from core_runtime.drivers.store import TreeStore
from core_runtime.drivers.tree import read_tree
from core_runtime.rules.approval import State
from core_runtime.rules.digest import TreeLimits
from tests.support.trust_home import SETUP, STANDARD, TrustHome


def edit(root: Path) -> str:
    (root / SETUP).write_text("import os\n")
    return SETUP


def add(root: Path) -> str:
    (root / "backend/extra.py").write_text("x = 1\n")
    return "backend/extra.py"


def remove(root: Path) -> str:
    (root / SETUP).unlink()
    return SETUP


def rename(root: Path) -> str:
    (root / SETUP).rename(root / "backend/components/main/other.py")
    return "backend/components/main/other.py"


def executable_bit(root: Path) -> str:
    (root / SETUP).chmod(0o755)
    return SETUP


def same_size_and_time(root: Path) -> str:
    path = root / SETUP
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"pass", b"quit"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_size == before.st_size
    return SETUP


def bytecode_cache(root: Path) -> str:
    folder = root / "backend/components/main/__pycache__"
    folder.mkdir()
    (folder / "setup.cpython-311.pyc").write_bytes(b"\0" * 32)
    return "backend/components/main/__pycache__/setup.cpython-311.pyc"


def path_file(root: Path) -> str:
    (root / "backend/evil.pth").write_text("import os\n")
    return "backend/evil.pth"


def git_folder(root: Path) -> str:
    (root / ".git/hooks").mkdir(parents=True)
    (root / ".git/hooks/post-checkout").write_text("#!/bin/sh\n")
    return ".git/hooks/post-checkout"


def git_attributes(root: Path) -> str:
    (root / ".gitattributes").write_text("* filter=evil\n")
    return ".gitattributes"


def symlink_in_place(root: Path) -> str:
    (root / SETUP).unlink()
    (root / SETUP).symlink_to("/etc/passwd")
    return SETUP


CHANGES = [
    edit, add, remove, rename, executable_bit, same_size_and_time, bytecode_cache, path_file, git_folder, git_attributes,
    symlink_in_place,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_change_after_approval_is_noticed_and_named(tmp_path, change):
    home = TrustHome(tmp_path)
    root = home.approved()
    home.start()
    home.approvals.mark("alpha", "stopped")
    path = change(root)

    with pytest.raises(TrustError) as refused:
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert refused.value.code == "files_changed"

    status = home.reopen().scan()
    assert status.state is State.MODIFIED
    assert any(path in changed for changed in status.changed_paths)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_old_bytes_that_return_need_a_new_approval(tmp_path, change):
    home = TrustHome(tmp_path)
    root = home.approved()
    original = {path: (path.read_bytes(), path.stat().st_mode) for path in root.rglob("*") if path.is_file()}
    change(root)
    assert home.scan().state is State.MODIFIED
    for path in root.rglob("*"):
        if path.is_symlink() or (path.is_file() and path not in original):
            path.unlink()
    for path, (data, mode) in original.items():
        path.write_bytes(data)
        path.chmod(mode)

    status = home.reopen().scan()
    assert (status.state, status.cause, status.changed_paths) == (State.MODIFIED, "files_changed_before", ())
    with pytest.raises(TrustError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    home.approve()
    assert home.start().is_dir()


def test_approve_with_a_stale_digest_is_refused(tmp_path):
    home = TrustHome(tmp_path)
    root = home.add()
    shown = home.approvals.review("alpha").digest
    edit(root)
    with pytest.raises(ConflictError) as refused:
        home.approve(digest=shown)
    assert refused.value.code == "digest_stale"
    assert refused.value.http_status == 409
    assert home.scan().state in {State.INSTALLED, State.PENDING}
    assert not home.grant_file().exists()


def test_tampered_store_copy_never_starts(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    copy = home.start()
    victim = copy / SETUP
    victim.chmod(0o644)
    victim.write_text("import os\n")
    with pytest.raises(TrustError) as refused:
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert refused.value.code == "store_corrupt"


def test_identity_change_under_the_same_id_is_another_pack(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    home.userdata.write("alpha", "packs/alpha/secret.txt", b"of the first")
    home.add(identity="github:somebody-else/alpha")

    with pytest.raises(TrustError) as refused:
        home.approve()
    assert refused.value.code == "identity_changed"

    review = home.approvals.review("alpha")
    assert review.identity_changed
    home.approve(digest=review.digest)
    assert home.userdata.list("alpha") == []
    with pytest.raises(RumiError):
        home.userdata.read("alpha", "packs/alpha/secret.txt")


def test_identity_change_is_noticed_even_after_removal(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    home.userdata.write("alpha", "packs/alpha/secret.txt", b"of the first")
    home.approvals.remove("alpha", actor="tester")
    home.add(identity="github:somebody-else/alpha")
    with pytest.raises(TrustError, match="Another Pack"):
        home.approve()


# --- trees that have no digest ----------------------------------------------------------------------------------------


def link(root: Path) -> str:
    (root / "backend/link").symlink_to("ecosystem.json")
    return "backend/link"


def folder_link(root: Path) -> str:
    (root / "data").symlink_to("/etc")
    return "data"


def hard_link(root: Path) -> str:
    os.link(root / SETUP, root / "backend/twin.py")
    return "hard links"


def fifo(root: Path) -> str:
    os.mkfifo(root / "backend/pipe")
    return "backend/pipe"


def unix_socket(root: Path) -> str:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(root)
        try:
            listener.bind("s")
        finally:
            os.chdir(here)
    return "'s'"


def device(root: Path) -> str:
    os.mknod(root / "null", 0o600 | 0o020000, os.makedev(1, 3))
    return "null"


def control_character(root: Path) -> str:
    (root / "backend/a\x1b[31m.py").write_text("")
    return "U+001B"


def bidi_character(root: Path) -> str:
    (root / "backend/\u202egnp.py").write_text("")
    return "U+202E"


def not_utf8(root: Path) -> str:
    Path(os.fsdecode(os.fsencode(root) + b"/backend/\xff.py")).write_text("")
    return "U+DCFF"


def backslash(root: Path) -> str:
    (root / "backend/..\\..\\x.py").write_text("")
    return "separator"


def case_twins(root: Path) -> str:
    (root / "backend/Data.txt").write_text("1")
    (root / "backend/data.txt").write_text("2")
    return "one name to some systems"


def unicode_twins(root: Path) -> str:
    for form in ("NFC", "NFD"):
        (root / "backend" / unicodedata.normalize(form, "é.txt")).write_text(form)
    return "one name to some systems"


def folder_twins(root: Path) -> str:
    for name in ("Strasse", "straße"):
        (root / name).mkdir()
        (root / name / "x").write_text("")
    return "one name to some systems"


@pytest.mark.parametrize(
    "spoil",
    [link, folder_link, hard_link, fifo, unix_socket,
     pytest.param(device, marks=pytest.mark.root, id="device"), control_character, bidi_character, not_utf8, backslash,
     case_twins, unicode_twins, folder_twins],
    ids=lambda spoil: spoil.__name__,
)  # fmt: skip
def test_hostile_tree_is_refused_with_its_path(tmp_path, spoil):
    home = TrustHome(tmp_path)
    named = spoil(home.add())
    with pytest.raises(RumiError) as refused:
        home.approve()
    assert named in f"{refused.value.detail}"
    assert not home.grant_file().exists()
    assert list((home.user_data / "store/trees").iterdir()) == []


@pytest.mark.parametrize(
    "limits",
    [TreeLimits(files=3), TreeLimits(total_bytes=10), TreeLimits(depth=2), TreeLimits(path_bytes=20)],
    ids=["files", "bytes", "depth", "path"],
)
def test_tree_beyond_the_limits_is_refused(tmp_path, limits):
    root = TrustHome(tmp_path).add()
    with pytest.raises(TrustError) as refused:
        read_tree(root, limits=limits)
    assert refused.value.code == "tree_refused"


# --- races ------------------------------------------------------------------------------------------------------------


def test_swap_race_between_hash_and_copy_never_stores_foreign_bytes(tmp_path):
    """10,000 rounds (bounded by 20 s): whatever the racer does, a stored tree has exactly the bytes of its digest."""
    source = tmp_path / "pack"
    source.mkdir()
    victim, other = source / "main.py", tmp_path / "evil.py"
    good, evil = b"good = 1\n" * 50, b"evil = 1\n" * 50
    victim.write_bytes(good)
    store = TreeStore(tmp_path / "store")
    stop = threading.Event()

    def racer() -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            other.write_bytes(evil if turn % 2 else good)
            if turn % 7 == 0:
                link = tmp_path / "link"
                link.symlink_to("/etc/passwd")
                link.replace(victim)
            elif turn % 3 == 0 and not victim.is_symlink():
                victim.write_bytes(evil)
            other.replace(victim)

    thread = threading.Thread(target=racer)
    thread.start()
    deadline = time.monotonic() + 20
    stored, refused, rounds = {}, 0, 0
    try:
        while rounds < 10_000 and time.monotonic() < deadline:
            rounds += 1
            try:
                found = store.ingest(source)
            except TrustError:
                refused += 1
                continue
            data = (found.path / "main.py").read_bytes()
            assert hashlib.sha256(data).hexdigest() == found.tree.entries[0].sha256
            stored[found.digest] = data
            store.release(found.digest)
    finally:
        stop.set()
        thread.join()
    assert rounds > 500
    assert refused > 0, "the racer never won a look: the test proves nothing"
    for digest, data in stored.items():
        assert store.verify(digest).tree.digest == digest
        assert b"root:" not in data


def test_swap_after_approval_does_not_matter_for_what_starts(tmp_path):
    home = TrustHome(tmp_path)
    root = home.add()
    grant = home.approve()
    copy = home.approvals.open_for_start("alpha", isolation=STANDARD)
    edit(root)
    assert (copy.path / SETUP).read_text() == "def run(context):\n    pass\n"
    assert copy.digest == grant.digest == read_tree(copy.path).digest


def test_two_folders_with_one_id_are_both_errors(tmp_path):
    home = TrustHome(tmp_path)
    home.approved()
    twin = home.add("beta")
    document = json.loads((twin / "backend/ecosystem.json").read_text())
    (twin / "backend/ecosystem.json").write_text(json.dumps({**document, "pack_id": "alpha"}))
    states = {status.pack_id: (status.state, status.cause) for status in home.approvals.scan()}
    assert states["alpha"] == (State.ERROR, "pack_id_shared")
    assert states["beta"][0] is State.ERROR
    with pytest.raises(TrustError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    with pytest.raises(TrustError):
        home.approve("alpha")
