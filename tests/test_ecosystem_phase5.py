"""Acceptance, phase 5: flows of the three older styles, as files and as registered, run by a host over real Packs.

In the order of the formats: pipelines, registered steps, phases, schedules, modifiers of both forms, interpolation and
conditions, and the key under which routes would be registered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.flow_composer import FlowComposer
from tests.support.running_host import RunningHost, one_component_pack

REGISTERED = {
    "flow.five.kinds": {"steps": [
        {"id": "sum", "type": "handler", "handler": "five.add", "args": {"a": "${ctx.n}", "b": 1}, "output": "sum"},
        {"id": "turns", "type": "loop", "exit_when": "${ctx.turn} == 2", "max_iterations": 9, "steps": [
            {"id": "turn", "type": "handler", "handler": "five.same", "args": "${_loop_index}", "output": "turn"}]},
        {"id": "which", "type": "branch", "condition": "${ctx.sum} > 2",
         "then": [{"id": "yes", "type": "handler", "handler": "five.same", "args": "more", "output": "which"}],
         "else": [{"id": "no", "type": "handler", "handler": "five.same", "args": "less", "output": "which"}]},
        {"id": "both", "type": "parallel", "branches": [
            {"name": "left", "steps": [{"id": "l", "type": "handler", "handler": "five.add", "args": {"a": 1, "b": 1}}]},
            {"name": "right", "steps": [{"id": "r", "type": "handler", "handler": "five.add", "args": {"a": 2, "b": 2}}]}]},
        {"id": "off", "type": "group", "when": "${ctx.gone}", "steps": [
            {"id": "never", "type": "handler", "handler": "five.same", "args": "never", "output": "never"}]},
        {"id": "tries", "type": "retry", "handler": "five.flaky", "args": {"after": 3}, "max_attempts": 3, "delay_ms": 1,
         "output": "tries"},
        {"id": "inner", "type": "flow", "flow": "five.inner", "args": {"n": "${ctx.sum}"}, "output": "inner"},
        {"id": "own", "type": "thrice", "config": {"times": 3}, "times": 3, "steps": [
            {"id": "in", "type": "handler", "handler": "five.same", "args": "x"}]},
    ]},
    "flow.five.inner": {"steps": [
        {"id": "twice", "type": "handler", "handler": "five.add", "args": {"a": "${ctx.n}", "b": "${n}"}, "output": "twice"}]},
    "flow.five.itself": {"steps": [
        {"id": "again", "type": "flow", "flow": "five.itself", "args": {}, "output": "again"},
        {"id": "slow", "type": "handler", "handler": "five.slow", "timeout_seconds": 0.1, "output": "late"},
        {"id": "told", "type": "handler", "handler": "five.same", "args": "told", "when": "${late._error} != null",
         "output": "told"}]},
    "flow.five.hooked": {"steps": [
        {"id": "kept", "type": "handler", "handler": "five.same", "args": 1, "output": "kept"},
        {"id": "skipped", "type": "handler", "handler": "five.same", "args": 2, "output": "skipped"},
        {"id": "broken", "type": "handler", "handler": "five.fail", "output": "broken"},
        {"id": "after", "type": "handler", "handler": "five.same", "args": 3, "output": "after"}]},
    "flow.five.halted": {"steps": [
        {"id": "first", "type": "handler", "handler": "five.note", "args": "first"},
        {"id": "halt", "type": "handler", "handler": "five.note", "args": "halt"},
        {"id": "never", "type": "handler", "handler": "five.note", "args": "never"}]},
    "flow.five.again": {"steps": [
        {"id": "soon", "type": "handler", "handler": "five.flaky", "args": {"after": 2, "name": "again"}, "output": "soon"}]},
    "flow.five.ends": {"steps": [
        {"id": "broken", "type": "handler", "handler": "five.fail"},
        {"id": "never", "type": "handler", "handler": "five.note", "args": "never"}]},
    "flow.five.looped": {"steps": [
        {"id": "start", "type": "handler", "handler": "five.note", "args": "start"},
        {"id": "turn", "type": "handler", "handler": "five.note", "args": "${_loop_index}"},
        {"id": "old", "type": "handler", "handler": "five.note", "args": "old"},
        {"id": "gone", "type": "handler", "handler": "five.note", "args": "gone"},
        {"id": "said", "type": "handler", "handler": "five.note", "args": {"how": "quiet", "n": 1}},
        {"id": "off", "type": "handler", "handler": "five.note", "args": "off"}]},
}  # fmt: skip
MODIFIES = {
    "modifier_id": "five.forms", "target_flow_id": "five.loop*", "priority": 10,
    "requires": {"interfaces": ["five.note"], "capabilities": ["five.same"]}, "conflicts_with": ["five.nothing"],
    "modifications": [
        {"action": "inject_before", "target_step": "start", "steps": [
            {"id": "zero", "type": "handler", "handler": "five.note", "args": "zero"}]},
        {"action": "inject_after", "target_step": "start", "steps": [
            {"id": "more", "type": "handler", "handler": "five.note", "args": "more"}]},
        {"action": "replace", "target_step": "old", "steps": [
            {"id": "new", "type": "handler", "handler": "five.note", "args": "new"}]},
        {"action": "remove", "target_step": "gone"},
        {"action": "wrap_with_loop", "target_step": "turn", "exit_when": "${_loop_index} >= 3", "max_iterations": 9},
        {"action": "set_property", "target_step": "said", "property": "args.how", "value": "loud"},
        {"action": "set_property", "target_step": "off", "property": "when", "value": "${gone}"},
    ],
}  # fmt: skip
LAST = {
    "modifier_id": "five.rival", "target_flow_id": "five.looped", "priority": 20, "conflicts_with": "five.forms",
    "modifications": [{"action": "remove", "target_step": "start"}],
}  # fmt: skip
FILES = {
    "a-1.flow.yaml": """
