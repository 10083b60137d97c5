"""A hostile Pack's flows, modifiers and answers, and journals that somebody wrote by hand."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from backend_core.errors import AuthorError, ConflictError, HostError, RequestError, TrustError
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers import run_journal, run_reseal
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.run_journal import RunJournal, read_account
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.handlers.flows import documents
from core_runtime.kernel import Kernel
from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Base, Composition, World, compose
from core_runtime.rules.flow.explain import as_mermaid
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.modifier import parse_modifier
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow, walk_steps
from core_runtime.rules.flow.values import compile_value, walk
from tests.e2e.test_flows import SHOUT, acme, flow_pack, run
from tests.support.flows import Playbook
from tests.support.hosts import bare_host, with_bus
from tests.support.running_host import RunningHost

OPEN = """
flow: acme.answer
steps:
  - {id: read, call: store.read}
  - {id: save, call: store.append, with: {text: "${input.text}"}}
"""


def composed(
    flow: str, ops: str, *, owner: str = "acme", granted: str = "acme.answer", modify="acme.answer"
) -> Composition:
    document = yaml.safe_load(flow)
    layer = model.Layer.ECOSYSTEM if owner else model.Layer.CORE
    base = Base(document, parse_flow(document, source="f.yaml", pack=owner, layer=layer))
    words = {"modify": modify, "id": "evil.screen", "ops": yaml.safe_load(ops)}
    change = parse_modifier(words, source="m.yaml", pack="evil", layer=model.Layer.ECOSYSTEM)
    return compose(base, [change], World(may_modify=lambda _pack, flow_id: flow_id == granted))


def acting(found: Composition) -> dict[str, tuple[str, ...]]:
    return {step.path: step.acts_as for step in walk_steps(found.plan.flow.steps)}


def refusals(found: Composition) -> list[str]:
    return [change.why for change in found.changes if change.status is Status.REFUSED]


def test_each_step_acts_as_who_supplied_it():
    ops = """
- {insert: {after: save}, steps: [{id: mine, do: [{id: inner, call: x.y}], catch: [{do: [{id: caught, call: x.y}]}]}]}
- {wrap: [read], with: {id: around, finally: [{id: last, call: x.y}]}}
- {replace: save, step: {id: save, call: store.drop}}
"""
    found = acting(composed(OPEN, ops))
    assert found.pop("around/read") == ("acme",)
    assert len(found) == 6
    assert set(found.values()) == {("evil",)}


def test_a_patched_step_acts_as_both():
    ops = "[{patch: save, json_patch: [{op: replace, path: /call, value: secret.read}]}]"
    assert acting(composed(OPEN, ops))["save"] == ("acme", "evil")


@pytest.mark.parametrize("owner", ["", "acme"])
@pytest.mark.parametrize(
    "ops",
    [
        '[{insert: {after: save}, steps: [{id: mine, call: "kernel:trust.open"}]}]',
        '[{replace: save, step: {call: "kernel:trust.open"}}]',
        '[{patch: save, json_patch: [{op: replace, path: /call, value: "kernel:trust.open"}]}]',
        '[{wrap: [save], with: {id: w, finally: [{id: f, call: "kernel:trust.open"}]}}]',
    ],
)
def test_a_packs_step_never_reaches_the_hosts_handlers(owner, ops):
    found = composed(OPEN, ops, owner=owner)
    assert found.plan.handlers == {"store.read", "store.append"}
    assert refusals(found)
    with pytest.raises(AuthorError):
        plan_flow(parse_flow({"flow": "a.b", "steps": [{"call": "kernel:trust.open"}]}, source="f", pack="evil"))


@pytest.mark.parametrize("glob", ["acme.answer", "*", "acme.*"])
def test_a_modifier_reaches_no_flow_it_was_not_granted(glob):
    found = composed(OPEN, "[{remove: save}]", granted="acme.other", modify=glob)
    assert "save" in acting(found)
    assert refusals(found) == ["evil was not granted flow.modify for acme.answer"]


HOLDING = """
flow: acme.answer
steps:
  - {id: outer, do: [{id: middle, do: [{id: guard, call: guard.check, sealed: true}]}]}
  - {id: save, call: store.append}
