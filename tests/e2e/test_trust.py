"""Single rights of running Packs, over HTTP, with real sandboxes: what is granted acts, what is taken is gone at once."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import pytest

from core_runtime.drivers.keys import Keyring
from core_runtime.rules.seals import GRANT
from tests.support.running_host import RunningHost, one_component_pack

PROVIDER = """
def run(context):
    ir = context["interface_registry"]
    ir.register("give.one", lambda args, ctx: {"one": args})
    ir.register("give.two", lambda args, ctx: {"two": args})
"""

CONSUMER = """
def attempt(fn):
    try:
        return fn()
    except BaseException as error:
        return "refused " + type(error).__name__

def run(context):
    ir = context["interface_registry"]
    files, permissions = context["userdata_manager"], context["permission_manager"]

    def reach(args, ctx):
        taken = ir.get(args["key"])
        return "unseen" if taken is None else attempt(lambda: taken(args.get("args"), ctx))

    def kept(args, ctx):
        return attempt(lambda: KEEP[0]({}, ctx))

    KEEP = []
    def keep(args, ctx):
        KEEP[:] = [ir.get(args["key"], "all")[0]]
        return True

    def look(args, ctx):
        return [ir.get(args["key"]) is not None for _ in range(20)]

    def file(args, ctx):
        def act():
            if args["act"] == "write":
                return files.write_text(args["path"], args.get("text", "x")) or "written"
            return getattr(files, args["act"])(args["path"])
        return attempt(act)

    def ask(args, ctx):
        return [attempt(lambda n=n: permissions.request("userdata.read", path="shared/%d" % n, reason="r" * 500)) for n in range(args["n"])][-1]

    def has(args, ctx):
        return permissions.has(args["type"], **args["params"])

    for fn in (reach, keep, kept, look, file, ask, has):
        ir.register("take." + fn.__name__, fn)
