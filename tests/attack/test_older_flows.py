"""Hostile documents of the older styles: bombs, injection, recursion, borrowed rights, flows that change while they run."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend_core.errors import AuthorError
from core_runtime.flow_composer import Says, read_document
from core_runtime.handlers import flows
from core_runtime.kernel import Kernel
from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Base, World, compose
from core_runtime.rules.flow.modifier import Modifier
from tests.e2e.test_flows import acme, flow_pack, run
from tests.support.hosts import bare_host, with_bus
from tests.support.older_flows import compositions, played
from tests.support.running_host import RunningHost


def read(document: Any, *, source: str = "evil:x.flow.json", key: str = "", pack: str = "evil") -> Says:
    text = document if isinstance(document, str) else json.dumps(document)
    return read_document(text.encode(), source=source, layer=model.Layer.ECOSYSTEM, pack=pack, key=key)


# --- documents --------------------------------------------------------------------------------------------------------

BOMB = """
pipelines: &a {p: [{run: {handler: k, args: {x: &b [1, 2, 3]}}}]}
more: [*a, *b, *b]
"""


@pytest.mark.parametrize("text", [BOMB, "steps: &s\n- {handler: k, args: *s}\n", "flow_id: !!python/name:os.system x\n"])
def test_aliases_and_tags_are_refused_in_every_older_style(text):
    with pytest.raises(AuthorError):
        read(text, source="bomb.yaml")


MANY = 10_001
HUGE = {
    "pipelines": {"pipelines": {"a": [{"id": f"s{n}", "run": {"handler": "k"}} for n in range(MANY)]}},
    "registered": {"steps": [{"handler": "k"}] * MANY},
    "doubled": {"steps": [{"type": "flow", "flow": "k"}] * 6_000},
    "phases": {"flow_id": "a", "steps": [{"handler": "k", "priority": 1}] * MANY},
    "waiting": {"flow_id": "a", "steps": [{"id": f"s{n}", "handler": "k", "depends_on": f"s{n - 1}"} for n in range(MANY)]},
    "modifier": {"modifier_id": "m", "target_flow_id": "a", "action": "append", "steps": [{"handler": "k"}] * MANY},
    "value": {"modifier_id": "m", "target_flow_id": "a", "modifications": [{"action": "remove", "target_step": "a"}] * MANY},
    "deep": {"steps": [json.loads('{"type": "group", "steps": [' * 30 + '{"handler": "k"}' + "]}" * 30)]},
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_ten_thousand_nodes_are_refused_by_name_or_bounded(name):
    if name == "deep":
        assert isinstance(read(HUGE[name]), Base)
        return
    with pytest.raises(AuthorError) as caught:
        read(HUGE[name])
    assert caught.value.code in {"too_complex", "flow_invalid"}
    assert len(caught.value.detail) < 2_000


@pytest.mark.parametrize("text", ["${" * 200_000, "$" * 500_000, "${a" * 200_000, "$ctx.a" * 30_000, "'" * 500_000])
def test_no_text_is_read_more_than_once(text):
    """Each was, or would have been, minutes of work: the test's own limit is the bound."""
    read({"steps": [{"handler": "k", "args": text}]})
    with pytest.raises(AuthorError):
        read({"steps": [{"handler": "k", "when": text}]})


# --- injection --------------------------------------------------------------------------------------------------------

EVIL = ("${secret}", "$ctx.secret", "${env.HOME}", "${1 + 1}", "x' == 'x", "${secret} == ${secret}", "{{secret}}")
INJECTED = {
    "steps": [
        {"handler": "old.note", "args": {"whole": "${ctx.text}", "part": "<$ctx.text>"}, "output": "seen"},
        {"handler": "old.note", "args": ["${seen.whole}", "again ${seen.part}"]},
        {"handler": "old.note", "args": "guarded", "when": "${ctx.text} == yes"},
        {"handler": "old.note", "args": "guarded", "when": "yes == ${ctx.text}"},
    ]
}


