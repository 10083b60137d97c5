"""Runs of flows on a real host without sandboxes: streams, events, who acts, concurrency, journals and resuming."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os

import pytest

from backend_core.errors import ConflictError, HostError, NotFoundError, PackError, RequestError, TrustError
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers import run_journal
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.run_journal import RunJournal, read_account
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.flow_failing import MAX_KEPT, REST_S, TOLD_AFTER, FailingSteps
from core_runtime.kernel import Kernel
from core_runtime.rules.flow.endings import RunStatus, Status, StepResult
from tests.support.hosts import bare_host, with_bus


def tell(tmp_path, story, *flows, keys=None):
    """Run ``story(kernel)`` on a host with these flows of the user and these interfaces."""

    async def whole():
        host = await with_bus(bare_host(tmp_path))
        folder = host.settings.home / "user_data" / "flows"
        folder.mkdir(parents=True, exist_ok=True)
        for number, flow in enumerate(flows):
            (folder / f"{number}.flow.json").write_text(json.dumps(flow))
        kernel = Kernel(host)
        for key, fn in (keys or {}).items():
            host.registry.register(key, fn)
        try:
            return await story(kernel)
        finally:
            await kernel.runs.close()
            await host.close()

    return asyncio.run(whole())


HEAD = {"run": "r1", "flow": "t.flow", "digest": "", "started_at": 0.0, "actor": ""}


def seals_of(home):
    return RunSeals.of(Keyring(home / "user_data" / "permissions"))


def flow(*steps, **words):
    return {"flow": "t.flow", "steps": list(steps), **words}


async def numbers(args, ctx):
    for number in range(args["n"]):
        yield {"n": number}


def test_items_of_a_handler_leave_the_run_as_they_come(tmp_path):
    items = []

    async def emit(item):
        items.append(item)

    async def story(kernel):
        return await kernel.run("t.flow", values={"n": 3}, emit=emit)

    step = {"id": "s", "call": "acme.numbers", "with": {"n": "${input.n}"},
            "stream": {"yield": "${item.n}", "collect": "${item.n}", "as": "last"}}  # fmt: skip
    report = tell(tmp_path, story, flow(step, output="${last}"), keys={"acme.numbers": numbers})
    assert (report.status, report.output, items) == (RunStatus.OK, 2, [0, 1, 2])


def test_a_stream_that_nobody_said_to_read_is_an_error_that_says_how(tmp_path):
    report = tell(
        tmp_path, lambda kernel: kernel.run("t.flow"), flow({"id": "s", "call": "acme.numbers", "with": {"n": 1}}),
        keys={"acme.numbers": numbers},
    )  # fmt: skip
    assert report.steps[0].result.error.cause == "Give the step the word stream."


def test_an_event_that_can_not_be_compared_fails_the_step_that_waits(tmp_path):
    async def story(kernel):
        running = asyncio.ensure_future(kernel.run("t.flow", values={"big": "x" * 5_000_000}))
        while not kernel.host.events.list_subscribers().get("acme.done"):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        kernel.host.events.publish("acme.done", {"id": "x"})
        return await running

    step = {"id": "w", "wait": {"event": "acme.done", "match": {"id": "${input.big}${input.big}"}}}
    report = tell(tmp_path, story, flow(step))
    assert report.steps[0].result.error.type == "expression"


def test_events_are_published_and_waited_for(tmp_path):
    async def story(kernel):
        heard = []
        kernel.host.events.subscribe("acme.*", heard.append)
        running = asyncio.ensure_future(kernel.run("t.flow", values={"id": 7}))
        while not kernel.host.events.list_subscribers().get("acme.done"):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        kernel.host.events.publish("acme.done", {"id": 6})
        kernel.host.events.publish("acme.done", {"id": 7, "value": "mine"})
        return await running, heard

    report, heard = tell(tmp_path, story, flow(
        {"id": "e", "emit": "acme.begun", "with": {"id": "${input.id}"}},
        {"id": "w", "wait": {"event": "acme.done", "match": {"id": "${input.id}"}}, "as": "got", "timeout": "20s"},
        output="${got.value}",
    ))  # fmt: skip
    assert (report.output, heard[0]) == ("mine", {"id": 7})


def test_an_input_that_does_not_fit_starts_nothing(tmp_path):
    with pytest.raises(RequestError, match="integer"):
        tell(tmp_path, lambda kernel: kernel.run("t.flow", values={"n": "x"}),
             flow({"id": "s", "call": "k"}, input={"type": "object", "properties": {"n": {"type": "integer"}}}))  # fmt: skip


def test_a_flow_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(NotFoundError) as refused:
        tell(tmp_path, lambda kernel: kernel.run("no.flow"), flow({"id": "s", "call": "k"}))
    assert "t.flow" in refused.value.detail


# --- beside each other -----------------------------------------------------------------------------------------------


def overlapping(tmp_path, mode, *inputs, **words):
    """What becomes of runs that are started one after another while the first still waits for its gate."""
    order: list[str] = []

    async def story(kernel):
        gate = asyncio.Event()

        async def work(args, ctx):
            order.append(f"begin {args}")
            try:
                await gate.wait()
            finally:
                order.append(f"end {args}")
            return args

        kernel.host.registry.register("acme.work", work)
        runs = []
        for value in inputs:
            runs.append(asyncio.ensure_future(kernel.run("t.flow", values={"k": value, "n": len(runs)})))
            for _ in range(50):
                await asyncio.sleep(0.002)
                if f"begin {len(runs) - 1}" in order:
                    break
        gate.set()
        return [
            type(found).__name__ if isinstance(found, BaseException) else found.status.value
            for found in await asyncio.gather(*runs, return_exceptions=True)
        ]

    rule = {"key": "${input.k}", "mode": mode, **words}
    return tell(tmp_path, story, flow({"id": "w", "call": "acme.work", "with": "${input.n}"}, concurrency=rule)), order


def test_single_refuses_a_second_run_of_the_same_key_only(tmp_path):
    ended, order = overlapping(tmp_path, "single", "a", "a", "b")
    assert ended == ["ok", "ConflictError", "ok"]
    assert "begin 1" not in order


def test_restart_ends_the_run_before(tmp_path):
    ended, order = overlapping(tmp_path, "restart", "a", "a")
    assert ended == ["cancelled", "ok"]
    assert order.index("end 0") < order.index("begin 1")


def test_queue_runs_one_after_another_and_parallel_up_to_its_bound(tmp_path):
    ended, order = overlapping(tmp_path, "queue", "a", "a")
    assert (ended, order) == (["ok", "ok"], ["begin 0", "end 0", "begin 1", "end 1"])
    ended, order = overlapping(tmp_path, "parallel", "a", "a", "a", max=2)
    assert ended == ["ok", "ok", "ok"]
    assert order.index("end 0") < order.index("begin 2")
    assert order[:2] == ["begin 0", "begin 1"]


# --- journals --------------------------------------------------------------------------------------------------------

JOURNALLED = flow(
    {"id": "first", "call": "acme.step", "with": {"n": 1}, "as": "a"},
    {"id": "many", "each": {"in": [1, 2, 3], "parallel": 3}, "do": [{"id": "x", "call": "acme.step", "with": {"n": "${item}"}}]},
    {"id": "s", "call": "acme.numbers", "with": {"n": 3}, "stream": {"collect": "${item.n}", "as": "last"}},
    {"id": "pause", "wait": "1ms"},
    {"id": "pay", "call": "acme.step", "with": {"n": "${a.n}"}, "as": "paid", "once": "pay"},
    output={"a": "${a}", "last": "${last}", "paid": "${paid}"}, journal="file",
)  # fmt: skip


def keys(calls):
    async def step(args, ctx):
        calls.append((args["n"], ctx["idempotency_key"]))
        return {"n": args["n"], "bytes": b"\x00\xff"}

    return {"acme.step": step, "acme.numbers": numbers}


def journal_of(tmp_path):
    [path] = (tmp_path / "user_data" / "runs").glob("*.jsonl")
    return path


def test_a_run_cut_at_any_answer_resumes_to_the_same_end(tmp_path):
    whole = tell(tmp_path, lambda kernel: kernel.run("t.flow"), JOURNALLED, keys=keys([]))
    path = journal_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["end"] == "ok"
    assert path.stat().st_mode & 0o777 == 0o600
    for cut in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:cut]) + b'{"torn')
        calls: list[tuple[int, str | None]] = []
        [told] = tell(tmp_path, lambda kernel: asyncio.to_thread(kernel.runs.listed), JOURNALLED)
        assert (told["status"], told["resumable"]) == ("cut", True)
        report = tell(tmp_path, lambda kernel: kernel.resume(path.name.partition(".")[0]), JOURNALLED, keys=keys(calls))
        assert (report.status, report.output) == (RunStatus.OK, whole.output), cut
        answered = sum(b'@1","v"' in line for line in lines[1:cut])  # calls; items of the stream have numbers
        assert len(calls) + answered == 5, "each call was made once, before the cut or after it"
        assert read_account(path, seals_of(tmp_path)).end is not None


def test_a_resumed_run_lists_what_its_journal_told_as_replayed(tmp_path):
    whole = tell(tmp_path, lambda kernel: kernel.run("t.flow"), JOURNALLED, keys=keys([]))
    assert not any(step["replayed"] for step in whole.as_dict()["steps"])
    path = journal_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    seen = set()
    for cut in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:cut]))
        calls: list[tuple[int, str | None]] = []
        report = tell(tmp_path, lambda kernel: kernel.resume(path.name.partition(".")[0]), JOURNALLED, keys=keys(calls))
        steps = report.as_dict()["steps"]
        assert sorted(step["step"] for step in steps) == sorted(step.result.path for step in whole.steps), cut
        assert all(step["status"] == "ok" for step in steps)
        anew = [step["step"] for step in steps if step["handler"] == "acme.step" and not step["replayed"]]
        assert len(anew) == len(calls), (cut, "a step that was asked again is none that the journal told of")
        seen.add(tuple(step["step"] for step in steps if step["replayed"]))
    assert () in seen, "nothing was answered before the cut"
    assert ("first", "many/x", "many/x", "many/x", "many", "s", "pause", "pay") in seen


def test_a_replayed_failure_is_counted_once(tmp_path):
    """By the run that had it: resuming it often makes no component look as if it failed often."""

    async def fails(_args, _ctx):
        raise PackError("No", code="no", pack_id="acme")

    failing = flow(
        {"id": "bad", "call": "acme.bad", "on_error": "continue"}, {"id": "pause", "wait": "1ms"}, journal="file"
    )
    tell(tmp_path, lambda kernel: kernel.run("t.flow"), failing, keys={"acme.bad": fails})
    path = journal_of(tmp_path)
    head = b"".join(path.read_bytes().splitlines(keepends=True)[:2])

    async def often(kernel):
        for _ in range(TOLD_AFTER + 1):
            path.write_bytes(head)
            report = await kernel.resume(path.name.partition(".")[0])
        told = [(step.result.path, step.result.status.value, step.replayed) for step in report.steps]
        return told, kernel.host.diagnostics.issues()

    told, issues = tell(tmp_path, often, failing, keys={"acme.bad": fails})
    assert told == [("bad", "failed", True), ("pause", "ok", False)]
    assert [one for one in issues if one.code == "flow_step_failing"] == []


def test_the_key_of_a_once_step_is_the_same_when_it_is_done_again(tmp_path):
    first: list[tuple[int, str | None]] = []
    tell(tmp_path, lambda kernel: kernel.run("t.flow"), JOURNALLED, keys=keys(first))
    path = journal_of(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(itertools.takewhile(lambda line: b'"pay@1"' not in line, lines)))
    again: list[tuple[int, str | None]] = []
    tell(tmp_path, lambda kernel: kernel.resume(path.name.partition(".")[0]), JOURNALLED, keys=keys(again))
    assert again == [first[-1]]
    assert first[-1][1] == f"{path.name.partition('.')[0]}/pay"


def test_a_changed_flow_refuses_to_resume(tmp_path):
    tell(tmp_path, lambda kernel: kernel.run("t.flow"), JOURNALLED, keys=keys([]))
    path = journal_of(tmp_path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    changed = {**JOURNALLED, "version": 2}
    with pytest.raises(ConflictError) as refused:
        tell(tmp_path, lambda kernel: kernel.resume(path.name.partition(".")[0]), changed, keys=keys([]))
    assert refused.value.code == "flow_changed"
    assert '+ "version": 2' in refused.value.fields["difference"]


def test_a_run_that_ended_is_not_resumed_and_an_edited_journal_is_no_account(tmp_path):
    tell(tmp_path, lambda kernel: kernel.run("t.flow"), JOURNALLED, keys=keys([]))
    path = journal_of(tmp_path)
    run_id = path.name.partition(".")[0]
    with pytest.raises(ConflictError, match="came to its end"):
        tell(tmp_path, lambda kernel: kernel.resume(run_id), JOURNALLED, keys=keys([]))
    for broken in (b"[]\n", b'{"run": 5}\n', path.read_bytes().replace(b'"v":"', b'"v":"!', 1)):
        path.write_bytes(broken)
        with pytest.raises(TrustError):
            tell(tmp_path, lambda kernel: kernel.resume(run_id), JOURNALLED, keys=keys([]))
    with pytest.raises(NotFoundError):
        tell(tmp_path, lambda kernel: kernel.resume("0" * 16), JOURNALLED)
    for bad in ("../permissions/x", "a/b", ""):
        with pytest.raises(RequestError):
            tell(tmp_path, lambda kernel, name=bad: kernel.resume(name), JOURNALLED)


def test_a_full_disk_is_an_error_that_says_so(tmp_path):
    full = os.open("/dev/full", os.O_WRONLY)
    journal = RunJournal(tmp_path / "x.jsonl", full, seals_of(tmp_path), b"", sync=False)
    with pytest.raises(HostError, match="No space left"):
        journal.answer("a@1", 1, None)
    journal.close()


def test_half_a_line_is_taken_back_so_that_the_journal_stays_an_account(tmp_path, monkeypatch):
    seals = seals_of(tmp_path)
    journal = RunJournal.create(tmp_path / "runs", "r1", HEAD, {}, seals, sync=False)
    journal.answer("a", 1, None)

    def fills_up(fd, data):
        os.write(fd, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(run_journal, "write_all", fills_up)
        with pytest.raises(HostError, match="can't be written"):
            journal.answer("b", 2, None)
    journal.answer("b", 3, None)
    journal.end({"end": "ok", "ended_at": 1.0, "duration_s": 1.0, "error": None}, None)
    account = read_account(journal.path, seals)
    assert [(one.place, one.value) for one in account.answers] == [("a", 1), ("b", 3)]
    assert account.end is not None


def test_text_that_is_no_unicode_is_refused_and_the_journal_goes_on(tmp_path):
    seals = seals_of(tmp_path)
    journal = RunJournal.create(tmp_path / "runs", "r1", HEAD, {}, seals, sync=False)
    with pytest.raises(RequestError):
        journal.answer("\ud800", 1, None)
    journal.answer("a", 1, None)
    journal.close()
    assert [one.place for one in read_account(journal.path, seals).answers] == ["a"]


def test_what_can_not_be_kept_fails_its_step_only(tmp_path):
    report = tell(
        tmp_path, lambda kernel: kernel.run("t.flow"),
        flow({"id": "f", "call": "acme.fn"}, {"id": "g", "call": "acme.step", "with": {"n": 1}}, journal="file"),
        keys={"acme.fn": lambda args, ctx: {"fn": print}, **keys([])},
    )  # fmt: skip
    assert [step.result.status.value for step in report.steps] == ["failed", "ok"]


def test_a_journal_in_memory_shows_what_a_run_was_answered_with(tmp_path):
    def big(_args, _ctx):
        return "x" * 10_000

    def boom(_args, _ctx):
        raise ValueError("no")

    steps = [{"id": "one", "call": "acme.one"}, {"id": "big", "call": "acme.big"}, {"id": "boom", "call": "acme.boom"}]
    keys_ = {"acme.one": lambda _a, _c: {"n": 1}, "acme.big": big, "acme.boom": boom}
    report = tell(tmp_path, lambda kernel: kernel.run("t.flow"), flow(*steps, journal="memory"), keys=keys_)
    one, large, failed = report.answers
    assert one == {"place": "one@1", "value": {"n": 1}}
    assert large["value"] == {"_omitted": "10003 bytes"}
    assert (failed["place"], failed["error"]["type"]) == ("boom@1", "error/ValueError")
    assert not (tmp_path / "user_data" / "runs").exists(), "nothing on the disk"
    report = tell(tmp_path, lambda kernel: kernel.run("t.flow"), flow(*steps), keys=keys_)
    assert list(report.answers) == []


# --- steps that fail again and again -----------------------------------------------------------------------------------


def failing(kernel):
    return [issue for issue in kernel.host.diagnostics.issues() if issue.code == "flow_step_failing"]


def test_a_step_that_fails_ten_times_in_a_row_is_told_until_it_succeeds_and_is_asked_all_the_while(tmp_path):
    asked = []

    async def works(args, _ctx):
        asked.append(args)
        if args != "good":
            raise RequestError("no such thing", code="own/thing")

    async def story(kernel):
        told = []
        for value in [*["bad"] * 9, "good", *["bad"] * 12, "good"]:
            await kernel.run("t.flow", values=value)
            told.append(len(failing(kernel)))
            if told[-1]:
                last = failing(kernel)[0]
        return told, last

    told, issue = tell(tmp_path, story, flow({"id": "s", "call": "acme.works", "with": "${input}"}), keys={"acme.works": works})
    assert told == [0] * 10 + [0] * 9 + [1] * 3 + [0]
    assert len(asked) == 23
    assert (issue.subject, issue.count) == ("t.flow s", 1)
    assert "acme.works" in issue.detail
    assert "own/thing" in issue.detail


def test_what_is_remembered_of_failing_steps_is_bounded(tmp_path):
    failed = StepResult("p", Status.FAILED)
    steps, diagnostics = FailingSteps(), Diagnostics()
    for _ in range(TOLD_AFTER):
        steps.note(diagnostics, "first", failed)
    assert len(diagnostics.issues()) == 1
    for number in range(MAX_KEPT + 10):
        steps.note(diagnostics, f"f{number}", failed)
    assert len(steps._counts) == MAX_KEPT
    assert diagnostics.issues() == [], "what is forgotten stands no longer"
    for _ in range(TOLD_AFTER):
        steps.note(diagnostics, "last", failed)
    steps.keep(diagnostics, {"last"})
    assert [issue.subject for issue in diagnostics.issues()] == ["last p"]
    steps.keep(diagnostics, set())
    assert diagnostics.issues() == [], "its flow is gone"


def test_a_run_whose_output_is_too_large_has_failed_and_says_so(tmp_path):
    async def story(kernel):
        with pytest.raises(RequestError) as caught:
            await kernel.run("t.flow")
        [told] = kernel.runs.listed()
        return caught.value.code, told["status"], told["error"]["type"], told["resumable"]

    big = flow({"id": "a", "set": {"x": "y" * 2000}}, output="${x}", journal="file", limits={"output_bytes": 1024})
    assert tell(tmp_path, story, big) == ("output_too_large", "failed", "output_too_large", False)


def test_a_run_can_be_begun_and_goes_on_by_itself(tmp_path):
    async def story(kernel):
        report = await kernel.begin("t.flow", values={}, actor="somebody")
        await kernel.runs.news(report.run_id, 0)
        begun = (report.status, report.going(), report.actor)
        await asyncio.sleep(0)  # the wait is a task of its own
        kernel.host.events.publish("test.go", {})
        await kernel.runs.news(report.run_id, 2)
        return begun, report.status, [step.result.path for step in report.steps], report.going()

    waits = flow({"id": "a", "set": {"x": 1}}, {"id": "b", "wait": {"event": "test.go"}})

    begun, status, steps, going = tell(tmp_path, story, waits)
    assert begun == (None, ["b"], "somebody")
    assert (status, steps, going) == (RunStatus.OK, ["a", "b"], [])


def test_what_is_refused_before_a_run_begins_is_told_to_whoever_begins_it(tmp_path):
    async def story(kernel):
        with pytest.raises(RequestError) as caught:
            await kernel.begin("t.flow", values={}, actor="")
        with pytest.raises(NotFoundError):
            await kernel.begin("no.flow", values={}, actor="")
        with pytest.raises(NotFoundError):
            await kernel.begin_resuming("0000000000000000")
        return caught.value.code, kernel.host.diagnostics.issues()

    strict = flow({"id": "a", "set": {"x": 1}}, input={"type": "object", "required": ["n"]})
    assert tell(tmp_path, story, strict) == ("input_invalid", [])


def test_a_run_that_waits_for_another_begins_later(tmp_path, monkeypatch):
    async def story(kernel):
        first = await kernel.begin("t.flow", values={}, actor="")
        monkeypatch.setattr("core_runtime.kernel.BEGIN_S", 0.01)
        second = await kernel.begin("t.flow", values={}, actor="")
        kernel.runs.cancel(first.run_id)
        for _ in range(10_000):
            if len(kernel.runs.listed()) == 2:
                break
            await asyncio.sleep(0.001)
        return second, len(kernel.runs.listed())

    one = flow({"id": "a", "wait": "1h"}, concurrency={"mode": "queue"})
    assert tell(tmp_path, story, one) == (None, 2)


def test_so_many_runs_go_on_by_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr("core_runtime.kernel.MAX_ALONE", 1)

    async def story(kernel):
        await kernel.begin("t.flow", values={}, actor="")
        with pytest.raises(HostError) as caught:
            await kernel.begin("t.flow", values={}, actor="")
        return caught.value.code

    assert tell(tmp_path, story, flow({"id": "a", "wait": "1h"})) == "busy"


WORKS = {"id": "s", "call": "acme.works", "with": "${input}", "as": "got"}


def resting(tmp_path, step, *, kind="own/thing", words=None, story):
    """``story(run)``: ``run(good=…, unattended=…)`` runs the flow, and gives the step's status and how often it was asked."""
    asked = []

    async def works(args, _ctx):
        asked.append(args)
        if args != "good":
            raise RequestError("no such thing", code=kind)

    async def whole(kernel):
        async def run(value="bad", *, unattended=True):
            report = await kernel.start(await kernel.flow("t.flow"), values=value, unattended=unattended)
            statuses = [one.result.status.value for one in report.steps if one.result.path == "s"]
            return statuses[-1], len(asked), report.status

        return await story(kernel, run)

    return tell(tmp_path, whole, flow(step, {"id": "then", "set": {"x": "${got}"}}, **(words or {})), keys={"acme.works": works})


