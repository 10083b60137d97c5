"""Layers of flow files: what counts, what is refused, and that the order of files never matters."""

from __future__ import annotations

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.flow_composer import FlowComposer, PackDocument, read_flow
from core_runtime.rules.flow.compose import World
from core_runtime.rules.flow.model import Layer
from core_runtime.rules.flow.plan import plan_flow, walk_steps
from tests.support.documents import ROOT

OPEN = "flow: a.b\nabout: {about}\nsteps: [{{call: k}}]\n"
SEALED = "flow: a.b\nphases: [{name: p, sealed: true}]\nsteps: [{phase: p, call: k}]\n"


@pytest.fixture
def folders(tmp_path):
    for name in ("core", "ecosystem", "user"):
        (tmp_path / name).mkdir()
    return tmp_path


def compose(folders):
    diagnostics = Diagnostics()
    composer = FlowComposer(
        core=folders / "core", ecosystem=[folders / "ecosystem"], user=[folders / "user"], diagnostics=diagnostics
    )
    return composer.load(), diagnostics


def test_a_higher_layer_replaces_an_unsealed_flow(folders):
    for name in ("core", "ecosystem", "user"):
        (folders / name / "x.flow.yaml").write_text(OPEN.format(about=name))
    flows, diagnostics = compose(folders)
    flow = flows["a.b"].plan.flow
    assert (flow.about, flow.layer, diagnostics.issues()) == ("user", Layer.USER, [])


def test_a_sealed_flow_refuses_and_names_both(folders):
    (folders / "core" / "x.flow.yaml").write_text(SEALED)
    (folders / "user" / "mine.flow.yaml").write_text(OPEN.format(about="user"))
    flows, diagnostics = compose(folders)
    assert flows["a.b"].plan.flow.layer is Layer.CORE
    [issue] = diagnostics.issues()
    assert issue.code == "flow_sealed"
    assert "mine.flow.yaml" in issue.detail
    assert "x.flow.yaml" in issue.detail


def test_two_files_of_one_layer_refuse_each_other(folders):
    for name in ("1", "2"):
        (folders / "user" / f"{name}.flow.yaml").write_text(OPEN.format(about=name))
    flows, diagnostics = compose(folders)
    assert "a.b" not in flows
    assert [issue.code for issue in diagnostics.issues()] == ["flow_twice"]


def test_a_broken_file_is_an_issue_with_its_place_and_the_rest_loads(folders):
    (folders / "user" / "bad.flow.yaml").write_text("flow: a.bad\nsteps:\n  - {cal: k}\n")
    (folders / "user" / "worse.flow.yaml").write_text("flow: [\n")
    (folders / "user" / "good.flow.json").write_text('{"flow": "a.good", "steps": [{"call": "k"}]}')
    (folders / "user" / "link.flow.yaml").symlink_to(folders / "user" / "good.flow.json")
    flows, diagnostics = compose(folders)
    assert set(flows) == {"a.good"}
    issues = {issue.subject.rpartition("/")[2]: issue for issue in diagnostics.issues()}
    assert set(issues) == {"bad.flow.yaml", "worse.flow.yaml"}
    assert issues["bad.flow.yaml"].evidence["line"] == 3
    assert "Did you mean 'call'?" in issues["bad.flow.yaml"].detail


def test_a_mended_file_takes_its_issue_back(folders):
    file = folders / "user" / "x.flow.yaml"
    file.write_text("flow: a.b\nsteps: []\n")
    diagnostics = Diagnostics()
    composer = FlowComposer(core=folders / "core", user=[folders / "user"], diagnostics=diagnostics)
    assert composer.load() == {}
    assert len(diagnostics.issues()) == 1
    file.write_text(OPEN.format(about="x"))
    assert set(composer.load()) == {"a.b"}
    assert diagnostics.issues() == []


