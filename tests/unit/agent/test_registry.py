"""The context of a component: registry, events, files, permissions, journal, diagnostics."""

from __future__ import annotations

import pytest

from tests.support.fake_host import BusError, FakeHost, wait_until


def test_context_has_every_key_and_entry_rules_are_kept(start, host: FakeHost) -> None:
    peer = start(
        """
        def run(context):
            assert set(context) == {
                "phase", "ts", "ids", "paths", "interface_registry", "event_bus", "diagnostics", "install_journal",
                "permission_manager", "privileges", "secrets", "userdata_manager", "_source_component",
            }, sorted(context)
            assert context["phase"] == "setup" and context["ts"] == 1.5
            assert context["ids"] == {
                "component_full_id": "alpha:service:one", "component_type": "service", "component_id": "one", "pack_id": "alpha",
            }
            assert context["paths"]["component_runtime_dir"].endswith("/backend/components/one")
            assert context["paths"]["mounts"] == {"data.user": "user"}
            assert context["_source_component"] == "alpha:service:one"
            import helper, shared
            assert helper.VALUE + shared.VALUE == 3
        """,
        run=False,
    )
    folder = peer.root / "backend/components/one"
    (folder / "helper.py").write_text("VALUE = 1\n")
    (peer.root / "backend/shared.py").write_text("VALUE = 2\n")
    (folder / "main_only.py").write_text("def main(context):\n    context['interface_registry'].register('main', 1)\n")
    (folder / "bare.py").write_text("def run():\n    print('bare ran')\n")
    (folder / "import_only.py").write_text("print('imported', __name__)\n")
    (folder / "broken.py").write_text("def run(context):\n    raise LookupError('why')\n")
    (folder / "syntax.py").write_text("def run(:\n")
    peer.good_phase("one")
    assert peer.good_phase("one", "main_only.py")["registered"] == ["main"]
    peer.good_phase("one", "bare.py")
    peer.good_phase("one", "import_only.py")
    peer.wait_for_log(lambda log: "bare ran" in log[2])
    peer.wait_for_log(lambda log: "imported rumi_pack_alpha_service_one.import_only" in log[2])
    broken = peer.phase("one", "broken.py")
    assert broken["ok"] is False
    assert broken["error"][0] == "error/LookupError"
    assert "in run" in broken["error"][4]
    assert peer.phase("one", "syntax.py")["error"][0] == "error/SyntaxError"
    assert peer.phase("one", "absent.py")["error"][0] == "missing_file"
    assert peer.phase("one", "../../../../etc/passwd")["error"][0] == "missing_file"
    assert not list(peer.root.rglob("__pycache__"))


def test_components_do_not_see_each_others_modules(host: FakeHost, runtime, tmp_path) -> None:
    files = {"backend/shared.py": "VALUE = 'shared'\n"}
    for name in ("one", "two"):
        folder = f"backend/components/{name}"
        files[f"{folder}/helper.py"] = f"import deeper\nVALUE = '{name}' + deeper.VALUE\n"
        files[f"{folder}/deeper.py"] = f"VALUE = '-deep-{name}'\n"
        files[f"{folder}/lib/__init__.py"] = ""
        files[f"{folder}/lib/part.py"] = "from . import other\nVALUE = other.VALUE\n"
        files[f"{folder}/lib/other.py"] = f"VALUE = 'lib-{name}'\n"
        files[f"{folder}/setup.py"] = f"""
import helper, shared, json
import lib.part
from lib.part import VALUE as part
import lib.other as other
def late(args, ctx):
    import helper
    from lib import part as again
    return [helper.VALUE, lib.part.VALUE, part, other.VALUE, again.VALUE, shared.VALUE, json.dumps(1)]
def run(context):
    context["interface_registry"].register("{name}", late)
"""
    peer = host.start(files, tmp_path / "p", agent=runtime / "container_agent.py")
    for name in ("one", "two"):
        peer.good_phase(name)
    for name in ("one", "two"):
        lib = f"lib-{name}"
        assert host.call(name) == [f"{name}-deep-{name}", lib, lib, lib, lib, "shared", "1"]


