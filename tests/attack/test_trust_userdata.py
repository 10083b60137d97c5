"""Attacks through userdata: traversal in every form, links and special files, quota, operator input, other Packs."""

from __future__ import annotations

import contextlib
import os
import threading
import time

import pytest

from backend_core.errors import DeniedError, RumiError, TooLargeError
from backend_core.files import Confined, openat2_works
from core_runtime.rules.approval import State
from core_runtime.userdata_manager import FILE_COST_BYTES, UserdataManager
from tests.support.trust_home import TrustHome

WRITES = [{"type": kind, "paths": ["shared/**"], "reason": "r"} for kind in ("userdata.read", "userdata.write")]


@pytest.fixture
def home(tmp_path):
    trust = TrustHome(tmp_path)
    trust.add(permissions=WRITES)
    trust.approve()
    (trust.user_data / "shared").mkdir()
    (trust.user_data / "settings").mkdir()
    (trust.user_data / "settings/host.json").write_text("operator")
    (tmp_path / "outside.txt").write_text("outside")
    return trust


TRAVERSALS = [
    "../outside.txt", "shared/../../outside.txt", "shared/../settings/host.json", "/etc/passwd", "//etc/passwd",
    "shared//x", "shared/./x", "", ".", "..", "shared/", "shared/\0x", "shared\\..\\x", "shared/..\\x",
    "packs/alpha/../beta/x", "packs/beta/x", "packs/Alpha/x", "Packs/alpha/x", "packs/alpha", "packs",
    "permissions/.secret_key", "PERMISSIONS/.secret_key", "ｐermissions/.secret_key", "Permissions/x", "flows/x.flow.yaml",
    "store/trees/x", "mounts.json", "active_ecosystem.json", ".hidden/x", "secrets/x", "settings/host.json", "audit/audit.jsonl",
    "shared/\u202ex", "shared/\x1b[2J", "shared/" + "a" * 5000, "shared/" + "/".join("d" * 40), "shared/.rumi-tmp-x",
    "packs/.accounts/alpha.json", "shared/\udcff",
]  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSALS)
@pytest.mark.parametrize("operation", ["read", "write", "delete", "stat", "exists"])
def test_path_outside_of_the_grant_is_refused(home, path, operation):
    act = getattr(home.userdata, operation)
    with pytest.raises(RumiError):
        act("alpha", path, b"x") if operation == "write" else act("alpha", path)
    assert (home.user_data / "settings/host.json").read_text() == "operator"


@pytest.mark.parametrize("prefix", ["permissions", "flows", "packs/beta", "packs", "..", "/etc", "store", "."])
def test_listing_outside_of_the_grant_is_refused(home, prefix):
    with pytest.raises(RumiError):
        home.userdata.list("alpha", prefix)


def test_listing_shows_only_what_may_be_read(home):
    assert home.userdata.list("alpha", "settings") == []
    home.userdata.write("alpha", "shared/a/b.txt", b"x")
    home.userdata.write("alpha", "packs/alpha/own.txt", b"x")
    assert home.userdata.list("alpha", "shared") == ["shared/a/b.txt"]
    assert home.userdata.list("alpha") == ["packs/alpha/own.txt"]


@pytest.mark.parametrize("use_openat2", [True, False])
def test_links_fifos_hard_links_and_devices_are_refused(home, tmp_path, use_openat2):
    if use_openat2 and not openat2_works():
        pytest.skip("this kernel has no openat2")
    shared = home.user_data / "shared"
    (shared / "link").symlink_to(tmp_path / "outside.txt")
    (shared / "relative").symlink_to("../settings/host.json")
    (shared / "folder").symlink_to(tmp_path)
    (shared / "proc").symlink_to("/proc/self/root")
    os.link(tmp_path / "outside.txt", shared / "hard")
    os.mkfifo(shared / "pipe")
    with Confined(home.user_data, use_openat2=use_openat2) as confined:
        paths = ["link", "relative", "folder/outside.txt", "proc/etc/passwd", "hard", "pipe", "folder"]
        for path in (f"shared/{name}" for name in paths):
            with pytest.raises(RumiError):
                confined.read(path, 1000)
            with pytest.raises(RumiError):
                confined.write(path, b"overwritten")
            with contextlib.suppress(RumiError):
                assert not confined.delete(path)
        assert confined.walk("shared", 100) == []
    assert (tmp_path / "outside.txt").read_text() == "outside"
    assert (home.user_data / "settings/host.json").read_text() == "operator"