"""


@pytest.mark.parametrize(
    "ops",
    [
        "[{remove: outer}]",
        "[{remove: outer/middle}]",
        "[{replace: outer, step: {call: x.y}}]",
        "[{patch: outer, json_patch: [{op: add, path: /enabled, value: false}]}]",
        "[{wrap: [outer], with: {id: w, enabled: false}}]",
    ],
)
def test_a_step_around_a_sealed_one_is_not_changed_as_a_whole(ops):
    found = composed(HOLDING, ops)
    assert set(acting(found)) == {"outer", "outer/middle", "outer/middle/guard", "save"}
    assert ["is sealed" in why for why in refusals(found)] == [True]


def test_steps_may_still_stand_beside_a_sealed_one():
    found = composed(HOLDING, "[{insert: {first_in: outer}, steps: [{id: mine, call: x.y}]}]")
    assert "outer/mine" in acting(found)


NEEDED = """
flow: acme.answer
phases: [first, {name: act, sealed: true}]
steps:
  - {id: check, phase: first, call: a.check}
  - {id: act, phase: act, call: a.act, needs: [check]}
"""


def test_what_a_sealed_step_needs_is_not_taken_away():
    found = composed(NEEDED, "[{remove: check}]")
    assert set(acting(found)) == {"check", "act"}
    assert refusals(found) == ["the sealed step act needs it"]


def test_no_name_ends_a_label_of_the_graph():
    call = 'x"] --> n9["<b onclick=y>`'
    found = composed(
        yaml.safe_dump({"flow": "acme.answer", "steps": [{"id": "save", "call": call}]}), "[{remove: gone}]"
    )
    [line] = as_mermaid(found).splitlines()[1:]
    assert line.count('"') == 2
    assert not set("<`") & set(line)
    with pytest.raises(AuthorError):
        parse_flow({"flow": "a.b\nINFO forged", "steps": [{"call": "k"}]}, source="f", pack="evil")
    with pytest.raises(AuthorError):
        parse_flow({"flow": "a.b", "steps": [{"id": "x\x1b[2J", "call": "k\x1b[2J"}]}, source="f", pack="evil")


def test_a_huge_index_is_absent():
    path = f"a.{'9' * 5_000}"
    assert compile_value(f"${{{path}}}").get(lambda parts: walk({"a": [1]}, parts)) is None


def test_flows_that_run_each_other_end_with_a_named_error():
    text = "flow: a.b\nsteps: [{id: again, flow: a.b}]\n"
    outcome = Playbook(text, {}, flows={"a.b": text}).run()
    assert (outcome.status, outcome.error.type) == (endings.RunStatus.FAILED, "limit")


def test_a_text_that_doubles_ends_with_a_named_error():
    double = '[{id: more, set: {s: "${s}${s}"}, on_error: fail}]'
    text = f'flow: a.b\nvars: {{s: "x"}}\nsteps: [{{id: grow, loop: {{max: 60}}, do: {double}, on_error: fail}}]\n'
    outcome = Playbook(text, {}).run()
    assert (outcome.status, outcome.error.type) == (endings.RunStatus.FAILED, "expression")


@pytest.mark.parametrize("change", ['["${s}", "${s}"]', '{a: "${s}", b: {c: "${s}"}}', '["${s}"]'])
def test_a_value_that_doubles_or_deepens_ends_with_a_named_error(change):
    """It holds itself twice, so it takes no memory until somebody writes it out: as text, for a journal, for a caller."""
    grow = f"[{{id: more, set: {{s: {change}}}, on_error: fail}}]"
    text = f'flow: a.b\nvars: {{s: "x"}}\nsteps: [{{id: grow, loop: {{max: 90}}, do: {grow}, on_error: fail}}]\n'
    outcome = Playbook(text, {}).run()
    assert (outcome.status, outcome.error.type) == (endings.RunStatus.FAILED, "expression")


@pytest.mark.parametrize("end", ['output: "${all}"', 'output: {text: "all: ${all}"}'])
def test_what_was_collected_is_bounded_when_it_is_written_out(end):
    big, items = "x" * 1_000_000, list(range(100))
    each = '{id: e, each: {in: "${input.items}", collect: "${input.big}"}, do: [{id: s, set: {n: 1}}], as: all}'
    book = Playbook(f"flow: a.b\n{end}\nsteps: [{each}]", {}, values={"big": big, "items": items})
    outcome = book.run()
    assert (outcome.status, outcome.error.type if outcome.error else None) == (endings.RunStatus.FAILED, "expression")


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_once_key_is_shared_with_nobody(place):
    """Neither is the owner's step taken for done, nor does the other Pack's get the owner's value."""
    flow = "flow: acme.answer\nsteps: [{id: own, call: own.secret, once: key, as: own}]"
    ops = f"[{{insert: {{{place}: own}}, steps: [{{id: mine, call: x.y, once: key, as: mine}}]}}]"
    book = Playbook(flow, {"own.secret": lambda _args: "secret", "x.y": lambda _args: "mine"})
    book.machine = Machine(composed(flow, ops).plan, run_id="r")
    outcome = book.run()
    assert outcome.variables == {"own": "secret", "mine": "mine"}
    assert len(book.calls) == 2


