"""Golden documents of the older styles, unchanged, as a Pack's: files in its folder, and what it registers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.test_flows import SHOUT, acme, flow_pack
from tests.support.older_flows import HANDLERS, KEYS, SHOUT_FILE, SHOUT_KEY, Golden, goldens, key_of
from tests.support.running_host import RunningHost

GOLDENS = goldens()
SETUP = """
%s

REGISTERED = %r


def run(context):
    ir = context["interface_registry"]
    for key, fn in handlers().items():
        ir.register(key, fn)
    for key, text in REGISTERED:
        ir.register(key, json.loads(text))
"""
ASKS = [{"type": "flow.modify", "flows": ["old.*"]}]


def old_pack(found: list[Golden]) -> dict[str, str]:
    """A Pack with these documents, byte for byte."""
    paths = {path: golden.style for golden in found for path in golden.paths}
    registered = [(key, path.read_text("utf-8")) for path, style in paths.items() if (key := key_of(path, style))]
    files = {path.name: path.read_text("utf-8") for path, style in paths.items() if not key_of(path, style)}
    provides = (*KEYS, SHOUT_KEY, *dict.fromkeys(key for key, _ in registered))
    setup = f"import json\n{SETUP % (HANDLERS, registered)}"
    return {
        **flow_pack("old", setup, files, asks=ASKS, provides=provides), "backend/handlers/shout.py": SHOUT_FILE,
    }  # fmt: skip


@pytest.mark.parametrize("style", sorted({golden.style for golden in GOLDENS}))
def test_golden_documents_run_unchanged(host: RunningHost, style: str) -> None:
    found = [golden for golden in GOLDENS if golden.style == style]
    host.put_pack("old", old_pack(found))
    host.ok("POST", "/api/packs/old/approve", {"permissions": ASKS})
    host.until(lambda: host.status("old")["status"] == "running", 30, "the Pack to run")
    for golden in found:
        known = golden.known
        host.result("old.taken")
        report = host.ok("POST", f"/api/flows/{known['flow']}/run", {"input": known["input"]})
        seen: dict[str, Any] = {
            "status": report["status"],
            "steps": {step["step"]: step["status"] for step in report["steps"]},
            "notes": host.result("old.taken"),
            "output": report["output"],
        }
        expected = {word: known[word] for word in seen}
        assert seen["steps"].items() == expected.pop("steps").items(), (golden.name, report)
        del seen["steps"]
        assert seen == expected, (golden.name, json.dumps(report))


MINE = """{
  "steps": [
    {"id": "Say.It", "handler": "acme.double",
     "args": {"value": "${ctx.n}"}, "output": "said"}
  ]
}
"""
WRONG = "flow_id: my.wrong\nphases: [p]\nsteps:\n  - id: a\n    phase: p\n    handler: k\n    when: ${ctx.a + 1} == 2\n"


def test_the_operators_older_files_are_read_explained_and_shown_in_the_form_of_today(host: RunningHost) -> None:
    acme(host)
    folder = host.home / "user_data" / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my.greet.flow.json").write_text(MINE)
    (folder / "wrong.flow.yaml").write_text(WRONG)
    report = host.ok("POST", "/api/flows/my.greet/run", {"input": {"n": 21}})
    assert (report["status"], report["output"]) == ("ok", {"said": {"value": 42, "caller": "kernel"}})
    explained = host.ok("GET", "/api/flows/my.greet/explain")
    [step] = explained["steps"]
    assert (explained["style"], step["path"], step["origin"]["line"]) == ("registered steps", "say-it", 3)
    issue = next(one for one in host.ok("GET", "/api/issues") if one["subject"].endswith("wrong.flow.yaml"))
    assert "wrong.flow.yaml:7:5" in issue["detail"], issue

    answer = host.ok("POST", "/api/flows/validate", {"text": MINE, "name": "my.greet.flow.json"})
    assert (answer["valid"], answer["id"], answer["style"]) == (True, "my.greet", "registered steps")
    [document] = answer["as_new"]
    again = host.ok("POST", "/api/flows/validate", {"text": json.dumps(document), "name": "new.json"})
    assert (again["valid"], again["id"], again["style"], again["as_new"]) == (True, "my.greet", "", [])
    assert host.ok("GET", "/api/flows/my.greet")["document"]["steps"] == document["steps"]
    refused = host.ok("POST", "/api/flows/validate", {"text": WRONG, "name": "wrong.yaml"})
    assert [(one["line"], "a path such as" in one["text"]) for one in refused["problems"]] == [(7, True)]


OLDER_FILE = """
modifier_id: shout.more
target_flow_id: acme.answer
action: inject_after
target_step_id: double
step: {id: more, type: handler, handler: shout.add, input: {value: "${ctx.doubled.value}"}, output: doubled}
"""
OLDER_VALUE = {
    "modifier_id": "shout.more", "target_flow_id": "acme.answer",
    "modifications": [{"action": "inject_after", "target_step": "double", "steps": [
        {"id": "more", "type": "handler", "handler": "shout.add", "args": {"value": "${doubled.value}"}, "output": "doubled"}]}],
}  # fmt: skip
REGISTERS = f"""
{SHOUT}
    try:
        context["interface_registry"].register("flow.modifier", {OLDER_VALUE!r})
    except Exception:  # without the right: it goes on without
        pass
