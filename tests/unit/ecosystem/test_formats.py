"""Schemas, versions, identifiers, mounts, the operator's choices and the first files of an installation."""

from __future__ import annotations

import json
import stat
import threading
import uuid
from pathlib import Path

import jsonschema
import pytest

from backend_core.document import Document
from backend_core.ecosystem import uuid_utils
from backend_core.ecosystem.active_ecosystem import ActiveEcosystem, load_active_ecosystem, save_active_ecosystem
from backend_core.ecosystem.initializer import initialise
from backend_core.ecosystem.mounts import Mounts, default_mounts, load_mounts, save_mounts
from backend_core.ecosystem.spec.validate import SCHEMA_DIR, Kind, check, schema, unknown_fields
from backend_core.ecosystem.versions import in_range, is_version_range
from backend_core.errors import AuthorError, HostError, NotFoundError
from tests.support.packs import MINIMAL_ECOSYSTEM, MINIMAL_MANIFEST, MINIMAL_PERMISSIONS, write_files

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = ROOT / "docker" / "core" / "schema"

# -- schemas ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted([*SCHEMA_DIR.glob("*.json"), *PUBLISHED.glob("*.json")]), ids=lambda p: p.name)
def test_schemas_are_valid_2020_12_and_refer_only_to_themselves(path) -> None:
    document = json.loads(path.read_bytes())
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(document)
    assert all(ref.startswith("#/$defs/") for ref in _references(document))


def _references(node):
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def test_every_kind_has_its_schema_and_the_published_ones_are_the_same() -> None:
    assert {path.name for path in SCHEMA_DIR.glob("*.json")} == {f"{kind.value}.schema.json" for kind in Kind}
    for published, own in (("pack", "ecosystem"), ("permission", "permissions")):
        assert (PUBLISHED / f"{published}.schema.json").read_bytes() == (SCHEMA_DIR / f"{own}.schema.json").read_bytes()


@pytest.mark.parametrize(
    ("kind", "text"),
    [(Kind.ECOSYSTEM, MINIMAL_ECOSYSTEM), (Kind.MANIFEST, MINIMAL_MANIFEST), (Kind.PERMISSIONS, MINIMAL_PERMISSIONS)],
)
def test_a_second_validator_agrees_on_the_examples(kind, text) -> None:
    value = json.loads(text)
    assert jsonschema.Draft202012Validator(schema(kind)).is_valid(value)
    for field in schema(kind)["required"]:
        broken = {name: item for name, item in value.items() if name != field}
        assert not jsonschema.Draft202012Validator(schema(kind)).is_valid(broken)
        with pytest.raises(AuthorError, match=f'the field "{field}"'):
            check(kind, Document(broken, "f", dict))


def test_the_grant_schema_admits_the_compatible_document() -> None:
    document = {
        "pack_id": "p", "status": "approved", "created_at": "2024-01-01T00:00:00Z", "approved_at": None,
        "file_hashes": {"backend/ecosystem.json": "sha256:" + "0" * 64}, "permissions_requested": [],
        "rejection_reason": None, "_hmac_signature": "0" * 64,
    }  # fmt: skip
    validator = jsonschema.Draft202012Validator(json.loads((PUBLISHED / "grant.schema.json").read_bytes()))
    assert validator.is_valid(document)
    assert not validator.is_valid({**document, "status": "fine"})
    assert not validator.is_valid({name: value for name, value in document.items() if name != "_hmac_signature"})


@pytest.mark.parametrize(
    ("step", "valid"),
    [
        ({"id": "a", "call": "x.y"}, True),
        ({"id": "a"}, False),
        ({"call": "x.y", "set": {"a": 1}}, False),
        ({"each": {"in": "${list}", "as": "item"}, "do": [{"call": "x.y"}]}, True),
        ({"loop": {"max": 3}, "do": []}, True),
        ({"do": [{"emit": "a.b"}]}, True),
        ({"choose": [{"when": "${a}", "do": []}, {"default": []}]}, True),
        ({"parallel": {"branches": {"one": [{"call": "x"}]}, "wait": {"min": 1}}}, True),
        ({"acme:twice": {"n": 2}}, True),
        ({"acme:twice": {}, "call": "x"}, False),
        ({"call": "x", "tiemout": "3s"}, False),
        ({"call": "x", "timeout": "3 seconds"}, False),
        ({"wait": "500ms"}, True),
        ({"call": "x", "retry": {"max": 3, "delay": "1s"}, "catch": [{"error": "*", "do": []}]}, True),
    ],
)
def test_a_flow_step_has_exactly_one_verb(step, valid) -> None:
    document = Document({"flow": "a.b", "steps": [step]}, "f", dict)
    if valid:
        check(Kind.FLOW, document)
    else:
        with pytest.raises(AuthorError):
            check(Kind.FLOW, document)


