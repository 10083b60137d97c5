"""Every check and every fixup over real files: the thing is broken, found, named, mended as suggested, and gone then.

What needs a sandbox (starting, restoring, fetching) is broken in ``tests/e2e/test_doctor.py``.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from msgspec.structs import replace

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem, save_active_ecosystem
from core_runtime.diagnosis.doctor import Doctor
from core_runtime.diagnosis.parts import load_checks, load_fixups
from core_runtime.diagnostics import Issue
from core_runtime.handlers.host import Failure, Host, Waiting
from core_runtime.ports import DriverStatus
from core_runtime.rules.decisions import deciding
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from tests.support.addons import add_guest, add_host, on_file
from tests.support.documents import ROOT
from tests.support.hosts import opened_host
from tests.support.trust_home import STANDARD, TrustHome

LONG_AGO = 100 * 86_400


class World:
    """An opened host and the words to break it with."""

    def __init__(self, home: Path, host: Host, patch: pytest.MonkeyPatch) -> None:
        self.home, self.host, self.patch = home, host, patch
        self.user_data = home / "user_data"
        self.afterwards: list[Callable[[], object]] = []
        """What puts this process right again."""

    def put(self, pack_id: str = "alpha", **options: Any) -> Path:
        """A Pack's folder, seen by a scan."""
        folder = TrustHome.add(SimpleNamespace(packs_dir=self.home / "ecosystem/packs"), pack_id, **options)
        self.host.approvals.scan(pack_id)
        return folder

    def approve(self, pack_id: str = "alpha", *, actor: str = "tester", **options: Any) -> None:
        """Approved with everything that it declares."""
        declared = [
            {key: value for key, value in one.items() if key != "reason"} for one in options.get("permissions", ())
        ]
        self.put(pack_id, **options)
        self.host.approvals.approve(pack_id, isolation=STANDARD, actor=actor, permissions=declared)

    def write(self, path: str, text: str = "x", *, age_s: float = 0) -> Path:
        file = self.user_data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        then = time.time() - age_s
        os.utime(file, (then, then))
        return file

    def choose(self, how: Callable[[ActiveEcosystem], ActiveEcosystem]) -> None:
        """A choice of the operator, written and in force."""
        self.host.active = how(self.host.active)
        save_active_ecosystem(self.user_data / "active_ecosystem.json", self.host.active)


SECRET = [{"type": "secret", "names": ["KEY"], "reason": "r"}]
READ = [{"type": "userdata.read", "paths": ["shared/a.txt"], "reason": "r"}]


def few_free(world: World) -> str:
    world.patch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=5 << 20))
    return "disk"


def few_inodes(world: World) -> str:
    world.patch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_files=100_000, f_favail=7))
    return "disk"


def little_memory(world: World) -> str:
    world.patch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20, total=1 << 30))
    return "memory"