flow_version: "2.0"
defaults: {fail_soft: true, on_missing_handler: skip}
pipelines:
  five.pipe:
    - {id: one, description: replaced below, run: {handler: five.same, args: first}}
    - {id: absent, run: {handler: five.nobody}}
    - {id: broken, optional: true, run: {handler: five.fail}, on_error: {action: continue}}
  five.stops:
    - {id: before, run: {handler: five.note, args: before}}
    - {id: broken, run: {handler: five.fail}, on_error: {action: abort}}
    - {id: never, run: {handler: five.note, args: never}}
  five.disables:
    - {id: broken, run: {handler: five.fail}, on_error: {action: disable_target}}
    - {id: other, run: {handler: five.note, args: other}}
    - {id: same-target, run: {handler: five.fail}}
""",
    "a-2.flow.yaml": """
flow_version: "2.0"
pipelines:
  five.pipe:
    - {id: one, run: {handler: five.note, args: replaced in place}}
    - {id: last, run: {handler: five.note, args: appended}}
""",
    "a-3.flow.yaml": """
flow_version: "2.0"
defaults: {on_missing_handler: error}
pipelines:
  five.strict:
    - {id: absent, run: {handler: five.nobody}, on_error: {action: abort}}
""",
    "c.flow.yaml": """
flow_id: five.phased
inputs: {n: {type: integer, required: true}}
outputs: {sum: sum, shout: shout, set: kept}
phases: [first, second]
defaults: {fail_soft: false, on_missing_step: error}
steps:
  - {id: z, phase: second, type: handler, handler: five.note, input: z}
  - {id: b, phase: first, priority: 50, type: handler, handler: five.note, input: b}
  - {id: a, phase: first, priority: 50, type: handler, handler: five.note, input: a}
  - {id: waits, phase: first, priority: 1, depends_on: [b], type: handler, handler: five.note, input: waits}
  - {id: sum, phase: first, type: function, function: five.add, input: {a: "${ctx.n}", b: 1}, output: sum}
  - {id: shout, phase: second, type: python_file_call, owner_pack: five, file: backend/handlers/shout.py, input: {text: hey}, output: shout}
  - {id: kept, phase: second, type: set, output: kept, value: "${ctx.sum}"}
  - {id: not, phase: second, type: handler, handler: five.note, input: never, when: "${sum} > 100"}
""",
    "stop.flow.yaml": """
flow_id: five.control
steps:
  - {id: a, type: handler, handler: five.note, input: before, priority: 1}
  - {id: b, type: function, function: five.stop, priority: 2}
  - {id: c, type: handler, handler: five.note, input: after, priority: 3}