"""


@pytest.mark.parametrize("registers", [False, True])
def test_another_packs_older_modifier_needs_the_right_and_acts_as_its_pack(host: RunningHost, registers: bool) -> None:
    acme(host)
    asks = [{"type": "flow.modify", "flows": ["acme.answer"]}]
    setup, files = (REGISTERS, {}) if registers else (SHOUT, {"more.modifier.yaml": OLDER_FILE})
    provides = ("shout.add", "shout.secret", *(("flow.modifier",) if registers else ()))
    host.put_pack("shout", flow_pack("shout", setup, files, asks=asks, provides=provides))
    host.approve("shout")
    host.until(lambda: host.status("shout")["status"] == "running", 30, "the Pack to run")
    values = {"input": {"value": 1}}
    assert host.ok("POST", "/api/flows/acme.answer/run", values)["output"] == {"doubled": 2, "caller": "acme"}
    host.ok("POST", "/api/packs/shout/approve", {"permissions": asks})
    if registers:  # its first attempt was refused; the next start has the right
        host.ok("POST", "/api/containers/shout/stop")
        host.ok("POST", "/api/containers/shout/start")
    host.until(lambda: host.call("shout.add", {"value": 0})[0] == 200, 30, "the Pack to serve")
    host.until(
        lambda: len(host.ok("GET", "/api/flows/acme.answer/explain")["steps"]) == 2, 30, "the modifier to apply"
    )  # fmt: skip
    report = host.ok("POST", "/api/flows/acme.answer/run", values)
    assert report["output"] == {"doubled": 3, "caller": "shout"}, str(report["steps"])[-900:]
    acts = {one["path"]: one["acts_as"] for one in host.ok("GET", "/api/flows/acme.answer/explain")["steps"]}
    assert acts == {"double": ["acme"], "more": ["shout"]}


HOOKED = {
    "steps": [
        {"id": "Left.Out", "handler": "old.note", "args": "skipped", "output": "left"},
        {"id": "flaky", "handler": "old.flaky", "args": {"name": "h", "after": 2}, "output": "tries"},
        {"id": "bad", "handler": "old.fail", "output": "lost"},
        {"id": "read", "handler": "old.note", "args": ["${tries}", "${left}", "${lost}"]},
        {"id": "group", "type": "group", "steps": [{"id": "halt", "handler": "old.note", "args": "never"}]},
        {"id": "after", "handler": "old.note", "args": "never"},
    ]
}
HOOKS = """
%s


def run(context):
    ir = context["interface_registry"]
    for key, fn in handlers().items():
        ir.register(key, fn)

    def before(args, ctx):
        return {"left-out": {"_skip": True}, "halt": {"_abort": True}}.get(args["step"]["id"])

    def failed(args, ctx):
        return {"flaky": "retry", "bad": "continue"}.get(args["step"]["id"])

    ir.register("flow.hooks.before_step", before)
    ir.register("flow.error_handler", failed)
    ir.register("flow.old.hooked", %r)
"""


def test_hooks_stand_around_the_steps_of_older_flows(host: RunningHost) -> None:
    provides = (*KEYS, "flow.hooks.before_step", "flow.error_handler", "flow.old.hooked")
    host.put_pack("old", flow_pack("old", HOOKS % (HANDLERS, HOOKED), {}, asks=ASKS, provides=provides))
    host.ok("POST", "/api/packs/old/approve", {"permissions": ASKS})
    host.until(lambda: host.status("old")["status"] == "running", 30, "the Pack to run")
    report = host.ok("POST", "/api/flows/old.hooked/run", {"input": {}})
    assert host.result("old.taken") == [[2, None, None]], report
    steps = {step["step"]: step["status"] for step in report["steps"]}
    assert steps == {
        "left-out": "skipped", "flaky": "ok", "bad": "failed", "read": "ok", "group/halt": "failed", "group": "failed",
    }, report  # fmt: skip
    assert report["status"] == "failed"
