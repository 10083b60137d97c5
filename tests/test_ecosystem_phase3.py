"""Acceptance, phase 3: registry and events with one API inside the sandbox and in the host; aliases, diagnostics, journal.

``REGISTRY`` and ``EVENTS`` are run as they stand in three places: in this process against the host's own objects, and
inside each sandbox against what a Pack is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.event_bus import EventBus
from core_runtime.function_alias import FunctionAlias
from core_runtime.install_journal import InstallJournal
from core_runtime.interface_registry import InterfaceRegistry
from tests.support.running_host import RunningHost, one_component_pack

WAIT = """
import time

def until(holds):
    end = time.monotonic() + 20
    while not holds():
        if time.monotonic() > end:
            raise AssertionError("waited too long")
        time.sleep(0.005)
    return True
"""
REGISTRY = """
def registry(ir):
    found = {}
    found["absent"] = [ir.get("k.none"), ir.get("k.none", strategy="first"), ir.get("k.none", strategy="all")]
    ir.register("k.many", 1)
    ir.register("k.many", 2, meta={"m": 1})
    ir.register("k.many", 3)
    found["strategies"] = [ir.get("k.many"), ir.get("k.many", strategy="first"), ir.get("k.many", strategy="all")]
    found["if_absent"] = [ir.register_if_absent("k.one", "a"), ir.register_if_absent("k.one", "b"), ir.get("k.one")]
    found["ttl"] = [ir.register_if_absent("k.short", 1, None, 0.05), until(lambda: ir.get("k.short") is None)]
    fn = lambda args, ctx: args["n"] + 1
    ir.register_handler("k.fn", fn, {"type": "object"}, {"type": "integer"}, {"v": 1}, "lambda: ...")
    found["schema"] = [ir.get_schema("k.fn"), ir.get_schema("k.one"), ir.get_source("k.fn"), ir.get_source("k.one")]
    sources = []
    for number in range(50):
        ir.register_handler("k.source", fn, source_code=str(number))
        sources.append(ir.get_source("k.source") == str(number))
    found["sources"] = all(sources)
    ir.register("k.dict", {"deep": {"add": lambda args, ctx: args["a"] + args["b"]}, "n": 1})
    found["dict"] = [ir.get("k.dict")["n"], callable(ir.get("k.dict")["deep"]["add"])]
    seen, glob = [], []
    first = ir.observe("k.seen", lambda key, old, new: seen.append([key, old, new]))
    ir.observe("k.s*", lambda key, old, new: glob.append(key), immediate=False)
    ir.register("k.seen", "x")
    ir.register("k.seen", "y")
    until(lambda: len(seen) == 2 and len(glob) >= 2)
    found["observed"] = seen[:2]
    found["unobserve"] = [ir.unobserve(first), ir.unobserve(first), ir.unobserve_all("k.s*"), ir.unobserve_all()]
    told = []
    now = ir.observe("k.seen", lambda key, old, new: told.append([key, old, new]), immediate=True)
    until(lambda: told)
    found["immediate"] = told[0]
    ir.unobserve(now)
    with ir.temporary_override("k.one", "over"):
        inside = ir.get("k.one")
    found["override"] = [inside, until(lambda: ir.get("k.one") == "a")]
    found["list"] = ir.list(prefix="k.m")
    with_meta = ir.list(prefix="k.m", include_meta=True)["k.many"]
    found["list_meta"] = [with_meta["count"], isinstance(with_meta["last_ts"], float), with_meta["last_meta"]]
    found["find"] = ir.find(lambda key, entry: key.startswith("k.") and entry["meta"].get("m") == 1)
    entries = []
    ir.find(lambda key, entry: entries.append(entry) if key == "k.many" else False)
    found["entry"] = [sorted({"key", "value", "meta", "ts"} & set(entries[0])), entries[0]["key"], entries[0]["value"]]
    found["unregister"] = [ir.unregister("k.many", lambda entry: entry["meta"].get("m") == 1), ir.get("k.many", "all"),
                           ir.unregister("k.many"), ir.get("k.many"), ir.unregister("k.none")]
    return found
