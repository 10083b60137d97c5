"""Flow documents that are bombs: refused with a named error and a place, or bounded; the rest of the host goes on.

The readers alone first, then a real host that finds the same documents among its own files and in a Pack.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import AuthorError
from core_runtime.flow_composer import read_document
from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.plan import walk_steps
from tests.e2e.test_flows import flow_pack, run
from tests.support.flows import Playbook, Takes
from tests.support.running_host import RunningHost


def nested(depth: int) -> str:
    step: dict[str, Any] = {"call": "k"}
    for _ in range(depth):
        step = {"do": [step]}
    return json.dumps({"flow": "evil.bomb", "steps": [step]})


def with_steps(count: int) -> str:
    return json.dumps({"flow": "evil.bomb", "steps": [{"call": "k"}] * count})


BODY = "flow: evil.bomb\nsteps: [{call: k}]\n"
BOMBS = {
    "laughs.yaml": ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nx: [*c, *c]\n" + BODY, "yaml_anchor"),
    "within-itself.yaml": ("flow: evil.bomb\nsteps: &s [{call: k, with: *s}]\n", "yaml_anchor"),
    "merged.yaml": ("flow: evil.bomb\nx: &x {call: k}\nsteps: [{<<: *x}]\n", "yaml_anchor"),
    "tag.yaml": ("flow: !!python/object/apply:os.system [x]\nsteps: [{call: k}]\n", "yaml_tag"),
    "deep.yaml": ("x: " + "[" * 400_000 + "\n" + BODY, "too_complex"),
    "deep-blocks.yaml": ("x:\n" + "".join(" " * n + "-\n" for n in range(1, 1_200)), "too_complex"),
    "deep.json": ('{"flow": "evil.bomb", "x": ' + "[" * 200_000, "too_complex"),
    "deep-steps.json": (nested(40), "too_complex"),
    "deep-steps-allowed-by-json.json": (nested(29), None),
    "number.yaml": ("version: " + "9" * 100_000 + "\n" + BODY, "yaml_invalid"),
    "many-documents.yaml": ((BODY + "---\n") * 1_000, "yaml_invalid"),
    "twice.yaml": ("flow: evil.other\n" + BODY, "duplicate_key"),
    "nodes.yaml": ("flow: evil.bomb\nsteps:\n" + "- {call: k}\n" * 10_001, "too_complex"),
    "nodes.json": (with_steps(10_001), "flow_invalid"),
    "nodes-at-the-limit.json": (with_steps(10_000), None),
    "keys.yaml": ("x: {" + ", ".join(f"k{n}: 1" for n in range(30_000)) + "}\n" + BODY, "too_complex"),
    "wrong-words.json": (json.dumps({"flow": "evil.bomb", "steps": [{"cal" * 150: 1}] * 2_000}), "flow_invalid"),
    "too-large.yaml": ("about: " + "x" * 1_100_000 + "\n" + BODY, "too_large"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_by_name_with_its_place_or_bounded(name):
    text, code = BOMBS[name]

    def read() -> Any:
        return read_document(text.encode(), source=f"evil:{name}", layer=model.Layer.ECOSYSTEM, pack="evil")

    if code is None:
        assert len(list(walk_steps(read().flow.steps))) <= 10_000
        return
    with pytest.raises(AuthorError) as caught:
        read()
    assert caught.value.code == code
    assert caught.value.fields["line"] >= 1
    assert caught.value.fields["column"] >= 1
    assert len(caught.value.detail) < 2_000
    assert len(caught.value.fields.get("problems", ())) <= 50


# --- expressions ------------------------------------------------------------------------------------------------------

EVIL = ("${secret}", "${input.secret}", "${env.HOME}", "${1 + 1}", "${''.__class__}", "' + secret + '", "$${secret}")
ECHOED = """
flow: evil.echo
steps:
  - {id: note, call: acme.note, with: {whole: "${input.text}", part: "<${input.text}>"}, as: seen}
  - {id: again, call: acme.note, with: {whole: "${seen.whole}", part: "<${seen.part}>"}, as: more}
  - {id: put, set: {copy: "${more.whole}"}}
  - {id: last, call: acme.note, with: {whole: "${copy}", part: "${copy}"}, as: end}
