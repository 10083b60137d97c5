"""Every type of permission that can be granted, from inside both sandboxes: a Pack that lies, races and floods."""

from __future__ import annotations

import json
from collections import Counter

from tests.e2e.conftest import host, isolation  # noqa: F401 - the same two drivers as the end-to-end tests
from tests.support.running_host import RunningHost, one_component_pack

INSIDE = """
import threading

def run(context):
    ir, bus, files = context["interface_registry"], context["event_bus"], context["userdata_manager"]
    vault, privileges, permissions = context["secrets"], context["privileges"], context["permission_manager"]
    agent = permissions._agent

    def attempts(args):
        key, path, topic, name = args.get("key"), args.get("path"), args.get("topic"), args.get("name")
        return {
            "userdata.read": lambda: files.read(path), "userdata.write": lambda: files.write(path, b"x"),
            "interface.call": lambda: ir.get(key)({}), "interface.replace": lambda: ir.register(key, lambda a, c: "mine"),
            "event.publish": lambda: bus.publish(topic, 1), "event.subscribe": lambda: bus.subscribe(topic, print),
            "secret": lambda: vault.get(name), "host": lambda: privileges.execute(name, title="t"),
            "lie": lambda: agent.request(args["operation"], args["body"]),
        }

    def told(fn):
        try:
            fn()
            return "did"
        except BaseException as error:
            return getattr(error, "type", None) or type(error).__name__

    def one(args, ctx):
        return told(attempts(args)[args["kind"]])

    def race(args, ctx):
        answers, barrier = [], threading.Barrier(args["threads"])
        fn = attempts(args)[args["kind"]]
        def work():
            barrier.wait()
            for _ in range(args["each"]):
                answers.append(told(fn))
        threads = [threading.Thread(target=work) for _ in range(args["threads"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    ir.register("inside.one", one)
    ir.register("inside.race", race)
"""
OTHER = 'def run(context):\n    context["interface_registry"].register("other.greet", lambda args, ctx: "other")\n'
KINDS = {
    "userdata.read": {"path": "shared/a"},
    "userdata.write": {"path": "shared/b"},
    "interface.call": {"key": "other.greet"},
    "event.publish": {"topic": "inside.topic"},
    "event.subscribe": {"topic": "inside.topic"},
    "secret": {"name": "token"},
    "host": {"name": "notify"},
}


def put(host: RunningHost, granted: list[object]) -> None:  # noqa: F811
    (host.home / "user_data/shared").mkdir(exist_ok=True)
    (host.home / "user_data/shared/a").write_text("a")
    host.put_pack("other", one_component_pack("other", OTHER, provides=("other.greet",)))
    host.approve("other")
    files = one_component_pack("inside", INSIDE, provides=("inside.one", "inside.race"), uses=("other.greet",))
    asks = [
        {"type": "userdata.read", "paths": ["shared/a"]}, {"type": "userdata.write", "paths": ["shared/b"]},
        {"type": "event.publish", "topics": ["inside.topic"]}, {"type": "event.subscribe", "topics": ["inside.topic"]},
        {"type": "secret", "names": ["token"]}, {"type": "host.notify"},
    ]  # fmt: skip
    text = json.dumps({"pack_id": "inside", "permissions": [{**one, "reason": "r"} for one in asks]})
    host.put_pack("inside", files | {"backend/permissions.json": text})
    assert host.ok("POST", "/api/packs/inside/approve", {"permissions": granted})["status"] == "running"
    host.ok("PUT", "/api/packs/inside/secrets/token", {"value": "a value of some length"})


def test_declared_and_not_granted_is_denied_and_granting_opens_just_that(host: RunningHost) -> None:  # noqa: F811
    put(host, [])
    refused = {kind: host.result("inside.one", {"kind": kind, **what}) for kind, what in KINDS.items()}
    assert "did" not in refused.values(), refused
    for kind in ("userdata.read", "userdata.write", "interface.call", "event.publish", "event.subscribe", "secret"):
        host.ok("POST", "/api/packs/inside/permissions", {"permissions": [kind]})
        assert host.result("inside.one", {"kind": kind, **KINDS[kind]}) == "did", kind
        host.ok("DELETE", "/api/packs/inside/permissions", {"permissions": [kind]})
        assert host.result("inside.one", {"kind": kind, **KINDS[kind]}) != "did", kind
    host.ok("POST", "/api/privileges/inside/grant/notify", {})
    assert host.result("inside.one", {"kind": "host", "name": "notify"}) == "did"
    host.ok("DELETE", "/api/privileges/inside/grant/notify")
    assert host.result("inside.one", {"kind": "host", "name": "notify"}) == "privilege_denied"
    assert host.result("inside.one", {"kind": "interface.replace", "key": "other.greet"}) != "did"
    assert host.result("other.greet") == "other"


def test_lies_about_oneself_change_nothing(host: RunningHost) -> None:  # noqa: F811
    put(host, ["userdata.read"])
    claims = {"pack_id": "other", "caller": "operator", "generation": 99, "granted": True, "actor": "operator", "type": "secret"}
    for operation, body in (
        ("secret.get", {"name": "token", **claims}), ("userdata.write", {"path": "shared/b", "data": b"x".hex(), **claims}),
        ("userdata.read", {"path": "packs/other/x", **claims}), ("privilege.execute", {"privilege": "notify", **claims}),
        ("permission.grant", claims), ("secret.set", {"name": "token", "value": "x", **claims}),
    ):  # fmt: skip
        assert host.result("inside.one", {"kind": "lie", "operation": operation, "body": body}) != "did", operation
    assert not (host.home / "user_data/shared/b").exists()


def test_one_use_is_one_use_however_many_threads_ask(host: RunningHost) -> None:  # noqa: F811
    once = [{"type": kind, "mode": "once"} for kind in ("userdata.read", "secret", "event.publish")]
    put(host, once)
    for kind in ("userdata.read", "secret", "event.publish"):
        answers = Counter(host.result("inside.race", {"kind": kind, "threads": 8, "each": 4, **KINDS[kind]}))
        assert answers["did"] == 1, (kind, answers)


def test_a_flood_of_refused_uses_costs_a_few_records(host: RunningHost) -> None:  # noqa: F811
    put(host, [])
    before = len(host.ok("GET", "/api/audit?lines=5000"))
    for kind in ("userdata.read", "secret", "event.publish", "host"):
        answers = host.result("inside.race", {"kind": kind, "threads": 4, "each": 100, **KINDS[kind]})
        assert "did" not in answers
    assert len(host.ok("GET", "/api/audit?lines=5000")) - before < 40
    assert host.result("other.greet") == "other"
