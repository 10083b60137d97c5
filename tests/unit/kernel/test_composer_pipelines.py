"""Pipelines, an older style: files of all layers make one flow; a Pack's steps come into another's by its right only."""

from __future__ import annotations

from core_runtime.diagnostics import Diagnostics
from core_runtime.flow_composer import FlowComposer, PackDocument
from core_runtime.rules.flow.compose import World
from core_runtime.rules.flow.model import Layer
from core_runtime.rules.flow.plan import walk_steps

FIRST = "pipelines: {{main: [{{id: a, run: {{handler: {by}}}}}, {{id: b, run: {{handler: {by}}}}}]}}\n"
MORE = "pipelines: {{main: [{{id: {id}, run: {{handler: {by}}}}}]}}\n"


def handlers(composition):
    return {step.id: step.action.handler for step in walk_steps(composition.plan.flow.steps)}


def test_files_of_pipelines_come_in_the_order_of_layers_then_names(tmp_path):
    for name in ("core", "ecosystem", "loose", "user"):
        (tmp_path / name).mkdir()
    (tmp_path / "core" / "z.yaml").write_text(FIRST.format(by="core"))
    (tmp_path / "ecosystem" / "b.yaml").write_text(MORE.format(id="a", by="eco.b"))
    (tmp_path / "ecosystem" / "a.yaml").write_text(MORE.format(id="a", by="eco.a"))
    (tmp_path / "loose" / "a.yaml").write_text(MORE.format(id="c", by="loose"))
    (tmp_path / "user" / "a.yaml").write_text(MORE.format(id="b", by="user"))
    mine = PackDocument("mine", "mine:x.yaml", MORE.format(id="c", by="mine").encode())
    diagnostics = Diagnostics()
    composer = FlowComposer(
        core=tmp_path / "core", ecosystem=[tmp_path / "ecosystem"], user=[tmp_path / "loose", tmp_path / "user"],
        packs=lambda: [mine], diagnostics=diagnostics,
    )  # fmt: skip
    found = composer.load(World(may_modify=lambda pack, flow: (pack, flow) == ("mine", "main")))["main"]
    assert handlers(found) == {"a": "eco.b", "b": "user", "c": "loose"}
    assert (found.plan.flow.layer, found.style) == (Layer.CORE, "pipelines")
    order = [(change.source.rpartition("/")[2], change.op, change.step) for change in found.changes]
    assert order == [
        ("a.yaml", "replace", "a"), ("b.yaml", "replace", "a"), ("mine:x.yaml", "insert", "c"), ("a.yaml", "replace", "c"),
        ("a.yaml", "replace", "b"),
    ]  # fmt: skip
    assert {step.id: step.acts_as for step in found.plan.flow.steps} == {"a": (), "b": (), "c": ()}
    assert composer.load(World(may_modify=lambda pack, flow: (pack, flow) == ("mine", "main")))["main"] is found
    assert diagnostics.issues() == []


def test_a_packs_pipeline_needs_its_right_each_time_anew(tmp_path):
    (tmp_path / "a.yaml").write_text(FIRST.format(by="host"))
    theirs = [PackDocument("evil", "evil:x.yaml", MORE.format(id="a", by="evil").encode())]
    diagnostics = Diagnostics()
    composer = FlowComposer(core=tmp_path / "none", user=[tmp_path], packs=lambda: theirs, diagnostics=diagnostics)
    granted = World(may_modify=lambda _pack, _flow: True)
    assert handlers(composer.load()["main"])["a"] == "host"
    [issue] = diagnostics.issues()
    assert (issue.code, "flow.modify" in issue.detail) == ("flow_modifier", True)
    # the Pack's layer comes first, and the operator's step takes its place
    found = composer.load(granted)["main"]
    assert (handlers(found)["a"], found.plan.flow.layer, found.plan.flow.origin.pack) == ("host", Layer.USER, "")
    theirs[0] = PackDocument("evil", "evil:x.yaml", MORE.format(id="c", by="evil").encode())
    assert handlers(composer.load(granted)["main"])["c"] == "evil"
    assert "c" not in handlers(composer.load()["main"])


def test_two_packs_of_one_pipeline_and_one_that_takes_a_sealed_flow_are_issues(tmp_path):
    (tmp_path / "sealed.yaml").write_text("flow: startup\nsealed: true\nsteps: [{call: k}]\n")
    documents = [
        PackDocument("one", "one:x.yaml", FIRST.format(by="one").encode()),
        PackDocument("two", "two:x.yaml", MORE.format(id="c", by="two").encode()),
        PackDocument("evil", "evil:x.yaml", b"pipelines: {startup: [{run: {handler: evil}}]}"),
    ]
    diagnostics = Diagnostics()
    composer = FlowComposer(core=tmp_path, packs=lambda: documents, diagnostics=diagnostics)
    found = composer.load()
    assert (set(found), handlers(found["startup"])) == ({"startup"}, {"step0": "k"})
    assert {(issue.code, issue.subject) for issue in diagnostics.issues()} == {
        ("flow_twice", "main"), ("flow_taken", "startup"),
    }  # fmt: skip
    documents[1] = PackDocument("two", "two:x.yaml", MORE.format(id="c", by="two").encode(), since={"main": 5.0})
    found = composer.load()["main"]
    assert (handlers(found), found.plan.flow.origin.pack) == ({"c": "two"}, "two"), "it was approved with it"
    assert {change.why for change in found.changes} == {"one was not granted flow.modify for main"}
    documents.pop(1)
    assert set(composer.load()) == {"startup", "main"}
    assert {issue.code for issue in diagnostics.issues()} == {"flow_taken"}
