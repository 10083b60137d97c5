"""Attacks on trust against the whole running host: from inside a sandbox, and on its files while it is down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from core_runtime.rules.permission_kinds import path_fault
from tests.e2e.conftest import host, isolation  # noqa: F401 - the same two drivers as the end-to-end tests
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.trust_home import DOCKER, Clock, TrustHome

HELLO = 'def run(context):\n    context["interface_registry"].register("service.hello", lambda a, c: "hello")\n'
INSIDE = """
def attempt(fn):
    try:
        return ["did", repr(fn())[:200]]
    except BaseException as error:
        return ["refused", type(error).__name__, str(error)[:200]]

def run(context):
    ir = context["interface_registry"]
    files, permissions = context["userdata_manager"], context["permission_manager"]
    agent = permissions._agent

    def touch(args, ctx):
        return {path: {
            "read": attempt(lambda: files.read(path)), "write": attempt(lambda: files.write(path, b"evil")),
            "delete": attempt(lambda: files.delete(path)), "stat": attempt(lambda: files.stat(path)),
        } for path in args["paths"]}

    def ask(args, ctx):
        return [attempt(lambda: agent.request(args["operation"], body)) for body in args["bodies"]]

    def flood(args, ctx):
        answers = set()
        for n in range(args["n"]):
            answers.add(attempt(lambda: permissions.request("userdata.read", path="shared/%d" % n, reason="\\x1b[31m" * 200))[1])
        return sorted(answers)

    def call(args, ctx):
        return [[key, attempt(lambda: ir.get(key)({}, ctx))] for key in args["keys"]]

    for fn in (touch, ask, flood, call):
        ir.register("inside." + fn.__name__, fn)
"""
KEYS = tuple(f"inside.{name}" for name in ("touch", "ask", "flood", "call"))


def put_inside(host: RunningHost, permissions: list[dict[str, Any]]) -> None:  # noqa: F811
    files = one_component_pack("inside", INSIDE, provides=KEYS)
    if permissions:
        files["backend/permissions.json"] = json.dumps({"pack_id": "inside", "permissions": permissions})
    host.put_pack("inside", files)
    assert host.approve("inside")["status"] == "running"


def test_paths_out_of_the_grant_are_refused_from_inside(host: RunningHost, tmp_path: Path) -> None:  # noqa: F811
    put_inside(host, [{"type": f"userdata.{verb}", "paths": ["shared/**"], "reason": "r"} for verb in ("read", "write")])
    data = host.home / "user_data"
    (data / "shared").mkdir(exist_ok=True)
    secret = tmp_path / "secret"
    secret.write_text("the operator's own")
    (data / "shared/link").symlink_to(secret)
    (data / "shared/folder").symlink_to(tmp_path)
    (data / "shared/hard").hardlink_to(secret)
    (data / "packs/other").mkdir(parents=True, exist_ok=True)
    (data / "packs/other/theirs").write_text("theirs")
    paths = [
        "../secret", "shared/../../secret", "/etc/passwd", "shared//x", "shared/./x", "shared/..", "", ".", "shared/\0x",
        "shared/link", "shared/folder/secret", "shared/hard", "packs/other/theirs", "PACKS/other/theirs",
        "packs/inside/../other/theirs", "permissions/.secret_key", "permissions/inside.grants.json", "Permissions/.secret_key",
        "permissions/.api_token", "flows/x.flow.yaml", "audit/audit.jsonl", "journal/install.jsonl", "store/x", "run/x",
        "mounts.json", "active_ecosystem.json", "settings/x", "secrets/x", "shared/a\\..\\..\\x/../../../x", "~/x",
    ]  # fmt: skip
    outcome = host.result("inside.touch", {"paths": paths})
    nothing = ["did", "False"]  # ``delete`` where there was nothing to delete
    did = {(path, act): told for path, acts in outcome.items() for act, told in acts.items() if told[0] == "did"}
    assert {place: told for place, told in did.items() if told != nothing} == {}
    assert secret.read_text() == "the operator's own"
    assert (data / "packs/other/theirs").read_text() == "theirs"
    assert host.ok("GET", "/api/audit/verify")["ok"] is True
    ours = host.result("inside.touch", {"paths": ["shared/ours", "packs/inside/own"]})
    assert [acts["write"][0] for acts in ours.values()] == ["did", "did"]


OPEN = {"cache", "packs", "settings", "shared"}
"""Folders of ``user_data`` of which an operator may grant parts; everything else there is the host's own."""


