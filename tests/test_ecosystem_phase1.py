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

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem, load_active_ecosystem
from backend_core.ecosystem.addon_manager import AddonManager, Outcome
from backend_core.ecosystem.initializer import initialise
from backend_core.ecosystem.json_patch import apply_patch
from backend_core.ecosystem.mounts import load_mounts
from backend_core.ecosystem.registry import PackRegistry
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
