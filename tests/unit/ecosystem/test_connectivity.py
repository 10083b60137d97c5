"""Contracts in manifests: plain keys as ever, keys with a version and schemas, needs with a range."""

from __future__ import annotations

import json

import pytest

from backend_core.ecosystem.registry import PackRegistry
from tests.support.packs import manifest, pack

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


def read(tmp_path, *components: dict, **ecosystem):
    files = {
        f"components/c{index}/manifest.json": manifest("service", f"c{index}", connectivity=links)
        for index, links in enumerate(components)
    }
    pack(tmp_path, "alpha", files=files, **ecosystem)
    return PackRegistry(tmp_path).get("alpha")


def test_plain_keys_promise_and_need_nothing_more(tmp_path):
    links = {"provides": ["a.b"], "requires": ["c.d"], "uses": ["e.f"], "accepts": ["g.h"]}
    found = read(tmp_path, links).metadata
    assert found.components[0].connectivity.provides == ("a.b",)
    assert found.provides() == {"a.b"}
    assert (dict(found.contracts()), dict(found.ranges())) == ({}, {})


def test_a_key_may_carry_a_version_and_schemas_and_a_need_a_range(tmp_path):
    found = read(
        tmp_path,
        {"provides": ["plain", {"key": "a.b", "version": "1.2.0", "input": TEXT, "output": {"type": "string"}}]},
        {"requires": [{"key": "c.d", "version": "^1.2"}], "uses": ["x", {"key": "e.f", "version": ">=1, <3"}]},
    ).metadata
    assert found.components[0].connectivity.provides == ("plain", "a.b")
    contract = found.contracts()["a.b"]
    assert (contract.version, contract.input["required"], contract.output) == ("1.2.0", ("text",), {"type": "string"})
    assert found.requires() == {"c.d"}
    assert found.uses() == {"x", "e.f"}
    assert dict(found.ranges()) == {"c.d": "^1.2", "e.f": ">=1, <3"}


def test_what_several_components_need_must_all_hold(tmp_path):
    found = read(
        tmp_path,
        {"requires": [{"key": "k", "version": ">=1"}], "uses": [{"key": "k", "version": ">=1"}]},
        {"uses": [{"key": "k", "version": "<2"}]},
    ).metadata
    assert found.ranges()["k"] == ">=1,<2"


@pytest.mark.parametrize(
    ("links", "pointer"),
    [
        ({"provides": ["k", {"key": "k", "version": "1.0.0"}]}, "/connectivity/provides/1"),
        ({"provides": [{"version": "1.0.0"}]}, "/connectivity/provides/0"),
        ({"provides": [{"key": "k", "version": "1.0"}]}, "/connectivity/provides/0/version"),
        ({"provides": [{"key": "k", "input": "text"}]}, "/connectivity/provides/0/input"),
        ({"provides": [{"key": "k", "vesion": "1.0.0"}]}, "/connectivity/provides/0"),
        ({"provides": [{"key": "not a key"}]}, "/connectivity/provides/0/key"),
        ({"provides": ["not a key"]}, "/connectivity/provides/0"),
        ({"requires": [{"key": "k", "version": "soon"}]}, "/connectivity/requires/0/version"),
        ({"uses": [{"key": "k", "version": ""}]}, "/connectivity/uses/0/version"),
        ({"uses": [{"key": "k", "input": {}}]}, "/connectivity/uses/0"),
        ({"accepts": [{"key": "k"}]}, "/connectivity/accepts/0"),
        ({"provides": [7]}, "/connectivity/provides/0"),
    ],
)
def test_what_is_none_is_refused_where_it_stands(tmp_path, links, pointer):
    error = read(tmp_path, links).error
    assert error["code"] == "manifest_invalid"
    assert error["fields"]["pointer"] == pointer


def test_inline_components_and_the_pack_itself_say_it_too(tmp_path):
    links = {"requires": [{"key": "k", "version": "^1"}]}
    inline = {"service:inner": {"connectivity": {"provides": [{"key": "a.b", "version": "1.0.0"}]}}}
    found = read(tmp_path, connectivity=links, components=inline).metadata
    assert found.contracts()["a.b"].version == "1.0.0"
    assert dict(found.ranges()) == {"k": "^1"}


def test_two_parts_of_a_pack_promise_the_same_of_a_key(tmp_path):
    error = read(
        tmp_path, {"provides": [{"key": "k", "version": "1.0.0"}]}, {"provides": [{"key": "k", "version": "2.0.0"}]}
    ).error
    assert error["code"] == "ecosystem_invalid"
    assert "alpha:service:c0" in error["detail"]
    once = read(tmp_path, {"provides": [{"key": "k", "version": "1.0.0"}]}, {"provides": ["k"]})
    assert once.error is None
    assert once.metadata.contracts()["k"].version == "1.0.0"


def test_the_minimal_document_is_valid_byte_for_byte(tmp_path):
    root = pack(tmp_path, "alpha")
    (root / "backend" / "ecosystem.json").write_text(json.dumps({"pack_id": "alpha", "version": "1.0.0"}))
    assert PackRegistry(tmp_path).get("alpha").error is None
