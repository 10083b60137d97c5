"""Older documents: references and conditions, what is refused and where, whose places steps have, who they act as."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend_core.errors import AuthorError
from core_runtime.flow_composer import Says, read_document
from core_runtime.rules.flow import model, parse_steps
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Base, World, compose
from core_runtime.rules.flow.modifier import Modifier
from core_runtime.rules.flow.older import pipelines, texts
from core_runtime.rules.flow.older.pipelines import Pipelines, merged
from core_runtime.rules.flow.older.writing import duration, file_id, plain_id
from core_runtime.rules.flow.values import ValueProblem

LAYER = model.Layer.ECOSYSTEM


def same(path: texts.Path) -> texts.Path:
    return path


def read(text: str, *, source: str = "old/x.flow.yaml", key: str = "", layer: model.Layer = LAYER, pack: str = "acme") -> Says:
    return read_document(text.encode(), source=source, layer=layer, pack=pack, key=key)


def flow_of(text: str, **options: Any) -> Base:
    found = read(text, **options)
    assert isinstance(found, Base)
    return found


def problems(text: str, **options: Any) -> list[dict[str, Any]]:
    with pytest.raises(AuthorError) as caught:
        read(text, **options)
    return list(caught.value.fields["problems"])


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("older", "new"),
    [
        ("${ctx.a.b}", "${a.b}"),
        ("${a.b}", "${a.b}"),
        ("${ a.b-c }", "${a.b-c}"),
        ("$ctx.a.b", "${a.b}"),
        ("$ctx.a.b.", "${a.b}."),
        ("$ctx.a-b", "${a}-b"),
        ("to $ctx.name, ${n}", "to ${name}, ${n}"),
        ("$ctxual and $5 and $", "$ctxual and $5 and $"),
        ("open ${ never", "open $${ never"),
        ("$$x", "$$x"),
        ("${a} ${", "${a} $${"),
        ("", ""),
    ],
)
def test_references_in_the_one_form(older, new):
    assert texts.text(older, same) == new


@pytest.mark.parametrize(
    ("older", "said"),
    [
        ("${1 + 1}", "a path such as"),
        ("${a.map(x, x)}", "a path such as"),
        ("${env['HOME']}", "a path such as"),
        ("${}", "a path such as"),
        ("${a${b}}", "a path such as"),
        ("$${a}", r"a \$ before"),
        ("$$ctx.a", r"a \$ before"),
        ("${ctx}", "whole context"),
        ("all: $ctx", "whole context"),
        ("$ctx.9", "begins with a letter"),
    ],
)
def test_what_no_path_says_is_refused(older, said):
    with pytest.raises(ValueProblem, match=said):
        texts.text(older, same)


@pytest.mark.parametrize(
    ("older", "new"),
    [
        (True, True),
        ("true", True),
        ("False", False),
        ("${ctx.flag}", "${flag}"),
        ("$ctx.flag", "${flag}"),
        ("${a} == word", {"compare": ["${a}", "==", "word"]}),
        ("${a} == two words", {"compare": ["${a}", "==", "two words"]}),
        ("${a}=='a == b'", {"compare": ["${a}", "==", "a == b"]}),
        ('"x" != ${a}', {"compare": ["x", "!=", "${a}"]}),
        ("${a} >= -3", {"compare": ["${a}", ">=", -3]}),
        ("$ctx.a.b < 2.5", {"compare": ["${a.b}", "<", 2.5]}),
        ("${a} == true", {"compare": ["${a}", "==", True]}),
        ("${a} != None", {"compare": ["${a}", "!=", None]}),
        ("${a} == ${b}", {"compare": ["${a}", "==", "${b}"]}),
        ("v${a} <= '${b}!'", {"compare": ["v${a}", "<=", "${b}!"]}),
        ("${a} > 1e5", {"compare": ["${a}", ">", "1e5"]}),
        ("${a} == candy or", {"compare": ["${a}", "==", "candy or"]}),
    ],
)
def test_conditions_in_the_one_form(older, new):
    assert texts.condition(older, same) == new


@pytest.mark.parametrize(
    ("older", "said"),
    [
        ("done", "bare words are texts"),
        ("ctx.a == 1", "decides nothing"),
        ("a == b", "decides nothing"),
        ("'$${' == b", "decides nothing"),
        ("${a} == 1 and ${b} == 2", "one comparison only"),
        ("${a} && ${b}", "one comparison only"),
        ("not ${a}", "one comparison only"),
        ("!${a}", "one comparison only"),
        ("${a} == ${b} == ${c}", "one comparison only"),
        ("${a} ==", "expected a reference"),
        ("${a} == [1]", "expected a reference"),
        ("${a} == 'open", "expected a reference"),
        ("${a + 1} == 2", "a path such as"),
        ("${a} = 1", "bare words are texts"),
        ("", "expected true, false"),
        (3, "expected true, false"),
        ([], "expected true, false"),
        ("${a} == " + "x" * 2_000, "at most 2000"),
    ],
)
def test_what_is_no_single_comparison_is_refused(older, said):
    with pytest.raises(ValueProblem, match=said):
        texts.condition(older, same)


def test_the_opposite_of_a_condition():
    assert texts.opposite(texts.condition("true", same)) is False
    assert texts.opposite(texts.condition("${a} > 1", same)) == {"not": {"compare": ["${a}", ">", 1]}}


def test_names():
    assert [plain_id(one) for one in ("a", "Load.It", "9x", "…")] == ["a", "load-it", "s-9x", "s--"]
    assert [duration(one) for one in (3, 0.25, 1e-6, 86_400)] == ["3s", "0.25s", "0.000001s", "86400s"]
    names = ("/u/flows/my.greet.flow.json", "acme:backend/flows/x.flow.yaml", "y.yml")
    assert [file_id(one) for one in names] == ["my.greet", "x", "y"]


# --- places -----------------------------------------------------------------------------------------------------------

REGISTERED = """steps:
  - id: one
    handler: k
  - id: two
    type: branch
    condition: ${ctx.a} == 1
    then:
      - id: inner
        handler: k
        args: {x: "${ctx.b}"}