@pytest.mark.parametrize("text", EVIL)
def test_what_a_value_says_is_never_read_as_a_reference_or_a_condition(text):
    compositions_ = compositions([read(INJECTED, key="flow.a.b", pack="old")])
    play = played(compositions_, "a.b", {"text": text, "secret": "told"})
    assert [args for _, args in play.calls] == [{"whole": text, "part": f"<{text}>"}, [text, f"again <{text}>"]]


@pytest.mark.parametrize("text", ["${env.HOME}", "${ctx.__class__}", "${os.environ}", "$ctx.__init__.__globals__", "${ctx.a.0.b}"])
def test_a_path_walks_values_and_nothing_else(text):
    flow = compositions([read({"steps": [{"handler": "old.note", "args": text}]}, key="flow.a.b", pack="old")])
    assert [args for _, args in played(flow, "a.b", {"a": "text"}).calls] == [None]


# --- recursion --------------------------------------------------------------------------------------------------------


def test_flows_that_run_each_other_end_where_they_would_begin_again():
    def calling(other: str) -> Any:
        return {
            "steps": [
                {"handler": "old.note", "args": other},
                {"type": "flow", "flow": other, "output": "got"},
                {"type": "flow", "flow": other, "output": "got"},
            ]
        }

    names = ("e.a", "e.b", "e.c")
    documents = [read(calling(names[(n + 1) % 3]), key=f"flow.{name}", pack="old") for n, name in enumerate(names)]
    play = played(compositions(documents), "e.a", {})
    assert play.machine.outcome is not None
    assert play.machine.outcome.status is endings.RunStatus.OK
    assert [args for _, args in play.calls] == ["e.b", "e.c", "e.a", "e.a", "e.c", "e.a", "e.a"]
    assert play.machine.outcome.output["got"]["got"]["got"] == {"_error": "recursion"}


def test_a_loop_without_an_end_meets_the_runs_own_limit():
    document = {"steps": [{"type": "loop", "steps": [{"handler": "old.note", "args": 1}]}]}
    play = played(compositions([read(document, key="flow.a.b", pack="old")]), "a.b", {})
    assert play.machine.outcome is not None
    assert play.machine.outcome.error is not None
    assert play.machine.outcome.error.type == "limit"


# --- rights -----------------------------------------------------------------------------------------------------------

SEALED = "flow: a.b\nphases: [{name: p, sealed: true}, q]\nsteps: [{id: s, phase: p, call: k}, {id: t, phase: q, call: k}]"
OLDER = [
    {"modifier_id": "m", "target_flow_id": "a.b", "action": action, "target_step_id": "s", "step": {"handler": "x"}}
    for action in ("inject_before", "inject_after", "replace", "remove")
] + [
    {"modifier_id": "m", "target_flow_id": "*", "action": "append", "phase": "p", "step": {"handler": "x"}},
    {"modifier_id": "m", "target_flow_id": "a.b", "modifications": [{"action": "wrap_with_loop", "target_step": "s"}]},
    {"modifier_id": "m", "target_flow_id": "a.b", "modifications": [
        {"action": "set_property", "target_step": "s", "property": "handler", "value": "x"}]},
]  # fmt: skip


@pytest.mark.parametrize("document", OLDER, ids=range(len(OLDER)))
def test_an_older_modifier_is_refused_by_seals_and_without_a_right(document):
    modifier, sealed, plain = read(document), read(SEALED, source="f.yaml", pack=""), SEALED.replace(", sealed: true", "")
    open_ = read(plain, source="f.yaml", pack="")
    assert isinstance(modifier, Modifier)
    assert isinstance(sealed, Base)
    assert isinstance(open_, Base)
    for base, world, said in (
        (sealed, World(may_modify=lambda _pack, _flow: True), "is sealed"),
        (open_, World(), "was not granted flow.modify"),
    ):
        found = compose(base, [modifier], world)
        assert {change.status for change in found.changes} == {Status.REFUSED}
        assert all(said in change.why for change in found.changes)
        assert found.plan.handlers == {"k"}
    found = compose(open_, [modifier], World(may_modify=lambda _pack, _flow: True))
    assert {change.status for change in found.changes} == {Status.APPLIED}