def many_open(world: World) -> str:
    """The real limit of this process, down to a little more than it has open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + max(1, used // 10), hard))
    world.afterwards.append(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
    return "host"


def clock_back(world: World) -> str:
    world.approve()
    now = time.time()
    world.patch.setattr(time, "time", lambda: now - 4000)
    return "clock"


def no_folder(world: World) -> str:
    (world.user_data / "shared").rmdir()
    return "user_data/shared"


def bad_mounts(world: World) -> str:
    world.write("mounts.json", '{"version": "1.0", "mounts": [1]}')
    return "mounts.json"


def bad_choices(world: World) -> str:
    world.write("active_ecosystem.json", "{")
    return "active_ecosystem.json"


def later_choices(world: World) -> str:
    file = world.user_data / "active_ecosystem.json"
    world.write("active_ecosystem.json", file.read_text().replace('"overrides": {}', '"overrides": {"service": "hello"}'))
    return "active_ecosystem.json"


def bad_aliases(world: World) -> str:
    world.write("aliases.json", '{"version": "1.0", "aliases": {"db.get": ["db.put"], "db.put": ["x.put"]}}')
    return "aliases.json"


def later_aliases(world: World) -> str:
    world.write("aliases.json", '{"version": "1.0", "aliases": {"db.get": ["store.get"]}}')
    return "aliases.json"


def hidden_interface(world: World) -> str:
    world.host.aliases.add_alias("db.get", "store.get")
    world.write("aliases.json", '{"version": "1.0", "aliases": {"db.get": ["store.get"]}}')
    world.put("store", provides=("store.get",))
    return "store.get"


def addon_later(world: World) -> str:
    """An addon was approved while its target runs."""
    home = SimpleNamespace(packs_dir=world.home / "ecosystem/packs")
    home.add = partial(TrustHome.add, home)
    add_host(home)
    world.host.approvals.scan("alpha")
    world.host.approvals.approve("alpha", isolation=STANDARD, actor="tester")
    world.host.approvals.open_for_start("alpha", isolation=STANDARD)
    world.host.approvals.mark("alpha", "started")
    add_guest(home, on_file("/open/y", 2))
    world.host.approvals.scan("guest")
    world.host.approvals.approve("guest", isolation=STANDARD, actor="tester", permissions=["addon.apply"])
    return "alpha"


def no_mount(world: World) -> str:
    world.write("mounts.json", json.dumps({"version": "1.0", "mounts": {"data.x": "./user_data/x"}}))
    return "data.x"


def mount_elsewhere(world: World) -> str:
    world.write("mounts.json", json.dumps({"version": "1.0", "mounts": {"data.tmp": "/tmp"}}))
    return "data.tmp"


def open_folder(world: World) -> str:
    (world.user_data / "permissions").chmod(0o755)
    return "user_data/permissions"


def open_packs(world: World) -> str:
    (world.home / "ecosystem/packs").chmod(0o777)
    return "ecosystem/packs"


def open_key(world: World) -> str:
    world.approve()
    (world.user_data / "permissions/.secret_key").chmod(0o644)
    return ".secret_key"


def next_key(world: World) -> str:
    world.approve()
    world.host.approvals.rotate_key(actor="tester")
    return ".secret_key.next"


def forged_publishers(world: World) -> str:
    world.write("permissions/publishers.json", '{"counter": 1, "publishers": {}}')
    return "publishers.json"


def open_token(world: World) -> str:
    world.write("permissions/.api_token", "a" * 64).chmod(0o644)
    return "api_token"


def new_pack(world: World) -> str:
    world.put()
    return "alpha"


def developed(world: World) -> str:
    world.put()
    world.approve(actor=deciding("tester", development=True))
    return "alpha"


def staged(world: World) -> str:
    world.approve()
    newer = world.home / "newer" / "alpha"
    TrustHome.add(SimpleNamespace(packs_dir=newer.parent), "alpha", version="2.0.0")
    world.host.approvals.add(newer, actor="tester")
    return "alpha"


def copied_grant(world: World) -> str:
    world.approve()
    world.put("beta", provides=("service.beta",))
    folder = world.user_data / "permissions"
    shutil.copy(folder / "alpha.grants.json", folder / "beta.grants.json")
    world.host.approvals.scan("beta")
    return "beta"


def broken_metadata(world: World) -> str:
    (world.put() / "backend/ecosystem.json").write_text("{")
    world.host.approvals.scan()
    return "alpha"


def waiting(world: World) -> str:
    world.host.waiting["alpha"] = Waiting((), "nothing provides service.x")
    return "alpha"


def without_packages(world: World) -> str:
    world.approve()
    world.host.failures["alpha"] = Failure("dependencies_missing", "colours==1.0 is missing")
    return "alpha"


def no_secret(world: World) -> str:
    world.approve(permissions=SECRET)
    return "alpha/KEY"


def foreign_secret(world: World) -> str:
    world.approve(permissions=SECRET)
    world.host.secrets.set("alpha", "KEY", "value", identity="github:somebody/else", actor="tester")
    return "alpha/KEY"


def idle_permission(world: World) -> str:
    world.approve(permissions=READ)
    world.host.permissions.counted_since -= LONG_AGO
    now = time.time()
    world.patch.setattr(time, "time", lambda: now + LONG_AGO)
    return "alpha"


def chosen_stranger(world: World) -> str:
    world.choose(lambda now: now.with_interface("service.x", "nobody"))
    return "service.x"


def disabled_stranger(world: World) -> str:
    world.choose(lambda now: now.with_component("nobody:service:main", enabled=False))
    return "nobody:service:main"


def preferred(world: World) -> str:
    """Of a component that is there, too."""
    world.approve()
    world.choose(lambda now: replace(now, overrides={"service": "main"}))
    return "overrides"


def two_providers(world: World) -> str:
    world.approve("alpha", provides=("service.same",))
    world.approve("beta", provides=("service.same",))
    return "service.same"


def folder_gone(world: World) -> str:
    world.approve()
    shutil.rmtree(world.home / "ecosystem/packs/alpha")
    world.host.approvals.scan()
    return "alpha"


def orphaned_secret(world: World) -> str:
    world.write("secrets/ghost/KEY.secret")
    return "ghost"


def orphaned_data(world: World) -> str:
    world.write("packs/ghost/notes.txt")
    return "ghost"


def bad_account(world: World) -> str:
    world.approve()
    world.write("packs/.accounts/alpha.json", "[")
    return "alpha"


def nearly_full(world: World) -> str:
    """A file of the size of its whole quota, without a byte on the disk."""
    world.approve()
    os.truncate(world.write("packs/alpha/notes.bin"), world.host.userdata._quota("alpha"))
    return "alpha"


def reduced(world: World) -> str:
    world.host.isolation = Isolation(DriverKind.EMBEDDED, Level.REDUCED, findings=("no control group",))
    return "isolation"


def lost(world: World) -> str:
    gone = DriverStatus(DriverKind.DOCKER, available=False, level=Level.NONE, reason="no answer", hint="systemctl start docker")
    back = DriverStatus(DriverKind.DOCKER, available=True, level=Level.STANDARD)
    orchestrator = SimpleNamespace(statuses={DriverKind.DOCKER: gone}, close=nothing)

    async def reattached() -> bool:
        orchestrator.statuses = {DriverKind.DOCKER: back}
        return True

    orchestrator.reattached = reattached
    world.host.isolation = Isolation(DriverKind.DOCKER, Level.STANDARD)
    world.patch.setattr(world.host, "orchestrator", orchestrator)
    return "isolation"


async def nothing() -> None:
    pass


def weaker_now(world: World) -> str:
    world.approve()
    world.host.isolation = Isolation(DriverKind.EMBEDDED, Level.REDUCED)
    return "alpha"


def old_backup(world: World) -> str:
    world.write("settings/x.json.broken-20200101T000000", age_s=LONG_AGO)
    return "user_data/settings"


def old_temporary(world: World) -> str:
    world.write("settings/.rumi-tmp-0123456789abcdef", age_s=LONG_AGO)
    return "user_data/settings"


def changed_evidence(world: World) -> str:
    world.write("audit/audit.jsonl.broken-1")
    return "audit"


CASES: tuple[tuple[str, Callable[[World], str], str], ...] = (
    ("account_damaged", bad_account, "set_account_aside"),
    ("active_ecosystem_json_invalid", bad_choices, "write_active_ecosystem"),
    ("addons_next_start", addon_later, ""),
    ("alias_hides_interface", hidden_interface, ""),
    ("aliases_json_invalid", bad_aliases, "write_aliases"),
    ("aliases_not_in_force", later_aliases, "read_aliases"),
    ("backup_old", old_backup, "remove_backups"),
    ("choices_not_in_force", later_choices, ""),
    ("clock_behind", clock_back, ""),
    ("data_without_pack", orphaned_data, "set_data_aside"),
    ("descriptors_short", many_open, ""),
    ("disabled_unknown", disabled_stranger, "forget_disabled"),
    ("disk_space_low", few_free, ""),
    ("evidence_set_aside", changed_evidence, ""),
    ("folder_missing", no_folder, "make_folders"),
    ("grant_without_pack", folder_gone, "remove_pack"),
    ("inodes_low", few_inodes, ""),
    ("interface_twice", two_providers, ""),
    ("isolation_lost", lost, "probe_isolation"),
    ("isolation_reduced", reduced, ""),
    ("isolation_unlike_approved", weaker_now, ""),
    ("key_rotation_waits", next_key, ""),
    ("memory_short", little_memory, ""),
    ("mount_missing", no_mount, "make_mount"),
    ("mount_outside", mount_elsewhere, ""),
    ("mounts_json_invalid", bad_mounts, "replace_mounts"),
    ("override_unknown", chosen_stranger, "forget_override"),
    ("overrides_unused", preferred, "forget_overrides"),
    ("pack_in_development", developed, ""),
    ("pack_undecided", new_pack, ""),
    ("pack_unusable", copied_grant, "set_grant_aside"),
    ("pack_unusable", broken_metadata, "scan_pack"),
    ("pack_waits", waiting, ""),
    ("packages_missing", without_packages, "fetch_packages"),
    ("packs_folder_open", open_packs, "close_packs_folder"),
    ("permission_unused", idle_permission, "revoke_unused"),
    ("private_folder_open", open_folder, "close_folder"),
    ("publishers_unusable", forged_publishers, ""),
    ("quota_nearly_full", nearly_full, ""),
    ("secret_missing", no_secret, ""),
    ("secret_unusable", foreign_secret, "remove_secret"),
    ("secrets_without_pack", orphaned_secret, "drop_secrets"),
    ("signing_key_unusable", open_key, "close_signing_key"),
    ("temporary_left", old_temporary, "remove_temporaries"),
    ("token_unsafe", open_token, "renew_token"),
    ("update_undecided", staged, ""),
)
ELSEWHERE = {
    "fetch_packages": ("test_a_pack_that_failed_to_start_is_started_again",),
    "probe_isolation": (
        "test_an_engine_that_came_back_is_found_and_everything_starts", "test_a_sandbox_that_is_installed_late_is_found_when_asked",
    ),
    "restore_pack": ("test_changed_files_are_put_back_and_the_pack_runs_again",),
    "start_pack": ("test_starting_is_offered_for_what_could_not_start",),
}  # fmt: skip
"""Fixups that act on sandboxes: performed by these tests of ``tests/e2e/test_doctor.py``."""
ONLY_LOOKS = "scan_pack"
"""What it reads again is still broken here."""


def found(host: Host, code: str) -> dict[str, Issue]:
    return {issue.subject: issue for issue in host.diagnostics.issues() if issue.code == code}


@pytest.mark.parametrize(("code", "break_", "fixup"), CASES)
def test_what_is_broken_is_found_named_and_mended(tmp_path, monkeypatch, code, break_, fixup) -> None:
    async def story() -> None:
        host = await opened_host(tmp_path)
        world = World(tmp_path, host, monkeypatch)
        try:
            doctor = host.doctor = Doctor(host)
            await doctor.examine()
            assert found(host, code) == {}, "found before anything was broken"
            subject = break_(world)
            looked = {one.code: one for one in await doctor.examine()}
            assert (looked[code].status, looked[code].found) == ("found", len(found(host, code)))
            issue = found(host, code)[subject]
            assert issue.title
            assert issue.hint, "no next step"
            assert [offer.fixup for offer in issue.suggestions if offer.fixup] == ([fixup] if fixup else [])
            if fixup and fixup not in ELSEWHERE:
                done = await doctor.mend(issue.id, actor="tester")
                assert done.success, done
                assert (subject in found(host, code)) is (fixup == ONLY_LOOKS)
        finally:
            for undo in world.afterwards:
                undo()
            await host.close()

    asyncio.run(story())


@pytest.mark.mount
def test_a_small_file_system_is_found_with_little_room_and_few_files(tmp_path) -> None:
    """A real one, of 64 megabytes and 2,000 files; and one that is filled to its last pages is an error."""
    folder = tmp_path / "user_data"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=2000", "rumi-test", str(folder)], check=True)

    async def story() -> None:
        host = await opened_host(tmp_path)
        try:
            doctor = host.doctor = Doctor(host)
            await doctor.examine()
            (room,), (files,) = found(host, "disk_space_low").values(), found(host, "inodes_low").values()
            assert room.severity == "error"
            assert room.evidence["free_bytes"] < 64 << 20
            assert files.evidence["free_files"] < 2_000
            for number in range(100):
                (folder / "cache" / f"{number}").parent.mkdir(exist_ok=True)
                (folder / "cache" / f"{number}").touch()
            await doctor.examine()
            (fewer,) = found(host, "inodes_low").values()
            assert fewer.evidence["free_files"] <= files.evidence["free_files"] - 100
        finally:
            await host.close()

    try:
        asyncio.run(story())
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_every_check_is_broken_here() -> None:
    checks = {code for code, _, _ in CASES}
    assert checks == set(load_checks())
    assert len(checks) >= 25


def test_every_fixup_is_performed() -> None:
    performed = {fixup for _, _, fixup in CASES if fixup} | ELSEWHERE.keys()
    assert performed == set(load_fixups())
    assert len(performed) >= 15


def performed_by(tests: Mapping[str, ast.FunctionDef], name: str) -> set[str]:
    """The fixups that a test of real sandboxes has performed: by itself, and by the functions beside it that it calls."""
    found: set[str] = set()
    for call in (node for node in ast.walk(tests[name]) if isinstance(node, ast.Call)):
        called = getattr(call.func, "id", "")
        if called == "fix":
            found |= {str(call.args[2].value)} if isinstance(call.args[2], ast.Constant) else set()
        elif called in tests and called != name:
            found |= performed_by(tests, called)
    return found


def test_those_that_act_on_sandboxes_are_performed_by_the_tests_that_are_named() -> None:
    source = (ROOT / "tests/e2e/test_doctor.py").read_text(encoding="utf-8")
    tests = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    for fixup, names in ELSEWHERE.items():
        for name in names:
            assert fixup in performed_by(tests, name), (fixup, name)


def test_every_fixup_is_known_that_an_issue_names(tmp_path) -> None:
    named = {
        node.value
        for path in (ROOT / "core_runtime").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Suggestion"
        for node in [*call.args[2:3], *(k.value for k in call.keywords if k.arg == "fixup")]
        if isinstance(node, ast.Constant)
    }
    assert named <= set(load_fixups())
    assert {"restore_pack", "start_pack", "probe_isolation"} <= named
