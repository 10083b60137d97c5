"""Addons: order, policy, grants, conditions, conflicts; and that the Pack's own files stay as they are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.ecosystem.addon_draft import glob_matches
from backend_core.ecosystem.addon_manager import AddonManager, Effective, Outcome
from backend_core.ecosystem.registry import PackRegistry
from tests.support.packs import manifest, pack

POLICY = {
    "allowed_manifest_paths": ["/extensions", "/settings_schema"],
    "editable_files": [{"path_glob": "data/*.json", "allowed_json_pointer_prefixes": ["/open"]}],
}
TARGET = {"pack_identity": "local:base", "component": {"type": "service", "id": "core"}}


class World:
    """Packs on disk, the grants between them, and one application."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.granted: set[tuple[str, str]] = set()
        self.active = ActiveEcosystem()
        pack(root, "base", files={
            "components/core/manifest.json": manifest("service", "core", version="1.2.0", addon_policy=POLICY,
                                                      extensions={"list": []}, connectivity={"provides": ["base.core"]}),
            "components/core/data/a.json": {"open": {"x": 1}, "closed": 1},
            "components/core/code.py": "",
        })  # fmt: skip

    def addon(self, pack_id: str, addon_id: str, *apply, granted: bool = True, target=TARGET, **fields) -> None:
        document = {"addon_id": addon_id, "version": "1.0.0", "targets": [{**target, "apply": list(apply)}], **fields}
        pack(self.root, pack_id, files={f"addons/{addon_id}.addon.json": document})
        if granted:
            self.granted.add((pack_id, "base:service:core"))

    def apply(self, order=lambda packs: packs) -> Effective:
        folders = PackRegistry(self.root).scan()
        assert not {name: folder.error for name, folder in folders.items() if folder.error}
        manager = AddonManager(self.read, lambda *pair: "" if pair in self.granted else "no grant addon.apply", self.active)
        return manager.apply(order([folder.metadata for folder in folders.values()]))

    def read(self, pack_id: str, path: str) -> bytes | None:
        file = self.root / pack_id / path
        return file.read_bytes() if file.is_file() else None


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def on_manifest(path: str, value: object = 1, op: str = "add") -> dict:
    return {"kind": "manifest_json_patch", "patch": [{"op": op, "path": path, "value": value}]}


def on_file(file: str, path: str, value: object = 1, op: str = "add", **fields) -> dict:
    return {"kind": "file_json_patch", "file": file, "patch": [{"op": op, "path": path, "value": value}], **fields}


def only(effective: Effective):
    (result,) = effective.results
    return result


def test_manifest_and_file_are_patched_in_memory_with_a_digest_of_their_own(world) -> None:
    world.addon("guest", "a", on_manifest("/extensions/x"), on_file("data/a.json", "/open/y", 2))
    before = {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()}
    effective = world.apply()
    result = only(effective)
    assert result.outcome is Outcome.APPLIED, result
    assert result.changed == ("manifest.json/extensions/x", "data/a.json/open/y")
    component = effective.components["base:service:core"]
    assert component.manifest["extensions"]["x"] == 1
    files = {path: json.loads(data) for path, data in component.files.items()}
    assert files.pop("backend/components/core/manifest.json")["extensions"] == {"list": [], "x": 1}
    assert files == {"backend/components/core/data/a.json": {"open": {"x": 1, "y": 2}, "closed": 1}}
    told = [(change.file, change.op, change.path, change.before, change.value) for change in component.changes]
    assert told == [("data/a.json", "add", "/open/y", "", "2"), ("manifest.json", "add", "/extensions/x", "", "1")]
    assert component.applied == ("guest:a",)
    assert component.digest.startswith("sha256:")
    assert {path: path.read_bytes() for path in world.root.rglob("*") if path.is_file()} == before


def test_without_addons_nothing_is_effective(world) -> None:
    assert world.apply() == Effective({}, ())


def test_priority_then_pack_then_id_decides_never_the_order_found(world) -> None:
    for index, priority in enumerate((500, 1, 100)):
        world.addon(f"g{index}", "a", on_manifest("/extensions/list/-", index), priority=priority)
    results = [world.apply(list), world.apply(lambda packs: packs[::-1])]
    results += [world.apply(lambda packs, o=order: [packs[i] for i in o]) for order in itertools.permutations(range(4))]
    assert {effective.components["base:service:core"].digest for effective in results} == {
        results[0].components["base:service:core"].digest
    }
    assert list(results[0].components["base:service:core"].manifest["extensions"]["list"]) == [1, 2, 0]