# --- journals --------------------------------------------------------------------------------------------------------

JOURNALLED = {
    "flow": "t.flow",
    "journal": "file",
    "steps": [{"id": "one", "call": "t.one"}, {"id": "two", "call": "t.two"}],
}


def tell(tmp_path, story):
    """Run ``story(kernel, calls)`` on a host with one journalled flow; ``calls`` are what its steps did."""

    async def whole():
        calls: list[str] = []
        host = await with_bus(bare_host(tmp_path))
        folder = host.settings.home / "user_data" / "flows"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "t.flow.json").write_text(json.dumps(JOURNALLED))
        kernel = Kernel(host)
        for name in ("one", "two"):
            host.registry.register(f"t.{name}", lambda _args, _ctx, name=name: calls.append(name))
        try:
            return await story(kernel, calls)
        finally:
            await kernel.runs.close()
            await host.close()

    return asyncio.run(whole())


def journals(kernel):
    return kernel.host.settings.home / "user_data" / "runs"


async def cut(kernel, calls, flow="t.flow"):
    """A run that was killed after its first step."""
    report = await kernel.run(flow)
    path = journals(kernel) / f"{report.run_id}.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    kernel.runs._done.clear()
    calls.clear()
    return report.run_id


def test_two_resumptions_of_one_run_act_once(tmp_path):
    async def story(kernel, calls):
        run_id = await cut(kernel, calls)
        ends = await asyncio.gather(*(kernel.resume(run_id) for _ in range(3)), return_exceptions=True)
        return calls, ends

    calls, ends = tell(tmp_path, story)
    assert calls == ["two"]
    assert sorted(type(end).__name__ for end in ends) == ["ConflictError", "ConflictError", "RunReport"]
    assert {end.code for end in ends if isinstance(end, ConflictError)} == {"run_live"}


def test_a_changed_flow_below_refuses_to_resume(tmp_path):
    inner = {"flow": "t.inner", "steps": [{"id": "x", "call": "t.two"}]}
    outer = {
        "flow": "t.outer",
        "journal": "file",
        "steps": [{"id": "a", "call": "t.one"}, {"id": "b", "flow": "t.inner"}],
    }

    async def story(kernel, calls):
        folder = kernel.host.settings.home / "user_data" / "flows"
        (folder / "outer.flow.json").write_text(json.dumps(outer))
        (folder / "inner.flow.json").write_text(json.dumps(inner))
        run_id = await cut(kernel, calls, "t.outer")
        (folder / "inner.flow.json").write_text(json.dumps({**inner, "steps": [{"id": "x", "call": "t.one"}]}))
        with pytest.raises(ConflictError) as caught:
            await kernel.resume(run_id)
        (folder / "inner.flow.json").write_text(json.dumps(inner))
        return caught.value.code, (await kernel.resume(run_id)).status, calls

    assert tell(tmp_path, story) == ("flow_changed", endings.RunStatus.OK, ["two"])