def test_cached_bytecode_in_a_pack_is_never_believed(start) -> None:
    import importlib.util
    import py_compile

    peer = start(
        "import helper\ndef run(context):\n    assert helper.VALUE == 'reviewed'\n",
        run=False,
        python="/usr/bin/python3",
    )
    folder = peer.root / "backend/components/one"
    source = folder / "helper.py"
    source.write_text("VALUE = 'hidden!!'\n")
    tag = f"cpython-{''.join(peer.hello['python'].split('.')[:2])}"
    target = folder / "__pycache__" / f"helper.{tag}.pyc"
    py_compile.compile(str(source), cfile=str(target), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.write_text("VALUE = 'reviewed'\n")
    (folder / "sourceless.pyc").write_bytes(target.read_bytes())
    (folder / "second.py").write_text("def run():\n    import sourceless\n")
    assert importlib.util.MAGIC_NUMBER
    peer.good_phase("one")
    assert peer.phase("one", "second.py")["error"][0] == "error/ModuleNotFoundError"


def test_custom_handlers_are_registered_under_their_key(start, host: FakeHost) -> None:
    peer = start("", run=False)
    folder = peer.root / "backend/handlers"
    folder.mkdir(parents=True)
    (folder / "first.py").write_text("def run(args, ctx):\n    return ['run', args, ctx['caller']]\n")
    (folder / "second.py").write_text(
        "def execute(context, args):\n    return [context['ids']['pack_id'], context['ctx']['caller'], args]\n"
    )
    (folder / "third.py").write_text("async def execute(context, args):\n    return ['async', args]\n")
    (folder / "none.py").write_text("x = 1\n")
    for name in ("first", "second", "third"):
        outcome = peer.phase("backend/handlers", f"{name}.py", register=f"alpha.{name}")
        assert outcome["ok"], outcome
        assert outcome["registered"] == [f"alpha.{name}"]
    assert host.call("alpha.first", 1) == ["run", 1, "kernel"]
    assert host.call("alpha.second", 2) == ["alpha", "kernel", 2]
    assert host.call("alpha.third", 3) == ["async", 3]
    assert peer.phase("backend/handlers", "none.py", register="alpha.none")["error"][0] == "error/AttributeError"


def test_get_last_first_all_list_find_schema_source_unregister(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir = context["interface_registry"]
            assert ir.get("k") is None and ir.get("k", "all") == [] and ir.get("k", strategy="first") is None
            ir.register("k", {"n": 1}, {"mark": "one"})
            ir.register("k", {"n": 2})
            assert ir.get("k") == {"n": 2} and ir.get("k", "first") == {"n": 1}
            assert ir.get("k", "all") == [{"n": 1}, {"n": 2}]
            assert ir.list() == {"k": 2} and ir.list("x") == {}
            listed = ir.list("k", include_meta=True)["k"]
            assert listed["count"] == 2 and listed["last_meta"] == {} and listed["last_ts"] > 0
            assert ir.find(lambda key, entry: entry["meta"].get("mark") == "one") == ["k"]
            assert ir.find(lambda key, entry: entry["value"] == {"n": 3}) == []
            assert ir.unregister("k", lambda entry: entry["value"]["n"] == 1) == 1
            assert ir.get("k", "all") == [{"n": 2}]
            assert ir.unregister("k") == 1 and ir.get("k") is None and ir.unregister("k") == 0
            schema = {"type": "object"}
            ir.register_handler("h", lambda args, ctx: args, schema, None, {"m": 1}, source_code="lambda")
            assert ir.get_schema("h") == {"input": schema, "output": None} and ir.get_schema("k") is None
            assert ir.get_source("h") == "lambda"
            try:
                ir.register_handler("h", 5)
            except TypeError:
                pass
            else:
                raise AssertionError
            assert ir.register_if_absent("h", 5) is False and ir.register_if_absent("fresh", 5) is True
            ir.register("service", {"double": lambda n: n * 2, "name": "svc"})
            assert ir.get("service")["double"](4) == 8
            try:
                ir.register("bad", {"x": object()})
            except ValueError as exc:
                assert "$.x" in exc.detail, exc
            else:
                raise AssertionError
    """)
    start(
        """
        def run(context):
            ir = context["interface_registry"]
            assert ir.get("service")["double"](4) == 8 and ir.get("service")["name"] == "svc"
            assert ir.get("h", "first")({"a": 1}) == {"a": 1} and ir.get("h", "all")[0](2) == 2
            assert ir.get_schema("h")["input"] == {"type": "object"}
            assert ir.unregister("h") == 0, "only what is one's own can be taken back"
        """,
        pack_id="beta",
    )


def test_a_refused_registration_raises(start, host: FakeHost) -> None:
    host.denied_keys.add("theirs")
    start("""
        from rumi import Denied
        def run(context):
            try:
                context["interface_registry"].register("theirs", 1)
            except Denied as exc:
                assert isinstance(exc, PermissionError) and exc.type == "denied"
            else:
                raise AssertionError
    """)


def test_ttl_expires(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir = context["interface_registry"]
            assert ir.register_if_absent("short", 1, ttl=0.05)
            assert ir.get("short") == 1
            ir.register("see", lambda: ir.get("short"))
    """)
    assert host.entries[0].options["ttl_ms"] == 50
    wait_until(lambda: host.call("see") is None, "the expiry")


def test_temporary_override_and_observers(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir = context["interface_registry"]
            seen = []
            ir.register("conf.a", 1)
            everything = ir.observe("conf.*", lambda key, old, new: seen.append([key, old, new]), immediate=True)
            assert seen == [["conf.a", None, 1]]
            once = ir.observe("conf.a", lambda key: seen.append(key))
            def override(args, ctx):
                with ir.temporary_override("conf.a", 2):
                    inside = ir.get("conf.a")
                return [inside, ir.get("conf.a")]
            ir.register("override", override)
            ir.register("seen", lambda: list(seen))
            ir.register("add", lambda value: ir.register("conf.b", value))
            ir.register("stop", lambda: [ir.unobserve(once), ir.unobserve(once), ir.unobserve_all("conf.*"), ir.unobserve_all()])
    """)
    assert host.call("override")[0] == 2
    wait_until(lambda: ["conf.a", 2, 1] in host.call("seen"), "the end of the override")
    assert ["conf.a", 1, 2] in host.call("seen")
    wait_until(lambda: host.call("seen").count("conf.a") == 2, "the other observer, which is told for itself")
    host.call("add", 5)
    wait_until(lambda: ["conf.b", None, 5] in host.call("seen"), "the new key")
    assert host.call("stop") == [True, False, 1, 0]
    count = len(host.call("seen"))
    host.call("add", 6)
    assert len(host.call("seen")) == count


def test_observers_hear_nothing_of_what_is_only_said_again(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir = context["interface_registry"]
            seen = []
            ir.observe("conf.*", lambda key, old, new: seen.append([key, old, new]))
            ir.register("conf.a", 1)
            ir.register("seen", lambda: list(seen))
            ir.register("add", lambda value: ir.register("conf.b", value))
    """)
    host.mirror("conf.a")  # as when it comes late, after the answer that told the same
    host.call("add", 5)
    wait_until(lambda: ["conf.b", None, 5] in host.call("seen"), "what comes after it")
    assert host.call("seen") == [["conf.a", None, 1], ["conf.b", None, 5]]


def test_events(start, host: FakeHost) -> None:
    peer = start("""
        import time
        def run(context):
            bus = context["event_bus"]
            seen = []
            first = bus.subscribe("topic.a", lambda payload: seen.append(payload))
            second = bus.subscribe("topic.a", lambda payload, event: seen.append([event["type"], event["source"], payload]), "mine")
            async def later(payload): seen.append(["async", payload])
            third = bus.subscribe("topic.b", later)
            def bad(payload): raise ValueError("in a subscriber")
            bus.subscribe("topic.bad", bad)
            assert second == "mine" and bus.list_subscribers()["topic.a"] == [first, "mine"]
            ir = context["interface_registry"]
            ir.register("seen", lambda: list(seen))
            ir.register("publish", lambda args: bus.publish(*args))
            ir.register("stop", lambda: [bus.unsubscribe("topic.a", first), bus.unsubscribe("topic.a", first),
                                         bus.unsubscribe("other", "mine"), bus.clear("topic.b"), bus.clear()])
    """)
    assert host.call("publish", ["topic.a", {"n": 1}]) == 2
    wait_until(lambda: len(host.call("seen")) == 2, "both deliveries")
    seen = host.call("seen")
    assert {"n": 1} in seen
    assert ["topic.a", "alpha", {"n": 1}] in seen
    host.publish("topic.b", 5)
    wait_until(lambda: ["async", 5] in host.call("seen"), "the asynchronous subscriber")
    host.publish("topic.bad", None)
    peer.wait_for_log(lambda log: log[0] == 40 and "in a subscriber" in log[2])
    for number in range(200):
        host.publish("topic.a", number)
    wait_until(lambda: len([s for s in host.call("seen") if isinstance(s, int)]) == 200, "all events")
    assert [s for s in host.call("seen") if isinstance(s, int)] == list(range(200)), "in order"
    assert host.call("stop") == [True, False, False, 1, 2]
    assert host.subscriptions == {}


def test_events_with_options(start, host: FakeHost) -> None:
    host.past = list(range(2_000))
    peer = start("""
        import threading
        def run(context):
            bus = context["event_bus"]
            past, gates, got = [], threading.Event(), {}
            name = bus.subscribe("topic.past", past.append, since="oldest")
            def slow(policy):
                got[policy] = []
                def handler(payload, event):
                    gates.wait()
                    got[policy].append([event["type"], payload])
                return handler
            for policy in ("drop_oldest", "drop_newest", "latest"):
                bus.subscribe("*", slow(policy), policy, queue=3, policy=policy)
            ir = context["interface_registry"]
            ir.register("past", lambda: [len(past), past == list(range(len(past))), bus.is_complete(name), bus.is_complete("no")])
            ir.register("open", lambda: gates.set())
            ir.register("got", lambda: got)
    """)
    wait_until(lambda: host.call("past") == [2_000, True, True, False], "everything that was, in order")
    for number in range(8):
        host.publish(f"topic.{number % 2}", number)
    assert host.call("past")[0] == 2_000  # all of them have arrived, since frames are read in order
    host.call("open")
    wait_until(lambda: sum(map(len, host.call("got").values())) == 4 + 4 + 3, "what waited")
    got = host.call("got")
    assert [n for _, n in got["drop_oldest"]] == [0, 5, 6, 7]
    assert [n for _, n in got["drop_newest"]] == [0, 1, 2, 3]
    assert got["latest"] == [["topic.0", 0], ["topic.0", 6], ["topic.1", 7]]
    peer.wait_for_log(lambda log: log[0] == 30 and "too slow" in log[2])
    assert host.subscribe_options == [{"since": "oldest"}, *({"queue": 3, "policy": p} for p in ("drop_oldest", "drop_newest", "latest"))]


def test_files_permissions_journal_diagnostics(start, host: FakeHost) -> None:
    host.files["packs/alpha/old.json"] = b'{"a": 1}'
    host.granted.add("network")
    start("""
        def run(context):
            data = context["userdata_manager"]
            assert data.read("packs/alpha/old.json") == b'{"a": 1}' and data.read_json("packs/alpha/old.json") == {"a": 1}
            data.write("packs/alpha/b", b"\\x00\\xff")
            data.write_text("packs/alpha/t", "ü")
            data.write_json("packs/alpha/j", {"ü": [1]})
            assert data.read_text("packs/alpha/t") == "ü" and data.read_json("packs/alpha/j") == {"ü": [1]}
            assert data.list("packs/alpha/") == ["packs/alpha/" + n for n in ("b", "j", "old.json", "t")]
            assert data.exists("packs/alpha/b") and not data.exists("no") and data.stat("packs/alpha/b") == {"size": 2}
            assert data.delete("packs/alpha/b") is True and not data.exists("packs/alpha/b")
            try:
                data.read("no")
            except Exception as exc:
                assert exc.type == "error/FileNotFoundError"
            try:
                data.write("x", "text")
            except TypeError:
                pass
            else:
                raise AssertionError
            permissions = context["permission_manager"]
            assert permissions.has("network", domains=["a.example"]) is True and permissions.has("secret") is False
            assert permissions.request("secret", names=["x"]) is False
            context["install_journal"].record(created=["packs/alpha/t"], modified=[])
            diagnostics = context["diagnostics"]
            diagnostics.record({"step_id": "s", "status": "failed", "error": ValueError("why")})
            diagnostics.record_step(phase="setup", status="success")
            diagnostics.record(status="odd")
            summary = diagnostics.as_dict()["summary"]
            assert summary["counts"]["failed"] == 1 and summary["counts"]["unknown"] == 1
            assert summary["last_failure"]["error"]["message"] == "why"
    """)
    wait_until(lambda: len([r for r in host.requests if r[0] == "diagnostics.record"]) == 3, "the events")
    assert ("permission.has", {"type": "network", "params": {"domains": ["a.example"]}}) in host.requests
    journal = next(body for name, body in host.requests if name == "journal.record")
    assert journal == {"created": ["packs/alpha/t"], "modified": [], "scope": "alpha:service:one"}


def test_the_provider_of_last_may_be_replaced_under_the_same_function(start, host: FakeHost) -> None:
    first = start("def run(c): c['interface_registry'].register('k', lambda: 'first')")
    start(
        """
        def run(context):
            ir = context["interface_registry"]
            fn = ir.get("k")
            ir.register("ask", lambda: fn())
        """,
        pack_id="beta",
    )
    assert host.call("ask") == "first"
    first.close()
    wait_until(lambda: not any(e.key == "k" for e in host.entries), "the end of the first")
    with pytest.raises(BusError) as caught:
        host.call("ask")
    assert caught.value.type == "error/MissingInterface"
    start("def run(c): c['interface_registry'].register('k', lambda: 'second')", pack_id="gamma")
    assert host.call("ask") == "second"


def test_mistakes_that_would_end_the_connection_are_refused_inside(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir, events = context["interface_registry"], context["event_bus"]
            deep = {}
            for _ in range(80):
                deep = {"properties": {"a": deep}}
            seen = []
            for attempt in (
                lambda: events.publish("", 1),
                lambda: events.publish("t" * 257, 1),
                lambda: events.subscribe("", print),
                lambda: ir.register("k" * 257, 1),
                lambda: ir.register(7, 1),
                lambda: ir.register_handler("one.deep", lambda a, c: a, input_schema=deep),
            ):
                try:
                    attempt()
                except Exception as error:
                    seen.append(type(error).__name__)
            ir.register("one.seen", lambda args, ctx: seen)
    """)
    assert host.call("one.seen") == ["ValueError"] * 4 + ["TypeError", "ValueRefused"]
