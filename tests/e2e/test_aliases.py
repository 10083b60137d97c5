"""Other names for interfaces on a running host: given over HTTP, reached by calls, streams and flows, kept over a restart."""

from __future__ import annotations

import json
import re

import pytest

from console.words import CATALOGUES
from tests.e2e.test_cli_reads import rumi
from tests.e2e.test_flows import acme, run
from tests.support.browser_like import Visitor
from tests.support.running_host import ROOT, RunningHost, one_component_pack

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

FLOW = """
flow: my.flow
steps:
  - {id: double, call: old.double, with: {value: "${input.value}"}, as: doubled}
  - {id: count, call: old.count, with: {n: 2}, stream: {collect: "${acc + [item.n]}", start: [], as: counted}}
output: {doubled: "${doubled.value}", caller: "${doubled.caller}", counted: "${counted}"}
"""
MORE = """
modify: my.flow
id: my.more
ops: [{remove: "@alias:acme.count"}]
"""


TAKER = """
def run(context):
    for key in ("old.double", "later.price"):
        context["interface_registry"].register(key, lambda args, ctx: "taker")
"""


@pytest.fixture
def host(tmp_path):
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


def put(host: RunningHost, alias: str, means: object) -> tuple[int, str]:
    status, envelope = host.request("PUT", f"/api/aliases/{alias}", {"means": means})
    return status, envelope.get("code", "")


def write_flow(host: RunningHost, name: str, text: str) -> None:
    folder = host.home / "user_data/flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_a_call_and_a_flow_through_an_alias_reach_the_provider(host: RunningHost) -> None:
    acme(host)
    status, envelope = host.call("old.double", {"value": 1})
    assert (status, envelope["code"]) == (404, "missing"), "a name that means nothing yet"
    assert host.ok("GET", "/api/aliases") == []
    row = {"alias": "old.double", "key": "acme.double", "available": True, "hides": None}
    assert host.ok("PUT", "/api/aliases/old.double", {"means": "acme.double"}) == [row]
    host.ok("PUT", "/api/aliases/old.count", {"means": "acme.count"})
    assert host.result("old.double", {"value": 4}) == {"value": 8, "caller": ""}
    assert host.stream("old.count", {"n": 3}) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {edge["key"] for edge in host.ok("GET", "/api/edges")} >= {"acme.double", "acme.count"}
    found = host.ok("GET", "/api/interfaces/old.double")
    assert (found["key"], found["owner"], found["aliases"]) == ("acme.double", "acme", ["old.double"])

    write_flow(host, "my.flow.yaml", FLOW)
    assert run(host, "my.flow", {"value": 5})["output"] == {"doubled": 10, "caller": "kernel", "counted": [0, 1]}
    needs = host.ok("GET", "/api/flows/my.flow/plan")
    assert needs["interfaces"][1] == {"key": "old.double", "means": "acme.double", "provided_by": "acme"}
    write_flow(host, "more.modifier.yaml", MORE)
    assert run(host, "my.flow", {"value": 5})["output"]["counted"] is None, "the selector finds the step by what it means"

    assert put(host, "acme.slow", "acme.double") == (409, "alias_conflict")
    assert put(host, "x.y", "old.double") == (409, "alias_conflict")
    assert put(host, "flow.hooks.before_step", "acme.double") == (400, "alias_invalid")
    assert put(host, "x.y", "kernel:packs.scan") == (400, "alias_invalid")
    assert put(host, "x.y", 7) == (400, "body_invalid")
    assert host.request("DELETE", "/api/aliases/x.y")[1]["code"] == "alias_unknown"

    host.stop()
    host.start()
    host.until(lambda: host.status("acme")["status"] == "running", 30, "acme to run again")
    assert host.result("old.double", {"value": 2}) == {"value": 4, "caller": ""}
    host.ok("POST", "/api/containers/acme/stop")
    status, envelope = host.call("old.double", {"value": 1})
    assert (status, envelope["code"]) == (404, "missing")
    assert "'old.double' means it" in envelope["error"] + json.dumps(envelope["fields"]), envelope
    assert [one["available"] for one in host.ok("DELETE", "/api/aliases/old.double")] == [False]
    changes = [one for one in host.ok("GET", "/api/audit?lines=500") if one["event"] == "alias.changed"]
    assert [(one["added"], one["removed"]) for one in changes] == [
        (["old.double = acme.double"], []), (["old.count = acme.count"], []), ([], ["old.double = acme.double"]),
    ]  # fmt: skip


def test_the_commands_of_the_reference_give_and_take_a_name(host: RunningHost) -> None:
    text = (ROOT / "docs/reference/interfaces.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    \./rumi (interface alias .*?)(?: +#.*)?$", text, re.MULTILINE)
    assert [command.split()[2] for command in commands] == ["add", "list", "remove"]
    for command, left in zip(commands, (1, 1, 0), strict=True):
        done = rumi(host, *command.split())
        assert done.returncode == 0, done
        assert len(host.ok("GET", "/api/aliases")) == left