""",
    "modified.flow.yaml": """
flow_id: five.modified
phases: [p]
steps:
  - {id: one, phase: p, type: handler, handler: five.note, input: one, priority: 10}
  - {id: two, phase: p, type: handler, handler: five.note, input: two, priority: 20}
  - {id: three, phase: p, type: handler, handler: five.note, input: three, priority: 30}
""",
    "before.modifier.yaml": """
modifier_id: five.before
target_flow_id: "five.mod*"
phase: p
priority: 10
action: inject_before
target_step_id: one
requires: {interfaces: [five.note]}
step: {id: zero, type: handler, handler: five.note, input: zero}
""",
    "replace.modifier.yaml": """
modifier_id: five.replace
target_flow_id: five.modified
phase: p
action: replace
target_step_id: two
step: {id: two, type: handler, handler: five.note, input: another}
""",
    "remove.modifier.yaml": """
modifier_id: five.remove
target_flow_id: five.modified
phase: p
action: remove
target_step_id: three
""",
    "lacking.modifier.yaml": """
modifier_id: five.lacking
target_flow_id: five.modified
phase: p
action: append
requires: {interfaces: [five.nobody]}
step: {id: lacking, type: handler, handler: five.note, input: lacking}
""",
    "formed.flow.yaml": """
flow_id: five.formed
phases: [p, q]
steps:
  - {id: one, phase: p, type: handler, handler: five.note, input: one, priority: 10}
  - {id: two, phase: p, type: handler, handler: five.note, input: two, priority: 20}
  - {id: three, phase: q, type: handler, handler: five.note, input: three}
""",
    "after.modifier.yaml": """
modifier_id: five.after
target_flow_id: five.formed
phase: p
priority: 10
action: inject_after
target_step_id: one
requires: {capabilities: [five.same]}
step: {id: between, type: handler, handler: five.note, input: between}
""",
    "append.modifier.yaml": """
modifier_id: five.append
target_flow_id: five.formed
phase: p
priority: 20
action: append
conflicts_with: [five.late]
step: {id: last, type: handler, handler: five.note, input: last of p}
""",
    "late.modifier.yaml": """
modifier_id: five.late
target_flow_id: five.formed
phase: p
priority: 30
action: remove
target_step_id: two
""",
    "kinds.flow.yaml": """
flow_id: five.kinds-of-steps
inputs: {n: {type: integer}}
outputs: {which: which, inner: inner, late: late}
defaults: {fail_soft: true, on_missing_step: skip}
steps:
  - {id: a, priority: 1, type: if, condition: "${ctx.n} > 2", then: [{id: y, type: set, output: which, value: more}],
     else: [{id: m, type: set, output: which, value: less}]}
  - {id: b, priority: 2, type: flow, flow: five.inner, input: {n: "${ctx.n}"}, output: inner}
  - {id: c, priority: 3, type: construct, construct: thrice, times: 2, output: _rounds,
     steps: [{id: s, type: handler, handler: five.same, input: x}]}
  - {id: d, priority: 4, type: handler, handler: five.slow, timeout_seconds: 0.1, output: late}
  - {id: e, priority: 5, type: handler, handler: five.nobody}
  - {id: f, priority: 6, type: handler, handler: five.note, input: went on}
""",
    "ticking.flow.yaml": """
flow_id: five.ticking
schedule: {interval: 1}
steps:
  - {id: tick, type: handler, handler: five.tick}
""",
    "nightly.flow.yaml": """
flow_id: five.nightly
schedule: {cron: "0 3 29 2 *"}
steps:
  - {id: tick, type: handler, handler: five.tick}
""",
    "words.flow.yaml": """
flow_id: five.words
inputs: {}
outputs: {seen: seen}
steps:
  - id: seen
    type: handler
    handler: five.same
    output: seen
    input: {whole: "${ctx.order.items}", short: "$ctx.order.name", part: "for ${order.name}!", absent: "${order.gone}",
            once: "${order.trick}", environment: "${PATH}", count: "${order.count}"}