def test_own_fields_are_not_noted() -> None:
    value = {"x-a": 1, "_b": 2, "$schema": "s", "other": 3}
    (note,) = unknown_fields(Kind.ECOSYSTEM, Document(value, "f", dict), value)
    assert "'other'" in note


# -- versions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        ("*", ["0.0.1", "9.9.9"], []),
        ("1.2.3", ["1.2.3"], ["1.2.4"]),
        ("=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("==1.0", ["1.0.0"], ["1.0.1"]),
        (">=1.0.0,<2.0.0", ["1.0.0", "1.9.9"], ["0.9.9", "2.0.0"]),
        (">=1 <2", ["1.0.0"], ["2.0.0"]),
        (">= 1.0.0 , < 2.0.0", ["1.5.0"], ["2.0.0"]),
        ("^1.2.3", ["1.2.3", "1.9.0"], ["1.2.2", "2.0.0"]),
        ("^0.2.3", ["0.2.9"], ["0.3.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("^0", ["0.9.9"], ["1.0.0"]),
        ("^0.0", ["0.0.9"], ["0.1.0"]),
        ("~1.2.3", ["1.2.9"], ["1.3.0"]),
        ("~1.2", ["1.2.0"], ["1.3.0"]),
        ("~1", ["1.9.0"], ["2.0.0"]),
        ("1.*", ["1.0.0", "1.9.9"], ["2.0.0"]),
        ("1.2.x", ["1.2.9"], ["1.3.0"]),
        ("!=1.0.0", ["1.0.1"], ["1.0.0"]),
        (">=1.0.0-rc.1", ["1.0.0-rc.2", "1.0.0"], ["1.0.0-alpha"]),
        ("v1.2.3", ["1.2.3"], ["1.2.4"]),
    ],
)
def test_ranges(wanted, inside, outside) -> None:
    assert [version for version in inside if not in_range(version, wanted)] == []
    assert [version for version in outside if in_range(version, wanted)] == []


@pytest.mark.parametrize(
    "wanted", ["", " ", ",", "one", ">=", ">=1.0.0 || <2", "1.2.3.4", ">1.*", "9.0.0 what", "=> 1"]
)
def test_what_is_no_range(wanted) -> None:
    assert not is_version_range(wanted)


# -- identifiers --------------------------------------------------------------------------------------------------


def test_identifiers_follow_the_names() -> None:
    namespace = uuid.UUID("a3e9f8c2-7b4d-5e1a-9c6f-2d8b4a7e3f1c")
    pack = uuid.uuid5(namespace, "github:author/my_pack")
    assert uuid_utils.pack_uuid("github:author/my_pack") == str(pack)
    assert uuid_utils.component_uuid(str(pack), "service", "hello") == str(uuid.uuid5(pack, "component:service:hello"))
    assert uuid_utils.addon_uuid(str(pack), "extra") == str(uuid.uuid5(pack, "addon:extra"))
    assert uuid_utils.split_full_id("a:b:c") == ("a", "b", "c")
    for text in ("a:b", "a:b:c:d", "a::c", ""):
        with pytest.raises(ValueError, match="pack:type:id"):
            uuid_utils.split_full_id(text)


# -- mounts -------------------------------------------------------------------------------------------------------


def test_mounts_are_relative_to_the_project(tmp_path) -> None:
    document = {"version": "1.0", "mounts": {"data.user": "./user_data", "data.cache": "./user_data/cache",
                                             "data.disk": "/srv/data", "data.out": "../elsewhere"}}  # fmt: skip
    write_files(tmp_path, {"mounts.json": document})
    mounts = load_mounts(tmp_path / "mounts.json", tmp_path)
    assert mounts.path("data.cache") == tmp_path / "user_data" / "cache"
    assert mounts.path("data.disk") == Path("/srv/data")
    assert mounts.path("data.out") == tmp_path.parent / "elsewhere"
    assert dict(mounts.prefixes(tmp_path / "user_data")) == {"data.user": "", "data.cache": "cache"}
    with pytest.raises(NotFoundError, match=r"data\.cache, data\.disk"):
        mounts.path("data.none")


def test_without_a_file_the_defaults_hold_and_a_saved_one_reads_back(tmp_path) -> None:
    assert load_mounts(tmp_path / "mounts.json", tmp_path) == default_mounts(tmp_path)
    changed = Mounts(tmp_path, {"data.user": "./other"})
    save_mounts(tmp_path / "mounts.json", changed)
    assert dict(load_mounts(tmp_path / "mounts.json", tmp_path).entries) == {"data.user": "./other"}


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"version":"2.0","mounts":{}}', '{"version":"1.0","mounts":{"a b":"x"}}', "\ufeff{}"]
)
def test_a_broken_operator_file_is_named_and_never_replaced(tmp_path, content) -> None:
    file = tmp_path / "mounts.json"
    file.write_text(content)
    with pytest.raises(HostError) as caught:
        load_mounts(file, tmp_path)
    assert caught.value.code == "mounts_json_invalid"
    assert "doctor --fix" in caught.value.hint
    assert file.read_text() == content


