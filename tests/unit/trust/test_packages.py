"""Python packages in decisions: what a review says, what a grant keeps, what updates and the way back do to a set."""

from __future__ import annotations

import resource

import pytest

from backend_core.errors import AuthorError, ConflictError, HostError, TrustError
from core_runtime.drivers.runtime_folder import HOST_ABI
from core_runtime.rules.wheels import target_of
from tests.support import wheels
from tests.support.trust_home import STANDARD, TrustHome

TARGET = target_of(HOST_ABI.version, HOST_ABI.micro, HOST_ABI.extension_suffix, HOST_ABI.libc)
ONE = wheels.built("colours", "1.0", {"colours.py": "VERSION = 1\n"})
TWO = wheels.built("colours", "2.0", {"colours.py": "VERSION = 2\n"})
NATIVE = wheels.built("fast", "1.0", {"fast/core.so": wheels.ELF, "fast/hidden.txt": wheels.ELF, "fast/__init__.py": ""})


@pytest.fixture
def home(tmp_path):
    return TrustHome(tmp_path / "home")


def write(root, lock, *made):
    (root / "backend/requirements.lock").write_text(lock)
    wheels.write_wheels(root / "backend/wheels", *made)
    return root


def opened(home):
    return home.approvals.open_for_start("alpha", isolation=STANDARD, target=TARGET).packages


def test_a_review_shows_packages_and_what_costs_points(home):
    lock = wheels.locked(("colours", "1.0", ONE[1]), ("fast", "1.0", NATIVE[1]), ("later", "3.0", b"not here"))
    write(home.add(), lock, ONE, NATIVE)
    found = home.approvals.review("alpha").as_dict()
    assert [(one["name"], one["version"], len(one["wheels"])) for one in found["packages"]] == [("colours", "1.0", 1), ("fast", "1.0", 1), ("later", "3.0", 0)]
    fast = found["packages"][1]["wheels"][0]
    assert (fast["native"], fast["size"]) == (["fast/core.so", "fast/hidden.txt"], len(NATIVE[1]))
    codes = {finding["code"] for finding in found["findings"]}
    assert codes == {"native_dependency", "unseen_dependency"}, "wheels that were looked into are no unreadable archives"
    reasons = [line["reason"] for line in found["rating"]["deductions"]]
    assert any("packages with machine code" in reason for reason in reasons)
    assert any("nobody has looked at" in reason for reason in reasons)
    assert found["package_changes"] is None


def test_a_damaged_wheel_is_told_before_the_decision(home):
    write(home.add(), wheels.locked(("colours", "1.0", b"PK")), (ONE[0], b"PK"))
    finding = next(one for one in home.approvals.review("alpha").findings if one.path.endswith(".whl"))
    assert (finding.code, "no plain zip archive" in finding.detail) == ("unscannable", True)
    with pytest.raises(TrustError):
        home.approve(target=TARGET)
    assert home.approvals.grant("alpha") is None


def test_an_update_shows_the_difference_and_goes_back_with_its_set(home, tmp_path):
    write(home.add(), wheels.locked(("colours", "1.0", ONE[1])), ONE)
    home.approvals.scan()
    home.approve(target=TARGET)
    before = opened(home)
    elsewhere = TrustHome(tmp_path / "elsewhere")
    lock = wheels.locked(("colours", "2.0", TWO[1]), ("fast", "1.0", NATIVE[1]))
    home.approvals.add(write(elsewhere.add(version="2.0.0"), lock, TWO, NATIVE), actor="tester")
    changes = home.approvals.review_update("alpha").as_dict()["package_changes"]
    assert changes == {"added": ["fast==1.0"], "removed": [], "changed": {"colours": ["1.0", "2.0"]}}
    options = {"isolation": STANDARD, "actor": "tester", "target": TARGET}
    trial = home.approvals.open_trial("alpha", **options)
    assert (trial.packages / "colours.py").read_text() == "VERSION = 2\n"
    home.approvals.begin_update("alpha", **options)
    home.approvals.close_trial("alpha")
    home.approvals.finish_update("alpha")
    assert opened(home) == trial.packages
    assert before.is_dir(), "the way back needs it"
    home.approvals.rollback("alpha", actor="tester")
    assert opened(home) == before
    assert not trial.packages.exists()


