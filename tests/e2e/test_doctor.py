"""The doctor of a running host, with real sandboxes: what is wrong is found by itself, mended on request, and kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_dependencies import USER, colours, with_wheels
from tests.support.package_index import PackageIndex
from tests.support.running_host import RunningHost, one_component_pack

SETUP = """
def run(context):
    context["interface_registry"].register("thing.do", lambda args, ctx: "done")
"""


def issue(host: RunningHost, code: str) -> dict[str, Any]:
    return next((one for one in host.ok("GET", "/api/issues") if one["code"] == code), {})


def fix(host: RunningHost, issue_id: str, fixup: str) -> dict[str, Any]:
    """Have it mended as the issue suggests; by that fixup and no other."""
    [done] = host.ok("POST", "/api/doctor/fix", {"issue": issue_id})
    assert (done["success"], done["fixup"]) == (True, fixup), done
    return done


def put(host: RunningHost) -> Path:
    return host.put_pack("thing", one_component_pack("thing", SETUP, provides=("thing.do",)))


def test_a_new_installation_is_healthy(host: RunningHost) -> None:
    found = host.ok("GET", "/api/doctor")
    assert found["healthy"], found["issues"]
    assert {one["status"] for one in found["checks"]} <= {"ok", "found"}
    assert [one for one in found["issues"] if one["severity"] == "error"] == []
    assert len(found["checks"]) >= 25
    assert len(found["fixups"]) >= 15


def test_what_is_broken_while_it_runs_is_found_mended_and_kept_over_a_restart(host: RunningHost) -> None:
    data = host.home / "user_data"
    host.ok("POST", "/api/doctor/fix", {})  # this host was started without the set-up that makes its folders
    (data / "mounts.json").write_text("{")
    (data / "permissions").chmod(0o755)
    (data / "shared").rmdir()
    found = host.ok("GET", "/api/doctor")
    codes = {one["code"] for one in found["issues"]}
    assert codes >= {"mounts_json_invalid", "private_folder_open", "folder_missing"}
    assert not found["healthy"]
    mended = host.ok("POST", "/api/doctor/fix", {})
    assert {one["fixup"] for one in mended} >= {"replace_mounts", "close_folder", "make_folders"}
    assert all(one["success"] for one in mended), mended
    assert host.ok("GET", "/api/doctor")["healthy"]
    assert [path.read_text() for path in data.glob("mounts.json.broken-*")] == ["{"]
    assert (data / "permissions").stat().st_mode & 0o077 == 0
    host.stop()
    host.start()
    before = {one["code"]: one for one in host.ok("GET", "/api/issues/history")}
    assert before["mounts_json_invalid"]["gone_ts"] is not None
    assert before.keys() >= codes


def test_changed_files_are_put_back_and_the_pack_runs_again(host: RunningHost) -> None:
    folder = put(host)
    assert host.approve("thing")["status"] == "running"
    setup = folder / "backend/components/main/setup.py"
    setup.write_text("raise SystemExit\n")
    host.until(lambda: issue(host, "pack_modified"), 20, "the change to be noticed")
    fix(host, "pack_modified:thing", "restore_pack")
    assert setup.read_text() == SETUP
    host.until(lambda: host.status("thing")["status"] == "running", 20, "the Pack to run")
    assert host.result("thing.do") == "done"
    assert issue(host, "pack_modified") == {}


def test_a_pack_that_failed_to_start_is_started_again(tmp_path: Path, isolation: str) -> None:
    _, _, filename, data = colours("3.0")
    with PackageIndex({}) as index, RunningHost(tmp_path / "home", isolation, index.environment) as host:
        folder = with_wheels(host, "first", USER.format(pack="first"), colours("3.0"))
        shutil.rmtree(folder / "backend/wheels")
        assert host.approve("first")["cause"] == "dependencies_missing"
        host.ok("GET", "/api/doctor")
        assert issue(host, "pack_start_failed")["suggestions"][0]["fixup"] == "start_pack"
        index.files[filename] = data
        fix(host, "packages_missing:first", "fetch_packages")
        assert host.result("first.which")[0] == "3.0"
        host.ok("GET", "/api/doctor")
        assert issue(host, "packages_missing") == {}


def test_starting_is_offered_for_what_could_not_start(host: RunningHost) -> None:
    put(host)
    assert host.approve("thing")["status"] == "running"
    host.stop()
    store = host.home / "user_data/store"
    hidden = store.rename(store.with_name("store-hidden"))
    host.start()
    host.until(lambda: issue(host, "pack_start_failed"), 20, "the failure to be told")
    shutil.rmtree(store)
    hidden.rename(store)
    fix(host, "pack_start_failed:thing", "start_pack")
    assert host.result("thing.do") == "done"
    assert issue(host, "pack_start_failed") == {}


@pytest.mark.docker
@pytest.mark.slow
def test_an_engine_that_came_back_is_found_and_everything_starts(tmp_path: Path) -> None:
    home, socket = tmp_path / "home", tmp_path / "late.sock"
    with RunningHost(home, "docker") as host:
        put(host)
        host.approve("thing")
    with RunningHost(home, "docker", {"DOCKER_HOST": f"unix://{socket}"}) as host:
        assert issue(host, "docker_required")["suggestions"][0]["fixup"] == "probe_isolation"
        assert host.status("thing")["status"] == "approved"
        socket.symlink_to(os.environ["DOCKER_HOST"].removeprefix("unix://"))
        assert "docker" in fix(host, "docker_required:isolation", "probe_isolation")["message"]
        assert host.result("thing.do") == "done"
        assert issue(host, "docker_required") == {}


def test_nobody_chooses_what_a_fixup_acts_on(host: RunningHost) -> None:
    put(host)
    host.approve("thing")
    status, refused = host.request("POST", "/api/doctor/fix", {"issue": "pack_modified:thing"})
    assert (status, refused["code"]) == (404, "issue_unknown")
    status, refused = host.request("POST", "/api/doctor/fix", {"issue": "x", "args": {"pack_id": "thing"}})
    assert status == 400, refused
    assert host.status("thing")["status"] == "running"


def found_again(host: RunningHost, bring_back: Callable[[], object]) -> None:
    """Approved while nothing isolates; it starts when somebody asks again, and not before."""
    put(host)
    assert host.approve("thing")["status"] == "approved"
    told = issue(host, "docker_required")
    assert told["severity"] == "error"
    assert [offer["fixup"] for offer in told["suggestions"]] == ["probe_isolation"]
    assert "no driver answered" in fix(host, told["id"], "probe_isolation")["message"]
    assert issue(host, "docker_required")
    assert host.call("thing.do")[0] != 200
    bring_back()
    assert "Packs run under" in fix(host, told["id"], "probe_isolation")["message"]
    host.until(lambda: host.status("thing")["status"] == "running", 30, "the Pack to run")
    assert host.result("thing.do") == "done"
    assert issue(host, "docker_required") == {}


@pytest.mark.embedded
@pytest.mark.mount
def test_a_sandbox_that_is_installed_late_is_found_when_asked(tmp_path: Path) -> None:
    program = shutil.which("bwrap")
    assert program
    host = RunningHost(tmp_path / "home", "embedded")
    hidden = f'mount --bind /dev/null {program} && exec "$@"'
    host.prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", hidden, "sh")
    with host:
        install = ["nsenter", "--target", str(host.pid), "--mount", "umount", program]
        found_again(host, lambda: subprocess.run(install, check=True))


def test_what_a_decision_leaves_waiting_is_an_issue_soon_and_no_longer_when_it_starts(host: RunningHost) -> None:
    lacking = one_component_pack("lacking", "def run(context):\n    pass\n", provides=("lacking.key",), requires=("thing.do",))
    host.put_pack("lacking", lacking)
    host.approve("lacking")
    host.until(lambda: issue(host, "pack_waits"), 60, "the waiting to be told though nobody asked the doctor")
    told = issue(host, "pack_waits")
    assert (told["subject"], "thing.do" in told["detail"]) == ("lacking", True)
    assert told["hint"]
    put(host)
    host.approve("thing")
    host.until(lambda: host.status("lacking")["status"] == "running", 30, "what waited to start by itself")
    host.until(lambda: not issue(host, "pack_waits"), 60, "the issue to go")