def test_no_folder_that_the_host_keeps_for_itself_is_grantable(host: RunningHost) -> None:  # noqa: F811
    host.put_pack("asker", one_component_pack("asker", "def run(context):\n    pass\n"))
    host.approve("asker")
    host.ok("POST", "/api/doctor/fix", {})
    host.ok("GET", "/api/issues/history")
    kept = {path.name for path in (host.home / "user_data").iterdir() if path.is_dir()} - OPEN
    assert kept >= {"audit", "events", "logs", "permissions", "runtime", "store"}, "the host keeps more than it did"
    for name in sorted(kept):
        for path in (f"{name}/**", f"{name}/any/file.py", f"{name.upper()}/**"):
            assert path_fault(path, "asker"), f"{path} could be granted"


def test_a_flood_of_requests_for_permission_is_bounded(host: RunningHost) -> None:  # noqa: F811
    put_inside(host, [])
    assert host.result("inside.flood", {"n": 2000}) == ["'asked'"]
    asked = host.ok("GET", "/api/packs/inside/permissions")["asked"]
    assert len(asked) == 20
    assert asked[-1]["params"]["path"] == "shared/1999"
    issues = [issue for issue in host.ok("GET", "/api/issues") if issue["code"] == "permission_requested"]
    assert len(issues) == 1
    assert "\x1b" not in json.dumps(issues, ensure_ascii=False)
    large = {"type": "userdata.read", "params": {"path": "x" * 100_000}}
    many = {"type": "userdata.read", "params": {f"p{n}": "x" for n in range(1000)}}
    deep = {"type": "userdata.read", "params": {"path": [[["x"]]]}}
    told = host.result("inside.ask", {"operation": "permission.request", "bodies": [large, many, deep]})
    assert [answer[0] for answer in told] == ["refused"] * 3
    assert len(host.ok("GET", "/api/audit?pack=inside&lines=1000")) < 100


def test_a_pack_can_not_approve_itself(host: RunningHost) -> None:  # noqa: F811
    put_inside(host, [])
    put = one_component_pack("waiting", HELLO, provides=("service.hello",))
    host.put_pack("waiting", put)
    host.ok("POST", "/api/packs/scan")
    body = {"pack_id": "waiting", "type": "interface.call", "keys": ["service.hello"], "params": {}}
    for operation in (
        "packs.approve", "pack.approve", "approve", "permission.grant", "permission.set", "privilege.grant", "kernel:packs.scan",
        "approvals.approve", "flow.run", "audit.acknowledge", "",
    ):  # fmt: skip
        [told] = host.result("inside.ask", {"operation": operation, "bodies": [body]})
        assert told[0] == "refused", operation
    keys = ["kernel:packs.approve", "kernel.packs.approve", "packs.approve", "host.approve", "operator.approve", "rumi.approve"]
    assert all(told[0] == "refused" for _, told in host.result("inside.call", {"keys": keys}))
    forged = host.home / "user_data/permissions/waiting.grants.json"
    touched = host.result("inside.touch", {"paths": ["permissions/waiting.grants.json"]})
    assert touched["permissions/waiting.grants.json"]["write"][0] == "refused"
    assert not forged.exists()
    assert host.status("waiting")["status"] in {"installed", "pending"}


def test_an_operation_of_the_host_needs_its_own_grant_and_ends_with_it(host: RunningHost) -> None:  # noqa: F811
    put_inside(host, [{"type": "host.notify", "reason": "tells you things"}])
    notice = {"privilege": "notify", "params": {"title": "\x1b[31mAPPROVED\u202e", "text": "x"}}

    def execute(body: Any, times: int = 1) -> list[str]:
        told = host.result("inside.ask", {"operation": "privilege.execute", "bodies": [body] * times})
        return [answer[0] for answer in told]

    assert execute(notice) == ["refused"]
    assert host.request("POST", "/api/privileges/inside/execute/notify", {"params": {"title": "t"}})[0] == 403
    assert host.request("POST", "/api/privileges/inside/grant/file.export", {"options": {"folder": "/tmp"}})[0] == 403
    host.ok("POST", "/api/privileges/inside/grant/notify")
    assert execute(notice) == ["did"]
    [issue] = [found for found in host.ok("GET", "/api/issues") if found["code"] == "pack_notice"]
    assert issue["subject"] == "inside"
    assert issue["title"].startswith("The Pack inside says: ")
    assert not any(ch in json.dumps(issue, ensure_ascii=False) for ch in "\x1b\u202e")
    for odd in ({"privilege": "notify", "params": {}}, {"privilege": "shell"}, {"privilege": "notify", "params": [1]}, {}):
        assert execute(odd) == ["refused"]
    assert "refused" in execute(notice, 60), "a flood of notices is cut off"
    [listed] = [one for one in host.ok("GET", "/api/privileges") if one["id"] == "notify"]
    assert (listed["risk"], listed["granted_to"]) == ("low", ["inside"])
    assert listed["parameters"]["required"] == ["title"]
    assert host.ok("DELETE", "/api/privileges/inside/grant/notify")["was_granted"] is True
    assert execute(notice) == ["refused"]
    assert host.request("POST", "/api/privileges/inside/execute/notify", {"params": {"title": "t"}})[0] == 403