def test_what_did_not_change_is_understood_once_and_what_is_gone_is_no_issue_any_more(folders):
    good, bad = folders / "user" / "good.flow.yaml", folders / "user" / "bad.flow.yaml"
    good.write_text(OPEN.format(about="x"))
    bad.write_text("flow: [")
    twice = folders / "user" / "twice.flow.yaml"
    twice.write_text(OPEN.format(about="y"))
    diagnostics = Diagnostics()
    composer = FlowComposer(core=folders / "core", user=[folders / "user"], diagnostics=diagnostics)
    composer.load()
    assert {issue.code for issue in diagnostics.issues()} == {"flow_refused", "flow_twice"}
    bad.unlink()
    twice.unlink()
    first = composer.load()
    assert diagnostics.issues() == []
    assert composer.load()["a.b"] is first["a.b"]
    good.write_text(OPEN.format(about="z"))
    assert composer.load()["a.b"].plan.flow.about == "z"


MODIFIER = """
modify: a.b
id: mine.guard
ops: [{{insert: {{before: {target}}}, steps: [{{id: guard, call: g}}]}}]
"""


def test_the_users_modifier_changes_a_flow_and_a_mended_one_takes_its_issue_back(folders):
    (folders / "core" / "x.flow.yaml").write_text("flow: a.b\nsteps: [{id: k, call: k}]\n")
    file = folders / "user" / "guard.modifier.yaml"
    file.write_text(MODIFIER.format(target="nothing") + "if_missing: fail\n")
    flows, diagnostics = compose(folders)
    assert [step.id for _, steps in flows["a.b"].plan.phases for step in steps] == ["k"]
    [issue] = diagnostics.issues()
    assert (issue.code, "no step 'nothing'" in issue.detail, "flow explain a.b" in issue.hint) == ("flow_modifier", True, True)
    file.write_text(MODIFIER.format(target="k"))
    composer = FlowComposer(core=folders / "core", user=[folders / "user"], diagnostics=diagnostics)
    assert [step.id for _, steps in composer.load()["a.b"].plan.phases for step in steps] == ["guard", "k"]
    assert diagnostics.issues() == []


def with_packs(folders, *documents, may_modify=True):
    diagnostics = Diagnostics()
    composer = FlowComposer(
        core=folders / "core", diagnostics=diagnostics,
        packs=lambda: [PackDocument(one[0], f"{one[0]}:{one[1]}", one[2].encode(), since=dict(one[3:])) for one in documents],
    )  # fmt: skip
    return composer.load(World(may_modify=lambda _pack, _flow: may_modify)), diagnostics


def test_a_packs_flow_and_another_packs_modifier(folders):
    documents = [
        ("acme", "answer.flow.yaml", "flow: a.b\nsteps: [{id: k, call: k}]"),
        ("guard", "guard.modifier.yaml", MODIFIER.format(target="k")),
    ]
    flows, diagnostics = with_packs(folders, *documents)
    steps = {step.id: step for _, block in flows["a.b"].plan.phases for step in block}
    assert ({name: step.acts_as for name, step in steps.items()}, diagnostics.issues()) == (
        {"guard": ("guard",), "k": ("acme",)}, [],
    )  # fmt: skip
    refused, diagnostics = with_packs(folders, *documents, may_modify=False)
    assert [step.id for _, block in refused["a.b"].plan.phases for step in block] == ["k"]
    assert "flow.modify" in diagnostics.issues()[0].detail


def test_a_pack_can_not_replace_a_flow_of_the_host_nor_use_its_handlers(folders):
    (folders / "core" / "x.flow.yaml").write_text("flow: a.b\nsteps: [{id: k, call: k}]\n")
    flows, diagnostics = with_packs(
        folders, ("acme", "x.flow.yaml", "flow: a.b\nsteps: [{call: mine}]"),
        ("acme", "y.flow.yaml", 'flow: a.c\nsteps: [{call: "kernel:trust.open"}]'),
    )  # fmt: skip
    assert flows["a.b"].plan.handlers == {"k"}
    assert sorted(issue.code for issue in diagnostics.issues()) == ["flow_refused", "flow_taken"]


def test_missing_folders_hold_no_flows(tmp_path):
    flows, diagnostics = compose(tmp_path)
    assert (dict(flows), diagnostics.issues()) == ({}, [])


