"""Acceptance, phase 1: the files of Packs and of the operator, read as the specification and its formats say.

In the order of the specification: its rules for Packs, ``backend_core/ecosystem``, ``docker/core/schema``,
``ecosystem/packs``, ``user_data``, the minimal Pack, permission requests.
"""

from __future__ import annotations

import importlib
import json
import uuid
from pathlib import Path

import jsonschema
import pytest

from backend_core.ecosystem import uuid_utils
from backend_core.ecosystem.active_ecosystem import ActiveEcosystem, load_active_ecosystem
from backend_core.ecosystem.addon_manager import AddonManager, Outcome
from backend_core.ecosystem.initializer import initialise
from backend_core.ecosystem.json_patch import apply_patch
from backend_core.ecosystem.mounts import load_mounts
from backend_core.ecosystem.registry import PackRegistry
from core_runtime.rules.component_work import units_of
from core_runtime.rules.resolve import resolve
from tests.support.packs import manifest, minimal_pack, pack, write_files

ROOT = Path(__file__).resolve().parents[1]


def test_rule_1_placing_a_pack_reads_its_metadata_and_runs_nothing(tmp_path) -> None:
    path = minimal_pack(tmp_path)
    write_files(path, {"backend/components/hello/setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')"})
    folder = PackRegistry(tmp_path).scan()["my_pack"]
    assert folder.metadata.pack_id == "my_pack"
    assert not (tmp_path / "ran").exists()


def test_rule_4_permissions_are_declared_in_permissions_json(tmp_path) -> None:
    minimal_pack(tmp_path, permissions=True)
    (request,) = PackRegistry(tmp_path).get("my_pack").metadata.permissions
    assert (request.type, request.params["paths"], request.reason) == (
        "userdata.read", ("settings/my_config.json",), "設定を読み込むため",
    )  # fmt: skip


@pytest.mark.parametrize(
    "module",
    ["registry", "mounts", "active_ecosystem", "addon_manager", "compat", "initializer", "json_patch", "uuid_utils",
     "spec"],
)  # fmt: skip
def test_every_module_of_the_ecosystem_exists_and_says_what_it_is(module) -> None:
    assert importlib.import_module(f"backend_core.ecosystem.{module}").__doc__


@pytest.mark.parametrize("name", ["pack", "permission", "grant"])
def test_the_published_schemas_are_2020_12(name) -> None:
    schema = json.loads((ROOT / "docker/core/schema" / f"{name}.schema.json").read_bytes())
    assert schema["$schema"].endswith("/2020-12/schema")
    jsonschema.Draft202012Validator.check_schema(schema)


def test_identifiers_derive_from_the_identity(tmp_path) -> None:
    minimal_pack(tmp_path)
    found = PackRegistry(tmp_path).get("my_pack").metadata
    namespace = uuid.UUID("a3e9f8c2-7b4d-5e1a-9c6f-2d8b4a7e3f1c")
    expected = uuid.uuid5(namespace, "github:author/my_pack")
    assert found.uuid == str(expected)
    assert found.components[0].uuid == str(uuid.uuid5(expected, "component:service:hello"))
    assert found.components[0].full_id == "my_pack:service:hello"


def test_json_patch_is_rfc_6902() -> None:
    patched = apply_patch(
        {"a": {"b": ["x", "z"]}},
        [
            {"op": "test", "path": "/a/b/0", "value": "x"},
            {"op": "add", "path": "/a/b/1", "value": "y"},
            {"op": "move", "from": "/a/b/2", "path": "/z"},
            {"op": "copy", "from": "/a", "path": "/c"},
            {"op": "replace", "path": "/c/b/0", "value": "w"},
            {"op": "remove", "path": "/a"},
        ],
    )
    assert patched == {"c": {"b": ["w", "y"]}, "z": "z"}