@pytest.mark.parametrize(
    "entry",
    [
        on_manifest("/extensionsX"),
        on_manifest("/metadata"),
        on_manifest(""),
        on_file("data/a.json", "/closed", 2, "replace"),
        on_file("data/a.json", "/openX"),
        on_file("other.json", "/open"),
        on_file("data/deep/a.json", "/open"),
        on_file("../../ecosystem.json", "/open"),
        on_file("/etc/hosts", "/open"),
        on_file("data/../manifest.json", "/open"),
    ],
)
def test_what_the_policy_does_not_admit_is_refused(world, entry) -> None:
    world.addon("guest", "a", entry)
    effective = world.apply()
    assert only(effective).outcome is Outcome.REFUSED
    assert effective.components == {}


@pytest.mark.parametrize(
    "place", ["/connectivity/provides/-", "/connectivity", "/id", "/type", "/version", "/addon_policy/deny_all"]
)
def test_no_policy_can_open_identity_or_rights(world, place) -> None:
    open_policy = {"allowed_manifest_paths": ["", "/connectivity", "/id", "/type", "/version", "/addon_policy"],
                   "editable_files": [{"path_glob": "**", "allowed_json_pointer_prefixes": [""]}]}  # fmt: skip
    pack(world.root, "base", files={
        "components/core/manifest.json": manifest("service", "core", connectivity={"provides": []},
                                                  addon_policy=open_policy)})  # fmt: skip
    world.addon("guest", "a", on_manifest(place, "x.y"))
    world.addon("other", "b", on_file("manifest.json", place, "x.y"))
    assert [result.outcome for result in world.apply().results] == [Outcome.REFUSED] * 2


def test_another_packs_component_needs_the_grant_for_that_pair(world) -> None:
    world.addon("guest", "a", on_manifest("/extensions/x"), granted=False)
    result = only(world.apply())
    assert result.outcome is Outcome.REFUSED
    assert "addon.apply" in result.reason
    world.granted.add(("guest", "base:service:other"))
    assert only(world.apply()).outcome is Outcome.REFUSED
    world.granted.add(("guest", "base:service:core"))
    assert only(world.apply()).outcome is Outcome.APPLIED


def test_deny_all_and_no_policy_admit_nothing(world) -> None:
    world.addon("guest", "a", on_manifest("/extensions/x"))
    for policy in ({**POLICY, "deny_all": True}, {}):
        pack(
            world.root,
            "base",
            files={"components/core/manifest.json": manifest("service", "core", addon_policy=policy)},
        )
        assert only(world.apply()).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({"enabled": False}, Outcome.SKIPPED),
        ({"conditions": {"pack_version": ">=2.0.0"}}, Outcome.SKIPPED),
        ({"conditions": {"component_version": "^1.0.0", "pack_version": "1.0.0"}}, Outcome.APPLIED),
        ({"conditions": {"component_version": "<1.2.0"}}, Outcome.SKIPPED),
    ],
)
def test_switches_and_conditions(world, fields, outcome) -> None:
    world.addon("guest", "a", on_manifest("/extensions/x"), **fields)
    assert only(world.apply()).outcome is outcome


def test_the_operator_switches_an_addon_off(world) -> None:
    world.addon("guest", "a", on_manifest("/extensions/x"))
    world.active = ActiveEcosystem().with_addon("guest:a", enabled=False)
    assert only(world.apply()).reason == "switched off in active_ecosystem.json"


def test_equal_priority_on_one_place_is_a_conflict_that_names_both(world) -> None:
    world.addon("g1", "a", on_manifest("/extensions/x", {}))
    for place in ("/extensions/x", "/extensions/x/deep", "/extensions"):
        world.addon("g2", "b", on_manifest(place, {"other": 2}))
        first, second = world.apply().results
        assert (first.outcome, second.outcome) == (Outcome.APPLIED, Outcome.CONFLICT)
        assert "g1:a" in second.reason
        assert world.apply().components["base:service:core"].manifest["extensions"]["x"] == {}