def test_a_restart_by_itself_gives_a_fresh_sandbox_of_the_same_bytes(host: RunningHost) -> None:  # noqa: F811
    put_inside(host, [{"type": "host.container.restart_self", "reason": "r"}])
    host.ok("POST", "/api/privileges/inside/grant/container.restart_self")

    def generation() -> list[int]:
        return [one["generation"] for one in host.ok("GET", "/api/containers") if one["state"] == "running"]

    before = generation()
    host.ok("POST", "/api/privileges/inside/execute/container.restart_self")
    host.until(lambda: generation() and generation() > before, 30, "another generation")
    host.until(lambda: host.call("inside.call", {"keys": []})[0] == 200, 30, "the Pack to serve again")


# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plain(tmp_path: Path) -> RunningHost:
    """Evidence is the same under each driver; no sandbox is needed to change it."""
    return RunningHost(tmp_path / "home", "embedded")


def _trail(running: RunningHost) -> Path:
    return running.home / "user_data/audit/audit.jsonl"


@pytest.mark.embedded
def test_an_edited_trail_names_the_first_bad_record(plain: RunningHost) -> None:
    with plain:
        plain.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
        plain.approve("hello")
        assert plain.ok("GET", "/api/audit/verify")["ok"] is True
        lines = _trail(plain).read_bytes().split(b"\n")
        assert len(lines) > 4
        lines[2] = lines[2].replace(b'"event"', b'"Event"')
        _trail(plain).write_bytes(b"\n".join(lines))
        found = plain.ok("GET", "/api/audit/verify")
        # the line after the edited one is the first whose ``prev`` does not fit
        assert (found["ok"], found["problem"], found["bad_record"]) == (False, "edited", 4)
        assert "audit_broken" in {issue["code"] for issue in plain.ok("GET", "/api/issues")}


@pytest.mark.embedded
@pytest.mark.parametrize("change", ["truncated", "edited", "removed"])
def test_a_changed_trail_blocks_visibly_until_the_operator_goes_on(plain: RunningHost, change: str) -> None:
    with plain:
        plain.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
        plain.approve("hello")
        plain.put_pack("late", one_component_pack("late", HELLO, provides=("late.key",)))
        plain.stop()
        lines = _trail(plain).read_bytes().splitlines(keepends=True)
        if change == "truncated":
            _trail(plain).write_bytes(b"".join(lines[:-2]))
        elif change == "edited":
            _trail(plain).write_bytes(b"".join([lines[0].replace(b"host.started", b"host.sparted"), *lines[1:]]))
        else:
            _trail(plain).unlink()
        for _ in range(2):  # a restart does not make it forgotten
            plain.start()
            assert plain.call("service.hello")[0] == 404
            status = plain.status("hello")
            assert (status["status"], status["cause"]) == ("approved", "audit_broken")
            [issue] = [found for found in plain.ok("GET", "/api/issues") if found["code"] == "audit_broken"]
            assert issue["severity"] == "error"
            assert "rumi audit acknowledge" in issue["hint"]
            for method, path in (
                ("POST", "/api/packs/late/approve"), ("POST", "/api/containers/hello/start"),
                ("POST", "/api/packs/hello/permissions"), ("POST", "/api/privileges/hello/grant/notify"),
            ):  # fmt: skip
                body = {"permissions": ["interface.call"]} if "permissions" in path else None
                refused, envelope = plain.request(method, path, body)
                assert (refused, envelope["code"]) == (409, "audit_broken"), path
            plain.stop()
        plain.start()
        verified = plain.ok("GET", "/api/audit/verify")
        assert verified["ok"] is True, "the new trail is whole"
        assert verified["finding"]
        assert len(verified["set_aside"]) == (change != "removed"), "nothing was deleted"
        [found] = plain.ok("GET", "/api/audit?event=evidence.broken&lines=5")
        assert found["problem"] == ("edited" if change == "edited" else "truncated")

        plain.ok("POST", "/api/audit/acknowledge", {"reason": "a test did it"})
        assert plain.request("POST", "/api/audit/acknowledge")[1]["code"] == "audit_intact"
        plain.ok("POST", "/api/containers/hello/start")
        plain.until(lambda: plain.call("service.hello")[0] == 200, 30, "the Pack to run")
        [record] = plain.ok("GET", "/api/audit?event=evidence.acknowledged")
        assert "a test did it" in record["reason"]
        plain.stop()
        plain.start()
        assert "audit_broken" not in {issue["code"] for issue in plain.ok("GET", "/api/issues")}
        plain.until(lambda: plain.call("service.hello")[0] == 200, 30, "the Pack to run by itself again")