def test_an_addon_patches_what_the_policy_admits_and_nothing_beside_it(tmp_path) -> None:
    policy = {"allowed_manifest_paths": ["/extensions/ext"]}
    pack(tmp_path, "base", files={"components/c/manifest.json": manifest("t", "c", addon_policy=policy, extensions={})})

    def addon(name: str, path: str) -> dict[str, object]:
        return {"addon_id": name, "version": "1.0.0", "priority": 100, "enabled": True,
                "conditions": {"pack_version": ">=1.0.0"},
                "targets": [{"pack_identity": "local:base", "component": {"type": "t", "id": "c"},
                             "apply": [{"kind": "manifest_json_patch",
                                        "patch": [{"op": "add", "path": path, "value": 1}]}]}]}  # fmt: skip

    pack(tmp_path, "guest", files={"addons/in.addon.json": addon("in", "/extensions/ext"),
                                   "addons/out.addon.json": addon("out", "/extensions/extX")})  # fmt: skip
    packs = [folder.metadata for folder in PackRegistry(tmp_path).scan().values()]

    def read(pack_id: str, path: str) -> bytes | None:
        file = tmp_path / pack_id / path
        return file.read_bytes() if file.is_file() else None

    effective = AddonManager(read, lambda *_: "").apply(packs)
    assert {result.addon: result.outcome for result in effective.results} == {
        "guest:in": Outcome.APPLIED, "guest:out": Outcome.REFUSED,
    }  # fmt: skip
    assert dict(effective.components["base:t:c"].manifest["extensions"]) == {"ext": 1}


def test_the_first_start_makes_what_the_specification_shows(tmp_path) -> None:
    initialise(tmp_path)
    for folder in ("ecosystem/packs", "ecosystem/flows", "ecosystem/docker", "user_data/permissions", "user_data/flows",
                   "user_data/settings", "user_data/shared", "user_data/cache"):  # fmt: skip
        assert (tmp_path / folder).is_dir()
    assert json.loads((tmp_path / "user_data/mounts.json").read_bytes()) == {
        "version": "1.0", "mounts": {"data.user": "./user_data", "data.cache": "./user_data/cache"},
    }  # fmt: skip
    assert json.loads((tmp_path / "user_data/active_ecosystem.json").read_bytes()) == {
        "active_pack_identity": None, "overrides": {}, "interface_overrides": {}, "disabled_components": [],
        "disabled_addons": [], "metadata": {},
    }  # fmt: skip
    assert load_mounts(tmp_path / "user_data/mounts.json", tmp_path).path("data.user") == tmp_path / "user_data"
    assert load_active_ecosystem(tmp_path / "user_data/active_ecosystem.json") == ActiveEcosystem()


def test_the_minimal_pack_provides_its_interface(tmp_path) -> None:
    minimal_pack(tmp_path)
    found = PackRegistry(tmp_path).get("my_pack").metadata
    assert found.description == "My first pack"
    assert found.provides() == {"service.hello"}
    assert found.requires() == frozenset()


def test_fail_soft_a_broken_pack_says_where_and_hides_no_other(tmp_path) -> None:
    minimal_pack(tmp_path)
    write_files(tmp_path / "broken", {"backend/ecosystem.json": '{\n  "pack_id": "broken",\n}\n'})
    folders = PackRegistry(tmp_path).scan()
    assert folders["my_pack"].error is None
    fields = folders["broken"].error["fields"]
    assert (fields["source"], fields["line"]) == ("backend/ecosystem.json", 3)
    assert fields["expected"]
    assert fields["hint"]


# --- each field of each file -----------------------------------------------------------------------------------------


def test_every_field_of_ecosystem_json_is_read(tmp_path) -> None:
    inline = {"service:inline": {"version": "2.0.0", "connectivity": {"provides": ["all.inline"]}}}
    pack(
        tmp_path, "all", pack_identity="github:author/all", display_name="All", description="everything", license="MIT",
        author={"name": "A", "email": "a@example.org", "url": "https://example.org"}, dependencies={"base": ">=1.0.0,<2.0.0"},
        pack_type="library", vocabulary={"word": ["other"]}, components=inline, connectivity={"provides": ["all.own"]},
        metadata={"any": 1},
    )  # fmt: skip
    found = PackRegistry(tmp_path).get("all").metadata
    assert (found.display_name, found.description, found.license) == ("All", "everything", "MIT")
    assert found.author == "A <a@example.org> (https://example.org)"
    assert dict(found.dependencies) == {"base": ">=1.0.0,<2.0.0"}
    assert found.pack_type == "library"
    assert found.vocabulary["word"] == ("other",)
    assert found.metadata["any"] == 1
    (component,) = found.components
    assert (component.full_id, component.version) == ("all:service:inline", "2.0.0")
    assert found.provides() == {"all.own", "all.inline"}