def test_a_later_priority_overrides_and_says_so(world) -> None:
    world.addon("g1", "a", on_manifest("/extensions/x", 1), priority=1)
    world.addon("g2", "b", on_manifest("/extensions/x", 2), priority=2)
    effective = world.apply()
    assert effective.results[1].overrides == ("g1:a",)
    assert effective.components["base:service:core"].manifest["extensions"]["x"] == 2


def test_one_addon_on_one_target_is_atomic(world) -> None:
    world.addon("guest", "a", on_manifest("/extensions/x"), on_file("data/a.json", "/open/none", 1, "replace"))
    effective = world.apply()
    assert only(effective).outcome is Outcome.FAILED
    assert effective.components == {}


def test_a_failing_test_skips(world) -> None:
    world.addon("guest", "a", on_manifest("/extensions/list", ["other"], "test"), on_manifest("/extensions/x"))
    assert only(world.apply()).outcome is Outcome.SKIPPED


def test_files_are_created_only_when_asked(world) -> None:
    world.addon("guest", "a", on_file("data/new.json", "/open", 5))
    assert only(world.apply()).outcome is Outcome.FAILED
    world.addon("guest", "a", on_file("data/new.json", "/open", 5, create_if_missing=True))
    files = world.apply().components["base:service:core"].files
    assert json.loads(files["backend/components/core/data/new.json"]) == {"open": 5}


def test_a_patched_manifest_is_still_a_manifest(world) -> None:
    world.addon("guest", "a", on_manifest("/settings_schema", "no object"))
    assert only(world.apply()).outcome is Outcome.FAILED


def test_targets_by_uuid_and_targets_that_nobody_is(world) -> None:
    base = PackRegistry(world.root).get("base").metadata
    by_uuid = {"pack_uuid": base.uuid.upper(), "component": {"component_uuid": base.components[0].uuid.upper()}}
    world.addon("guest", "a", on_manifest("/extensions/x"), target=by_uuid)
    assert only(world.apply()).outcome is Outcome.APPLIED
    world.addon("guest", "a", on_manifest("/extensions/x"), target={**TARGET, "pack_identity": "local:none"})
    assert only(world.apply()).outcome is Outcome.SKIPPED


def test_a_target_that_two_packs_answer_to_is_refused(world) -> None:
    identity = {"pack_identity": "github:a/b"}
    for pack_id in ("one", "two"):
        pack(world.root, pack_id, **identity, files={"components/c/manifest.json": manifest("t", "c")})
    world.addon("guest", "a", on_manifest("/extensions/x"), target={**identity, "component": {"type": "t", "id": "c"}})
    result = only(world.apply())
    assert result.outcome is Outcome.REFUSED
    assert "one:t:c, two:t:c" in result.reason


def test_an_inline_component_is_patched_too(world) -> None:
    pack(world.root, "base", components={"core": manifest("service", "core", addon_policy=POLICY, extensions={})})
    (world.root / "base/backend/components/core/manifest.json").unlink()
    world.addon("guest", "a", on_manifest("/extensions/x"))
    effective = world.apply()
    assert only(effective).outcome is Outcome.APPLIED, only(effective)
    component = effective.components["base:service:core"]
    assert component.manifest["extensions"]["x"] == 1
    assert list(component.files) == ["backend/components/core/manifest.json"]


def test_globs_stay_within_a_segment_and_are_never_slow() -> None:
    cases = {
        "*.json": ["a.json"], "data/*.json": ["data/a.json"], "**": ["a", "a/b", "a/b/c"],
        "**/x.json": ["x.json", "a/x.json", "a/b/x.json"], "a/**/b": ["a/b", "a/c/d/b"],
    }  # fmt: skip
    every = sorted({path for paths in cases.values() for path in paths} | {"data/deep/a.json", "b/a.json"})
    for pattern, paths in cases.items():
        matched = [path for path in every if glob_matches(pattern, path.split("/"))]
        assert set(paths) <= set(matched), pattern
    assert not glob_matches("*.json", ["data", "a.json"])
    assert not glob_matches("data/*.json", ["data", "deep", "a.json"])
    assert not glob_matches("/".join(["**", "a"] * 40), ["a"] * 39)