"""
KEYS = tuple(f"take.{name}" for name in ("reach", "keep", "kept", "look", "file", "ask", "has"))
FILES = [
    {"type": "userdata.read", "paths": ["shared/notes/**"], "reason": "reads notes"},
    {"type": "userdata.write", "paths": ["shared/notes/**"], "reason": "writes notes"},
]


@pytest.fixture
def pair(host: RunningHost) -> RunningHost:
    """``giver`` with two keys, ``taker`` that uses both and asks for notes."""
    host.put_pack("giver", one_component_pack("giver", PROVIDER, provides=("give.one", "give.two")))
    files = one_component_pack("taker", CONSUMER, provides=KEYS, uses=("give.one", "give.two"))
    files["backend/permissions.json"] = json.dumps({"pack_id": "taker", "permissions": FILES})
    host.put_pack("taker", files)
    host.approve("giver")
    assert host.approve("taker")["status"] == "running"
    return host


def reach(host: RunningHost, key: str) -> Any:
    return host.result("take.reach", {"key": key, "args": 7})


def rights(host: RunningHost, method: str = "GET", **body: Any) -> Any:
    return host.ok(method, "/api/packs/taker/permissions", body or None)


def owner(host: RunningHost, key: str) -> Any:
    return next(found["owner"] for found in host.ok("GET", "/api/interfaces") if found["key"] == key)


def generation(host: RunningHost) -> Any:
    return [one["generation"] for one in host.ok("GET", "/api/containers") if one["pack_id"] == "taker"]


def test_a_revoked_edge_is_gone_on_the_very_next_call(pair: RunningHost) -> None:
    before = generation(pair)
    assert reach(pair, "give.one") == {"one": 7}
    assert pair.result("take.keep", {"key": "give.one"}) is True
    assert pair.result("take.kept") == {"one": {}}

    rights(pair, "DELETE", permissions=[{"type": "interface.call", "keys": ["give.one"]}])
    assert str(pair.result("take.kept")).startswith("refused"), "a callable taken before is refused as well"
    assert reach(pair, "give.one") == "unseen" or reach(pair, "give.one").startswith("refused")
    assert reach(pair, "give.two") == {"two": 7}, "the other edge stands"
    assert generation(pair) == before, "nothing was restarted for it"

    rights(pair, "POST", permissions=[{"type": "interface.call", "keys": ["give.one"]}])
    pair.until(lambda: reach(pair, "give.one") == {"one": 7}, 10, "the edge to be back")
    assert generation(pair) == before


def test_a_one_use_edge_serves_one_real_call_and_looking_is_none(pair: RunningHost) -> None:
    rights(pair, "DELETE", permissions=["interface.call"])
    rights(pair, "POST", permissions=[{"type": "interface.call", "keys": ["give.one"], "mode": "once"}])
    pair.until(lambda: all(pair.result("take.look", {"key": "give.one"})), 10, "the key to be seen")
    assert reach(pair, "give.one") == {"one": 7}
    again = reach(pair, "give.one")
    assert again == "unseen" or again.startswith("refused")
    [once] = [item for item in rights(pair)["granted"] if item["type"] == "interface.call"]
    assert (once["mode"], once["ended"], once["uses"]) == ("once", True, 1)

    pair.stop()
    pair.start()
    pair.until(lambda: pair.call("take.look", {"key": "give.one"})[0] == 200, 30, "the Packs to run again")
    again = reach(pair, "give.one")
    assert again == "unseen" or again.startswith("refused"), "a restart gives no use back"


def test_used_versus_granted_is_counted_and_narrowed_with_one_action(pair: RunningHost) -> None:
    for _ in range(3):
        reach(pair, "give.one")
    pair.result("take.file", {"act": "write", "path": "shared/notes/a.txt"})
    found = {item["type"]: item for item in rights(pair)["granted"]}
    edges = found["interface.call"]
    assert (edges["items"]["give.one"]["count"], edges["unused"]) == (3, ["give.two"])
    assert found["userdata.write"]["uses"] == 1
    assert found["userdata.read"]["unused"] == ["shared/notes/**"]

    left = rights(pair, "DELETE", unused=True)
    assert {item["type"]: item["items"].keys() for item in left["granted"]} == {
        "interface.call": {"give.one"}, "userdata.write": {"shared/notes/**"}
    }  # fmt: skip
    assert reach(pair, "give.one") == {"one": 7}
    assert str(pair.result("take.file", {"act": "read_text", "path": "shared/notes/a.txt"})).startswith("refused")
    again = {item["type"]: item["uses"] for item in rights(pair, "DELETE", unused=True)["granted"]}
    assert again == {"interface.call": 4, "userdata.write": 1}, "counts outlast a decision"


def test_only_what_was_declared_can_be_granted_and_only_what_is_held_taken(pair: RunningHost) -> None:
    def refusal(method: str, *permissions: Any) -> tuple[int, str]:
        status, envelope = pair.request(method, "/api/packs/taker/permissions", {"permissions": list(permissions)})
        return status, envelope["code"]

    assert refusal("POST", {"type": "userdata.read", "paths": ["shared/**"]}) == (403, "permission_wider")
    assert refusal("POST", {"type": "interface.call", "keys": ["else.where"]}) == (403, "permission_wider")
    assert refusal("POST", "event.publish") == (403, "permission_undeclared")
    assert refusal("POST", {"type": 5}) == (400, "permissions_invalid")
    assert refusal("POST") == (400, "permissions_invalid")
    assert refusal("DELETE", "event.publish") == (404, "permission_not_held")
    assert pair.request("POST", "/api/packs/nobody/permissions", {"permissions": ["x"]})[0] == 404
    pair.ok("POST", "/api/packs/taker/reject", {"reason": "no"})
    assert refusal("POST", "interface.call") == (403, "not_approved")


def test_granting_binds_the_approved_files_and_no_others(pair: RunningHost) -> None:
    (pair.packs / "taker/backend/extra.py").write_text("x = 1\n")
    status, envelope = pair.request("POST", "/api/packs/taker/permissions", {"permissions": ["interface.call"]})
    assert status in {403, 409}, envelope
    assert pair.status("taker")["status"] != "running" or envelope["code"] == "digest_stale"


def test_files_through_the_host(pair: RunningHost) -> None:
    def act(name: str, path: str, **more: Any) -> Any:
        return pair.result("take.file", {"act": name, "path": path, **more})

    assert act("write", "packs/taker/own.txt", text="mine") == "written"
    assert act("read_text", "packs/taker/own.txt") == "mine"
    assert act("list", "packs/taker") == ["packs/taker/own.txt"]
    assert (pair.home / "user_data/packs/taker/own.txt").read_text() == "mine"
    assert act("write", "shared/notes/a.txt", text="note") == "written"
    assert act("read_text", "shared/notes/a.txt") == "note"

    rights(pair, "DELETE", permissions=["userdata.write"])
    assert act("write", "shared/notes/a.txt", text="again").startswith("refused")
    assert act("read_text", "shared/notes/a.txt") == "note"
    assert act("write", "packs/taker/own.txt", text="still") == "written"


def test_partial_approval_grants_just_that(host: RunningHost) -> None:
    files = one_component_pack("taker", CONSUMER, provides=KEYS, uses=("give.one",))
    files["backend/permissions.json"] = json.dumps({"pack_id": "taker", "permissions": FILES})
    host.put_pack("taker", files)
    shown = host.ok("GET", "/api/packs/taker/review")
    narrow = {"type": "userdata.read", "paths": ["shared/notes/day.txt"]}
    status, envelope = host.request("POST", "/api/packs/taker/approve", {"digest": "sha256:" + "0" * 64})
    assert (status, envelope["code"]) == (409, "digest_stale")
    host.ok("POST", "/api/packs/taker/approve", {"digest": shown["digest"], "permissions": [narrow], "until": 4_000_000_000})
    [only] = host.ok("GET", "/api/packs/taker/permissions")["granted"]
    assert (only["type"], only["paths"], only["mode"]) == ("userdata.read", ["shared/notes/day.txt"], "until")
    assert host.result("take.has", {"type": "userdata.read", "params": {"path": "shared/notes/day.txt"}}) is True
    assert host.result("take.has", {"type": "userdata.read", "params": {"path": "shared/notes/b.txt"}}) is False
    assert str(host.result("take.file", {"act": "write", "path": "shared/notes/day.txt"})).startswith("refused")
    withheld = {item["type"] for item in host.ok("GET", "/api/packs/taker/permissions")["withheld"]}
    assert withheld == {"userdata.write", "interface.call"}


def test_the_isolation_agreed_to_is_the_one_that_is_used(host: RunningHost, isolation: str) -> None:
    host.put_pack("giver", one_component_pack("giver", PROVIDER, provides=("give.one", "give.two")))
    other = "embedded/standard" if isolation == "docker" else "docker/standard"
    status, envelope = host.request("POST", "/api/packs/giver/approve", {"isolation": other})
    assert (status, envelope["code"]) == (409, "isolation_changed")
    shown = host.ok("GET", "/api/packs/giver/review")["isolation"]
    done = host.ok("POST", "/api/packs/giver/approve", {"isolation": f"{shown['driver']}/{shown['level']}"})
    assert done["status"] == "running"


def test_the_base_that_was_approved_on_is_in_the_grant_and_another_is_told(host: RunningHost, isolation: str) -> None:
    host.put_pack("giver", one_component_pack("giver", PROVIDER, provides=("give.one", "give.two")))
    host.approve("giver")
    base = host.status("giver")["approval"]["base_runtime"]
    assert base.startswith("sha256:" if isolation == "docker" else "python-3."), base
    host.stop()
    keyring = Keyring(host.home / "user_data/permissions")
    path = host.home / "user_data/permissions/giver.grants.json"
    document = keyring.read(path, GRANT, "grant")
    assert isinstance(document, dict)
    keyring.write(path, {**document, "base_runtime": "another base"}, GRANT)  # as approved before the machine was updated
    host.start()
    host.until(lambda: host.status("giver")["status"] == "running", 30, "it to run all the same")

    def told() -> list[Any]:
        return [issue for issue in host.ok("GET", "/api/issues") if issue["code"] == "runtime_changed"]

    [issue] = host.until(told, 10, "the issue")
    assert "another base" in issue["detail"]
    assert base in issue["detail"]
    [record] = host.ok("GET", "/api/audit?event=pack.runtime_changed")
    assert record["approved"] == "'another base'"
    assert host.approve("giver")["approval"]["base_runtime"] == base, "a decision anew, though no file has changed"
    assert told() == []


def test_taking_over_a_key_needs_the_declaration_and_the_operator(host: RunningHost) -> None:
    host.put_pack("giver", one_component_pack("giver", PROVIDER, provides=("give.one", "give.two")))
    host.approve("giver")
    second = one_component_pack("second", PROVIDER.replace('"one"', '"second"'), provides=("give.one", "give.two"))
    second["backend/permissions.json"] = json.dumps(
        {"pack_id": "second", "permissions": [{"type": "interface.replace", "keys": ["give.one"], "reason": "better"}]}
    )
    host.put_pack("second", second)
    assert host.ok("GET", "/api/packs/second/review")["replaces"] == {"give.one": "giver", "give.two": "giver"}
    status, envelope = host.request("POST", "/api/packs/second/approve", {"replace": ["give.two"]})
    assert (status, envelope["code"]) == (403, "permission_wider")
    host.approve("second")
    assert host.result("give.one", 1) == {"one": 1}, "the first owner's value stays"
    granted = host.ok("POST", "/api/packs/second/approve", {"replace": ["give.one"]})
    assert "interface.replace" in {p["type"] for p in granted["approval"]["permissions"]}
    assert host.result("give.one", 1) == {"second": 1}, "once granted, and for this key only"
    assert host.result("give.two", 1) == {"two": 1}
    host.ok("DELETE", "/api/packs/second/permissions", {"permissions": ["interface.replace"]})
    assert host.result("give.one", 1) == {"one": 1}, "taken back, it acts at once"


def test_an_update_takes_over_a_key_where_the_operator_names_it(host: RunningHost) -> None:
    host.put_pack("giver", one_component_pack("giver", PROVIDER, provides=("give.one", "give.two")))
    host.approve("giver")
    second = one_component_pack("second", PROVIDER.replace('"one"', '"second"'), provides=("give.one", "give.two"))
    asked = [{"type": "interface.replace", "keys": ["give.one"], "reason": "better"}, *FILES]
    second["backend/permissions.json"] = json.dumps({"pack_id": "second", "permissions": asked})
    folder = host.put_pack("second", second)
    host.approve("second")
    newer = host.home / "newer" / "second"
    shutil.copytree(folder, newer)
    (newer / "backend/more.py").write_text("x = 1\n")
    host.ok("POST", "/api/packs/add", {"path": str(newer)})
    status, envelope = host.request("POST", "/api/packs/second/update/approve", {"replace": ["give.two"]})
    assert (status, envelope["code"]) == (403, "permission_wider")
    assert host.result("give.one", 1) == {"one": 1}
    done = host.ok("POST", "/api/packs/second/update/approve", {"replace": ["give.one"]})
    assert {p["type"] for p in done["approval"]["permissions"]} == {"interface.replace", "userdata.read", "userdata.write"}
    assert host.result("give.one", 1) == {"second": 1}


def test_a_replacement_for_a_time_ends_by_itself_and_no_clock_brings_it_back(host: RunningHost) -> None:
    host.put_pack("giver", one_component_pack("giver", PROVIDER, provides=("give.one", "give.two")))
    host.approve("giver")
    second = one_component_pack("second", PROVIDER.replace('"one"', '"second"'), provides=("give.one", "give.two"))
    declared = [{"type": "interface.replace", "keys": ["give.one", "give.two"], "reason": "better"}]
    second["backend/permissions.json"] = json.dumps({"pack_id": "second", "permissions": declared})
    host.put_pack("second", second)
    host.approve("second")
    once = {"type": "interface.replace", "keys": ["give.one"], "mode": "once"}
    status, envelope = host.request("POST", "/api/packs/second/permissions", {"permissions": [once]})
    assert (status, envelope["code"]) == (403, "permission_lasting"), "there is no single use of it"

    end = time.time() + 4
    timed = {"type": "interface.replace", "keys": ["give.one"], "mode": "until", "until": end}
    run = {"type": "interface.replace", "keys": ["give.two"], "mode": "restart"}
    host.ok("POST", "/api/packs/second/permissions", {"permissions": [timed, run]})
    before = [one["generation"] for one in host.ok("GET", "/api/containers")]
    assert host.result("give.one", 1) == {"second": 1}
    assert owner(host, "give.two") == "second"
    host.until(lambda: host.result("give.one", 1) == {"one": 1}, 20, "the replacement to end")
    assert time.time() >= end
    assert before == [one["generation"] for one in host.ok("GET", "/api/containers")], "nothing was restarted for it"

    host.kill()
    host.start()
    host.until(lambda: host.call("give.one", 1)[0] == 200, 30, "the Packs to run again")
    assert host.result("give.one", 1) == {"one": 1}
    assert owner(host, "give.two") == "giver", "it was granted until the restart"


def test_reserved_names_are_refused_at_scan(host: RunningHost) -> None:
    for name in ("kernel", "host", "operator", "rumi"):
        host.put_pack(name, one_component_pack(name, PROVIDER, provides=("give.one", "give.two")))
        found = next(p for p in host.ok("POST", "/api/packs/scan")["packs"] if p["pack_id"] == name)
        assert (found["status"], found["cause"]) == ("error", "pack_id_reserved")
        assert "name of the host" in found["detail"] or name in found["detail"]
        assert host.request("POST", f"/api/packs/{name}/approve")[0] == 422


def test_what_was_done_is_on_record_and_the_record_verifies(pair: RunningHost) -> None:
    rights(pair, "DELETE", permissions=["userdata.write"])
    pair.ok("POST", "/api/packs/taker/reject", {"reason": "no"})
    verified = pair.ok("GET", "/api/audit/verify")
    assert (verified["ok"], verified["journal"]["ok"], verified["finding"]) == (True, True, None)
    events = [record["event"] for record in pair.ok("GET", "/api/audit?pack=taker&lines=100")]
    assert [e for e in events if e in {"pack.approved", "pack.narrowed", "pack.rejected"}] == [
        "pack.approved", "pack.narrowed", "pack.rejected"
    ]  # fmt: skip
    assert {r["event"] for r in pair.ok("GET", "/api/audit?event=pack.re")} == {"pack.rejected"}
    assert pair.request("GET", "/api/audit?pack=a&pack=b")[1]["code"] == "query_invalid"


def test_the_journal_lists_before_it_removes(pair: RunningHost) -> None:
    maker = one_component_pack(
        "maker",
        """
def run(context):
    context["userdata_manager"].write_text("packs/maker/made.txt", "x")
    context["install_journal"].record(created=["packs/maker/made.txt"])
    context["interface_registry"].register("maker.done", lambda args, ctx: True)
""",
        provides=("maker.done",),
    )
    pair.put_pack("maker", maker)
    assert pair.approve("maker")["status"] == "running"
    made = pair.home / "user_data/packs/maker/made.txt"
    path = "/api/packs/maker/journal/uninstall"
    planned = pair.ok("POST", path)
    assert (planned["dry_run"], planned["planned_delete"]) == (True, ["user_data/packs/maker/made.txt"])
    assert made.exists()
    assert pair.request("POST", path, {"dry_run": False})[1]["code"] == "pack_running"
    pair.ok("POST", "/api/containers/maker/stop")
    assert pair.ok("POST", path, {"dry_run": False})["deleted"] == ["user_data/packs/maker/made.txt"]
    assert not made.exists()