output: "${end}"
"""


@pytest.mark.parametrize("text", EVIL)
def test_a_value_is_never_read_as_an_expression_however_often_it_is_handed_on(text):
    book = Playbook(ECHOED, {"acme.note": lambda args: args}, values={"text": text, "secret": "told"})
    outcome = book.run()
    assert outcome.output == {"whole": text, "part": text}
    assert [args["part"] for _, args in book.calls] == [f"<{text}>", f"<<{text}>>", text]


# --- many at once -----------------------------------------------------------------------------------------------------


def branches(count: int, step: dict[str, Any], **words: Any) -> dict[str, Any]:
    side = {"branches": {f"b{n}": [{"id": "one", **step}] for n in range(count)}}
    return {"flow": "t.wide", "steps": [{"id": "p", "parallel": side, "as": "all"}], "output": "${all}", **words}


def test_a_thousand_branches_run_no_more_side_by_side_than_the_limit():
    document = json.dumps(branches(1_000, {"call": "acme.slow"}, limits={"parallel": 8}))
    book = Playbook(document, {"acme.slow": lambda _args: Takes(1)})
    outcome = book.run()
    assert (outcome.status, len(outcome.output)) == (endings.RunStatus.OK, 1_000)
    assert book.now == 125, "eight at a time, one second each"


@pytest.mark.parametrize(
    "step",
    [
        {"each": {"in": "${input}", "parallel": 1000}, "do": [
            {"id": "b", "each": {"in": "${input}", "parallel": 1000}, "do": [{"id": "n", "set": {"x": 1}}]}]},
        {"loop": {"max": 1000}, "do": [{"id": "b", "loop": {"max": 1000}, "do": [{"id": "n", "set": {"x": 1}}]}]},
        {"parallel": {"branches": {f"b{n}": [
            {"id": "e", "each": {"in": "${input}", "parallel": 1000}, "do": [{"id": "n", "set": {"x": 1}}]}] for n in range(1_000)}}},
    ],
    ids=["each in each", "loop in loop", "each in a thousand branches"],
)  # fmt: skip
def test_a_thousand_times_a_thousand_steps_end_with_a_named_error(step):
    document = json.dumps({"flow": "t.wide", "steps": [{"id": "a", **step}]})
    outcome = Playbook(document, {}, values=list(range(1_000))).run()
    assert (outcome.status, outcome.error.type) == (endings.RunStatus.FAILED, "limit")


# --- a real host ------------------------------------------------------------------------------------------------------

NOTES = """
def run(context):
    ir = context["interface_registry"]
    ir.register("acme.note", lambda args, ctx: args)
    ir.register("acme.one", lambda args, ctx: 1)
"""
AGAIN = "flow: evil.again\nsteps: [{id: again, flow: evil.again, on_error: fail}]\n"
EXTENDED = {f"extends-{n}.yaml": f"flow: evil.ring{n}\nextends: evil.ring{1 - n}\n" for n in range(2)}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


@pytest.mark.embedded
def test_bombs_among_a_hosts_files_and_in_a_pack_stop_nothing_else(host: RunningHost) -> None:
    bombs = {name: text for name, (text, code) in BOMBS.items() if code is not None}
    folder = host.home / "user_data" / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "good.flow.yaml").write_text("flow: my.good\nsteps: [{id: one, call: acme.note, with: 7, as: got}]\noutput: ${got}\n")
    for name, text in bombs.items():
        (folder / name).write_text(text)
    host.put_pack("acme", flow_pack("acme", NOTES, bombs, provides=("acme.note", "acme.one")))
    host.approve("acme")
    host.until(lambda: host.status("acme")["status"] == "running", 30, "the Pack to run")

    assert "evil.bomb" not in {one["flow"] for one in host.ok("GET", "/api/flows")}
    assert run(host, "my.good", None)["output"] == 7
    told = [one for one in host.ok("GET", "/api/issues") if one["code"].startswith("flow_") or one["code"] in {"yaml_anchor", "too_complex"}]
    assert all(len(one["detail"]) < 4_000 for one in told)
    for name in bombs:
        assert [one for one in told if name in f"{one['subject']} {one['detail']}"], (name, told)
    for name, (text, code) in BOMBS.items():
        status, envelope = host.request("POST", "/api/flows/validate", {"text": text, "name": name})
        if status == 413:
            assert name == "too-large.yaml"
            continue
        assert envelope["data"]["valid"] == (code is None), (name, envelope)
        assert all(one["line"] >= 1 for one in envelope["data"]["problems"]), (name, envelope)


@pytest.mark.embedded
def test_recursion_injection_and_a_thousand_branches_on_a_real_host(host: RunningHost) -> None:
    documents = {"again.flow.yaml": AGAIN, "echo.flow.yaml": ECHOED, **EXTENDED}
    documents["wide.flow.json"] = json.dumps(branches(1_000, {"call": "acme.one"}))
    host.put_pack("acme", flow_pack("acme", NOTES, documents, provides=("acme.note", "acme.one")))
    host.approve("acme")
    host.until(lambda: host.status("acme")["status"] == "running", 30, "the Pack to run")

    report = run(host, "evil.again", {})
    assert (report["status"], report["error"]["type"]) == ("failed", "limit"), report
    assert not {"evil.ring0", "evil.ring1"} & {one["flow"] for one in host.ok("GET", "/api/flows")}
    for text in EVIL:
        assert run(host, "evil.echo", {"text": text, "secret": "told"})["output"] == {"whole": text, "part": text}

    began = time.monotonic()
    report = run(host, "t.wide", {})
    took_s = time.monotonic() - began
    assert (report["status"], len(report["output"])) == ("ok", 1_000), (report["status"], report["error"], took_s)