""",
}
CONDITIONS = [
    ("${ctx.n} == 3", True), ("${ctx.n} != 3", False), ("${ctx.n} > 2", True), ("${ctx.n} < 3", False),
    ("${ctx.n} >= 3", True), ("${ctx.n} <= 2", False), ("${ctx.word} == yes", True), ("${ctx.word} == 'no'", False),
    ("${ctx.gone} == null", True),
]  # fmt: skip
SETUP = """
import json, time

def run(context):
    ir = context["interface_registry"]
    notes, tries, hooked, ticks = [], {}, [], []

    def note(args, ctx):
        notes.append(args)
        return args

    def taken(args, ctx):
        found, notes[:] = list(notes), []
        return found

    def flaky(args, ctx):
        name = args.get("name", "n")
        tries[name] = tries.get(name, 0) + 1
        if tries[name] < args["after"]:
            raise ValueError("not yet")
        return tries[name]

    def tick(args, ctx):
        ticks.append(1)

    def before(step, ctx, meta):
        if step["flow"] not in ("five.ticking", "five.looped"):
            hooked.append(["before", step["id"]])
        return {"_skip": True} if step["id"] == "skipped" else {"_abort": True} if step["id"] == "halt" else None

    def after(step, ctx, result, meta):
        hooked.append(["after", step["id"]])

    ir.register("five.note", note)
    ir.register("five.taken", taken)
    ir.register("five.same", lambda args, ctx: args)
    ir.register("five.add", lambda args, ctx: args["a"] + args["b"])
    ir.register("five.fail", lambda args, ctx: 1 / 0)
    ir.register("five.flaky", flaky)
    ir.register("five.slow", lambda args, ctx: time.sleep(1))
    ir.register("five.stop", lambda args, ctx: {"__flow_control": "abort", "reason": "enough"})
    ir.register("five.hooked", lambda args, ctx: hooked)
    ir.register("flow.construct.thrice", lambda args, ctx: [args["run"]({}) for _ in range(args["config"]["times"])])
    async def error_handler(step, ctx, exc):
        hooked.append(["error", step["id"], bool(exc)])
        return {"five.hooked": "continue", "five.again": "retry", "five.ends": "abort"}.get(step["flow"])

    ir.register("flow.error_handler", error_handler)
    ir.register("flow.hooks.before_step", before)
    ir.register("flow.hooks.after_step", after)
    ir.register("five.tick", tick)
    ir.register("five.ticks", lambda args, ctx: len(ticks))
    for key, document in json.loads(%r).items():
        ir.register(key, document)
    for document in json.loads(%r):
        ir.register("flow.modifier", document)
    try:
        ir.register("io.http.routes", [{"rule": "/five", "handler": "five.same", "methods": ["GET"], "endpoint": "five"}])
        refused = ""
    except Exception as error:
        refused = str(error)
    ir.register("five.routes", lambda args, ctx: refused)