def test_a_file_that_broke_is_told_and_mended_while_what_was_in_force_stays(host: RunningHost) -> None:
    acme(host)
    host.ok("PUT", "/api/aliases/old.double", {"means": "acme.double"})
    file = host.home / "user_data/aliases.json"
    file.write_text('{"version": "1.0", "aliases": {"acme.double": ["old.double"], "old.double": ["older.double"]}}')
    told = rumi(host, "interface", "alias", "list")
    assert told.stdout.splitlines()[1].split() == ["old.double", "acme.double", "yes"], "what is in force"
    assert f"{file} can't be used: 'old.double' is an alias itself. It means 'acme.double'. What was in force" in told.stderr, told
    [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "aliases_json_invalid"]
    assert issue["evidence"]["file"] == str(file)
    assert "It already means 'acme.double'" in issue["detail"] or "It means 'acme.double'" in issue["detail"], issue
    assert put(host, "more.double", "acme.double") == (503, "aliases_json_invalid")
    assert host.result("old.double", {"value": 2})["value"] == 4
    host.ok("POST", "/api/doctor/fix", {})
    assert json.loads(file.read_text())["aliases"] == {"acme.double": ["old.double"]}
    assert [path.name for path in file.parent.glob("aliases.json.broken-*")]
    file.write_text("{")
    assert len(host.ok("GET", "/api/aliases")) == 1
    file.write_text('{"version": "1.0", "aliases": {"acme.double": ["newer.double"]}}')
    told = rumi(host, "interface", "alias", "list")
    assert "can't be used" not in told.stderr, "it was mended"
    host.ok("GET", "/api/doctor")
    [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "aliases_not_in_force"]
    assert host.ok("POST", "/api/doctor/fix", {"issue": issue["id"]})
    assert host.result("newer.double", {"value": 2})["value"] == 4
    assert host.call("old.double", {"value": 2})[0] == 404


def test_a_review_tells_before_the_approval_which_aliases_concern_the_pack(host: RunningHost) -> None:
    acme(host)
    host.ok("PUT", "/api/aliases/old.double", {"means": "acme.double"})
    host.ok("PUT", "/api/aliases/shop.price", {"means": "later.price"})
    host.put_pack("taker", one_component_pack("taker", TAKER, provides=("old.double", "later.price", "acme.double")))
    host.ok("POST", "/api/packs/scan")
    assert host.ok("GET", "/api/packs/acme/review")["aliases"] == [
        {"alias": "old.double", "key": "acme.double", "effect": "reaches", "owner": ""},
    ]  # fmt: skip
    assert host.ok("GET", "/api/packs/taker/review")["aliases"] == [
        {"alias": "old.double", "key": "acme.double", "effect": "hides", "owner": "acme"},
        {"alias": "old.double", "key": "acme.double", "effect": "reaches", "owner": "acme"},
        {"alias": "shop.price", "key": "later.price", "effect": "reaches", "owner": ""},
    ]  # fmt: skip
    told = rumi(host, "pack", "review", "taker")
    assert "\nYour aliases\n  old.double → acme.double: calls over HTTP" in told.stdout, told
    assert "if you let it take the place of acme" in told.stdout
    assert "shop.price → later.price: this Pack provides what the name means: once approved" in told.stdout
    visitor = Visitor(host.web_port)
    for language, words in CATALOGUES.items():
        visitor.language = language
        page = visitor.get("/_rumi/packs/taker/review").text.replace("&#39;", "'")
        for word in ("your_aliases", "alias_hides", "alias_reaches", "alias_owned"):
            assert words[word] in page, (language, word)
    assert host.call("shop.price")[0] == 404
    host.approve("taker")
    assert host.result("shop.price") == "taker", "as the review said"
    assert host.result("old.double", {"value": 2})["value"] == 4, "and here as well"


def test_a_start_with_a_broken_file_keeps_what_was_in_force_and_tells_until_it_is_mended(host: RunningHost) -> None:
    acme(host)
    host.ok("PUT", "/api/aliases/old.double", {"means": "acme.double"})
    file = host.home / "user_data/aliases.json"
    host.stop()
    broken = '{"version": "1.0", "aliases": {"acme.double": ["old.double", "new.double"],}}'
    file.write_text(broken)
    host.start()
    host.until(lambda: host.status("acme")["status"] == "running", 30, "acme to run again")
    assert host.result("old.double", {"value": 2})["value"] == 4

    def issues() -> list[dict[str, object]]:
        return [one for one in host.ok("GET", "/api/issues") if one["code"] == "aliases_json_invalid"]

    [issue] = issues()
    assert (issue["subject"], issue["severity"]) == ("aliases.json", "error")
    assert "What was in force before stays so (aliases: 1)." in str(issue["detail"])
    assert "aliases.json:1" in str(issue["detail"])
    host.ok("GET", "/api/doctor")
    assert [one["detail"] for one in issues()] == [issue["detail"]], "the doctor says the same"
    assert "aliases.json" in rumi(host, "doctor").stdout
    status, envelope = host.call("new.double", {"value": 2})
    assert (status, envelope["code"]) == (404, "missing")
    assert "aliases.json can't be used" in json.dumps(envelope), envelope
    assert put(host, "more.double", "acme.double") == (503, "aliases_json_invalid")
    assert host.request("DELETE", "/api/aliases/old.double")[0] == 503
    assert file.read_text() == broken

    file.write_text(broken.replace("],", "]"))
    host.ok("GET", "/api/doctor")
    assert issues() == [], "mended by hand"
    [later] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "aliases_not_in_force"]
    host.ok("POST", "/api/doctor/fix", {"issue": later["id"]})
    assert host.result("new.double", {"value": 2})["value"] == 4

    host.stop()
    file.write_text("{")
    host.start()
    host.ok("POST", "/api/doctor/fix", {})
    assert json.loads(file.read_text())["aliases"] == {"acme.double": ["new.double", "old.double"]}, "nothing of it is lost"
    assert [path.read_text() for path in file.parent.glob("aliases.json.broken-*")] == ["{"]
    assert issues() == []