"""


def test_each_step_has_its_place_in_the_older_file():
    flow = flow_of(REGISTERED).flow
    [one, two] = flow.steps
    assert (one.origin.line, two.origin.line, flow.id) == (2, 4, "x")
    assert isinstance(two.action, model.Choose)
    assert two.action.cases[0].do[0].origin.line == 8
    assert two.acts_as == one.acts_as == two.action.cases[0].do[0].acts_as == ("acme",)


def test_sorted_steps_keep_their_places():
    text = "flow_id: a.b\nphases: [p]\nsteps:\n  - {id: z, phase: p, handler: k}\n  - {id: a, phase: p, handler: k}\n"
    assert [(step.id, step.origin.line) for step in flow_of(text).flow.steps] == [("a", 5), ("z", 4)]


def test_the_steps_of_modifiers_have_their_places():
    text = """modifier_id: a.m
target_flow_id: a.b
action: replace
target_step_id: k
step:
  type: if
  condition: ${x}
  then:
    - handler: k
      input: 1
"""
    modifier = read(text, source="m.yaml")
    assert isinstance(modifier, Modifier)
    base = flow_of("flow: a.b\nsteps: [{id: k, call: k}]", pack="")
    found = compose(base, [modifier], World(may_modify=lambda _pack, _flow: True))
    [step] = found.plan.flow.steps
    assert isinstance(step.action, model.Choose)
    assert (step.origin.line, step.action.cases[0].do[0].origin.line, step.acts_as) == (5, 9, ("acme",))


STEP = "steps:\n  - {%s}\n"
PHASED = "flow_id: a.b\nphases: [p]\nsteps:\n  - {phase: p, %s}\n"
PIPE = "pipelines:\n  a.b:\n  - {%s}\n"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (STEP % "handler: k, handlr: x", 2, "Did you mean 'handler'?"),
        (STEP % "id: a, type: handler", 2, "call expects the name of a handler"),
        (STEP % "id: a, type: handler, handler: '${x}'", 2, "call expects the name of a handler"),
        (STEP % "handler: k, args: '${1+1}'", 2, "a path such as"),
        (STEP % "handler: k, when: done", 2, "write ${name}"),
        (STEP % "handler: k, output: input", 2, "belongs to the kernel"),
        (STEP % "handler: k, output: 9", 2, "the name of a variable"),
        (STEP % "handler: k, timeout_seconds: soon", 2, "a number of seconds"),
        (STEP % "handler: k, id: 7", 2, "the id of a step"),
        (STEP % "type: Loop!, handler: k", 2, "the name of a construct"),
        (STEP % "type: loop, max_iterations: many, steps: [{handler: k}]", 2, "a whole number from 0"),
        (STEP % "type: loop, steps: []", 2, "needs its steps"),
        (STEP % "type: group, args: 1, steps: [{handler: k}]", 2, "takes no arguments"),
        (STEP % "type: branch, then: [{handler: k}]", 2, "needs its condition"),
        (STEP % "type: parallel, branches: [{name: A b, steps: [{handler: k}]}]", 2, "a name of its own"),
        (STEP % "type: parallel, branches: []", 2, "at least one branch"),
        (STEP % "type: retry, handler: k, max_attempts: 0", 2, "from 1 to"),
        (STEP % "type: flow, flow: Not An Id", 2, "the id of a flow"),
        ("steps: 5\nx: [{handler: k}]\nflow_id: a.b\nphases: [p]", 1, "expected a list"),
        (PHASED % "handler: k, phase_: x", 4, "Did you mean 'phase'?"),
        (PHASED % "id: a, handler: k, depends_on: [b]", 4, "no step 'b' to depend on"),
        (PHASED % "id: a, handler: k, depends_on: [a]", 4, "in a circle: a"),
        (PHASED % "id: a, type: python_file_call, file: ../../etc/x.py", 4, "backend/handlers/<name>.py"),
        (PHASED % "id: a, type: python_file_call, file: blocks/x.py", 4, "move it there"),
        (PHASED % "id: a, type: python_file_call, owner_pack: ../x, file: x.py", 4, "the id of the Pack"),
        (PHASED % "id: a, owner_pack: other, handler: k", 4, "acts as who supplied"),
        (PHASED % "id: a, type: handlr, handler: k", 4, "Did you mean 'handler'?"),
        (PHASED % "id: a, type: if, when: '${x}', then: [{handler: k, priority: 1}]", 4, "priority orders"),
        (PHASED % "id: a, type: set, key: x", 4, "set needs a value"),
        (PHASED % "id: a, type: set, input: 5", 4, "expected a map"),
        (PHASED % "id: a, type: construct, construct: '9'", 4, "the name of a construct"),
        ("flow_id: a.b\nphases: [p]\nsteps:\n- {id: a, phase: q, handler: k}", 4, "the unknown phase 'q'"),
        ("flow_id: a.b\nphases: [p, q]\nsteps:\n- {id: a, phase: p, handler: k, depends_on: [b]}\n- {id: b, phase: q, handler: k}", 4, "a later phase"),
        ("flow_id: a.b\ninputs: {t: strng}\nsteps: [{handler: k}]", 2, "Did you mean 'string'?"),
        ("flow_id: a.b\ninputs: {t: string}\nsteps: [{handler: k, input: '${input.t}'}]", 3, "write ${t}"),
        ("flow_id: a.b\ninputs: {t: {type: string, defalt: 1}}\nsteps: [{handler: k}]", 2, "Did you mean 'default'?"),
        ("flow_id: a.b\nschedule: {cron: often}\nsteps: [{handler: k}]", 2, "five fields"),
        ("flow_id: a.b\nschedule: {cron: '* * * * *', interval: 5}\nsteps: [{handler: k}]", 2, "one of cron and interval"),
        ("flow_id: a.b\nschedule: {interval: 0.5}\nsteps: [{handler: k}]", 2, "one second at the least"),
        ("flow_id: a.b\ndefaults: {fail_soft: maybe}\nsteps: [{handler: k, priority: 1}]", 2, "true or false"),
        ("flow_id: a.b\ndefaults: {on_missing_step: wait}\nsteps: [{handler: k, priority: 1}]", 2, "expected skip or error"),
        ("flow_id: a.b\noutputs: {a: [x, '${1}']}\nsteps: [{handler: k, priority: 1}]", 2, "a path such as"),
        (PIPE % "id: a, run: {}", 3, "the name of a handler"),
        (PIPE % "id: a, run: {handler: k}, on_eror: {}", 3, "Did you mean 'on_error'?"),
        (PIPE % "id: a, run: {handler: k}, on_error: {action: explode}", 3, "expected continue or abort"),
        (PIPE % "id: a, run: {handler: k, args: '${ctx}'}", 3, "whole context"),
        (PIPE % "id: a, run: {handler: k}}\n  - {id: a, run: {handler: k}", 4, "used twice"),
        ("flow_version: '1.0'\npipelines: {a: [{run: {handler: k}}]}", 1, "expected '2.0'"),
        ("pipelines: {A B: [{run: {handler: k}}]}", 1, "dotted lower-case words"),
        ("pipelines: {a: []}", 1, "at least one step"),
        ("modifier_id: m\ntarget_flow_id: a.b\naction: explode\nstep: {handler: k}", 3, "inject_before"),
        ("modifier_id: m\ntarget_flow_id: a.b\naction: inject_before\nstep: {handler: k}", 1, "the id of a step to inject_before"),
        ("modifier_id: m\ntarget_flow_id: a.b\naction: append", 1, "the step that it brings"),
        ("modifier_id: m\ntarget_flow_id: 'A B'\naction: append\nstep: {handler: k}", 2, "flow ids or patterns"),
        ("modifier_id: m\ntarget_flow_id: a\naction: append\npriority: 5000\nstep: {handler: k}", 4, "from 0 to 1000"),
        ("modifier_id: m\ntarget_flow_id: a\naction: append\nrequires: {thing: x}\nstep: {handler: k}", 4, "is not a word of requires"),
        ("modifier_id: m\ntarget_flow_id: a\naction: append\nstep:\n  handler: k\n  input: ${1}", 6, "a path such as"),
        ("modifier_id: m\ntarget_flow_id: a\nmodifications:\n- {action: set_property, target_step: a, property: id, value: b}", 4, "expected one of handler"),
        ("modifier_id: m\ntarget_flow_id: a\nmodifications:\n- {action: wrap_with_loop, target_step: a, exit_when: never}", 4, "bare words are texts"),
        ("modifier_id: m\ntarget_flow_id: a\nmodifications: []", 3, "1 to 100 operations"),
    ],
)  # fmt: skip
def test_each_problem_is_named_with_its_place_in_the_older_file(text, line, said):
    found = problems(text)
    assert any(said in problem["text"] and problem["line"] == line for problem in found), found


# --- meaning ----------------------------------------------------------------------------------------------------------


def test_what_the_kernel_owns_a_name_of_is_still_in_the_input():
    text = "steps: [{handler: k, args: ['${ctx.input.x}', '${run}', '${other}']}]"
    assert flow_of(text).document["steps"][0]["with"] == ["${input.input.x}", "${input.run}", "${other}"]


def test_a_document_of_todays_form_is_none_of_an_older_style():
    assert flow_of("flow: a.b\nsteps: [{call: k}]").style == ""
    assert "is not a word of a flow" in problems("flow: a.b\npipelines: {}\nsteps: [{call: k}]")[0]["text"]
    assert "dotted lower-case words" in problems("steps: [{call: k}]")[0]["text"]


def test_a_registered_flow_has_the_id_of_its_key_and_no_other():
    assert flow_of('{"steps": [{"handler": "k"}]}', key="flow.acme.x").flow.id == "acme.x"
    assert flow_of('{"flow": "acme.x", "steps": [{"call": "k"}]}', key="flow.acme.x").style == ""
    for text in (
        {"flow": "rumi.startup", "steps": [{"call": "k"}]},
        {"flow_id": "rumi.startup", "phases": ["p"], "steps": [{"phase": "p", "handler": "k"}]},
        {"pipelines": {"rumi.startup": [{"run": {"handler": "k"}}]}},
        {"modify": "rumi.startup", "id": "x", "ops": [{"remove": "a"}]},
    ):
        with pytest.raises(AuthorError):
            read(json.dumps(text), key="flow.acme.x")
    with pytest.raises(AuthorError):
        read('{"steps": [{"handler": "k"}]}', key="flow.modifier")


def test_a_kernel_handler_is_out_of_reach_in_every_older_style():
    call = "kernel:trust.open"
    for text in (
        f"steps: [{{handler: '{call}'}}]",
        f"steps: [{{type: retry, handler: '{call}'}}]",
        f"flow_id: a.b\nsteps: [{{priority: 1, type: function, function: '{call}'}}]",
        f"pipelines: {{a: [{{run: {{handler: '{call}'}}}}]}}",
    ):
        assert any("kernel handlers" in problem["text"] for problem in problems(text)), text
    modifier = read(f"modifier_id: m\ntarget_flow_id: a.b\naction: append\nstep: {{handler: '{call}'}}", source="m.yaml")
    assert isinstance(modifier, Modifier)
    base = flow_of("flow: a.b\nsteps: [{id: k, call: k}]", pack="", layer=model.Layer.CORE)
    found = compose(base, [modifier], World(may_modify=lambda _pack, _flow: True))
    assert found.plan.handlers == {"k"}
    assert [change.status for change in found.changes] == [Status.REFUSED]


SIDE = {"parallel": {"branches": {"branch_0": [{"id": "a", "call": "k"}]}}, "as": "_parallel_results"}
TOLD = [{"error": "timeout", "do": [{"id": "error", "set": {"_error": "timeout"}}]}]


@pytest.mark.parametrize(
    ("older", "step"),
    [
        ("{type: parallel, output: got, branches: [{steps: [{id: a, handler: k}]}]}",
         {"id": "step0", "do": [{"id": "branches", **SIDE}, {"id": "output", "set": {"got": "${_parallel_results}"}}]}),
        ("{type: parallel, branches: [{steps: [{id: a, handler: k}]}]}", {"id": "step0", **SIDE}),
        ("{type: group, timeout: 3, steps: [{id: a, handler: k}]}",
         {"id": "step0", "do": [{"id": "a", "call": "k"}], "timeout": "3s", "catch": TOLD, "on_error": "continue"}),
        ("{id: a, handler: k, timeout: 0.5, description: said}",
         {"id": "a", "about": "said", "call": "k", "timeout": "0.5s", "catch": TOLD}),
        ("{id: a, type: retry, handler: k, max_attempts: 1, delay_ms: 5}", {"id": "a", "call": "k"}),
        ("{id: a, type: retry, handler: k, delay_ms: 90000}",
         {"id": "a", "call": "k", "retry": {"max": 2, "delay": "90000ms", "max_delay": "90s"}}),
        ("{id: a, type: thrice, args: {x: 1}, times: '${n}', when: true}",
         {"id": "a", "when": True, "*:thrice": {"times": "${n}"}, "with": {"x": 1}}),
        ("{id: a, type: loop, max_iterations: 1, steps: [{id: b, handler: k}]}",
         {"id": "a", "loop": {"max": 1, "at": "_loop_index"}, "do": [{"id": "b", "call": "k"}]}),
    ],
)  # fmt: skip
def test_a_registered_step_in_the_one_form(older, step):
    assert flow_of(f"steps: [{{id: first, handler: k}}, {older}]".replace("step0", "step1")).document["steps"][1] == {
        **step, "id": step["id"].replace("step0", "step1"),
    }  # fmt: skip


def test_every_call_tells_of_its_timeout_where_a_flow_reads_of_it():
    text = "version: 3\ndescription: said\nsteps: [{id: a, handler: k}, {id: b, handler: k, when: '${_error} != null'}]"
    document = flow_of(text).document
    assert (document["version"], document["about"], [one["catch"] for one in document["steps"]]) == (3, "said", [TOLD, TOLD])


@pytest.mark.parametrize(
    ("older", "step"),
    [
        ("{id: a, handler: k, description: said}", {"id": "a", "about": "said", "call": "k"}),
        ("{id: a, type: if, when: '${x}', timeout_seconds: 2, then: [{id: b, handler: k}]}",
         {"id": "a", "choose": [{"when": "${x}", "do": [{"id": "b", "call": "k"}]}], "timeout": "2s", "on_error": "continue"}),
        ("{id: a, type: construct, construct: thrice, input: 1, owner_pack: acme}", {"id": "a", "*:thrice": {}, "with": 1}),
        ("{id: a, type: set, key: x, value: 1}", {"id": "a", "set": {"x": 1}}),
        ("{id: a, type: set, output: x, value: 1}", {"id": "a", "set": {"x": 1}}),
        ("{id: a, type: set, values: {x.y: 1, ctx.z: $ctx.x}}", {"id": "a", "set": {"x.y": 1, "z": "${x}"}}),
        ("{id: a, type: python_file_call, owner_pack: other, file: handlers/Do_It.py}", {"id": "a", "call": "other.Do_It"}),
    ],
)  # fmt: skip
def test_a_phased_step_in_the_one_form(older, step):
    assert flow_of(f"flow_id: a.b\nsteps: [{older}]").document["steps"] == [step]


def test_a_phased_document_in_the_one_form():
    text = """