"""
REGISTRY_SAYS: dict[str, Any] = {
    "absent": [None, None, []],
    "strategies": [3, 1, [1, 2, 3]],
    "if_absent": [True, False, "a"],
    "ttl": [True, True],
    "schema": [{"input": {"type": "object"}, "output": {"type": "integer"}}, None, "lambda: ...", None],
    "sources": True,
    "dict": [1, True],
    "observed": [["k.seen", None, "x"], ["k.seen", "x", "y"]],
    "unobserve": [True, False, 1, 0],
    "immediate": ["k.seen", None, "y"],
    "override": ["over", True],
    "list": {"k.many": 3},
    "list_meta": [3, True, {}],
    "find": ["k.many"],
    "entry": [["key", "meta", "ts", "value"], "k.many", 1],
    "unregister": [1, [1, 3], 2, None, 0],
}
EVENTS = """
def events(bus):
    got, other = [], []
    name = bus.subscribe("t.one", lambda payload: got.append(payload))
    named = bus.subscribe("t.*", lambda payload: other.append(payload), handler_id="mine")
    sent = bus.publish("t.one", {"n": 1})
    until(lambda: got and other)
    listed = bus.list_subscribers()
    gone = [bus.unsubscribe("t.one", name), bus.unsubscribe("t.one", name), bus.unsubscribe("t.*", "nobody")]
    cleared = [bus.clear("t.none"), bus.clear()]
    bus.publish("t.one", {"n": 2})
    return {"named": named, "sent": sent, "got": got, "other": other, "listed": [listed["t.*"], listed["t.one"] == [name]],
            "gone": gone, "cleared": cleared, "left": bus.list_subscribers()}
"""
EVENTS_SAY: dict[str, Any] = {
    "named": "mine", "sent": 2, "got": [{"n": 1}], "other": [{"n": 1}], "listed": [["mine"], True],
    "gone": [True, False, False], "cleared": [0, 1], "left": {},
}  # fmt: skip
KEYS = ("k.many", "k.one", "k.short", "k.fn", "k.source", "k.dict", "k.seen")
SETUP = f"""
{WAIT}
{REGISTRY}
{EVENTS}

def run(context):
    ir, bus, diagnostics = context["interface_registry"], context["event_bus"], context["diagnostics"]
    journal, data = context["install_journal"], context["userdata_manager"]

    def told(args, ctx):
        diagnostics.record(status="failed", step_id="s", handler="h", error={{"type": "T", "message": "m"}}, meta={{"a": 1}})
        diagnostics.record_step("p", "s2", status="skipped")
        return diagnostics.as_dict()

    def made(args, ctx):
        data.write_text("packs/inside/made.txt", "x")
        journal.record(created=["packs/inside/made.txt"])
        return data.read_text("packs/inside/made.txt")

    async def later(args, ctx):
        return args["n"] * 2

    ir.register("inside.registry", lambda args, ctx: registry(ir))
    ir.register("inside.events", lambda args, ctx: events(bus))
    ir.register("inside.told", told)
    ir.register("inside.made", made)
    ir.register("inside.later", later)
    ir.register("inside.nested", {{"deep": {{"add": lambda args, ctx: args["a"] + args["b"]}}}})
