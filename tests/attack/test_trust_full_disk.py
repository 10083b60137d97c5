"""A disk that is really full, at every write of a decision in turn: a small file system is filled to its last pages.

Granting needs room, so it fails as a whole; revoking needs none, so it never fails.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import HostError, RumiError
from core_runtime.rules.approval import State
from tests.support.kills import ASKED, describe
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.trust_home import STANDARD, TrustHome

pytestmark = pytest.mark.mount

SIZE = "2m"
SERVES = """
def run(context):
    context["interface_registry"].register("full.hello", lambda args, ctx: "hi")
"""
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path):
    """An installation whose ``user_data`` is a file system of its own, two megabytes large."""
    folder = tmp_path / "home/user_data"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "rumi-test", str(folder)], check=True)
    try:
        yield TrustHome(tmp_path / "home")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def leave(home: TrustHome, pages: int) -> Path:
    """Fill the disk but for ``pages``; the file that fills it."""
    ballast = home.user_data / "ballast"
    ballast.unlink(missing_ok=True)
    free = shutil.disk_usage(home.user_data).free // PAGE
    with ballast.open("wb", buffering=0) as file:
        for _ in range(max(0, free - pages)):
            if file.write(b"x" * PAGE) < PAGE:
                break
    return ballast


def test_approval_on_a_disk_that_fills_up_at_each_write(small_disk):
    home = small_disk
    home.add(permissions=ASKED)
    home.approve()
    home.add(version="2.0.0", permissions=ASKED, files={"more.py": "x = 1\n" * 4000})
    home.scan()
    outcomes = []
    for pages in range(64):
        ballast = leave(home, pages)
        try:
            home.approve()
        except HostError as error:
            outcomes.append(error.code)
            assert home.grant_file().exists(), "the older grant went away"
        else:
            outcomes.append("approved")
        ballast.unlink()
        found = describe(home.reopen())
        assert found in (["modified", "1.0.0", 1], ["approved", "2.0.0", 1]), (pages, found)
        assert not list((home.user_data / "store/trees").glob(".incoming-*"))
        if outcomes[-1] == "approved":
            break
        assert found == ["modified", "1.0.0", 1], (pages, "an approval that failed counts")
    assert set(outcomes) <= {"storage", "audit_unwritable", "approved"}
    print(f"pages of room → outcome: {outcomes}")
    assert outcomes[-1] == "approved"
    assert outcomes.count("storage") >= 3
    report = home.audit.verify()
    assert report.ok, report.sentence()


@pytest.mark.parametrize("pages", range(6))
def test_rejection_needs_no_room(small_disk, pages):
    home = small_disk
    home.approved()
    kept = home.grant_file().read_bytes()
    ballast = leave(home, pages)
    assert home.approvals.reject("alpha", reason="no", actor="tester").state is State.BLOCKED
    ballast.unlink()
    home.grant_file().write_bytes(kept)  # the older grant put back
    assert describe(home.reopen())[0] == "blocked"
    with pytest.raises(RumiError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)


@pytest.mark.parametrize("pages", range(6))
def test_narrowing_never_leaves_more_than_before_nor_the_whole(small_disk, pages):
    home = small_disk
    home.add(permissions=ASKED)
    home.approve()
    ballast = leave(home, pages)
    try:
        home.approvals.narrow("alpha", permissions=[], actor="tester")
    except HostError:
        # less is always possible: where the smaller grant found no room, the whole one is gone
        wanted = [["pending", "", 0], ["installed", "", 0]]
    else:
        wanted = [["approved", "1.0.0", 0]]
    assert home.approvals.grant("alpha") is None or not home.approvals.grant("alpha").permissions
    ballast.unlink()
    assert describe(home.reopen()) in wanted


def test_removal_needs_no_room(small_disk):
    home = small_disk
    home.approved()
    ballast = leave(home, 0)
    with contextlib.suppress(HostError):  # gone, but there may be no room to write that down
        home.approvals.remove("alpha", actor="tester")
    ballast.unlink()
    assert describe(home.reopen())[0] == "absent"


@pytest.mark.embedded
@pytest.mark.parametrize("decision", ["revoke", "reject"])
def test_less_is_possible_on_a_full_disk_while_the_pack_runs(tmp_path, decision):
    """The running host: what lost its grant stops serving, though the smaller grant found no room."""
    folder = tmp_path / "home/user_data"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "rumi-test", str(folder)], check=True)
    try:
        with RunningHost(tmp_path / "home", "embedded") as host:
            files = one_component_pack("full", SERVES, provides=("full.hello",))
            files["backend/permissions.json"] = json.dumps({"pack_id": "full", "permissions": ASKED})
            host.put_pack("full", files)
            host.approve("full")
            assert host.result("full.hello") == "hi"
            _fill(folder)
            assert _lost(host) == []
            if decision == "revoke":
                status, envelope = host.request("DELETE", "/api/packs/full/permissions", {"permissions": ["userdata.read"]})
                assert (status, envelope["code"]) == (503, "storage"), envelope
            else:
                assert host.request("POST", "/api/packs/full/reject", {"reason": "no"})[0] == 200
            assert host.call("full.hello")[0] in {403, 404}
            assert host.ok("GET", "/api/containers") == []
            assert host.status("full")["status"] == ("installed" if decision == "revoke" else "blocked")
            for number in range(40):  # the last page of the trail may still have room for some lines
                if _lost(host):
                    break
                host.put_pack(f"seen{number}", one_component_pack(f"seen{number}", SERVES, provides=(f"seen{number}.hello",)))
                host.ok("POST", "/api/packs/scan")
            [lost] = _lost(host)
            assert lost["hint"], lost
            assert any("No space left on device" in cause for cause in lost["cause"]), lost
            (folder / "ballast").unlink()
            host.put_pack("news", one_component_pack("news", SERVES, provides=("news.hello",)))
            host.ok("POST", "/api/packs/scan")
            assert _lost(host) == []
            assert "evidence.lost" in {record["event"] for record in host.ok("GET", "/api/audit")}
            host.kill()
            host.start()
            assert host.status("full")["status"] in ({"installed", "pending"} if decision == "revoke" else {"blocked"})
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _lost(host: RunningHost) -> list[dict[str, Any]]:
    return [issue for issue in host.ok("GET", "/api/issues") if issue["code"] == "audit_unwritable"]


def _fill(folder: Path) -> None:
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(b"x" * PAGE) == PAGE:
            pass