"""
KEYS = ("five.note", "five.taken", "five.same", "five.add", "five.fail", "five.flaky", "five.slow", "five.stop", "five.hooked",
        "five.shout", "five.tick", "five.ticks", "five.routes", "flow.modifier", "io.http.routes", "flow.construct.thrice", "flow.hooks.before_step", "flow.hooks.after_step", "flow.error_handler", *REGISTERED)  # fmt: skip
ASKS = {"type": "flow.modify", "flows": ["five.*"], "reason": "they are its own"}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    files = one_component_pack("five", SETUP % (json.dumps(REGISTERED), json.dumps([MODIFIES, LAST])), provides=KEYS)
    files["backend/permissions.json"] = json.dumps({"pack_id": "five", "permissions": [ASKS]})
    files["backend/handlers/shout.py"] = "def run(args, ctx):\n    return args['text'].upper()\n"
    for index, (condition, _) in enumerate(CONDITIONS):
        files[f"backend/flows/when{index}.flow.yaml"] = (
            f"flow_id: five.when{index}\nsteps:\n  - id: s\n    type: handler\n    handler: five.note\n    input: ran\n"
            f"    when: {json.dumps(condition)}\n"
        )
    files |= {f"backend/flows/{name}": text for name, text in FILES.items()}
    with RunningHost(tmp_path_factory.mktemp("phase5"), request.param) as running:
        running.put_pack("five", files)
        running.ok("POST", "/api/packs/five/approve", {"permissions": [{"type": "flow.modify", "flows": ["five.*"]}]})
        running.until(lambda: running.status("five")["status"] == "running", 30, "the Pack to run")
        yield running


def run(host: RunningHost, flow: str, values: Any = None) -> Any:
    host.result("five.taken")
    return host.ok("POST", f"/api/flows/{flow}/run", {"input": {} if values is None else values})


def steps(report: Any) -> dict[str, str]:
    return {step["step"]: step["status"] for step in report["steps"]}


def test_pipelines_merge_by_name_and_are_soft_unless_they_say_otherwise(host: RunningHost) -> None:
    report = run(host, "five.pipe")
    assert report["status"] == "degraded"
    assert steps(report) == {"one": "ok", "absent": "skipped", "broken": "failed", "last": "ok"}
    assert host.result("five.taken") == ["replaced in place", "appended"]
    report = run(host, "five.stops")
    assert report["status"] == "failed"
    assert host.result("five.taken") == ["before"]
    report = run(host, "five.disables")
    assert steps(report) == {"broken": "failed", "other": "ok", "same-target": "skipped"}
    assert run(host, "five.strict")["status"] == "failed"


def test_files_of_pipelines_go_from_core_over_ecosystem_to_loose_ones_by_name(tmp_path: Path) -> None:
    def pipeline(*steps: tuple[str, str]) -> str:
        rows = "".join(f"    - {{id: {name}, run: {{handler: k.{name}, args: {said}}}}}\n" for name, said in steps)
        return f'flow_version: "2.0"\npipelines:\n  merged.one:\n{rows}'

    files = {
        "core/b.flow.yaml": pipeline(("one", "core b"), ("three", "core b")), "core/a.flow.yaml": pipeline(("one", "core a"), ("two", "core a")),
        "ecosystem/a.flow.yaml": pipeline(("two", "ecosystem"), ("four", "ecosystem")),
        "z.flow.yaml": pipeline(("four", "loose z"), ("five", "loose z")), "y.flow.yaml": pipeline(("four", "loose y"), ("six", "loose y")),
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    diagnostics = Diagnostics()
    composer = FlowComposer(
        core=tmp_path / "core", ecosystem=(tmp_path / "ecosystem",), user=(tmp_path,), diagnostics=diagnostics
    )
    found = composer.load()["merged.one"]
    assert not diagnostics.issues()
    assert [(step["id"], step["with"]) for step in found.document["steps"]] == [
        ("one", "core b"), ("two", "ecosystem"), ("three", "core b"), ("four", "loose z"), ("six", "loose y"), ("five", "loose z"),
    ]  # fmt: skip


def test_registered_steps_of_every_type(host: RunningHost) -> None:
    report = run(host, "five.kinds", {"n": 2})
    output = report["output"]
    assert report["status"] == "ok", report
    assert (output["sum"], output["turn"], output["which"]) == (3, 2, "more")
    assert output["_parallel_results"] == {"left": 2, "right": 4}
    assert "never" not in output or output["never"] is None
    assert output["tries"] == 3
    assert output["inner"]["twice"] == 6
    assert steps(report)["off"] == "skipped"
    assert [step["step"] for step in report["steps"]].count("own/in") == 3, "what a Pack's construct made of it"


def test_recursion_and_timeout_give_an_error_value(host: RunningHost) -> None:
    report = run(host, "five.itself")
    assert report["output"]["told"] == "told"
    assert report["output"]["late"]["_error"]
    assert report["output"]["again"]["_error"]


def test_hooks_stand_around_steps(host: RunningHost) -> None:
    report = run(host, "five.hooked")
    found = steps(report)
    assert found["skipped"] == "skipped"
    assert (found["kept"], found["broken"], found["after"]) == ("ok", "failed", "ok")
    heard = host.result("five.hooked")
    assert ["before", "kept"] in heard
    assert ["after", "kept"] in heard
    assert ["before", "skipped"] in heard
    assert ["error", "broken", True] in heard


def test_hooks_may_stop_a_flow_retry_a_step_and_end_it(host: RunningHost) -> None:
    report = run(host, "five.halted")
    assert report["status"] != "ok"
    assert host.result("five.taken") == ["first"]
    assert run(host, "five.again")["output"]["soon"] == 2, "the second try"
    report = run(host, "five.ends")
    assert report["status"] == "failed"
    assert host.result("five.taken") == []


def test_phases_order_by_phase_priority_id_and_dependency(host: RunningHost) -> None:
    report = run(host, "five.phased", {"n": 4})
    assert report["status"] == "ok", report
    assert host.result("five.taken") == ["a", "b", "waits", "z"]
    assert report["output"] == {"sum": 5, "shout": "HEY", "set": 5}
    assert host.request("POST", "/api/flows/five.phased/run", {"input": {}})[0] == 400, "its input is required"


def test_the_other_types_of_steps_in_phases(host: RunningHost) -> None:
    report = run(host, "five.kinds-of-steps", {"n": 3})
    output = report["output"]
    assert (output["which"], output["inner"]["twice"]) == ("more", 6), report
    assert [step["step"] for step in report["steps"]].count("c/s") == 2
    assert (steps(report)["d"], output["late"]) == ("timeout", None)
    assert steps(report)["e"] == "skipped", "nobody has that handler, and the flow is soft about it"
    assert host.result("five.taken") == ["went on"]


def test_an_older_schedule_starts_its_flow(host: RunningHost) -> None:
    before = host.result("five.ticks")
    host.until(lambda: host.result("five.ticks") >= before + 2, 30, "two runs that nobody asked for")
    on = {flow: host.ok("GET", f"/api/flows/{flow}")["document"]["on"] for flow in ("five.ticking", "five.nightly")}
    assert on == {"five.ticking": [{"every": "1s", "with": {}}], "five.nightly": [{"cron": "0 3 29 2 *", "with": {}}]}


def test_a_step_may_stop_the_flow(host: RunningHost) -> None:
    run(host, "five.control")
    assert host.result("five.taken") == ["before"]


def test_modifier_files_inject_replace_and_remove(host: RunningHost) -> None:
    run(host, "five.modified")
    assert host.result("five.taken") == ["zero", "one", "another"]


def test_modifier_files_inject_after_append_and_conflict(host: RunningHost) -> None:
    run(host, "five.formed")
    assert host.result("five.taken") == ["one", "between", "two", "last of p", "three"], "five.late conflicts, and came later"
    told = json.dumps(host.ok("GET", "/api/flows/five.formed/explain"))
    assert "it conflicts with five:five.append" in told


def test_registered_modifiers_of_every_action(host: RunningHost) -> None:
    report = run(host, "five.looped")
    assert host.result("five.taken") == ["zero", "start", "more", 0, 1, 2, "new", {"how": "loud", "n": 1}], report
    assert steps(report)["off"] == "skipped", "set_property gave it a condition"
    told = json.dumps(host.ok("GET", "/api/flows/five.looped/explain"))
    assert "it conflicts with five:five.forms" in told


def test_routes_have_no_place_yet_so_their_key_is_refused_and_the_pack_serves(host: RunningHost) -> None:
    """``io.http.routes`` needs the permission ``http.serve``, which this host does not offer: it says so, and nothing else fails."""
    assert "http.serve" in host.result("five.routes")
    assert "io.http.routes" in host.ok("GET", "/api/packs/five/review")["host_keys"]
    assert host.call("io.http.routes")[0] == 404


def test_references_keep_their_type_and_are_never_expanded_twice(host: RunningHost) -> None:
    order = {"items": [1, {"a": 2}], "name": "Rumi", "trick": "${ctx.order.name}", "count": 7}
    seen = run(host, "five.words", {"order": order})["output"]["seen"]
    assert seen == {"whole": [1, {"a": 2}], "short": "Rumi", "part": "for Rumi!", "absent": None,
                    "once": "${ctx.order.name}", "environment": None, "count": 7}  # fmt: skip


@pytest.mark.parametrize("index", range(len(CONDITIONS)), ids=[condition for condition, _ in CONDITIONS])
def test_conditions(host: RunningHost, index: int) -> None:
    run(host, f"five.when{index}", {"n": 3, "word": "yes"})
    assert host.result("five.taken") == (["ran"] if CONDITIONS[index][1] else [])