def test_pack_version_is_an_alias_and_an_author_may_be_a_text(tmp_path) -> None:
    write_files(tmp_path / "older", {"backend/ecosystem.json": {"pack_id": "older", "pack_version": "0.3.1", "author": "A"}})
    found = PackRegistry(tmp_path).get("older").metadata
    assert (found.version, found.author) == ("0.3.1", "A")
    assert found.pack_identity == "local:older", "an identity that is missing is local"


def test_a_uuid_that_is_given_goes_before_the_derived_one(tmp_path) -> None:
    given = "11111111-2222-3333-4444-555555555555"
    pack(tmp_path, "own", pack_uuid=given, files={"components/c/manifest.json": manifest("t", "c")})
    found = PackRegistry(tmp_path).get("own").metadata
    assert found.uuid == given
    assert found.components[0].uuid == str(uuid.uuid5(uuid.UUID(given), "component:t:c"))


@pytest.mark.parametrize("change", [{"pack_id": "Bad"}, {"pack_id": None}, {"version": None}, {"version": "1"},
                                    {"pack_identity": "no identity"}, {"pack_type": "plugin"}])  # fmt: skip
def test_what_ecosystem_json_must_say(tmp_path, change) -> None:
    document = {name: value for name, value in {"pack_id": "bad", "version": "1.0.0", **change}.items() if value is not None}
    write_files(tmp_path / "bad", {"backend/ecosystem.json": document})
    fields = PackRegistry(tmp_path).scan()["bad"].error["fields"]
    assert set(fields) >= {"source", "line", "pointer", "expected", "found", "hint"}


def test_every_field_of_a_manifest_is_read(tmp_path) -> None:
    given = manifest(
        "kind_1", "c-1", connectivity={"accepts": ["a.b"], "provides": ["c.d"], "requires": ["e.f"], "uses": ["g.h"]},
        component_uuid="11111111-2222-3333-4444-555555555555", display_name="D", description="text", author="A",
        entry={"backend": "setup.py", "frontend": "page.js"}, storage={"uses_mounts": ["data.user"], "layout": {"a": "b"}},
        addon_policy={"allowed_manifest_paths": ["/extensions"], "deny_all": False, "editable_files": [
            {"path_glob": "*.json", "allowed_json_pointer_prefixes": ["/a"]}]},
        extensions={"x": 1}, settings_schema={"type": "object"}, metadata={"m": True},
    )  # fmt: skip
    pack(tmp_path, "full", files={"components/c/manifest.json": given})
    (found,) = PackRegistry(tmp_path).get("full").metadata.components
    links = found.connectivity
    assert (links.accepts, links.provides, links.requires, links.uses) == (("a.b",), ("c.d",), ("e.f",), ("g.h",))
    assert (found.uuid, found.display_name, found.description, found.author) == (given["component_uuid"], "D", "text", "A")
    assert dict(found.entry) == given["entry"]
    assert found.storage["uses_mounts"] == ("data.user",)
    assert found.addon_policy["editable_files"][0]["path_glob"] == "*.json"
    assert (found.extensions["x"], found.settings_schema["type"], found.metadata["m"]) == (1, "object", True)