HEAD = {"run": "f", "flow": "t.flow", "digest": "d", "started_at": 1, "actor": "", "input": "wA=="}
FORGED = [
    json.dumps({**HEAD, "started_at": []}),
    json.dumps({"run": "f"}),
    json.dumps({**HEAD, "flow": {}}),
    f"{json.dumps(HEAD)}\n{json.dumps({'end': 'ok', 'duration_s': [], 'output': 'wA=='})}",
    f"{json.dumps(HEAD)}\n{json.dumps({'end': 'ok', 'duration_s': 1, 'output': 'wA==', 'error': {'x': 1}})}",
    f"{json.dumps(HEAD)}\n{json.dumps({'end': 'ok', 'duration_s': 1, 'output': 'wA==', 'error': {'type': 'x'}})}",
    f"{json.dumps(HEAD)}\n{json.dumps({'p': 'x', 'e': []})}",
    "[" * 200_000,
]


@pytest.mark.parametrize("text", FORGED, ids=range(len(FORGED)))
def test_a_forged_journal_is_refused_and_hides_no_other_run(tmp_path, text):
    async def story(kernel, calls):
        run_id = await cut(kernel, calls)
        (journals(kernel) / "f.jsonl").write_text(f"{text}\n")
        with pytest.raises(TrustError):
            await kernel.resume("f")
        return run_id, calls, kernel.runs.listed()

    run_id, calls, listed = tell(tmp_path, story)
    assert ([one["run_id"] for one in listed], calls) == ([run_id], [])


def edits(lines, name):
    """What somebody who can write the file may do to it, beside cutting its end off."""
    head, first, second, *rest = lines
    answer = json.loads(first)
    forged = json.dumps({**answer, "m": "0" * 32}, separators=(",", ":")).encode() + b"\n"
    unmarked = json.dumps({word: answer[word] for word in ("p", "v")}, separators=(",", ":")).encode() + b"\n"
    return {
        "an answer less": [head, second, *rest],
        "another order": [head, second, first, *rest],
        "an answer twice": [head, first, first, second],
        "another actor": [head.replace(b'"actor":""', b'"actor":"x"'), first, second],
        "a mark of its own": [head, forged],
        "no mark": [head, unmarked],
        "another answer's value": [head, first.replace(answer["v"].encode(), json.loads(second)["v"].encode())],
    }[name]


@pytest.mark.parametrize(
    "name",
    ["an answer less", "another order", "an answer twice", "another actor", "a mark of its own", "no mark",
     "another answer's value"],
)  # fmt: skip
def test_an_edited_journal_is_refused(tmp_path, name):
    async def story(kernel, calls):
        report = await kernel.run("t.flow")
        path = journals(kernel) / f"{report.run_id}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)[:-1]
        path.write_bytes(b"".join(edits(lines, name)))
        kernel.runs._done.clear()
        calls.clear()
        with pytest.raises(TrustError, match="no account"):
            await kernel.resume(report.run_id)
        return calls

    assert tell(tmp_path, story) == []


def test_a_journal_of_another_run_or_another_host_is_refused(tmp_path):
    async def story(kernel, calls):
        run_id = await cut(kernel, calls)
        path = journals(kernel) / f"{run_id}.jsonl"
        (journals(kernel) / "f00.jsonl").write_bytes(path.read_bytes())
        with pytest.raises(TrustError, match="no account"):
            await kernel.resume("f00")
        foreign = RunJournal.create(journals(kernel), "f01", {**HEAD, "run": "f01"}, {}, RunSeals("1" * 64), sync=False)
        foreign.close()
        with pytest.raises(TrustError, match="no account"):
            await kernel.resume("f01")
        return calls, (await kernel.resume(run_id)).status.value

    assert tell(tmp_path, story) == (["two"], "ok")


# --- a new signing key -----------------------------------------------------------------------------------------------


def rotate(kernel):
    """What the next start does after ``rumi trust rotate-key``; the key that was replaced."""
    keyring = Keyring(kernel.host.settings.home / "user_data" / "permissions")
    before = keyring.text()
    keyring.rotate()
    return before