def test_a_step_that_fails_ten_times_in_a_row_rests_in_runs_that_schedules_begin(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("core_runtime.flow_failing.time.monotonic", lambda: now[0])

    async def story(kernel, run):
        for _ in range(TOLD_AFTER):
            assert (await run())[0] == "failed"
        rested = await run()
        hint = failing(kernel)[0].hint
        by_hand = await run(unattended=False)
        now[0] += REST_S + 1
        tried = await run()
        now[0] += REST_S + 1
        longer = await run()
        healed = await run("good", unattended=False)
        after = await run()
        return rested, hint, by_hand, tried, longer, healed, after, [issue.code for issue in failing(kernel)]

    rested, hint, by_hand, tried, longer, healed, after, issues = resting(tmp_path, WORKS, story=story)
    assert rested == ("skipped", TOLD_AFTER, RunStatus.DEGRADED)
    assert "rumi flow run t.flow" in hint
    assert by_hand[:2] == ("failed", TOLD_AFTER + 1), "whoever chooses an input suffers by his own only"
    assert tried[:2] == ("failed", TOLD_AFTER + 2), "after a while it is tried"
    assert longer[:2] == ("skipped", TOLD_AFTER + 2), "then it rests longer"
    assert healed[:2] == ("ok", TOLD_AFTER + 3)
    assert after[:2] == ("failed", TOLD_AFTER + 4), "it counts from the beginning"
    assert issues == []


@pytest.mark.parametrize(("step", "words", "kind"), [
    ({**WORKS, "on_error": "fail"}, {}, "own/thing"),
    ({**WORKS, "catch": [{"error": "none", "do": [{"id": "c", "set": {"y": 1}}]}]}, {}, "own/thing"),
    ({**WORKS, "sealed": True}, {}, "own/thing"),
    (WORKS, {"sealed": True}, "own/thing"),
    (WORKS, {}, "schema"), (WORKS, {}, "denied"), (WORKS, {}, "limit"),
])  # fmt: skip
def test_what_guards_what_is_refused_and_what_is_sealed_never_rests(tmp_path, step, words, kind):
    async def story(_kernel, run):
        return [(await run())[1] for _ in range(TOLD_AFTER + 3)][-1]

    assert resting(tmp_path, step, kind=kind, words=words, story=story) == TOLD_AFTER + 3


def test_failures_of_runs_that_somebody_asked_for_let_nothing_rest(tmp_path):
    async def story(_kernel, run):
        for _ in range(TOLD_AFTER * 2):
            await run(unattended=False)
        return await run()

    assert resting(tmp_path, WORKS, story=story)[:2] == ("failed", TOLD_AFTER * 2 + 1)


def test_a_flow_that_was_changed_is_asked_again(tmp_path):
    async def story(kernel, run):
        for _ in range(TOLD_AFTER + 1):
            before = await run()
        path = kernel.host.settings.home / "user_data" / "flows" / "0.flow.json"
        path.write_text(path.read_text().replace('"flow":', '"about": "other", "flow":'))
        return before[0], (await run())[0]

    assert resting(tmp_path, WORKS, story=story) == ("skipped", "failed")