@pytest.mark.parametrize("change", [{"type": "Bad-Type"}, {"type": None}, {"id": "-x"}, {"id": None}, {"version": None}])
def test_what_a_manifest_must_say(tmp_path, change) -> None:
    document = {name: value for name, value in {**manifest("t", "c"), **change}.items() if value is not None}
    pack(tmp_path, "bad", files={"components/c/manifest.json": document})
    fields = PackRegistry(tmp_path).scan()["bad"].error["fields"]
    assert fields["source"] == "backend/components/c/manifest.json"
    assert {"line", "pointer", "expected", "found", "hint"} <= set(fields)


def test_what_the_files_say_decides_the_order_of_starts(tmp_path) -> None:
    """Libraries first, then who provides before who requires, whatever their names; dependencies likewise."""
    def part(name: str, **links: list[str]) -> dict[str, dict[str, object]]:
        return {f"components/{name}/manifest.json": manifest("t", name, connectivity=links)}

    pack(tmp_path, "asks", files=part("c", requires=["needs.it"]))
    pack(tmp_path, "gives", files=part("c", provides=["needs.it"]))
    pack(tmp_path, "zlib", pack_type="library", files=part("c"))
    pack(tmp_path, "built", dependencies={"zbase": ">=1.0.0,<2.0.0"}, files=part("c"))
    pack(tmp_path, "zbase", version="1.4.0", files=part("c"))
    pack(tmp_path, "too_new", dependencies={"zbase": ">=2.0.0"}, files=part("c"))
    pack(tmp_path, "lost", files=part("c", requires=["nobody.has"]))
    found = resolve([unit for folder in PackRegistry(tmp_path).scan().values() for unit in units_of(folder.metadata)])
    batches = [{unit.pack_id for unit in batch} for batch in found.batches]
    assert batches == [{"zlib"}, {"gives", "zbase"}, {"asks", "built"}]
    reasons = {blocked.unit.pack_id: blocked.reason for blocked in found.blocked}
    assert set(reasons) == {"too_new", "lost"}
    assert "nobody.has" in reasons["lost"]
    assert "1.4.0" in reasons["too_new"]


# --- each word of an addon -------------------------------------------------------------------------------------------


def patched(tmp_path, *, component=None, conditions=None, entries=None, base=None, **fields):
    """What becomes of one addon; its target is ``base:t:c`` unless told otherwise."""
    policy = {"allowed_manifest_paths": ["/extensions"],
              "editable_files": [{"path_glob": "data/*.json", "allowed_json_pointer_prefixes": ["", "/a"]}]}  # fmt: skip
    core = manifest("t", "c", version="2.1.0", addon_policy=policy, extensions={"n": [1]})
    pack(tmp_path, "base", version="1.5.0", **(base or {}),
         files={"components/c/manifest.json": core, "components/c/data/old.json": {"a": 1}})  # fmt: skip
    entries = entries or [{"kind": "manifest_json_patch", "patch": [{"op": "add", "path": "/extensions/x", "value": 1}]}]
    target = {"pack_identity": "local:base", "component": component or {"type": "t", "id": "c"}, "apply": entries}
    document = {"addon_id": "a", "version": "1.0.0", "targets": [target], **fields}
    if conditions is not None:
        document["conditions"] = conditions
    pack(tmp_path, "guest", files={"addons/a.addon.json": document})
    folders = PackRegistry(tmp_path).scan()
    if folders["guest"].error:
        return folders["guest"].error["code"], None

    def read(pack_id: str, path: str) -> bytes | None:
        file = tmp_path / pack_id / path
        return file.read_bytes() if file.is_file() else None

    found = AddonManager(read, lambda *_: "").apply([folder.metadata for folder in folders.values()])
    return found.results[0].outcome, found.components.get("base:t:c")


@pytest.mark.parametrize(
    ("conditions", "outcome"),
    [
        ({"pack_version": ">=1.0.0,<2.0.0"}, Outcome.APPLIED), ({"pack_version": ">=2.0.0"}, Outcome.SKIPPED),
        ({"component_version": "^2.1"}, Outcome.APPLIED), ({"component_version": "<2"}, Outcome.SKIPPED),
    ],
)  # fmt: skip
def test_conditions_of_an_addon_are_evaluated(tmp_path, conditions, outcome) -> None:
    assert patched(tmp_path, conditions=conditions)[0] is outcome