def test_a_run_that_was_cut_off_goes_on_after_the_key_was_replaced(tmp_path):
    async def story(kernel, calls):
        run_id = await cut(kernel, calls)
        path = journals(kernel) / f"{run_id}.jsonl"
        path.write_bytes(path.read_bytes() + b'{"p":"torn')
        os.utime(path, ns=(7, 7_000_000_000))
        before, status = path.read_bytes(), path.stat()
        old = rotate(kernel)
        after = path.stat()
        assert (after.st_mtime_ns, after.st_mode) == (status.st_mtime_ns, status.st_mode), "kept no longer for it"
        with pytest.raises(TrustError, match="no account"):  # whoever took the old key reads and writes nothing with it
            read_account(path, RunSeals(old))
        listed = [one["status"] for one in kernel.runs.listed()]
        report = await kernel.resume(run_id)
        kernel.runs._done.clear()
        path.write_bytes(before)  # nor does what the old key proved
        with pytest.raises(TrustError, match="no account"):
            await kernel.resume(run_id)
        return listed, report.status.value, calls

    assert tell(tmp_path, story) == (["cut"], "ok", ["two"])


@pytest.mark.parametrize(
    "name",
    ["an answer less", "another order", "an answer twice", "another actor", "a mark of its own", "no mark",
     "another answer's value"],
)  # fmt: skip
def test_a_new_key_makes_no_forged_journal_believable(tmp_path, name):
    async def story(kernel, calls):
        good = await cut(kernel, calls)
        report = await kernel.run("t.flow")
        path = journals(kernel) / f"{report.run_id}.jsonl"
        forged = b"".join(edits(path.read_bytes().splitlines(keepends=True)[:-1], name))
        path.write_bytes(forged)
        (journals(kernel) / "f00.jsonl").write_bytes((journals(kernel) / f"{good}.jsonl").read_bytes())  # moved
        kernel.runs._done.clear()
        calls.clear()
        rotate(kernel)
        assert path.read_bytes() == forged
        for run_id in (report.run_id, "f00"):
            with pytest.raises(TrustError, match="no account"):
                await kernel.resume(run_id)
        return [one["run_id"] for one in kernel.runs.listed()] == [good], calls

    assert tell(tmp_path, story) == (True, [])


def test_a_new_key_follows_no_link_out_of_the_journals(tmp_path):
    async def story(kernel, calls):
        run_id = await cut(kernel, calls)
        outside = tmp_path / "elsewhere.jsonl"
        path = journals(kernel) / f"{run_id}.jsonl"
        path.rename(outside)
        path.symlink_to(outside)
        (journals(kernel) / "f01.jsonl").mkdir()
        before = outside.read_bytes()
        rotate(kernel)
        return outside.read_bytes() == before, path.is_symlink()

    assert tell(tmp_path, story) == (True, True)


def test_a_disk_without_room_keeps_the_old_key_and_every_run(tmp_path, monkeypatch):
    def no_room(_fd, _data):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def story(kernel, calls):
        run_id = await cut(kernel, calls)
        keyring = Keyring(kernel.host.settings.home / "user_data" / "permissions")
        key = keyring.text()
        keyring.prepare_rotation()
        with monkeypatch.context() as patch:
            patch.setattr(run_reseal, "write_all", no_room)
            with pytest.raises(HostError, match="new key"):
                keyring.recover()
        assert keyring.text() == key
        assert [path.name for path in journals(kernel).iterdir()] == [f"{run_id}.jsonl"]
        keyring.recover()
        return (await kernel.resume(run_id)).status.value, calls

    assert tell(tmp_path, story) == ("ok", ["two"])