def test_the_startup_flow_has_the_seven_steps_in_order_and_looks_for_what_is_wrong_last():
    plan = plan_flow(read_flow(ROOT / "flow" / "core" / "00_startup.flow.yaml", Layer.CORE))
    assert [step.id for _, steps in plan.phases for step in steps] == [
        "security", "engine", "approvals", "scan", "orchestrator", "start", "components",
        "diagnosis",
    ]  # fmt: skip
    first = plan.phases[0][0]
    assert (first.sealed, first.on_error) == (True, "fail")
    assert all(handler.startswith("kernel:") for handler in plan.handlers)


def test_every_handler_of_the_startup_flow_exists():
    from core_runtime.handlers import table

    flow = read_flow(ROOT / "flow" / "core" / "00_startup.flow.yaml", Layer.CORE)
    called = {step.action.handler for step in walk_steps(flow.steps) if hasattr(step.action, "handler")}
    assert called <= {f"kernel:{name}" for name in table.registered()}


def test_phase_file_and_interface_names_stand_in_the_flow_only():
    sources = "".join(
        path.read_text(encoding="utf-8")
        for path in [*(ROOT / "core_runtime" / "handlers").glob("*.py"), ROOT / "core_runtime" / "kernel.py",
                     ROOT / "core_runtime" / "component_lifecycle.py"]
    )  # fmt: skip
    for name in ("setup.py", '"setup"', "io.http.routes", "runtime_boot"):
        assert name not in sources, name


@pytest.mark.parametrize("twice", [False, True], ids=["one file", "two files that refuse each other"])
def test_a_packs_flow_neither_removes_nor_becomes_one_of_the_operators_in_its_layer(folders, twice):
    (folders / "ecosystem" / "x.flow.yaml").write_text(SEALED)
    if twice:
        (folders / "ecosystem" / "y.flow.yaml").write_text(SEALED)
    theirs = PackDocument("other", "other:backend/flows/x.yaml", OPEN.format(about="theirs").encode())
    diagnostics = Diagnostics()
    composer = FlowComposer(
        core=folders / "core", ecosystem=[folders / "ecosystem"], packs=lambda: [theirs], diagnostics=diagnostics
    )
    found = composer.load()
    assert [one.plan.flow.origin.pack for one in found.values()] == ([] if twice else [""])
    [taken] = [issue for issue in diagnostics.issues() if issue.code == "flow_taken"]
    assert "other:backend/flows/x.yaml" in taken.detail
    assert "x.flow.yaml" in taken.detail or "y.flow.yaml" in taken.detail


MINE, THEIRS = OPEN.format(about="mine"), OPEN.format(about="theirs")


@pytest.mark.parametrize("turned", [False, True])
def test_the_pack_that_was_approved_with_a_flow_first_keeps_it(folders, turned):
    documents = [("zeta", "x.yaml", MINE, ("a.b", 1.0)), ("acme", "x.yaml", THEIRS, ("a.b", 2.0))]
    found, diagnostics = with_packs(folders, *(reversed(documents) if turned else documents))
    assert [one.plan.flow.origin.pack for one in found.values()] == ["zeta"]
    [issue] = diagnostics.issues()
    assert issue.code == "flow_taken"
    assert "from zeta" in issue.detail
    assert "acme:x.yaml" in issue.detail


def test_an_owner_that_refuses_itself_leaves_its_flow_to_nobody(folders):
    documents = [("zeta", f"{name}.yaml", MINE, ("a.b", 1.0)) for name in "xy"]
    found, diagnostics = with_packs(folders, *documents, ("acme", "x.yaml", THEIRS, ("a.b", 2.0)))
    assert dict(found) == {}
    assert sorted(issue.code for issue in diagnostics.issues()) == ["flow_taken", "flow_twice"]


def test_two_packs_without_a_date_refuse_each_other(folders):
    found, diagnostics = with_packs(folders, ("zeta", "x.yaml", MINE), ("acme", "x.yaml", THEIRS))
    assert (dict(found), [issue.code for issue in diagnostics.issues()]) == ({}, ["flow_twice"])