def test_an_addon_names_its_target_by_id_or_by_uuid(tmp_path) -> None:
    of_pack = uuid.uuid5(uuid.UUID("a3e9f8c2-7b4d-5e1a-9c6f-2d8b4a7e3f1c"), "local:base")
    by_uuid = {"component_uuid": str(uuid.uuid5(of_pack, "component:t:c"))}
    assert patched(tmp_path / "1", component=by_uuid)[0] is Outcome.APPLIED
    assert patched(tmp_path / "2", component={"component_uuid": str(of_pack)})[0] is Outcome.SKIPPED
    assert uuid_utils.addon_uuid(str(of_pack), "a") == str(uuid.uuid5(of_pack, "addon:a"))


def test_an_addon_may_be_switched_off_by_its_author(tmp_path) -> None:
    assert patched(tmp_path, enabled=False)[0] is Outcome.SKIPPED


@pytest.mark.parametrize(("priority", "valid"), [(0, True), (1000, True), (-1, False), (1001, False), ("1", False)])
def test_priorities_go_from_0_to_1000(tmp_path, priority, valid) -> None:
    assert (patched(tmp_path, priority=priority)[0] is Outcome.APPLIED) is valid


def test_addons_apply_in_ascending_priority(tmp_path) -> None:
    policy = {"allowed_manifest_paths": ["/extensions"]}
    core = manifest("t", "c", addon_policy=policy, extensions={"order": []})
    pack(tmp_path, "base", files={"components/c/manifest.json": core})
    for name, priority in (("guest1", 900), ("guest2", 5), ("guest3", None)):
        entry = {"kind": "manifest_json_patch", "patch": [{"op": "add", "path": "/extensions/order/-", "value": name}]}
        document = {"addon_id": "a", "version": "1.0.0",
                    "targets": [{"pack_identity": "local:base", "component": {"type": "t", "id": "c"}, "apply": [entry]}]}  # fmt: skip
        pack(tmp_path, name, files={"addons/a.addon.json": document | ({} if priority is None else {"priority": priority})})

    def read(pack_id: str, path: str) -> bytes | None:
        file = tmp_path / pack_id / path
        return file.read_bytes() if file.is_file() else None

    packs = [folder.metadata for folder in PackRegistry(tmp_path).scan().values()]
    found = AddonManager(read, lambda *_: "").apply(packs)
    order = found.components["base:t:c"].manifest["extensions"]["order"]
    assert list(order) == ["guest2", "guest3", "guest1"], "none given is 100"


@pytest.mark.parametrize("verb", ["add", "remove", "replace", "test", "move", "copy"])
def test_move_and_copy_are_refused_and_the_others_are_not(tmp_path, verb) -> None:
    operation = {"op": verb, "path": "/extensions/n/0", "value": 1, "from": "/extensions/n"}
    outcome, _ = patched(tmp_path, entries=[{"kind": "manifest_json_patch", "patch": [operation]}])
    assert outcome == ("addon_invalid" if verb in {"move", "copy"} else Outcome.APPLIED)


@pytest.mark.parametrize(("create", "outcome"), [(True, Outcome.APPLIED), (False, Outcome.FAILED)])
def test_a_file_is_made_only_where_the_addon_says_so(tmp_path, create, outcome) -> None:
    entry = {"kind": "file_json_patch", "file": "data/new.json", "create_if_missing": create,
             "patch": [{"op": "add", "path": "/a", "value": 1}]}  # fmt: skip
    found, component = patched(tmp_path, entries=[entry])
    assert found is outcome
    if component:
        assert json.loads(component.files["backend/components/c/data/new.json"]) == {"a": 1}


def test_a_file_that_is_there_is_patched(tmp_path) -> None:
    entry = {"kind": "file_json_patch", "file": "data/old.json", "patch": [{"op": "replace", "path": "/a", "value": 2}]}
    _, component = patched(tmp_path, entries=[entry])
    assert json.loads(component.files["backend/components/c/data/old.json"]) == {"a": 2}
