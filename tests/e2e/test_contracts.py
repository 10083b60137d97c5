"""Versions and schemas on a running host: who waits and why, what an update changes, who finds whom again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_updates import folder
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

STORE = """
def run(context):
    context["interface_registry"].register("store.items", lambda args, ctx: [{version!r}, args])
"""
BROKEN = """
def run(context):
    context["interface_registry"].register_handler("store.items", lambda args, ctx: args, input_schema={"type": "array"})
"""
READER = """
def run(context):
    ir = context["interface_registry"]
    items = ir.get("store.items")
    ir.register("reader.read", lambda args, ctx: items(args) if items else "nothing yet")
    ir.register("reader.look", lambda args, ctx: ir.get("store.items") is not None)
"""
COUNT = {"type": "object", "properties": {"count": {"type": "integer", "maximum": 5}}}


@pytest.fixture
def host(tmp_path):
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


def store(version: str, schema: dict | None = None, setup: str = STORE) -> dict[str, str]:
    promise = {"key": "store.items", "version": version, **({"input": schema} if schema else {})}
    files = one_component_pack("store", setup.replace("{version!r}", repr(version)), provides=(promise,))
    files["backend/ecosystem.json"] = json.dumps({"pack_id": "store", "version": version})
    return files


def reader(wanted: str) -> dict[str, str]:
    need = {"key": "store.items", "version": wanted}
    return one_component_pack("reader", READER, provides=("reader.read", "reader.look"), requires=(need,))


def test_a_pack_waits_for_its_range_and_starts_by_itself_when_an_update_brings_it(
    tmp_path: Path, host: RunningHost
) -> None:
    host.put_pack("store", store("1.4.0", COUNT))
    host.approve("store")
    host.put_pack("reader", reader(">=2,<3"))
    (edge,) = host.ok("GET", "/api/packs/reader/review")["edges"]
    why = "'store.items' is needed in version >=2,<3, but the Pack 'store' states version 1.4.0."
    assert (edge["wanted"], edge["why_not"]) == (">=2,<3", why)
    host.approve("reader")
    seen = host.status("reader")
    assert seen["status"] == "approved"
    sentence = "waiting for store.items >=2,<3, but what provides 'store.items' states version 1.4.0"
    assert seen["cause"] == sentence
    (needed,) = host.ok("GET", "/api/interfaces/store.items")["needed_by"]
    assert needed == {"pack_id": "reader", "wanted": ">=2,<3", "why_not": sentence}
    (waits,) = [issue for issue in host.ok("GET", "/api/doctor")["issues"] if issue["subject"] == "reader"]
    assert (waits["code"], waits["detail"]) == ("pack_waits", sentence)
    assert "a version of 'store' that gives 'store.items' in >=2,<3, or one of 'reader'" in waits["hint"]

    host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v2", store("2.0.0"))})
    review = host.ok("GET", "/api/packs/store/update")
    (change,) = review["contract_changes"]
    assert (change["before"], change["after"], change["parts"][0]["pointer"]) == ("1.4.0", "2.0.0", "")
    host.ok("POST", "/api/packs/store/update/approve", {"digest": review["digest"]})
    host.until(lambda: host.status("reader")["status"] == "running", 30, "the reader to start by itself")
    assert host.result("reader.read", {"count": 9}) == ["2.0.0", {"count": 9}]


def test_a_provider_that_comes_back_is_found_by_a_held_proxy_unless_it_is_out_of_range(
    tmp_path: Path, host: RunningHost
) -> None:
    host.put_pack("store", store("1.4.0", COUNT))
    host.put_pack("reader", reader("^1"))
    host.approve("store")
    host.approve("reader")
    assert host.result("reader.read", {"count": 3}) == ["1.4.0", {"count": 3}]
    status, envelope = host.call("reader.read", {"count": 9})
    assert (status, envelope["success"]) != (200, True)
    assert "schema" in json.dumps(envelope)
    # down and up again: the proxy that the reader took at its start finds it
    host.ok("POST", "/api/containers/store/stop")
    assert "missing" in json.dumps(host.call("reader.read", {"count": 3})[1])
    host.ok("POST", "/api/containers/store/start")
    host.until(lambda: host.call("reader.read", {"count": 3})[0] == 200, 30, "the provider to be found again")
    # an update out of its range: nothing is reached, and the operator reads why
    host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v2", store("2.0.0"))})
    review = host.ok("GET", "/api/packs/store/update")
    why = "'store.items' is needed in version ^1, but the Pack 'store' states version 2.0.0."
    assert review["unsuited"] == {"reader": [why]}
    host.ok("POST", "/api/packs/store/update/approve", {"digest": review["digest"]})
    host.until(lambda: host.result("reader.look") is False, 30, "the key to disappear from the reader's view")
    assert "incompatible" in json.dumps(host.call("reader.read", {})[1])
    (issue,) = [one for one in host.ok("GET", "/api/issues") if one["code"] == "interface_incompatible"]
    assert (issue["subject"], issue["detail"]) == ("reader", why)
    # and back: the version before is found, the issue goes
    host.ok("POST", "/api/packs/store/rollback")
    host.until(lambda: host.call("reader.read", {"count": 1})[0] == 200, 30, "the older version to be found again")
    assert not [one for one in host.ok("GET", "/api/issues") if one["code"] == "interface_incompatible"]


def test_a_component_that_registers_another_schema_is_disabled_with_an_issue(host: RunningHost) -> None:
    host.put_pack("store", store("1.0.0", COUNT, BROKEN))
    host.request("POST", "/api/packs/store/approve")
    codes = {one["code"]: one for one in host.ok("GET", "/api/issues") if one["subject"].startswith("store")}
    assert "contract_broken" in codes
    assert "input schema is another than the approved manifest declares" in codes["contract_broken"]["detail"]
    assert "contract" in json.dumps(codes["component_disabled"])
    assert host.call("store.items", [1])[0] == 404