flow_id: a.b
name: said
inputs: {a: {required: true, type: int, description: number}, b: any}
outputs: {x: y, z: {type: int}, whole: ["${x}"]}
schedule: {interval: 5m}
defaults: {fail_soft: false}
steps: [{id: a, handler: k}]
"""
    document = flow_of(text).document
    assert document["about"] == "said"
    assert document["input"] == {
        "type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "description": "number"}, "b": {}},
    }  # fmt: skip
    assert document["output"] == {"x": "${y}", "z": "${z}", "whole": ["${x}"]}
    assert document["on"] == [{"every": "5m", "with": {}}]
    assert document["defaults"] == {"on_error": "fail", "on_missing": "skip", "on_absent": "run", "flow_control": True}


def test_both_older_modifiers_in_the_one_form():
    text = """
modifier_id: My.Guard
target_flow_id: [a.b, c.*]
description: said
action: replace
target_step_id: outer/Inner
conflicts_with: Other.One
steps: [{id: x, handler: k}, {id: y, handler: k}]
"""
    found = read(text, source="m.yaml")
    assert isinstance(found, Modifier)
    assert found.written == {
        "modify": ["a.b", "c.*"], "id": "my.guard", "about": "said", "conflicts": ["other.one"],
        "ops": [{"replace": "outer/inner", "step": {"do": [{"id": "x", "call": "k"}, {"id": "y", "call": "k"}], "id": "inner"}}],
    }  # fmt: skip
    changes = [
        ("exit_when", "${a} == 1", {"path": "/loop/while", "value": {"not": {"compare": ["${a}", "==", 1]}}}),
        ("max_iterations", 3, {"path": "/loop/max", "value": 3}),
        ("timeout_seconds", 3, {"path": "/timeout", "value": "3s"}),
        ("output", "x", {"path": "/as", "value": "x"}),
        ("args.a/b.c", "$ctx.d", {"path": "/with/a~1b/c", "value": "${d}"}),
        ("description", "said", {"path": "/about", "value": "said"}),
    ]
    for name, value, patch in changes:
        one = {"action": "set_property", "target_step": "s", "property": name, "value": value}
        found = read(json.dumps({"modifier_id": "m", "target_flow_id": "a", "modifications": [one]}), source="m.json")
        assert isinstance(found, Modifier)
        assert found.written["ops"] == [{"patch": "s", "json_patch": [{"op": "add", **patch}]}]
    assert problems("modifier_id: 7\ntarget_flow_id: a\naction: remove\ntarget_step_id: s")[0]["line"] == 1
    assert "expected text" in problems("steps: [{handler: k, description: [x]}]")[0]["text"]


# --- pipelines of several files ---------------------------------------------------------------------------------------


def pipes(name: str, text: str, *, pack: str = "", layer: model.Layer = LAYER) -> Pipelines:
    found = read(text, source=name, pack=pack, layer=layer)
    assert isinstance(found, Pipelines)
    return found


ONE = "pipelines: {main: [{id: a, run: {handler: one}}, {id: b, run: {handler: one}}]}"
TWO = "defaults: {fail_soft: false}\npipelines: {main: [{id: a, run: {handler: two}}, {id: c, run: {handler: two}}]}"
THREE = "pipelines: {main: [{id: c, run: {handler: three}}]}"


def test_files_write_to_one_pipeline_in_their_order():
    files = [pipes("1.yaml", ONE), pipes("2.yaml", TWO, pack="two"), pipes("3.yaml", THREE, pack="three")]
    [base] = merged(files, lambda _pack, _flow: True).bases
    steps = {step.id: (step.action, step.acts_as, str(step.origin), step.on_error) for step in base.flow.steps}
    assert list(steps) == ["a", "b", "c"]
    assert steps["a"] == (model.Call("two"), ("two",), "2.yaml:2:20", model.OnError.FAIL)
    assert steps["b"] == (model.Call("one"), (), "1.yaml:1:50", None)
    assert steps["c"][:3] == (model.Call("three"), ("three",), "3.yaml:1:20")
    assert [(one.op, one.step, one.pack) for one in base.changes] == [
        ("replace", "a", "two"), ("insert", "c", "two"), ("replace", "c", "three"),
    ]  # fmt: skip
    composed = compose(base, [])
    assert {step.id: step.acts_as for step in composed.plan.flow.steps} == {"a": ("two",), "b": (), "c": ("three",)}


def test_another_packs_steps_need_the_right_to_change_the_flow():
    files = [pipes("1.yaml", ONE), pipes("2.yaml", TWO, pack="two")]
    [base] = merged(files, lambda _pack, _flow: False).bases
    assert {step.id: step.acts_as for step in base.flow.steps} == {"a": (), "b": ()}
    assert {change.why for change in base.changes} == {"two was not granted flow.modify for main"}
    assert {change.status for change in base.changes} == {Status.REFUSED}


def test_two_packs_of_one_pipeline_refuse_each_other_without_a_right():
    files = [pipes("1.yaml", ONE, pack="one"), pipes("2.yaml", TWO, pack="two")]
    found = merged(files, lambda _pack, _flow: False)
    assert (found.bases, found.rivals) == ([], {"main": ["1.yaml", "2.yaml"]})
    assert len(merged(files, lambda pack, flow: (pack, flow) == ("two", "main")).bases) == 1


def test_a_file_with_which_a_pipeline_would_be_too_long_adds_nothing(monkeypatch):
    files = [pipes("1.yaml", ONE), pipes("2.yaml", TWO, pack="two")]
    monkeypatch.setattr(pipelines, "MAX_STEPS", 3)
    [base] = merged(files, lambda _pack, _flow: True).bases
    assert [step.id for step in base.flow.steps] == ["a", "b"]
    assert {change.why for change in base.changes} == {"a flow has at most 3 steps"}


def test_pipelines_that_make_no_flow_together_are_refused_and_hinder_no_other(monkeypatch):
    files = [pipes("1.yaml", ONE), pipes("2.yaml", TWO), pipes("3.yaml", "pipelines: {other: [{run: {handler: k}}]}")]
    monkeypatch.setattr(parse_steps, "MAX_STEPS", 2)
    found = merged(files, lambda _pack, _flow: True)
    assert [base.flow.id for base in found.bases] == ["other"]
    assert "at most 2 steps" in found.refused["main"].detail