def test_an_operator_file_that_is_a_link_or_a_folder(tmp_path) -> None:
    (tmp_path / "mounts.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere")
    for name in ("mounts.json", "link.json"):
        with pytest.raises(HostError):
            load_mounts(tmp_path / name, tmp_path)


# -- active_ecosystem.json ----------------------------------------------------------------------------------------


def test_the_operators_choices(tmp_path) -> None:
    document = {
        "active_pack_identity": None, "overrides": {"service": "hello"}, "interface_overrides": {"a.b": "p"},
        "disabled_components": ["p:service:x"], "disabled_addons": ["one", "p:two", "uuid-of-three"], "metadata": {},
    }  # fmt: skip
    write_files(tmp_path, {"active_ecosystem.json": document})
    active = load_active_ecosystem(tmp_path / "active_ecosystem.json")
    assert not active.is_component_enabled("p:service:x")
    assert active.is_component_enabled("q:service:x")
    assert [active.is_addon_enabled(*args) for args in (("q", "one"), ("p", "two"), ("q", "two"))] == [
        False,
        False,
        True,
    ]
    assert not active.is_addon_enabled("q", "three", "uuid-of-three")
    assert active.as_dict() == {**document, "disabled_addons": sorted(document["disabled_addons"])}


def test_changed_choices_read_back(tmp_path) -> None:
    file = tmp_path / "active_ecosystem.json"
    assert load_active_ecosystem(file) == ActiveEcosystem()
    active = ActiveEcosystem().with_component("p:t:i", enabled=False).with_addon("a", enabled=False)
    active = active.with_interface("k.one", "p").with_interface("k.two", "q").with_interface("k.two", None)
    save_active_ecosystem(file, active)
    assert load_active_ecosystem(file) == active
    assert dict(active.interface_overrides) == {"k.one": "p"}
    assert active.with_component("p:t:i", enabled=True).disabled_components == frozenset()


@pytest.mark.parametrize(
    "field", [{"disabled_components": ["x"]}, {"interface_overrides": {"a": 1}}, {"overrides": []}]
)
def test_wrong_choices_are_refused(tmp_path, field) -> None:
    write_files(tmp_path, {"active_ecosystem.json": field})
    with pytest.raises(HostError) as caught:
        load_active_ecosystem(tmp_path / "active_ecosystem.json")
    assert caught.value.code == "active_ecosystem_json_invalid"


# -- initializer --------------------------------------------------------------------------------------------------


def test_an_empty_home_becomes_a_usable_one_and_stays_as_it_is(tmp_path) -> None:
    report = initialise(tmp_path)
    assert report.findings == ()
    assert {"ecosystem/packs", "ecosystem/flows", "ecosystem/docker", "user_data/permissions", "user_data/mounts.json",
            "user_data/active_ecosystem.json"} <= set(report.created)  # fmt: skip
    assert stat.S_IMODE((tmp_path / "user_data/permissions").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "user_data/mounts.json").stat().st_mode) == 0o600
    written = {path: path.stat() for path in tmp_path.rglob("*")}
    again = initialise(tmp_path)
    assert again.created == ()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == {
        path: status.st_mtime_ns for path, status in written.items()
    }


def test_what_exists_is_kept_and_what_is_broken_is_found(tmp_path) -> None:
    write_files(tmp_path, {"user_data/mounts.json": "broken", "user_data/active_ecosystem.json": "{}"})
    (tmp_path / "user_data/permissions").mkdir(mode=0o755)
    report = initialise(tmp_path)
    assert [finding.id for finding in report.findings] == ["mounts_json_invalid"]
    assert (tmp_path / "user_data/mounts.json").read_text() == "broken"
    assert stat.S_IMODE((tmp_path / "user_data/permissions").stat().st_mode) == 0o700


def test_a_file_in_place_of_a_folder_is_an_error_with_the_path(tmp_path) -> None:
    write_files(tmp_path, {"ecosystem": "a file"})
    with pytest.raises(HostError, match="ecosystem"):
        initialise(tmp_path)


def test_two_hosts_starting_at_once_leave_one_whole_result(tmp_path) -> None:
    reports, threads = [], []
    for _ in range(8):
        threads.append(threading.Thread(target=lambda: reports.append(initialise(tmp_path))))
        threads[-1].start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(reports) == 8
    assert not [finding for report in reports for finding in report.findings]
    assert not list((tmp_path / "user_data").glob(".*"))
    assert load_mounts(tmp_path / "user_data/mounts.json", tmp_path) == default_mounts(tmp_path)
