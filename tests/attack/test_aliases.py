"""Aliases are the operator's word: no Pack makes one, bends one, or gets a right from one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.test_aliases import write_flow
from tests.e2e.test_flows import acme, flow_pack, run
from tests.support.running_host import RunningHost

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

EVIL = """
def run(context):
    ir, files, events = context["interface_registry"], context["userdata_manager"], context["event_bus"]
    ir.register("old.double", lambda args, ctx: {"value": "evil", "caller": args})
    table = '{"version": "1.0", "aliases": {"evil.take": ["acme.double", "acme.slow", "mine"]}}'

    def attempt(act):
        try:
            return ["did", repr(act())[:80]]
        except Exception as error:
            return ["refused", str(getattr(error, "type", type(error).__name__))]

    def take(args, ctx):
        names = ["aliases.json", "./aliases.json", "packs/../aliases.json", "ALIASES.json", "aliases.last.json"]
        return {
            "wrote": [attempt(lambda: files.write_text(name, table)) for name in names],
            "registered": [attempt(lambda: ir.register(key, table, meta={"aliases": ["mine"]})) for key in ("aliases", "acme.double")],
            "published": attempt(lambda: events.publish("alias.changed", {"added": ["mine = evil.take"]})),
            "sees": [ir.get(key) is not None for key in ("acme.double", "old.double", "other.double")],
        }

    ir.register("evil.take", take, meta={"alias": "mine", "aliases": ["acme.double"]})
"""
STEP = """
flow: evil.%s
steps: [{id: double, call: %s, with: {value: 3}, on_error: fail, as: doubled}]
output: "${doubled.value}"
"""
PATCH = """
modify: acme.answer
id: evil.patch
ops:
  - {patch: double, json_patch: [{op: replace, path: /call, value: other.double}]}
"""


@pytest.fixture
def host(tmp_path):
    with RunningHost(tmp_path / "home", "embedded") as running:
        acme(running)
        for alias in ("old.double", "other.double"):
            running.ok("PUT", f"/api/aliases/{alias}", {"means": "acme.double"})
        evil(running)
        yield running


def evil(host: RunningHost, *more_uses: str) -> None:
    """It names itself an alias everywhere, and is granted the edges to the names, not to what they mean."""
    asks: list[dict[str, Any]] = [{"type": "flow.modify", "flows": ["acme.answer"]}]
    flows = {"named.flow.yaml": STEP % ("named", "other.double"), "patch.modifier.yaml": PATCH}
    provides, uses = ("old.double", "evil.take"), ("other.double", *more_uses)
    files = flow_pack("evil", EVIL, flows, asks=asks, provides=provides, uses=uses)
    for name in ("backend/ecosystem.json", "backend/components/main/manifest.json"):
        files[name] = json.dumps({**json.loads(files[name]), "aliases": {"evil.take": ["mine", "acme.double"]}})
    host.put_pack("evil", {**files, "aliases.json": json.dumps({"version": "1.0", "aliases": {"evil.take": ["mine"]}})})
    edges = [{"type": "interface.call", "keys": list(uses)}]
    host.ok("POST", "/api/packs/evil/approve", {"permissions": [*asks, *edges]})
    host.until(lambda: host.status("evil")["status"] == "running", 30, "the hostile Pack to run")


def aliases(host: RunningHost) -> set[tuple[str, str]]:
    return {(one["alias"], one["key"]) for one in host.ok("GET", "/api/aliases")}


def test_nothing_that_a_pack_says_or_writes_makes_an_alias(host: RunningHost) -> None:
    before = aliases(host)
    file = (host.home / "user_data/aliases.json").read_bytes()
    told = host.result("evil.take", {})
    assert {how for how, _ in (*told["wrote"], *told["registered"])} == {"refused"}, told
    assert told["sees"] == [False, True, False], "inside, names mean what is registered under them: its own"
    assert aliases(host) == before == {("old.double", "acme.double"), ("other.double", "acme.double")}
    assert (host.home / "user_data/aliases.json").read_bytes() == file
    assert host.call("mine", {})[0] == 404
    assert [path.name for path in (host.home / "user_data").iterdir() if path.name.lower() == "aliases.json"] == ["aliases.json"]


def test_a_pack_that_registers_the_name_takes_nobodys_calls(host: RunningHost) -> None:
    assert host.result("old.double", {"value": 2}) == {"value": 4, "caller": ""}
    write_flow(host, "mine.flow.yaml", (STEP % ("mine", "old.double")).replace("evil.mine", "my.own"))
    assert run(host, "my.own", {})["output"] == 6
    rows = {row["key"]: row for row in host.ok("GET", "/api/interfaces")}
    assert rows["old.double"]["alias_of"] == "acme.double"
    assert {one["alias"]: one["hides"] for one in host.ok("GET", "/api/aliases")} == {"old.double": "evil", "other.double": None}
    host.ok("GET", "/api/doctor")
    [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "alias_hides_interface"]
    assert (issue["subject"], "'evil'" in issue["detail"]) == ("old.double", True)


def test_an_alias_gives_no_right_and_an_edge_to_its_name_is_none_to_its_key(host: RunningHost) -> None:
    report = run(host, "evil.named", {})
    [step] = report["steps"]
    assert (report["status"], step["error"]["type"]) == ("failed", "denied"), report
    assert "acme.double" in json.dumps(step["error"]), "refused for the key, whatever the name"
    patched = run(host, "acme.answer", {"value": 3})
    assert patched["steps"][0]["error"]["type"] == "denied", patched
    host.ok("POST", "/api/containers/evil/stop")
    evil(host, "acme.double")
    assert run(host, "evil.named", {})["output"] == 6, "with the edge to the key it may"
    assert run(host, "acme.answer", {"value": 3})["output"]["doubled"] == 6


def test_a_broken_file_gives_nobody_the_calls_of_a_name_that_it_registers(host: RunningHost) -> None:
    """Whoever waits for the operator's slip of the pen, under the name that an alias hides, waits in vain."""
    host.stop()
    (host.home / "user_data/aliases.json").write_text("{")
    host.start()
    for pack_id in ("acme", "evil"):
        host.until(lambda one=pack_id: host.status(one)["status"] == "running", 30, f"{pack_id} to run again")
    assert host.result("old.double", {"value": 2}) == {"value": 4, "caller": ""}
    assert aliases(host) == {("old.double", "acme.double"), ("other.double", "acme.double")}
    told = host.result("evil.take", {})
    assert {how for how, _ in told["wrote"]} == {"refused"}, told
    kept = json.loads((host.home / "user_data/aliases.last.json").read_text())
    assert kept["aliases"] == {"acme.double": ["old.double", "other.double"]}


def test_what_a_pack_would_take_or_lose_by_an_alias_is_told_before_it_is_approved(host: RunningHost) -> None:
    """The name that people use, and what it means: neither is approved by somebody who was not told."""
    provides = ("other.double", "acme.double", "OLD.double", "old.double.x")
    host.put_pack("thief", flow_pack("thief", EVIL, {}, provides=provides))
    host.ok("POST", "/api/packs/scan")
    told = host.ok("GET", "/api/packs/thief/review")["aliases"]
    assert [(one["alias"], one["effect"], one["owner"]) for one in told] == [
        ("other.double", "hides", "acme"), ("old.double", "reaches", "acme"), ("other.double", "reaches", "acme"),
    ]  # fmt: skip