def test_a_journal_tells_nobody_what_was_answered(tmp_path):
    """A Pack may return what should not lie about; nobody can say beforehand where a secret is."""

    async def story(kernel, _calls):
        kernel.host.registry.register("t.secret", lambda _args, _ctx: {"token": "sesame-open-0815"})
        steps = [{"id": "one", "call": "t.secret", "as": "found"}]
        document = {"flow": "t.flow", "journal": "file", "steps": steps, "output": "${found}"}
        (kernel.host.settings.home / "user_data" / "flows" / "t.flow.json").write_text(json.dumps(document))
        report = await kernel.run("t.flow", values={"password": "sesame-open-4711"})
        data = (journals(kernel) / f"{report.run_id}.jsonl").read_bytes()
        kernel.runs._done.clear()
        shown = await asyncio.to_thread(kernel.runs.get, report.run_id)
        plain = b"".join(base64.b64decode(found) for found in re.findall(rb'"(?:v|input|output)":"([^"]*)"', data))
        return b"sesame" in data or b"sesame" in plain, shown.output

    assert tell(tmp_path, story) == (False, {"token": "sesame-open-0815"})


@pytest.mark.parametrize("run_id", ["../x", "..", "a/b", "a\0b", "", "a" * 65, "a.b"])
def test_a_run_id_is_never_a_path(tmp_path, run_id):
    async def story(kernel, _calls):
        with pytest.raises(RequestError) as caught:
            await kernel.resume(run_id)
        return caught.value.code

    assert tell(tmp_path, story) == "run_id_invalid"


def test_a_journal_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(run_journal, "MAX_JOURNAL_BYTES", 4_000)
    monkeypatch.setattr(run_journal, "END_BYTES", 1_000)
    seals = RunSeals("0" * 64)
    head = {word: HEAD[word] for word in HEAD if word != "input"}
    journal = RunJournal.create(tmp_path, "f", head, {}, seals, sync=False)
    with pytest.raises(HostError, match="journal is full"):
        for number in range(1_000):
            journal.answer(f"s#{number}", "x" * 50, None)
    journal.end({"end": "failed", "duration_s": 1.0, "error": None}, None)
    assert journal.path.stat().st_size < 4_000
    assert read_account(journal.path, seals).end["end"] == "failed"


def test_a_flow_whose_bytes_differ_from_the_grant_is_not_loaded(tmp_path):
    folder = tmp_path / "backend" / "flows"
    folder.mkdir(parents=True)
    good, swapped = b"flow: a.good\nsteps: [{call: k}]\n", b"flow: a.evil\nsteps: [{call: k}]\n"
    (folder / "good.yaml").write_bytes(good)
    (folder / "swapped.yaml").write_bytes(swapped)
    (folder / "added.yaml").write_bytes(swapped)
    fingerprint = SimpleNamespace(sha256=hashlib.sha256(good).hexdigest())
    names = ("good", "swapped")
    files = {f"backend/flows/{name}.yaml": fingerprint for name in names}
    grant = SimpleNamespace(digest="d", files=files, since={})
    approvals = SimpleNamespace(
        list=lambda: [SimpleNamespace(pack_id="acme")], grant=lambda _pack: grant, copy_path=lambda _digest: tmp_path
    )
    host = SimpleNamespace(built=lambda _name: True, approvals=approvals, diagnostics=Diagnostics())
    assert [document.name for document in documents(host)] == ["acme:backend/flows/good.yaml"]


# --- on a real host --------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


PATCH = """
modify: acme.answer
id: shout.more
ops: [{patch: double, json_patch: [{op: replace, path: /call, value: %s}]}]
"""


@pytest.mark.embedded
@pytest.mark.parametrize("key", ["acme.double", "shout.secret"])
def test_a_patched_step_needs_the_rights_of_both(host: RunningHost, key: str) -> None:
    """Each of the two Packs owns one key; neither asked to use the other's, so neither key is within both's rights."""
    acme(host)
    asks = [{"type": "flow.modify", "flows": ["acme.answer"]}]
    host.put_pack(
        "shout", flow_pack("shout", SHOUT, {"m.yaml": PATCH % key}, asks=asks, provides=("shout.add", "shout.secret"))
    )
    host.ok("POST", "/api/packs/shout/approve", {"permissions": asks})
    [step] = host.ok("GET", "/api/flows/acme.answer/explain")["steps"]
    assert (step["acts_as"], step["handler"]) == (["acme", "shout"], key)
    report = run(host, "acme.answer", {"value": 1})
    assert [step["error"]["type"] for step in report["steps"]] == ["denied"], report


# --- floods and races ------------------------------------------------------------------------------------------------