# --- what is registered -----------------------------------------------------------------------------------------------


def test_what_a_pack_registers_as_flows_has_an_end(tmp_path):
    async def story() -> dict[str, str]:
        host = await with_bus(bare_host(tmp_path))
        long = {"steps": [{"handler": "k", "args": "x" * 100_000}]}
        for number in range(4):
            host.registry.add(f"flow.evil.n{number}", long, pack="evil")
        host.registry.add("flow.good", {"steps": [{"handler": "k"}]}, pack="good")
        host.registry.add("flow.evil.fn", lambda _args, _ctx: None, pack="evil")
        host.registry.add("flow.evil.odd", {"steps": [{"handler": len}]}, pack="evil")
        host.registry.add("flow.hooks.before_step", {"steps": []}, pack="evil")
        registered = flows.Registered(host)
        kernel = Kernel(host, registered.documents)
        found = dict.fromkeys(await kernel.flows(), "")
        found |= {issue.subject: issue.detail for issue in host.diagnostics.issues()}
        await host.close()
        return found

    found = asyncio.run(story())
    assert set(found) == {
        "evil.n0", "evil.n1", "good", "evil:flow.evil.n2", "evil:flow.evil.n3", "evil:flow.evil.odd",
    }  # fmt: skip
    assert "262144 bytes" in found["evil:flow.evil.n2"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


CHANGING = """
import threading

FIRST = {"steps": [{"id": "wait", "handler": "evil.wait", "output": "waited"}, {"id": "then", "handler": "evil.same", "output": "said"}]}


def run(context):
    ir = context["interface_registry"]
    gate, asked = threading.Event(), threading.Event()

    def wait(args, ctx):
        asked.set()
        gate.wait(30)
        return "waited"

    def change(args, ctx):
        ir.register("flow.evil.x", args["flow"])

    def steal(args, ctx):
        ir.register(args["key"], args["flow"])

    ir.register("evil.wait", wait)
    ir.register("evil.asked", lambda args, ctx: asked.is_set())
    ir.register("evil.open", lambda args, ctx: gate.set())
    ir.register("evil.same", lambda args, ctx: "the same")
    ir.register("evil.change", change)
    ir.register("evil.steal", steal)
    ir.register("flow.evil.x", FIRST)
"""
EVIL_KEYS = ("evil.wait", "evil.asked", "evil.open", "evil.same", "evil.change", "evil.steal", "flow.evil.x")


@pytest.mark.embedded
def test_a_registered_flow_that_changes_after_approval_gains_nothing(host: RunningHost) -> None:
    acme(host)
    host.put_pack("evil", flow_pack("evil", CHANGING, {}, provides=EVIL_KEYS))
    host.approve("evil")
    host.until(lambda: host.status("evil")["status"] == "running", 30, "the Pack to run")
    before = host.ok("GET", "/api/flows/evil.x/explain")
    assert [step["acts_as"] for step in before["steps"]] == [["evil"], ["evil"]]

    found = SimpleNamespace(report=None)
    thread = threading.Thread(target=lambda: setattr(found, "report", run(host, "evil.x", {})))
    thread.start()
    host.until(lambda: host.result("evil.asked"), 20, "the run to be under way")
    borrowed = {"steps": [{"id": "take", "handler": "acme.double", "args": {"value": 1}, "output": "took"}]}
    host.result("evil.change", {"flow": borrowed})
    host.result("evil.open")
    thread.join(30)
    assert found.report["output"] == {"waited": "waited", "said": "the same"}, "a run keeps the flow that it began with"

    assert host.ok("GET", "/api/flows/evil.x/explain")["digest"] != before["digest"]
    report = run(host, "evil.x", {})
    assert [step["error"]["type"] for step in report["steps"]] == ["denied"], "it acts as its Pack, whatever it says"

    host.result("evil.change", {"flow": {"steps": [{"handler": "kernel:trust.open"}]}})
    status, envelope = host.request("POST", "/api/flows/evil.x/run", {"input": {}})
    assert (status, envelope["success"]) == (404, False)
    issue = next(one for one in host.ok("GET", "/api/issues") if one["subject"] == "evil:flow.evil.x")
    assert "kernel handlers" in issue["detail"]

    for key in ("flow.acme.answer", "flow.rumi.startup", "flow.modifier"):
        status, envelope = host.call("evil.steal", {"key": key, "flow": borrowed})
        assert not envelope["success"], key
    assert run(host, "acme.answer", {"value": 21})["output"] == {"doubled": 42, "caller": "acme"}
    host.ok("POST", "/api/packs/evil/reject", {"reason": "no more"})
    assert "evil.x" not in {one["flow"] for one in host.ok("GET", "/api/flows")}, "gone with its Pack"


FILE_CALL = """
flow_id: evil.calls
steps:
  - {id: theirs, type: python_file_call, owner_pack: acme, file: backend/handlers/inner.py, input: {}, output: got}
outputs: [got]
"""
MINE = FILE_CALL.replace("evil.calls", "acme.calls")
SETUP = "def run(context):\n    pass\n"


@pytest.mark.embedded
def test_a_file_call_runs_in_its_owners_sandbox_for_who_may_call_it(host: RunningHost) -> None:
    inner = {"backend/handlers/inner.py": "def run(args, ctx):\n    return {'caller': ctx['caller']}\n"}
    owner = flow_pack("acme", SETUP, {"calls.flow.yaml": MINE}, provides=("acme.inner",))
    host.put_pack("acme", {**owner, **inner})
    host.approve("acme")
    host.put_pack("evil", flow_pack("evil", SETUP, {"calls.flow.yaml": FILE_CALL}, provides=("evil.nothing",)))
    host.approve("evil")
    host.until(lambda: host.status("acme")["status"] == "running", 30, "the Pack to run")
    assert run(host, "acme.calls", {})["output"] == {"got": {"caller": "acme"}}
    report = run(host, "evil.calls", {})
    assert [step["error"]["type"] for step in report["steps"]] == ["denied"], report


CONSTRUCT = """
def run(context):
    context["interface_registry"].register("flow.construct.thrice", lambda args, ctx: [args["run"]({}) for _ in range(3)])
"""
TAKEN = """
steps:
  - {id: three, type: thrice, steps: [{id: a, handler: acme.double, args: {value: 1}}]}
  - {id: b, handler: acme.asked, output: b}
"""
NAMED = """
flow: my
steps:
  - {id: three, "evil:thrice": {}, do: [{id: a, call: acme.double, with: {value: 1}}]}
  - {id: b, call: acme.asked}
"""


@pytest.mark.embedded
def test_a_construct_that_nobody_named_needs_the_right_to_change_the_flow(host: RunningHost) -> None:
    """An older step names only the type; who owns that key decides how often somebody else's steps run."""
    acme(host)
    folder = host.home / "user_data" / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my.flow.yaml").write_text(TAKEN)
    asks = [{"type": "flow.modify", "flows": ["evil.*"]}]
    host.put_pack("evil", flow_pack("evil", CONSTRUCT, {}, asks=asks, provides=("flow.construct.thrice",)))
    host.ok("POST", "/api/packs/evil/approve", {"permissions": asks})
    host.until(lambda: host.status("evil")["status"] == "running", 30, "the Pack to run")
    report = run(host, "my", {})
    steps = {step["step"]: (step["status"], (step["error"] or {}).get("type")) for step in report["steps"]}
    assert steps == {"three": ("failed", "denied"), "b": ("ok", None)}, report
    (folder / "my.flow.yaml").write_text(NAMED)
    report = run(host, "my", {})
    assert report["status"] == "ok", report