def test_renewing_changes_nothing_else_of_the_grant(home):
    root = write(home.add(permissions=[{"type": "userdata.read", "paths": ["shared/**"], "reason": "r"}]), wheels.locked(("colours", "1.0", ONE[1])))
    home.approve(target=TARGET)
    first = home.approvals.grant("alpha")
    with pytest.raises(HostError) as refused:
        opened(home)
    assert refused.value.code == "dependencies_missing"
    assert refused.value.fields["missing"] == ["colours==1.0"]
    fetched = root.parent / "fetched"
    wheels.write_wheels(fetched, ONE)
    home.approvals.renew_packages("alpha", target=TARGET, fetched=fetched, actor="other")
    second = home.approvals.grant("alpha")
    assert (second.permissions, second.digest, second.isolation, second.approved_at) == (first.permissions, first.digest, first.isolation, first.approved_at)
    assert (second.counter, second.actor) == (first.counter + 1, "other")
    assert home.approvals.renew_packages("alpha", target=TARGET, fetched=None, actor="other").counter == second.counter
    home.reopen()
    assert (opened(home) / "colours.py").is_file()


def test_code_alone_changed_keeps_the_set_without_a_registry(home):
    root = write(home.add(), wheels.locked(("colours", "1.0", ONE[1])))
    fetched = root.parent / "fetched"
    wheels.write_wheels(fetched, ONE)
    home.approve(target=TARGET, fetched=fetched)
    before = opened(home)
    (root / "more.py").write_text("")
    assert home.approvals.wanted_packages("alpha", TARGET) == ()
    home.approve(target=TARGET)
    assert opened(home) == before


def test_another_python_needs_the_operator_again(home):
    write(home.add(), wheels.locked(("fast", "1.0", NATIVE[1])), NATIVE)
    home.approve(target=TARGET)
    assert opened(home) is not None
    with pytest.raises(HostError) as refused:
        home.approvals.open_for_start("alpha", isolation=STANDARD, target=None)
    assert refused.value.code == "dependencies_missing"


def test_a_pack_approved_without_any_sandbox_starts_when_its_packages_were_renewed(home):
    write(home.add(), wheels.locked(("colours", "1.0", ONE[1])), ONE)
    home.approve(target=None)
    with pytest.raises(HostError):
        opened(home)
    home.approvals.renew_packages("alpha", target=TARGET, fetched=None, actor="tester")
    assert opened(home) is not None


def test_nothing_is_wanted_for_other_files_than_those_that_were_shown(home):
    root = write(home.add(), wheels.locked(("colours", "1.0", ONE[1])))
    shown = home.approvals.review("alpha").digest
    assert [one.pin for one in home.approvals.wanted_packages("alpha", TARGET, digest=shown)] == ["colours==1.0"]
    (root / "backend/requirements.lock").write_text(wheels.locked(("evil", "1.0", b"evil")))
    with pytest.raises(ConflictError) as refused:
        home.approvals.wanted_packages("alpha", TARGET, digest=shown)
    assert refused.value.code == "digest_stale"


def test_a_lock_that_contradicts_itself_is_refused(home):
    write(home.add(), wheels.locked(("colours", "1.0", ONE[1])) + f"colours==2.0 ; os_name == 'posix' --hash=sha256:{'a' * 64}\n", ONE)
    with pytest.raises(AuthorError) as refused:
        home.approve(target=TARGET)
    assert "lines 1 and 3 both count" in refused.value.detail


def test_a_damaged_set_is_fetched_again_where_the_pack_brings_no_wheel(home):
    root = write(home.add(), wheels.locked(("colours", "1.0", ONE[1])))
    fetched = root.parent / "fetched"
    wheels.write_wheels(fetched, ONE)
    home.approve(target=TARGET, fetched=fetched)
    module = opened(home) / "colours.py"
    module.chmod(0o644)
    module.write_text("evil")
    assert [one.pin for one in home.approvals.wanted_packages("alpha", TARGET)] == ["colours==1.0"]


def test_a_disk_that_takes_no_more_while_unpacking_changes_nothing(home):
    big = wheels.built("colours", "1.0", {"colours.py": "#" * 2_000_000})
    write(home.add(), wheels.locked(("colours", "1.0", big[1])), big)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # the kernel refuses the write that would go beyond
    try:
        with pytest.raises(HostError) as refused:
            home.approve(target=TARGET)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert refused.value.code == "storage"
    assert home.approvals.grant("alpha") is None
    assert list((home.user_data / "store/fetched").iterdir()) == []


def test_an_empty_lock_needs_nothing(home):
    write(home.add(), "# nothing\n")
    home.approve(target=TARGET)
    assert opened(home) is None


def test_a_lock_at_two_places_is_refused(home):
    root = write(home.add(), "# nothing\n")
    (root / "requirements.lock").write_text("# nothing\n")
    assert home.scan().state.value == "error"


def test_what_a_crash_left_of_a_fetch_is_swept(home):
    left = home.user_data / "store/fetched/0123456789abcdef"
    left.mkdir(parents=True)
    (left / "x.whl").write_text("")
    home.reopen()
    assert not left.exists()
