"""Layers of flow files: what counts, what is refused, and that the order of files never matters."""

from __future__ import annotations

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.flow_composer import FlowComposer, read_flow
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
    assert (flows["a.b"].about, flows["a.b"].layer, diagnostics.issues()) == ("user", Layer.USER, [])


def test_a_sealed_flow_refuses_and_names_both(folders):
    (folders / "core" / "x.flow.yaml").write_text(SEALED)
    (folders / "user" / "mine.flow.yaml").write_text(OPEN.format(about="user"))
    flows, diagnostics = compose(folders)
    assert flows["a.b"].layer is Layer.CORE
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


def test_modifiers_are_refused_by_name(folders):
    (folders / "user" / "m.flow.yaml").write_text("modify: a.b\nid: x\nops: []\n")
    _, diagnostics = compose(folders)
    [issue] = diagnostics.issues()
    assert "modify 'a.b' is not applied" in issue.detail


def test_missing_folders_hold_no_flows(tmp_path):
    flows, diagnostics = compose(tmp_path)
    assert (dict(flows), diagnostics.issues()) == ({}, [])


def test_the_startup_flow_has_the_seven_steps_in_order():
    plan = plan_flow(read_flow(ROOT / "flow" / "core" / "00_startup.flow.yaml", Layer.CORE))
    assert [step.id for _, steps in plan.phases for step in steps] == [
        "security", "engine", "approvals", "scan", "orchestrator", "start", "components",
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