BASE = """
flow: a.base
version: 2
vars: {x: 1, y: 1}
on: [t.topic]
steps: [{id: one, call: k.one}, {id: two, call: k.two, needs: [one]}]
finally: [{id: last, call: k.last}]
"""
EXTENDS = """
flow: a.more
extends: a.base
vars: {y: 2}
steps: [{id: two, call: k.other, needs: [one]}, {id: three, call: k.three, needs: [two]}]
"""


def whole(folders, *documents, may_run=True):
    diagnostics = Diagnostics()
    composer = FlowComposer(
        core=folders / "core", diagnostics=diagnostics,
        packs=lambda: [PackDocument(pack, f"{pack}:{number}.yaml", text.encode()) for number, (pack, text) in enumerate(documents)],
    )  # fmt: skip
    world = World(may_run=lambda _pack, _flow: may_run)
    found = composer.load(world)
    assert all(again is found[flow_id] for flow_id, again in composer.load(world).items() if len(documents) < 3)
    return found, diagnostics


def test_a_flow_begins_with_the_words_and_steps_of_another(folders):
    (folders / "core" / "base.yaml").write_text(BASE)
    (folders / "core" / "more.yaml").write_text(EXTENDS)
    found, diagnostics = whole(folders)
    flow = found["a.more"].plan.flow
    assert [(step.id, step.action.handler) for step in flow.steps] == [
        ("one", "k.one"), ("two", "k.other"), ("three", "k.three"),
    ]  # fmt: skip
    assert ([name for name, _ in flow.variables], flow.version, flow.triggers) == (["x", "y"], "", ())
    assert ([step.id for step in flow.finally_], diagnostics.issues()) == (["last"], [])
    assert [step.origin.source.rpartition("/")[2] for step in flow.steps] == ["base.yaml", "more.yaml", "more.yaml"]


def test_steps_that_were_taken_over_act_as_both(folders):
    found, _ = whole(folders, ("acme", BASE), ("evil", EXTENDS))
    flow = found["a.more"].plan.flow
    assert {step.id: step.acts_as for step in (*flow.steps, *flow.finally_)} == {
        "one": ("acme", "evil"), "two": ("evil",), "three": ("evil",), "last": ("acme", "evil"),
    }  # fmt: skip
    guard = "modify: a.more\nid: m.g\nops: [{insert: {before: one}, steps: [{id: g, call: k.g}]}]"
    changed, _ = whole(folders, ("acme", BASE), ("evil", EXTENDS), ("evil", guard))
    assert {step.id: step.acts_as for step in changed["a.more"].plan.flow.steps}["one"] == ("acme", "evil")


@pytest.mark.parametrize(
    ("documents", "may_run", "why"),
    [
        ([("evil", EXTENDS)], True, "no such flow"),
        ([("acme", BASE), ("evil", EXTENDS)], False, "flow.run"),
        ([("acme", BASE + "sealed: true\n"), ("evil", EXTENDS)], True, "sealed"),
        ([("acme", EXTENDS.replace("a.base", "a.more"))], True, "circle"),
        ([("acme", EXTENDS), ("acme", "flow: a.base\nextends: a.more\n")], True, "circle"),
        ([("acme", BASE), ("acme", EXTENDS.replace("needs: [two]", "needs: [gone]"))], True, "gone"),
        ([("acme", BASE.replace("{x: 1, y: 1}", "${input}")), ("acme", EXTENDS)], True, "can't be put together"),
        ([("acme", BASE), ("acme", EXTENDS.replace("{y: 2}", "${input}"))], True, "can't be put together"),
    ],
)
def test_what_can_not_be_taken_over_is_refused_by_name(folders, documents, may_run, why):
    found, diagnostics = whole(folders, *documents, may_run=may_run)
    assert "a.more" not in found
    assert any(issue.code == "flow_refused" and why in issue.detail for issue in diagnostics.issues()), diagnostics.issues()


def test_nobody_takes_the_hosts_handlers_over(folders):
    (folders / "core" / "base.yaml").write_text('flow: a.base\nsteps: [{id: one, call: "kernel:trust.open"}]\n')
    found, diagnostics = whole(folders, ("evil", EXTENDS))
    assert ("a.more" in found, [issue.code for issue in diagnostics.issues()]) == (False, ["flow_refused"])