@pytest.mark.embedded
def test_taking_away_works_while_the_trail_is_in_doubt(plain: RunningHost) -> None:
    with plain:
        plain.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
        plain.approve("hello")
        plain.stop()
        _trail(plain).write_bytes(b"")
        plain.start()
        assert plain.ok("POST", "/api/packs/hello/reject", {"reason": "no"})["status"] == "blocked"


@pytest.mark.embedded
def test_a_torn_last_line_is_a_crash_and_blocks_nothing(plain: RunningHost) -> None:
    with plain:
        plain.put_pack("hello", one_component_pack("hello", HELLO, provides=("service.hello",)))
        plain.approve("hello")
        plain.kill()
        with _trail(plain).open("ab") as file:
            file.write(b'{"event":"pack.appro')
        plain.start()
        plain.until(lambda: plain.call("service.hello")[0] == 200, 30, "the Pack to run again")
        assert plain.ok("GET", "/api/audit/verify")["finding"] is None
        assert plain.ok("GET", "/api/audit?event=evidence.recovered")


# -- isolation and running ------------------------------------------------------------------------------------------


@pytest.mark.embedded
def test_a_weaker_isolation_than_approved_needs_the_operators_word(plain: RunningHost) -> None:
    home = TrustHome(plain.home, clock=Clock(time.time() - 60))
    home.add("hello", provides=("service.hello",), files={"backend/components/main/setup.py": HELLO})
    home.approve("hello", isolation=DOCKER)
    home.userdata.close()
    with plain:
        status = plain.status("hello")
        assert (status["status"], status["cause"]) == ("approved", "isolation_weaker")
        assert "Approved: docker/standard. Available now: embedded/" in status["detail"]
        [issue] = [found for found in plain.ok("GET", "/api/issues") if found["subject"] == "hello"]
        assert "rumi pack approve hello --accept-weaker" in issue["hint"]
        code, envelope = plain.request("POST", "/api/containers/hello/start")
        assert (code, envelope["code"]) == (409, "isolation_weaker")
        again = plain.approve("hello")
        assert (again["status"], again["cause"]) == ("approved", "isolation_weaker"), "a plain approval agrees to nothing"
        assert plain.ok("GET", "/api/containers") == []

        done = plain.ok("POST", "/api/packs/hello/approve", {"accept_weaker": True})
        assert (done["status"], done["cause"]) == ("running", None)
        assert done["approval"]["isolation"]["driver"] == "embedded"
        assert plain.result("service.hello") == "hello"


def test_a_pack_that_crashes_again_and_again_is_an_error_with_two_ways_on(host: RunningHost) -> None:  # noqa: F811
    crash = HELLO + '    context["interface_registry"].register("service.crash", lambda a, c: __import__("os")._exit(1))\n'
    host.put_pack("crashy", one_component_pack("crashy", crash, provides=("service.hello", "service.crash")))
    host.approve("crashy")

    def gave_up() -> bool:
        host.call("service.crash", timeout_s=2)
        return bool(host.status("crashy")["status"] == "error")

    host.until(gave_up, 120, "the host to give it up")
    assert host.status("crashy")["cause"] == "gave_up"
    [issue] = [found for found in host.ok("GET", "/api/issues") if found["code"] == "pack_gave_up"]
    for command in ("rumi logs crashy", "rumi container start crashy", "rumi pack approve crashy"):
        assert command in issue["hint"]
    assert host.ok("POST", "/api/containers/crashy/start")["status"] == "running"
    assert host.result("service.hello") == "hello"
