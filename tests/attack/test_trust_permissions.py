"""Attacks on rights: undeclared, widened, replayed, expired; keys with a meaning to the host; clocks moved both ways."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from backend_core.errors import DeniedError, RequestError, RumiError, TrustError
from core_runtime.drivers import faults
from core_runtime.host_privilege_manager import HostPrivilegeManager
from core_runtime.install_journal import InstallJournal
from core_runtime.rules.grants import Mode
from core_runtime.rules.permissions import Allow, Deny
from tests.support.trust_home import Clock, TrustHome

READS = [{"type": "userdata.read", "paths": ["shared/notes/**"], "reason": "r"}]
TOPICS = [{"type": "event.publish", "topics": ["alpha.*"], "reason": "r"}]


def allowed(home: TrustHome, path: str = "shared/notes/a.txt", kind: str = "userdata.read") -> bool:
    return isinstance(home.permissions.check("alpha", kind, path=path), Allow)


def home_with(tmp_path, *choices, permissions=READS, **options) -> TrustHome:
    home = TrustHome(tmp_path)
    home.add(permissions=permissions, **options)
    home.approve(permissions=list(choices) if choices else None)
    return home


def test_plain_approval_leaves_out_what_is_sensitive(tmp_path):
    kinds: list[Mapping[str, Any]] = [
        {"type": "secret", "names": ["token"], "reason": "r"},
        {"type": "interface.replace", "keys": ["service.other"], "reason": "r"},
        {"type": "flow.modify", "flows": ["*"], "reason": "r"},
        {"type": "host.notify", "reason": "r"},
        *READS,
    ]
    home = TrustHome(tmp_path)
    home.add(permissions=kinds)
    assert [permission.type for permission in home.approve().permissions] == ["userdata.read"]


@pytest.mark.parametrize(
    "choice",
    [
        "userdata.write",
        {"type": "userdata.read", "paths": ["shared/**"]},
        {"type": "userdata.read", "paths": ["shared/notes/../../permissions/x"]},
        {"type": "userdata.read", "paths": ["shared/other/x"]},
        {"type": "userdata.read", "paths": []},
        {"type": "userdata.read", "names": ["x"]},
        {"type": "interface.call", "keys": ["service.other"]},
        "host.notify",
        "no.such.type",
    ],
    ids=str,
)
def test_more_than_declared_can_not_be_granted(tmp_path, choice):
    home = TrustHome(tmp_path)
    home.add(permissions=[*READS, {"type": "host.notify", "reason": "r"}])
    with pytest.raises(DeniedError):
        home.approve(permissions=[choice])
    assert not home.grant_file().exists()


@pytest.mark.parametrize("kind", ["http.serve"])
def test_type_that_nobody_enforces_is_refused_with_a_sentence(tmp_path, kind):
    names = {
        "http.serve": "routes",
    }
    home = TrustHome(tmp_path)
    home.add(permissions=[{"type": kind, names[kind]: ["x"], "reason": "r"}])
    with pytest.raises(DeniedError) as refused:
        home.approve(permissions=[kind])
    assert refused.value.code == "permission_unenforceable"
    assert refused.value.detail.endswith("approve without it.")


@pytest.mark.parametrize(
    "bad", [[{"mode": "once"}], [42], [{"type": "userdata.read", "mode": "later"}], [{"type": "x", "until": "soon"}]]
)
def test_malformed_choice_is_a_bad_request(tmp_path, bad):
    home = TrustHome(tmp_path)
    home.add(permissions=READS)
    with pytest.raises(RequestError):
        home.approve(permissions=bad)


def test_narrowed_permission_covers_less(tmp_path):
    home = home_with(tmp_path, {"type": "userdata.read", "paths": ["shared/notes/a.txt"]})
    assert allowed(home)
    assert not allowed(home, "shared/notes/b.txt")
    assert not allowed(home, kind="userdata.write")


def test_one_use_is_one_use_even_over_a_restart_and_a_race(tmp_path):
    home = home_with(tmp_path, {"type": "userdata.read", "mode": "once"})
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(allowed(home))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    home.reopen().approvals.scan()
    assert not allowed(home)


def test_spent_permission_is_not_revived_by_narrowing_or_restoring(tmp_path):
    home = home_with(tmp_path, {"type": "userdata.read", "mode": "once"})
    assert allowed(home)
    with pytest.raises(DeniedError):
        home.approvals.narrow("alpha", permissions=["userdata.read"], actor="tester")
    (home.packs_dir / "alpha/backend/x.py").write_text("")
    home.scan()
    home.approvals.restore("alpha", actor="tester")
    assert not allowed(home)


@pytest.mark.parametrize("decision", ["narrow", "widen"])
@pytest.mark.parametrize("point", ["before_grant", "granted"])
def test_a_use_during_a_decision_is_not_given_back(tmp_path, decision, point):
    home = TrustHome(tmp_path)
    home.add(permissions=[*READS, *TOPICS])
    home.approve(permissions=[{"type": "userdata.read", "mode": "once"}, *([] if decision == "widen" else TOPICS)])
    answers: list[bool] = []
    racer = threading.Thread(target=lambda: answers.append(allowed(home)))

    def race(passed):
        if passed == f"{decision}.{point}":
            racer.start()
            racer.join(0.3)  # long enough for a use that nothing holds back

    faults.install(race)
    try:
        choice = ["event.publish"] if decision == "widen" else ["userdata.read"]
        getattr(home.approvals, decision)("alpha", permissions=choice, actor="tester")
    finally:
        faults.install(None)
        racer.join()
    answers.append(allowed(home))
    answers.append(allowed(home))
    assert answers.count(True) == 1, answers


def test_adding_keeps_what_is_held_and_takes_only_what_is_declared(tmp_path):
    clock = Clock()
    home = TrustHome(tmp_path, clock=clock)
    home.add(permissions=[*READS, *TOPICS, {"type": "userdata.write", "paths": ["shared/notes/**"], "reason": "r"}])
    home.approve(permissions=[
        {"type": "userdata.read", "mode": "restart"}, {"type": "userdata.write", "until": clock.now + 10},
    ])  # fmt: skip
    clock.advance(20)
    grant = home.approvals.widen("alpha", permissions=["event.publish"], actor="tester")
    assert [(p.type, p.mode.value) for p in grant.permissions] == [("userdata.read", "restart"), ("event.publish", "always")]
    assert allowed(home)
    with pytest.raises(DeniedError, match="wider"):
        home.approvals.widen("alpha", permissions=[{"type": "userdata.read", "paths": ["shared/**"]}], actor="tester")
    (home.packs_dir / "alpha/backend/x.py").write_text("")
    with pytest.raises(TrustError):
        home.approvals.widen("alpha", permissions=["event.publish"], actor="tester")


def test_until_restart_ends_with_the_host(tmp_path):
    home = home_with(tmp_path, {"type": "userdata.read", "mode": "restart"})
    assert allowed(home)
    home.reopen().approvals.scan()
    assert not allowed(home)


@pytest.mark.parametrize("restart", [False, True])
def test_moving_the_clock_back_extends_nothing(tmp_path, restart):
    clock = Clock()
    home = TrustHome(tmp_path, clock=clock)
    home.add(permissions=READS)
    home.approve(permissions=[{"type": "userdata.read", "until": clock.now + 100}])
    assert allowed(home)
    clock.advance(200)
    assert not allowed(home)
    clock.now -= 10_000
    if restart:
        home.reopen().approvals.scan()
    assert not allowed(home)


def test_clock_set_back_before_the_end_still_runs_out(tmp_path):
    clock = Clock()
    home = TrustHome(tmp_path, clock=clock)
    home.add(permissions=READS)
    home.approve(permissions=[{"type": "userdata.read", "until": clock.now + 100}])
    assert allowed(home)
    clock.now -= 1000  # set back, then 150 real seconds pass
    clock.mono += 150
    assert not allowed(home)


def test_clock_moved_forward_ends_it_early(tmp_path):
    clock = Clock()
    home = TrustHome(tmp_path, clock=clock)
    home.add(permissions=READS)
    home.approve(until=clock.now + 100)
    clock.now += 1000
    assert not allowed(home)


def test_revocation_acts_on_the_next_use(tmp_path):
    home = home_with(tmp_path, permissions=[*READS, *TOPICS], uses=["service.beta"])
    rights = home.permissions.rights_source("alpha")()
    assert (rights.may_call("service.beta"), rights.may_publish("alpha.x"), allowed(home)) == (True, True, True)
    home.approvals.narrow("alpha", permissions=["event.publish"], actor="tester")
    assert (rights.may_call("service.beta"), rights.may_publish("alpha.x"), allowed(home)) == (False, True, False)
    home.approvals.reject("alpha", reason="no", actor="tester")
    assert not rights.may_publish("alpha.x")
    assert not rights.may_register("service.alpha")


def test_narrowing_never_widens(tmp_path):
    home = home_with(tmp_path, {"type": "userdata.read", "paths": ["shared/notes/a.txt"], "until": 2e9})
    for wider in (
        {"type": "userdata.read", "paths": ["shared/notes/**"]},
        {"type": "userdata.read", "until": 3e9},
        {"type": "userdata.read", "mode": "restart"},
        {"type": "userdata.read", "mode": "once"},
        "event.publish",
    ):
        with pytest.raises(DeniedError):
            home.approvals.narrow("alpha", permissions=[wider], actor="tester")
    grant = home.approvals.narrow("alpha", permissions=[{"type": "userdata.read", "until": 1.9e9}], actor="tester")
    assert grant.permissions[0].until == 1.9e9


def test_modified_pack_loses_its_rights_at_once(tmp_path):
    home = home_with(tmp_path)
    (home.packs_dir / "alpha/backend/x.py").write_text("")
    home.scan()
    assert not allowed(home)


@pytest.mark.parametrize(
    "key", ["flow.hooks.before_step", "flow.error_handler", "flow.construct.mine", "flow.modifier", "io.http.routes"]
)
def test_keys_with_a_meaning_to_the_host_need_their_permission(tmp_path, key):
    home = home_with(tmp_path, provides=["service.alpha", key])
    assert isinstance(home.permissions.may_register("alpha", "service.alpha"), Allow)
    assert isinstance(home.permissions.may_register("alpha", key), Deny)
    assert key in home.approvals.review("alpha").host_keys


def test_undeclared_key_can_not_be_registered(tmp_path):
    home = home_with(tmp_path)
    assert isinstance(home.permissions.may_register("alpha", "service.other"), Deny)


def test_first_approved_provider_owns_a_key_until_replacement_is_granted(tmp_path):
    home = TrustHome(tmp_path)
    home.approved("alpha", provides=["service.shared"])
    home.clock.advance(10)
    asked = [{"type": "interface.replace", "keys": ["service.shared"], "reason": "r"}]
    home.add("beta", provides=["service.shared"], permissions=asked)
    assert home.approvals.review("beta").replaces == {"service.shared": "alpha"}
    home.approve("beta")
    assert home.approvals.owners() == {"service.shared": "alpha"}
    home.clock.advance(10)
    home.approve("alpha")  # a new approval of the owner keeps its seniority
    assert home.approvals.owners() == {"service.shared": "alpha"}
    home.approve("beta", permissions=["interface.replace"])
    assert home.approvals.owners() == {"service.shared": "beta"}
    home.approvals.reject("beta", reason="no", actor="tester")
    assert home.approvals.owners() == {"service.shared": "alpha"}


def _taken_over(tmp_path, **limits):
    """``alpha`` owns ``service.shared``; ``beta`` was granted to replace it, within ``limits``."""
    home = TrustHome(tmp_path)
    home.approved("alpha", provides=["service.shared"])
    home.clock.advance(10)
    asked = [{"type": "interface.replace", "keys": ["service.shared"], "reason": "r"}]
    home.add("beta", provides=["service.shared"], permissions=asked)
    choice = {"type": "interface.replace", "keys": ["service.shared"], **limits}
    home.approve("beta", permissions=[choice])
    return home


def test_timed_replacement_ends_at_its_time_and_no_clock_brings_it_back(tmp_path):
    home = _taken_over(tmp_path, until=Clock().now + 110)
    assert home.approvals.owners() == {"service.shared": "beta"}
    assert home.approvals.owners_change_in() == pytest.approx(100)
    home.clock.now -= 1000  # moved back: what has passed since counts on
    home.clock.mono += 99
    assert home.approvals.owners() == {"service.shared": "beta"}
    home.clock.mono += 2
    assert home.approvals.owners() == {"service.shared": "alpha"}
    assert home.approvals.owners_change_in() is None
    home.clock.now -= 1_000_000
    assert home.approvals.owners() == {"service.shared": "alpha"}
    home.reopen().approvals.scan()  # as after a crash just then
    assert home.approvals.owners() == {"service.shared": "alpha"}


def test_replacement_until_restart_ends_with_the_run_of_the_host(tmp_path):
    home = _taken_over(tmp_path, mode="restart")
    assert home.approvals.owners() == {"service.shared": "beta"}
    assert home.approvals.owners_change_in() is None, "no clock ends it"
    home.reopen().approvals.scan()
    assert home.approvals.owners() == {"service.shared": "alpha"}


@pytest.mark.parametrize(
    "item",
    [{"type": "interface.replace", "keys": ["service.shared"]}, {"type": "resources", "memory_mb": 64},
     {"type": "flow.modify", "flows": ["main"]}],
)  # fmt: skip
def test_what_lasts_is_not_granted_for_one_use(tmp_path, item):
    home = TrustHome(tmp_path)
    home.add("beta", provides=["service.shared"], permissions=[{**item, "reason": "r"}])
    for decide in (home.approve, home.approvals.widen):
        with pytest.raises(DeniedError) as refused:
            decide("beta", permissions=[{**item, "mode": "once"}], actor="tester")
        assert refused.value.code == "permission_lasting"
        home.approve("beta", permissions=[item])
    with pytest.raises(DeniedError):
        home.approvals.narrow("beta", permissions=[{**item, "mode": "once"}], actor="tester")


def test_one_use_replacement_of_an_older_grant_counts_for_nothing(tmp_path):
    home = _taken_over(tmp_path)
    held = home.approvals.grant("beta")
    once = tuple(replace(permission, mode=Mode.ONCE) for permission in held.permissions)
    home.approvals.grants.grant(replace(held, permissions=once), points="approve")
    home.approvals.scan()
    assert home.approvals.owners() == {"service.shared": "alpha"}
    assert [usage.ended for usage in home.permissions.used_versus_granted("beta")] == [True]
    home.approvals.widen("beta", permissions=["interface.replace"], actor="tester")
    assert home.approvals.owners() == {"service.shared": "beta"}


def test_flood_of_denials_is_one_record_a_minute(tmp_path):
    home = home_with(tmp_path)
    for _ in range(1000):
        allowed(home, "shared/other")
    home.clock.advance(61)
    allowed(home, "shared/other")
    denials = [record for record in home.audit.tail(100) if record["event"] == "permission.denied"]
    assert [record["unrecorded"] for record in denials] == [0, 999]


def test_hostile_parameter_names_do_not_confuse_a_check(tmp_path):
    home = home_with(tmp_path)
    hostile = {"pack_id": "beta", "kind": "x", "self": "y", "path": "shared/notes/../../permissions/x"}
    assert isinstance(home.permissions.check("alpha", "userdata.read", **hostile), Deny)
    assert not home.permissions.has("alpha", "userdata.read", path="packs/alpha/../beta/x")
    assert not home.permissions.has("alpha", "userdata.read")


# --- privileges -------------------------------------------------------------------------------------------------------


class Effects:
    def __init__(self) -> None:
        self.notices: list[tuple[str, str, str]] = []
        self.restarts: list[str] = []

    def notify(self, pack_id: str, title: str, text: str) -> None:
        self.notices.append((pack_id, title, text))

    def restart(self, pack_id: str) -> None:
        self.restarts.append(pack_id)


@pytest.fixture
def privileged(tmp_path):
    home = home_with(tmp_path, permissions=[{"type": f"host.{p}", "reason": "r"} for p in ("file.export", "notify")])
    effects = Effects()
    return (
        home,
        HostPrivilegeManager(
            home.home, home.permissions, home.audit, effects=effects, clock=home.clock, monotonic=home.clock.monotonic
        ),
        effects,
    )


def test_ungranted_privilege_is_denied(privileged):
    _, manager, effects = privileged
    with pytest.raises(DeniedError) as refused:
        manager.execute("alpha", "notify", {"title": "x"})
    assert refused.value.http_status == 403
    assert effects.notices == []


def test_undeclared_privilege_can_not_be_granted(privileged):
    _, manager, _ = privileged
    with pytest.raises(DeniedError):
        manager.grant("alpha", "container.restart_self", actor="tester")


def test_privilege_ends_though_the_clock_was_moved_back_meanwhile(privileged):
    home, manager, effects = privileged
    manager.grant("alpha", "notify", actor="tester", until=home.clock.now + 100)
    manager.execute("alpha", "notify", {"title": "x"})
    home.clock.now -= 1_000_000
    home.clock.mono += 101
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    assert len(effects.notices) == 1


def test_privilege_ends_with_the_approval_the_revocation_and_the_time(privileged):
    home, manager, effects = privileged
    manager.grant("alpha", "notify", actor="tester", until=home.clock.now + 100)
    manager.execute("alpha", "notify", {"title": "x"})
    assert effects.notices == [("alpha", "x", "")]
    home.clock.advance(200)
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    home.clock.now -= 10_000
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    manager.grant("alpha", "notify", actor="tester")
    assert manager.revoke("alpha", "notify", actor="tester")
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    manager.grant("alpha", "notify", actor="tester")
    home.approvals.reject("alpha", reason="no", actor="tester")
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    assert len(effects.notices) == 1


@pytest.mark.parametrize("args", [{}, {"title": ""}, {"title": "x" * 200}, {"title": 1}, {"title": "x", "more": 1}])
def test_arguments_outside_of_the_schema_are_refused(privileged, args):
    _, manager, effects = privileged
    manager.grant("alpha", "notify", actor="tester")
    with pytest.raises(RequestError):
        manager.execute("alpha", "notify", args)
    assert effects.notices == []


def test_older_privileges_put_back_are_refused(privileged):
    home, manager, _ = privileged
    manager.grant("alpha", "notify", actor="tester")
    old = (home.secrets / "privileges.json").read_bytes()
    manager.revoke("alpha", "notify", actor="tester")
    (home.secrets / "privileges.json").write_bytes(old)
    with pytest.raises(RumiError) as refused:
        manager.execute("alpha", "notify", {"title": "x"})
    assert refused.value.code == "privileges_rolled_back"
    assert {item["fault"] for item in manager.list()} == {"privileges_rolled_back"}
    manager.reset(actor="tester")
    manager.grant("alpha", "notify", actor="tester")
    manager.execute("alpha", "notify", {"title": "x"})


def test_privilege_is_not_inherited_by_another_identity(privileged):
    home, manager, effects = privileged
    manager.grant("alpha", "notify", actor="tester")
    home.add(identity="github:somebody-else/alpha", permissions=[{"type": "host.notify", "reason": "r"}])
    home.approve(digest=home.approvals.review("alpha").digest)
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    assert effects.notices == []


def test_privilege_does_not_come_back_with_a_new_approval(privileged):
    """Rejected or removed, then approved again: the operator decides about each operation anew."""
    home, manager, effects = privileged
    manager.grant("alpha", "notify", actor="tester")
    home.approve()
    manager.execute("alpha", "notify", {"title": "x"})  # an approval renewed without a break takes nothing away
    home.approvals.reject("alpha", reason="no", actor="tester")
    home.clock.advance(1)
    home.approve()
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    manager.grant("alpha", "notify", actor="tester")
    home.remove()
    assert not any(one["granted_to"] for one in manager.list())
    home.clock.advance(1)
    home.add(permissions=[{"type": "host.notify", "reason": "r"}])
    home.approve()
    with pytest.raises(DeniedError):
        manager.execute("alpha", "notify", {"title": "x"})
    assert len(effects.notices) == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "", ".", "..", ".bashrc", "a\0b", "a\u202eb", "x" * 101])
def test_export_stays_in_the_folder_of_the_operators_choice(privileged, tmp_path, name):
    _, manager, _ = privileged
    target = tmp_path / "exports"
    target.mkdir()
    manager.grant("alpha", "file.export", actor="tester", options={"folder": str(target)})
    with pytest.raises(RumiError):
        manager.execute("alpha", "file.export", {"name": name, "text": "x"})
    assert list(target.iterdir()) == []


def test_export_acts_and_replaces_nothing(privileged, tmp_path):
    _, manager, _ = privileged
    target = tmp_path / "exports"
    target.mkdir()
    (target / "link").symlink_to(tmp_path / "outside")
    manager.grant("alpha", "file.export", actor="tester", options={"folder": str(target)})
    assert manager.execute("alpha", "file.export", {"name": "a.txt", "base64": "aGVsbG8="}) == {
        "name": "a.txt",
        "bytes": 5,
    }
    assert (target / "a.txt").read_text() == "hello"
    for name in ("a.txt", "link"):
        with pytest.raises(RumiError):
            manager.execute("alpha", "file.export", {"name": name, "text": "again"})
    assert (target / "a.txt").read_text() == "hello"
    assert not (tmp_path / "outside").exists()
    with pytest.raises(RequestError):
        manager.grant("alpha", "file.export", actor="tester", options={"folder": "relative"})


# --- the journal as a weapon -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["packs/beta/x", "shared/x", "permissions/.secret_key", "packs/alpha", "packs/alpha/../beta/x", "/etc/passwd"],
)
def test_pack_can_not_record_others_files_as_its_own(tmp_path, path):
    journal = InstallJournal(tmp_path)
    with pytest.raises(RumiError):
        journal.record("alpha", created=[path])


def test_uninstall_never_leaves_the_allowed_roots(tmp_path):
    journal = InstallJournal(tmp_path)
    data = tmp_path / "user_data"
    for folder in ("packs/alpha/sub", "permissions", "shared"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "outside").write_text("outside")
    (data / "packs/alpha/made").write_text("made")
    (data / "packs/alpha/link").symlink_to(tmp_path / "outside")
    (data / "shared/through").symlink_to(tmp_path)
    journal.append(
        "made", scope="pack", ref="alpha",
        created=["user_data/packs/alpha/made", "user_data/packs/alpha/sub", "user_data/packs/alpha/link", "user_data/packs",
                 "user_data/permissions/.secret_key", "user_data/shared/through/outside", "app.py", "../x",
                 "user_data/packs/alpha/gone"],
    )  # fmt: skip
    dry = journal.uninstall("alpha")
    assert dry["dry_run"]
    assert dry["deleted"] == []
    assert sorted(dry["planned_delete"]) == ["user_data/packs/alpha/made", "user_data/packs/alpha/sub"]
    assert len(dry["skipped"]) == 7
    assert (data / "packs/alpha/made").exists()
    real = journal.uninstall("alpha", dry_run=False)
    assert sorted(real["deleted"]) == sorted(dry["planned_delete"])
    assert real["success"]
    assert (tmp_path / "outside").read_text() == "outside"
    assert (data / "packs/alpha/link").is_symlink()
    assert (data / "permissions/.secret_key").exists()


def test_edited_journal_removes_nothing_after_the_first_bad_record(tmp_path):
    journal = InstallJournal(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "user_data/shared").mkdir(parents=True, exist_ok=True)
        (tmp_path / "user_data/shared" / name).write_text(name)
    (tmp_path / "user_data/shared/mine").write_text("operator")
    journal.append("made", scope="host", ref="x", created=["user_data/shared/a"])
    journal.append("made", scope="host", ref="x", created=["user_data/shared/b"])
    path = tmp_path / "user_data/journal/install.jsonl"
    path.write_bytes(path.read_bytes().replace(b"shared/b", b"shared/mine"))
    journal.uninstall("x", dry_run=False)
    assert (tmp_path / "user_data/shared/mine").read_text() == "operator"