"""


def here(text: str, name: str) -> Any:
    scope: dict[str, Any] = {}
    exec(compile(WAIT + text, name, "exec"), scope)
    return scope[name]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    provided = ("inside.registry", "inside.events", "inside.told", "inside.made", "inside.later", "inside.nested", *KEYS)
    files = one_component_pack("inside", SETUP, provides=provided)
    asks = [{"type": "event.publish", "topics": ["t.*"], "reason": "r"},
            {"type": "event.subscribe", "topics": ["t.*"], "reason": "r"}]  # fmt: skip
    files["backend/permissions.json"] = json.dumps({"pack_id": "inside", "permissions": asks})
    with RunningHost(tmp_path_factory.mktemp("phase3"), request.param) as running:
        running.put_pack("inside", files)
        running.approve("inside")
        running.until(lambda: running.status("inside")["status"] == "running", 30, "the Pack to run")
        yield running


def test_the_registry_in_the_host() -> None:
    assert here(REGISTRY, "registry")(InterfaceRegistry(Diagnostics())) == REGISTRY_SAYS


def test_the_registry_inside_the_sandbox(host: RunningHost) -> None:
    assert host.result("inside.registry") == REGISTRY_SAYS


def test_events_in_the_host() -> None:
    assert here(EVENTS, "events")(EventBus(Diagnostics())) == EVENTS_SAY


def test_events_inside_the_sandbox(host: RunningHost) -> None:
    assert host.result("inside.events") == EVENTS_SAY


def test_handlers_are_plain_or_async_and_lie_in_dicts_too(host: RunningHost) -> None:
    assert host.result("inside.later", {"n": 21}) == 42
    assert "inside.nested" in {one["key"] for one in host.ok("GET", "/api/interfaces")}


def test_function_aliases() -> None:
    alias = FunctionAlias()
    alias.register_aliases("save", ["store", "keep"])
    alias.add_alias("save", "write")
    assert [alias.resolve(name) for name in ("store", "save", "unknown")] == ["save", "save", "unknown"]
    assert alias.find_all("keep") == ["keep", "save", "store", "write"]
    assert [alias.is_alias_of("store", "save"), alias.is_alias_of("other", "save")] == [True, False]
    assert [alias.get_canonical("write"), alias.get_canonical("unknown")] == ["save", None]
    assert alias.list_all_canonicals() == ["save"]
    assert alias.list_all_mappings() == {"save": ["keep", "store", "write"]}
    assert [alias.remove_alias("keep"), alias.remove_alias("keep")] == [True, False]
    assert [alias.remove_canonical("save"), alias.remove_canonical("save")] == [True, False]
    assert alias.resolve("store") == "store"


def _document(found: dict[str, Any]) -> None:
    assert set(found) >= {"started_at", "event_count", "events", "summary"}
    for event in found["events"]:
        assert set(event) >= {"ts", "phase", "step_id", "handler", "status", "target", "error", "meta"}
        assert event["status"] in {"success", "failed", "skipped", "disabled", "unknown"}
        assert set(event["target"]) >= {"kind", "id"}
    summary = found["summary"]
    assert set(summary) >= {"counts", "phase_counts", "failed", "disabled", "last_event_ts", "last_failure"}
    assert summary["last_failure"]["error"]["type"] == "T"
    assert summary["last_failure"]["error"]["message"] == "m"


def test_diagnostics_in_the_host_are_bounded() -> None:
    diagnostics = Diagnostics()
    for index in range(10_001):
        diagnostics.record(phase="p", status="success", step_id=str(index), target={"kind": "k", "id": "i"})
    diagnostics.record(phase="p", status="odd", target={"kind": "k", "id": "i"})
    diagnostics.record(
        phase="q", status="failed", target={"kind": "k", "id": "i"}, error={"type": "T", "message": "m"}
    )
    found = diagnostics.as_dict()
    _document(found)
    assert len(found["events"]) == 10_000
    assert found["event_count"] == 10_003
    assert [event["status"] for event in found["events"][-2:]] == ["unknown", "failed"]


def test_diagnostics_inside_the_sandbox(host: RunningHost) -> None:
    _document(host.result("inside.told"))


def test_the_install_journal(tmp_path: Path) -> None:
    journal = InstallJournal(tmp_path)
    made, foreign = tmp_path / "user_data/packs/p/made.txt", tmp_path / "user_data/permissions/keep"
    for path in (made, foreign):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    link = made.with_name("link")
    link.symlink_to(foreign)
    names = [str(path.relative_to(tmp_path)) for path in (made, foreign, link)]
    journal.append("made", scope="pack", ref="p", created=[*names, "user_data", "/etc/hosts"], meta={"m": 1}, error="e")
    record = next(iter(journal.entries("p")))
    assert set(record) >= {"ts", "event", "scope", "ref", "result", "paths", "meta", "error"}
    assert set(record["paths"]) == {"created", "modified"}
    planned = journal.uninstall("p", dry_run=True)
    assert set(planned) >= {"success", "dry_run", "planned_delete", "deleted", "skipped", "errors", "policy"}
    assert planned["planned_delete"] == [names[0]]
    assert planned["deleted"] == []
    assert made.exists()
    assert {"path", "reason"} <= set(planned["skipped"][0])
    assert journal.uninstall("p", dry_run=False)["deleted"] == [names[0]]
    assert not made.exists()
    assert foreign.exists()
    assert link.is_symlink()


def test_the_install_journal_inside_the_sandbox(host: RunningHost) -> None:
    assert host.result("inside.made") == "x"
    plan = host.ok("POST", "/api/packs/inside/journal/uninstall", {})
    assert plan["planned_delete"] == ["user_data/packs/inside/made.txt"]
    assert plan["dry_run"] is True


def test_a_ttl_really_expires() -> None:
    now = [100.0]
    registry = InterfaceRegistry(Diagnostics(), clock=time.time, monotonic=lambda: now[0])
    assert registry.register_if_absent("k", 1, ttl=5)
    assert registry.get("k") == 1
    now[0] += 5.1
    assert registry.get("k") is None
    assert registry.register_if_absent("k", 2)
