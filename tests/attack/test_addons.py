"""Addons: what a stranger's patch of another Pack's component may do, when, and that nothing is left of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.errors import AuthorError, DeniedError
from tests.support.addons import (
    ASKS,
    DATA,
    MANIFEST,
    TARGET,
    add_guest,
    add_host,
    host_manifest,
    on_file,
    on_manifest,
)
from tests.support.trust_home import TrustHome


@pytest.fixture
def home(tmp_path: Path) -> TrustHome:
    found = TrustHome(tmp_path)
    add_host(found)
    found.approve("alpha")
    return found


def started(home: TrustHome, pack_id: str = "alpha"):
    copy = home.approvals.open_for_start(pack_id, isolation=home.approvals.grant(pack_id).isolation)
    home.approvals.mark(pack_id, "started")
    return copy


def stopped(home: TrustHome, pack_id: str = "alpha") -> None:
    home.approvals.mark(pack_id, "stopped")


def data_of(copy) -> dict:
    return json.loads((copy.path / DATA).read_bytes())


def outcomes(copy) -> dict[str, str]:
    return {result.addon: result.outcome.value for result in copy.patched.results}


def approve_guest(home: TrustHome, pack_id: str = "guest"):
    return home.approve(pack_id, permissions=["addon.apply"])


# --- the right, for each pair ----------------------------------------------------------------------------------------


def test_a_granted_addon_is_in_what_runs_and_nowhere_else(home):
    add_guest(home, on_file("/open/y", 2), on_manifest("/extensions/more", True))
    before = {path: path.read_bytes() for path in (home.packs_dir / "alpha").rglob("*") if path.is_file()}
    grant = approve_guest(home)
    assert set(grant.effects) == {TARGET}
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "applied"}
    assert data_of(copy) == {"open": {"x": 1, "y": 2}, "closed": 1}
    (component,) = copy.metadata.components
    assert component.extensions["more"] is True
    assert copy.effective_digest != copy.digest == home.approvals.grant("alpha").digest
    approved = home.approvals.copy_path(copy.digest)
    assert json.loads((approved / DATA).read_bytes()) == {"open": {"x": 1}, "closed": 1}
    assert {path: path.read_bytes() for path in (home.packs_dir / "alpha").rglob("*") if path.is_file()} == before
    assert home.scan("alpha").state.value == "running"


def test_without_the_grant_for_that_pair_nothing_is_applied(home):
    add_guest(home, on_file("/open/y", 2))
    home.approve("guest")  # a plain approval leaves the right out
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "refused"}
    assert "no grant addon.apply" in copy.patched.results[0].reason
    assert copy.effective_digest == copy.digest
    assert data_of(copy) == {"open": {"x": 1}, "closed": 1}


def test_an_unapproved_guest_patches_nothing(home):
    add_guest(home, on_file("/open/y", 2))
    home.approvals.scan()
    assert started(home).patched.results == ()


@pytest.mark.parametrize(
    "targets", [["*"], ["alpha:*:*"], ["alpha"], ["alpha:service:*"], ["Alpha:service:main"], ["alpha:service:main "]]
)
def test_the_right_names_components_one_by_one(home, targets):
    add_guest(home, on_file("/open/y", 2), permissions=[{**ASKS, "targets": targets}])
    with pytest.raises((AuthorError, DeniedError)):
        approve_guest(home)


def test_a_right_for_one_component_is_none_for_another(home):
    add_guest(home, on_file("/open/y", 2), permissions=[{**ASKS, "targets": ["alpha:service:other"]}])
    approve_guest(home)
    assert outcomes(started(home)) == {"guest:a": "refused"}


def test_one_use_of_it_is_refused_since_it_lasts(home):
    add_guest(home, on_file("/open/y", 2))
    with pytest.raises(DeniedError):
        home.approve("guest", permissions=[{"type": "addon.apply", "mode": "once"}])


# --- what was shown is what is done ----------------------------------------------------------------------------------


def test_a_changed_addon_takes_a_new_approval(home):
    root = add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    add_guest(home, on_file("/open/y", "something else"))
    assert root.exists()
    home.approvals.scan()
    assert started(home).patched.results == ()  # the guest is modified: nothing of it acts
    stopped(home)
    approve_guest(home)
    assert data_of(started(home))["open"]["y"] == "something else"


def test_a_changed_target_is_patched_only_after_a_new_decision_about_the_addon(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    add_host(home, data={"open": {"x": "now means something else"}, "closed": 1})
    home.approve("alpha")
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "refused"}
    assert "is not what was approved" in copy.patched.results[0].reason
    assert "y" not in data_of(copy)["open"]
    stopped(home)
    home.approvals.widen("guest", permissions=["addon.apply"], actor="tester")
    assert data_of(started(home))["open"]["y"] == 2


def test_a_target_that_was_not_there_when_the_addon_was_approved_is_not_patched(tmp_path):
    home = TrustHome(tmp_path)
    add_guest(home, on_file("/open/y", 2))
    assert approve_guest(home).effects == {}
    add_host(home)
    home.approve("alpha")
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "refused"}
    assert "was not there to be shown" in copy.patched.results[0].reason


def test_the_pin_is_part_of_the_signed_grant(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    file = home.grant_file("guest")
    document = json.loads(file.read_bytes())
    assert list(document["effects"]) == [TARGET]
    document["effects"][TARGET] = "sha256:" + "0" * 64
    file.write_text(json.dumps(document))
    home.reopen().approvals.scan()
    assert home.approvals.grant("guest") is None
    assert started(home).patched.results == ()


def test_a_new_version_of_the_target_is_tried_with_what_it_will_run_with(home, tmp_path):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    home.approvals.scan()
    before = started(home)
    newer = TrustHome(tmp_path / "newer")
    folder = add_host(newer, version="1.1.0")
    home.approvals.add(folder, actor="tester")
    tried = home.approvals.open_trial("alpha", isolation=before.grant.isolation, actor="tester")
    assert data_of(tried)["open"]["y"] == 2
    assert tried.effective_digest not in {tried.digest, before.effective_digest}
    home.approvals.begin_update("alpha", isolation=before.grant.isolation, actor="tester")
    home.approvals.mark("alpha", "started")
    home.approvals.close_trial("alpha")
    home.approvals.finish_update("alpha")
    assert data_of(tried)["open"]["y"] == 2, "what runs is kept"
    assert home.approvals.status("alpha").patched.digest == tried.effective_digest
    stopped(home)
    assert started(home).effective_digest == tried.effective_digest


def test_it_survives_a_restart_of_the_host(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    first = started(home).effective_digest
    home.reopen().approvals.scan()
    assert started(home).effective_digest == first


# --- it ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reject", "remove", "narrow", "switch off", "expire"])
def test_taking_the_addon_away_takes_its_effect_back_at_the_next_start(home, how):
    add_guest(home, on_file("/open/y", 2), permissions=[ASKS, {"type": "userdata.read", "paths": ["shared/x/**"],
                                                              "reason": "r"}])  # fmt: skip
    until = home.clock.now + 60 if how == "expire" else None
    home.approve("guest", permissions=["addon.apply", "userdata.read"], until=until)
    assert data_of(started(home))["open"]["y"] == 2
    stopped(home)
    if how == "reject":
        home.approvals.reject("guest", reason="no", actor="tester")
    elif how == "remove":
        home.remove("guest")
    elif how == "narrow":
        home.approvals.narrow("guest", permissions=["userdata.read"], actor="tester")
    elif how == "expire":
        home.clock.advance(61)
    else:
        home.approvals.active = ActiveEcosystem(disabled_addons=frozenset({"guest:a"}))
    copy = started(home)
    assert "y" not in data_of(copy)["open"]
    assert copy.effective_digest == copy.digest


def test_the_copy_with_addons_goes_when_nothing_runs_of_it_and_not_before(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    home.approvals.scan()
    copy = started(home)
    home.approvals.reject("guest", reason="no", actor="tester")  # collects
    assert data_of(copy)["open"]["y"] == 2
    stopped(home)
    assert not copy.path.exists()


def test_a_changed_byte_of_the_copy_with_addons_never_starts(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    copy = started(home)
    file = copy.path / DATA
    file.chmod(0o644)
    file.write_text('{"open": {"y": "forged"}}')
    assert data_of(started(home)) == {"open": {"x": 1, "y": 2}, "closed": 1}


# --- hostile patches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        on_manifest("/connectivity/provides/-", "service.stolen"),
        on_manifest("/connectivity", {"provides": ["service.stolen"]}, op="replace"),
        on_manifest("/addon_policy", {}, op="replace"),
        on_manifest("/id", "other", op="replace"),
        on_manifest("/version", "9.0.0", op="replace"),
        on_manifest("", {}, op="replace"),
        on_manifest("/extensionsX", 1),
        on_file("/closed", 2, op="replace"),
        on_file("/pack_id", "x", file="../../ecosystem.json"),
        on_file("/permissions/-", {}, file="../../permissions.json"),
        on_file("/open", 1, file="manifest.json"),
    ],
    ids=str,
)
def test_identity_rights_and_what_the_policy_leaves_out_are_out_of_reach(home, entry):
    add_guest(home, entry)
    approve_guest(home)
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "refused"}
    assert copy.effective_digest == copy.digest
    assert copy.metadata.provides() == {"service.alpha"}


@pytest.mark.parametrize(
    ("file", "there"),
    [("new/a.json", "backend/components/main/new"), ("new/CODE.json", "backend/components/main/new/code.json")],
    ids=["a file where a folder is needed", "a twin of a name that is there"],
)
def test_a_guest_can_not_stop_its_target(tmp_path, file, there):
    home = TrustHome(tmp_path)
    add_host(home, files={there: "{}"})
    home.approve("alpha")
    add_guest(home, on_file("", {"x": 1}, file=file, create_if_missing=True))
    approve_guest(home)
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "failed"}
    assert copy.effective_digest == copy.digest
    assert data_of(copy) == {"open": {"x": 1}, "closed": 1}


MISFITS = {
    "a name that is not in the usual Unicode form": {"file": "new/e\u0301.json"},
    "a folder where there is a file": {"file": "data.json/below.json"},
    "a twin of a name that is there": {"file": "new/CODE.json"},
}


@pytest.mark.parametrize("names", [("before", "good"), ("good", "zlast")], ids=["it comes first", "it comes last"])
@pytest.mark.parametrize("misfit", MISFITS.values(), ids=MISFITS)
def test_an_addon_that_can_not_be_put_in_place_takes_no_other_along(tmp_path, misfit, names):
    home = TrustHome(tmp_path)
    policy = {"editable_files": [{"path_glob": "**", "allowed_json_pointer_prefixes": [""]}]}
    there = {"backend/components/main/new/code.json": "{}"}
    add_host(home, files={**there, MANIFEST: host_manifest(addon_policy=policy)})
    home.approve("alpha")
    for name in names:
        entry = on_file("/open/y", 2) if name == "good" else on_file("", {"x": 1}, create_if_missing=True, **misfit)
        add_guest(home, entry, pack_id=name)
        approve_guest(home, name)
    copy = started(home)
    assert outcomes(copy) == {f"{name}:a": "applied" if name == "good" else "failed" for name in names}
    assert data_of(copy)["open"]["y"] == 2
    assert copy.effective_digest != copy.digest
    home.approvals.scan()
    assert not home.approvals.addons_due("alpha"), "another start would come to the same"


def test_an_addon_that_never_fits_is_not_told_as_one_that_waits_for_a_start(tmp_path):
    home = TrustHome(tmp_path)
    add_host(home, files={"backend/components/main/new/code.json": "{}"})
    home.approve("alpha")
    add_guest(home, on_file("", {"x": 1}, file="new/CODE.json", create_if_missing=True))
    approve_guest(home)
    home.approvals.scan()
    assert outcomes(started(home)) == {"guest:a": "failed"}
    assert not home.approvals.addons_due("alpha")


def test_a_patch_that_would_build_what_no_reader_takes_is_refused(home):
    def deep(levels):
        value = 1
        for _ in range(levels):
            value = {"d": value}
        return value

    path = "/open/d" + "/d" * 39
    add_guest(home, on_file("/open/d", deep(40)), on_file(path, deep(40), op="replace"))
    approve_guest(home)
    assert outcomes(started(home)) == {"guest:a": "failed"}


def test_a_file_that_would_be_too_large_is_refused(home):
    text = "x" * 300_000
    add_guest(home, *(on_file(f"/open/{index}", text) for index in range(3)))
    add_guest(home, on_file("/open/z", text), pack_id="guest2")
    approve_guest(home)
    approve_guest(home, "guest2")
    assert outcomes(started(home)) == {"guest:a": "applied", "guest2:a": "failed"}


@pytest.mark.parametrize("how", ["a large document again and again", "many places"])
def test_what_addons_cost_is_bounded_before_anybody_decided(home, how):
    """A review applies what a stranger wrote: some megabytes of patches must not keep the host busy for hours."""
    if how == "many places":
        patch = [{"op": "add", "path": f"/open/k{index}", "value": 0} for index in range(500)]
        entries = [{"kind": "file_json_patch", "file": "data.json", "patch": patch}] * 5
    else:
        add_host(home, data={"open": {}, "text": "x" * 900_000})
        home.approve("alpha")
        entries = [on_file("/open/x", index) for index in range(20)]
    add_guest(home, *entries)
    home.approvals.scan()
    (shown,) = home.approvals.review("guest").as_dict()["addons"]
    assert shown["outcome"] == "failed"
    assert "cost too much" in shown["reason"]


def test_two_guests_at_one_place_are_a_conflict_that_is_told(home):
    add_guest(home, on_file("/open/y", 1), pack_id="guest")
    add_guest(home, on_file("/open/y", 2), pack_id="other")
    approve_guest(home, "guest")
    approve_guest(home, "other")
    copy = started(home)
    assert outcomes(copy) == {"guest:a": "applied", "other:a": "conflict"}
    assert data_of(copy)["open"]["y"] == 1


# --- what the operator is shown --------------------------------------------------------------------------------------------


def test_both_reviews_show_what_the_addon_changes_and_the_digest_that_is_pinned(home):
    add_guest(home, on_file("/open/x", 2, op="replace"))
    home.approvals.scan()
    (shown,) = home.approvals.review("guest").as_dict()["addons"]
    assert shown["addon"] == "guest:a"
    assert shown["target"] == TARGET
    assert shown["outcome"] == "applied"
    assert shown["changes"] == [{"file": "data.json", "op": "replace", "path": "/open/x", "before": "1", "value": "2"}]
    assert approve_guest(home).effects == {TARGET: shown["effective_digest"]}
    (there,) = home.approvals.review("alpha").as_dict()["addons"]
    assert (there["addon"], there["outcome"]) == ("guest:a", "applied")
    assert there["effective_digest"] == shown["effective_digest"]


def test_the_review_of_a_new_version_of_the_target_tells_that_the_addon_will_not_act(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    add_host(home, data={"open": {"x": 5}})
    home.approvals.scan()
    (shown,) = home.approvals.review("alpha").as_dict()["addons"]
    assert shown["outcome"] == "refused"
    assert "rumi pack grant guest addon.apply" in shown["reason"]


def test_a_packs_own_addon_needs_no_grant_and_obeys_its_own_policy(home):
    own = json.dumps({"addon_id": "own", "version": "1.0.0", "targets": [{
        "pack_identity": "github:author/alpha", "component": {"type": "service", "id": "main"},
        "apply": [on_file("/open/own", 1)]}]})  # fmt: skip
    home.add("alpha", files={MANIFEST: host_manifest(), DATA: '{"open": {}}', "backend/addons/own.addon.json": own})
    home.approve("alpha")
    copy = started(home)
    assert outcomes(copy) == {"alpha:own": "applied"}
    assert data_of(copy) == {"open": {"own": 1}}


def test_the_trail_tells_which_addons_were_applied(home):
    add_guest(home, on_file("/open/y", 2))
    approve_guest(home)
    digest = started(home).effective_digest
    trail = [json.loads(line) for line in (home.home / "user_data/audit/audit.jsonl").read_text().splitlines()]
    (applied,) = [entry for entry in trail if entry.get("event") == "addons.applied"]
    assert (applied["pack_id"], applied["digest"], applied["addons"]) == ("alpha", digest, ["guest:a"])