def test_symlink_swap_while_reading_never_leaves_the_folder(home, tmp_path):
    """A racer swaps a folder for a link all the time; no read ever returns the outside bytes."""
    shared = home.user_data / "shared"
    inside, parked, link = shared / "d", shared / "parked", shared / "link"
    inside.mkdir()
    (inside / "f").write_text("inside")
    target = tmp_path / "target"
    target.mkdir()
    (target / "f").write_text("outside")
    link.symlink_to(target)
    stop = threading.Event()

    def racer() -> None:
        while not stop.is_set():
            inside.rename(parked)
            link.rename(inside)
            inside.rename(link)
            parked.rename(inside)

    thread = threading.Thread(target=racer)
    thread.start()
    seen: set[bytes] = set()
    deadline = time.monotonic() + 3
    try:
        for _ in range(5000):
            try:
                seen.add(home.userdata.read("alpha", "shared/d/f"))
            except RumiError:
                seen.add(b"refused")
            if time.monotonic() > deadline:
                break
    finally:
        stop.set()
        thread.join()
    assert seen == {b"inside", b"refused"}


def test_quota_holds_for_own_and_other_files_and_over_a_restart(home):
    data = UserdataManager(home.home, home.permissions, quota_bytes=10_000)
    data.write("alpha", "packs/alpha/a", b"x" * 4000)
    data.write("alpha", "shared/b", b"x" * 4000)
    with pytest.raises(TooLargeError) as refused:
        data.write("alpha", "shared/c", b"x" * 4000)
    assert refused.value.code == "quota"
    assert not (home.user_data / "shared/c").exists()
    again = UserdataManager(home.home, home.permissions, quota_bytes=10_000)
    assert again.usage("alpha")[0] == 8000 + 2 * FILE_COST_BYTES
    with pytest.raises(TooLargeError):
        again.write("alpha", "packs/alpha/c", b"x" * 4000)
    again.delete("alpha", "shared/b")
    again.write("alpha", "packs/alpha/c", b"x" * 4000)


def test_many_empty_files_meet_the_quota(home):
    data = UserdataManager(home.home, home.permissions, quota_bytes=20 * FILE_COST_BYTES)
    with pytest.raises(TooLargeError):
        for number in range(21):
            data.write("alpha", f"packs/alpha/{number}", b"")


def test_granted_disk_raises_the_quota(tmp_path):
    home = TrustHome(tmp_path)
    home.add(permissions=[{"type": "resources", "disk_mb": 100, "reason": "r"}])
    home.approve()
    assert home.userdata.usage("alpha") == (0, 100 * 1024 * 1024)


@pytest.mark.parametrize(
    "glob",
    ["**", "*", "*/**", "permissions/**", "Permissions/*", "flows/*.yaml", "packs/**", "packs/beta/**", "packs/*/x",
     "mounts.json", "store/**", "../x", "/etc/*", "shared/[a]", ".x/y", "se*/**", "**/x"],
)  # fmt: skip
def test_forbidden_globs_are_refused_at_scan(tmp_path, glob):
    home = TrustHome(tmp_path)
    home.add(permissions=[{"type": "userdata.write", "paths": [glob], "reason": "r"}])
    status = home.scan()
    assert (status.state, status.cause) == (State.ERROR, "permission_forbidden")
    with pytest.raises(RumiError):
        home.approve()
    assert not home.grant_file().exists()


def test_unapproved_pack_reaches_nothing(home):
    home.approvals.reject("alpha", reason="no", actor="tester")
    for path in ("packs/alpha/x", "shared/x"):
        with pytest.raises(DeniedError):
            home.userdata.write("alpha", path, b"x")
    with pytest.raises(DeniedError):
        home.userdata.list("alpha")


def test_file_beyond_the_limit_is_refused_on_both_ways(home):
    with pytest.raises(TooLargeError):
        home.userdata.write("alpha", "shared/big", b"x" * (16 * 1024 * 1024 + 1))
    with (home.user_data / "shared/big").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLargeError):
        home.userdata.read("alpha", "shared/big")
