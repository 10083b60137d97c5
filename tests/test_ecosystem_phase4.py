"""Acceptance, phase 4: ``user_data``: mounts, the operator's choices, signed grants and states, the operator's flows."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backend_core.ecosystem.active_ecosystem import load_active_ecosystem
from backend_core.ecosystem.mounts import load_mounts
from core_runtime.rules.approval import State
from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.trust_home import SETUP as CODE
from tests.support.trust_home import TrustHome

ECHO = """
def run(context):
    ir = context["interface_registry"]
    ir.register("mine.echo", lambda args, ctx: args)
    ir.register("mine.mounts", lambda args, ctx: context["paths"]["mounts"])
"""


def by_hand(document: dict[str, Any], key_text: str) -> str:
    """The signature as the format says it, from nothing but the standard library."""
    body = {name: value for name, value in document.items() if not name.startswith("_hmac")}
    message = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hmac.new(key_text.encode("utf-8"), message.encode("utf-8"), hashlib.sha256).hexdigest()


# --- mounts.json and active_ecosystem.json ---------------------------------------------------------------------------


def test_mounts_are_relative_to_the_project(tmp_path: Path) -> None:
    file = tmp_path / "user_data/mounts.json"
    file.parent.mkdir()
    file.write_text('{"version":"1.0","mounts":{"data.user":"./user_data","data.cache":"./user_data/cache"}}')
    mounts = load_mounts(file, tmp_path)
    assert mounts.path("data.user") == tmp_path / "user_data"
    assert mounts.path("data.cache") == tmp_path / "user_data/cache"
    assert dict(mounts.prefixes(tmp_path / "user_data")) == {"data.user": "", "data.cache": "cache"}


def test_the_choices_of_the_operator_are_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "active_ecosystem.json"
    given = {"active_pack_identity": "github:author/one", "overrides": {"service": "b"},
             "interface_overrides": {"service.x": "two"}, "disabled_components": ["a:t:c"], "disabled_addons": ["d"],
             "metadata": {"any": [1]}}  # fmt: skip
    file.write_text(json.dumps(given))
    found = load_active_ecosystem(file)
    assert found.as_dict() == given
    assert not found.is_component_enabled("a:t:c")
    assert not found.is_addon_enabled("p", "d")
    file.write_text('{"active_pack_identity":null}')
    assert load_active_ecosystem(file).as_dict() == {
        "active_pack_identity": None, "overrides": {}, "interface_overrides": {}, "disabled_components": [],
        "disabled_addons": [], "metadata": {},
    }  # fmt: skip


# --- grants ----------------------------------------------------------------------------------------------------------


def test_a_grant_is_signed_as_the_format_says(tmp_path: Path) -> None:
    home = TrustHome(tmp_path)
    home.approved()
    key_file = home.secrets / ".secret_key"
    key_text = key_file.read_text()
    assert len(key_text.strip()) == 64
    assert key_file.stat().st_mode & 0o777 == 0o600
    document = json.loads(home.grant_file().read_bytes())
    assert document["_hmac_signature"] == by_hand(document, key_text)
    schema = json.loads((ROOT / "docker/core/schema/grant.schema.json").read_bytes())
    jsonschema.Draft202012Validator(schema).validate(document)
    assert document["pack_id"] == "alpha"
    assert document["status"] == "approved"
    assert document["rejection_reason"] is None
    assert {"created_at", "approved_at", "permissions_requested"} <= set(document)
    code = hashlib.sha256((home.packs_dir / "alpha" / CODE).read_bytes()).hexdigest()
    assert document["file_hashes"][CODE] == f"sha256:{code}"
    assert "backend/ecosystem.json" in document["file_hashes"]


def elsewhere(home: TrustHome, *, signed: bool) -> None:
    """A grant as another host of this ecosystem would have written it: the compatible fields alone."""
    files = {str(path.relative_to(home.packs_dir / "alpha")): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in (home.packs_dir / "alpha").rglob("*") if path.is_file()}  # fmt: skip
    document: dict[str, Any] = {
        "pack_id": "alpha", "status": "approved", "created_at": "2024-01-01T00:00:00", "approved_at": "2024-01-02T00:00:00",
        "file_hashes": {name: f"sha256:{found}" for name, found in files.items()}, "permissions_requested": [],
        "rejection_reason": None, "note": "日本語",
    }  # fmt: skip
    if signed:
        document["_hmac_signature"] = by_hand(document, (home.secrets / ".secret_key").read_text())
    home.grant_file().write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")


def test_a_file_that_was_signed_elsewhere_verifies_and_is_decided_about_here(tmp_path: Path) -> None:
    home = TrustHome(tmp_path)
    home.add()
    elsewhere(home, signed=True)
    found = home.reopen().scan()
    assert found.state is State.PENDING, (found.state, found.cause)
    assert home.approvals.grant("alpha") is None, "made elsewhere, without a counter: it allows nothing by itself"
    assert home.approve("alpha").pack_id == "alpha"


@pytest.mark.parametrize("damage", ["unsigned", "edited", "another key"])
def test_what_is_not_signed_never_counts(tmp_path: Path, damage: str) -> None:
    home = TrustHome(tmp_path)
    home.approved()
    document = json.loads(home.grant_file().read_bytes())
    if damage == "unsigned":
        del document["_hmac_signature"]
    elif damage == "edited":
        document["permissions"] = [{"type": "userdata.read", "paths": ["shared/**"], "mode": "always"}]
    else:
        document["_hmac_signature"] = by_hand(document, "f" * 64)
    home.grant_file().write_text(json.dumps(document))
    home.reopen().scan()
    assert home.approvals.grant("alpha") is None


def test_the_words_of_the_states(tmp_path: Path) -> None:
    assert {state.value for state in State} == {
        "installed", "pending", "approved", "running", "modified", "blocked", "error",
    }  # fmt: skip
    home = TrustHome(tmp_path)
    folder = home.add()
    seen = [home.scan().state.value]
    home.approvals.review("alpha")
    seen.append(home.scan().state.value)
    home.approve("alpha")
    seen.append(home.scan().state.value)
    home.start()
    seen.append(home.scan().state.value)
    (folder / CODE).write_text("changed")
    seen.append(home.scan().state.value)
    home.approvals.reject("alpha", reason="no", actor="tester")
    seen.append(home.scan().state.value)
    (home.packs_dir / "broken/backend").mkdir(parents=True)
    (home.packs_dir / "broken/backend/ecosystem.json").write_text("{")
    seen.append(home.scan("broken").state.value)
    assert seen == ["installed", "pending", "approved", "running", "modified", "blocked", "error"]


# --- in a running host -----------------------------------------------------------------------------------------------


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    home = tmp_path_factory.mktemp("phase4")
    data = home / "user_data"
    (data / "flows").mkdir(parents=True)
    (data / "mounts.json").write_text('{"version":"1.0","mounts":{"data.user":"./user_data","notes":"./user_data/shared/n"}}')
    (data / "active_ecosystem.json").write_text(
        '{"active_pack_identity":"github:somebody/else","overrides":{"service":"elsewhere"},'
        '"disabled_components":["other:service:main"],'
        '"interface_overrides":{"both.key":"second"}}'
    )
    (data / "flows/mine.flow.json").write_text(
        '{"steps":[{"id":"say","handler":"mine.echo","args":{"n":"${ctx.n}"},"output":"said"}]}'
    )
    (data / "flows/today.flow.yaml").write_text(
        "flow: today\nsteps:\n  - {id: say, call: mine.echo, with: {n: 1}}\n"
    )
    with RunningHost(home, request.param) as running:
        for pack_id, text, keys in (
            ("mine", ECHO, ("mine.echo", "mine.mounts")),
            ("other", "def run(context):\n    context['interface_registry'].register('other.key', 1)\n", ("other.key",)),
            ("first", "def run(context):\n    context['interface_registry'].register('both.key', 'first')\n", ("both.key",)),
            ("second", "def run(context):\n    context['interface_registry'].register('both.key', 'second')\n", ("both.key",)),
        ):
            running.put_pack(pack_id, one_component_pack(pack_id, text, provides=keys))
            running.approve(pack_id)
        running.until(lambda: running.status("mine")["status"] == "running", 30, "the Pack to run")
        yield running


def test_all_approved_packs_run_whatever_is_active(host: RunningHost) -> None:
    assert host.status("mine")["status"] == "running"
    assert host.status("first")["status"] == "running"


def test_preferred_components_decide_nothing_and_the_doctor_says_so(host: RunningHost) -> None:
    assert host.result("mine.echo", {"n": 1}) == {"n": 1}, "its component of the type has another id"
    [told] = [one for one in host.ok("GET", "/api/doctor")["issues"] if one["code"] == "overrides_unused"]
    assert (told["subject"], "interface_overrides" in told["hint"]) == ("overrides", True)
    kept = json.loads((host.home / "user_data/active_ecosystem.json").read_text())
    assert kept["overrides"] == {"service": "elsewhere"}


def test_the_operator_chooses_who_answers_a_key_that_two_provide(host: RunningHost) -> None:
    assert host.ok("GET", "/api/interfaces/both.key")["owner"] == "second", "interface_overrides goes before who was first"


def test_a_component_that_was_switched_off_does_not_start(host: RunningHost) -> None:
    assert "other.key" not in {one["key"] for one in host.ok("GET", "/api/interfaces")}


def test_mounts_reach_the_packs_as_prefixes(host: RunningHost) -> None:
    assert host.result("mine.mounts") == {"data.user": "", "notes": "shared/n"}


def test_the_operators_flows_of_both_kinds_run(host: RunningHost) -> None:
    report = host.ok("POST", "/api/flows/mine/run", {"input": {"n": 7}})
    assert (report["status"], report["output"]["said"]) == ("ok", {"n": 7})
    assert host.ok("POST", "/api/flows/today/run", {"input": {}})["status"] == "ok"