def on_the_bus(tmp_path, document, keys, story):
    async def whole():
        host = await with_bus(bare_host(tmp_path))
        folder = host.settings.home / "user_data" / "flows"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "t.flow.json").write_text(json.dumps(document))
        kernel = Kernel(host)
        for key, fn in keys.items():
            host.registry.register(key, fn)
        try:
            return await story(kernel)
        finally:
            await kernel.close()
            await host.close()

    return asyncio.run(whole())


def test_a_flood_of_events_from_a_flow_ends_and_lets_others_have_their_turn(tmp_path):
    async def story(kernel):
        turns, heard = 0, []
        kernel.host.events.subscribe("t.flood", heard.append)
        run = asyncio.ensure_future(kernel.run("t.flow"))
        while not run.done():
            await asyncio.sleep(0)
            turns += 1
        report = await run
        return report.status.value, report.error.type, len(heard), turns

    loop = {"id": "l", "loop": {"max": 10_000}, "do": [{"id": "e", "emit": "t.flood", "with": {"n": 1}}]}
    document = {"flow": "t.flow", "limits": {"steps": 3_000}, "steps": [loop]}
    status, error, heard, turns = on_the_bus(tmp_path, document, {}, story)
    assert (status, error) == ("failed", "limit")
    assert heard <= 3_000
    assert turns > 100


def test_a_reader_that_does_not_read_holds_the_flow_back_and_memory_with_it(tmp_path):
    """A flow yields without end; each item waits until the one before it was taken."""
    taken, gate = [], asyncio.Event()

    async def emit(item):
        taken.append(item)
        await gate.wait()

    async def story(kernel):
        run = asyncio.ensure_future(kernel.run("t.flow", emit=emit))
        for _ in range(200):
            await asyncio.sleep(0.001)
        held = len(taken)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        [shown] = kernel.runs.listed()
        return held, shown["status"]

    loop = {"id": "l", "loop": {"max": 10_000}, "do": [{"id": "y", "yield": {"n": 1}}]}
    assert on_the_bus(tmp_path, {"flow": "t.flow", "steps": [loop]}, {}, story) == (1, "cancelled")


@pytest.mark.parametrize("seed", range(8))
def test_a_run_cancelled_at_any_moment_ends_once_with_its_finally_and_leaves_nothing(tmp_path, seed):
    chance, ends = random.Random(seed), []

    async def work(args, _ctx):
        await asyncio.sleep(chance.random() / 200)
        return args

    async def items(_args, _ctx):
        for number in range(50):
            await asyncio.sleep(0)
            yield number

    async def story(kernel):
        for _ in range(12):
            run = asyncio.ensure_future(kernel.run("t.flow"))
            await asyncio.sleep(chance.random() / 50)
            for one in kernel.runs.listed():
                if one["status"] == "running":
                    kernel.runs.cancel(one["run_id"])
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
        statuses = [one["status"] for one in kernel.runs.listed()]
        left = [task for task in asyncio.all_tasks() if "FlowRun" in repr(task)]
        return statuses, left, kernel.host.events.list_subscribers()

    do = [{"id": "w", "call": "t.work", "with": {"n": 1}}, {"id": "e", "wait": {"event": "t.never"}, "timeout": "5ms"}]
    document = {
        "flow": "t.flow", "journal": "file",
        "steps": [
            {"id": "p", "parallel": {"branches": {"a": do, "b": do, "c": [{"id": "s", "call": "t.items", "stream": True}]}}},
            {"id": "each", "each": {"in": {"call": "t.items"}}, "do": [{"id": "x", "call": "t.work"}]},
        ],
        "finally": [{"id": "last", "call": "t.last"}],
    }  # fmt: skip
    keys = {"t.work": work, "t.items": items, "t.last": lambda _a, _c: ends.append(1)}
    statuses, left, subscribers = on_the_bus(tmp_path, document, keys, story)
    began = [status for status in statuses if status != "running"]
    assert len(began) == len(statuses), "each came to an end"
    assert set(began) <= {"cancelled", "ok", "degraded"}
    assert len(ends) <= len(began), "finally once at most"
    assert (left, subscribers.get("t.never")) == ([], None)
