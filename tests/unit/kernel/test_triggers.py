"""Flows that events and schedules start: what counts, who acts, what is bounded."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from core_runtime import flow_triggers
from core_runtime.kernel import Kernel
from core_runtime.rules.flow.timetable import Now
from tests.support.hosts import bare_host, with_bus

DEADLINE_S = 20.0


async def until(holds, what=""):
    """Wait for the event loop to get there."""
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what or holds}"
        await asyncio.sleep(0.002)


class Stage:
    """A host whose flows are started by themselves; ``ran`` is what their step was given."""

    def __init__(self, kernel, folder):
        self.kernel, self.folder, self.ran = kernel, folder, []
        kernel.host.registry.register("t.note", self._note)
        self.gate = asyncio.Event()
        self.gate.set()

    async def _note(self, args, _ctx):
        self.ran.append(args)
        await self.gate.wait()
        if isinstance(args, dict) and args.get("fail"):
            raise ValueError("no")

    def write(self, document, name="t"):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{name}.flow.json").write_text(json.dumps(document))

    def publish(self, topic, payload=None):
        self.kernel.host.events.publish(topic, payload)

    def shown(self, flow="t.flow"):
        return self.kernel.triggers.shown(flow)

    def issues(self):
        return {issue.code for issue in self.kernel.host.diagnostics.issues() if issue.code.startswith("flow_")}

    async def settled(self):
        """Nothing waits, is being looked up, or runs."""
        triggers = self.kernel.triggers
        await until(lambda: not triggers._runs and all(not one.pump or one.pump.done() for one in triggers._armed.values()))


def flow(*on, steps=None, **words):
    steps = steps or [{"id": "note", "call": "t.note", "with": "${input}", "on_error": "fail"}]
    return {"flow": "t.flow", "on": list(on), "steps": steps, **words}


def tell(tmp_path, story, *documents):
    async def whole():
        host = await with_bus(bare_host(tmp_path))
        kernel = Kernel(host)
        stage = Stage(kernel, host.settings.home / "user_data" / "flows")
        for number, document in enumerate(documents):
            stage.write(document, f"f{number}")
        kernel.triggers.begin()
        await kernel.flows()
        try:
            return await story(stage)
        finally:
            await kernel.close()
            await host.close()

    return asyncio.run(whole())


def test_an_event_starts_the_flow_with_its_payload(tmp_path):
    async def story(stage):
        stage.publish("shop.sold", {"id": 7})
        stage.publish("shop.other", {"id": 8})
        await until(lambda: stage.ran)
        await stage.settled()
        [run] = stage.kernel.runs.listed()
        return stage.ran, stage.shown(), run["actor"]

    ran, [shown], actor = tell(tmp_path, story, flow("shop.sold"))
    assert (ran, actor) == ([{"id": 7}], "trigger: event shop.sold")
    assert (shown["on"], shown["started"], shown["last"]["status"]) == ("event shop.sold", 1, "ok")


def test_match_and_with_choose_and_shape(tmp_path):
    async def story(stage):
        for number in range(3):
            stage.publish("shop.sold", {"id": number, "kind": "a" if number else "b"})
        await until(lambda: len(stage.ran) == 2)
        await stage.settled()
        return stage.ran

    on = {"event": "shop.sold", "match": {"kind": "a"}, "with": {"which": "${event.id}"}}
    assert tell(tmp_path, story, flow(on)) == [{"which": 1}, {"which": 2}]


def test_a_schedule_starts_the_flow_and_says_what_was_due(tmp_path):
    async def story(stage):
        now = time.monotonic()
        stage.kernel.triggers.look(Now(1_000.0, now + 35))
        await until(lambda: stage.ran)
        return stage.ran, stage.shown()[0]["next_in_s"]

    [ran], next_in_s = tell(tmp_path, story, flow({"every": "10s", "with": {"missed": "${event.missed}"}}))
    assert ran == {"missed": 2}
    assert 30 <= next_in_s <= 40


def test_a_short_schedule_really_repeats(tmp_path):
    async def story(stage):
        await until(lambda: len(stage.ran) == 2)

    tell(tmp_path, story, flow({"every": "1s"}))


def test_one_at_a_time_refuses_and_tells(tmp_path):
    async def story(stage):
        stage.gate.clear()
        stage.publish("shop.sold", {"n": 1})
        await until(lambda: stage.ran)
        stage.publish("shop.sold", {"n": 2})
        await until(lambda: (stage.shown()[0]["last"] or {}).get("status") == "overlapped")
        stage.gate.set()
        await stage.settled()
        return stage.ran, stage.shown()[0]["off"]

    assert tell(tmp_path, story, flow("shop.sold", concurrency={"mode": "single"})) == ([{"n": 1}], False)


@pytest.mark.parametrize("mode", ["queue", "restart", "parallel"])
def test_every_mode_comes_to_an_end(tmp_path, mode):
    async def story(stage):
        stage.gate.clear()
        stage.publish("shop.sold", {"n": 1})
        await until(lambda: len(stage.ran) == 1)
        stage.publish("shop.sold", {"n": 2})
        stage.publish("shop.sold", {"n": 3})
        if mode != "queue":
            await until(lambda: stage.ran[-1]["n"] == 3)
        stage.gate.set()
        await until(lambda: stage.ran[-1]["n"] == 3)
        await stage.settled()
        return [one["n"] for one in stage.ran], sorted(run["status"] for run in stage.kernel.runs.listed())

    found, statuses = tell(tmp_path, story, flow("shop.sold", concurrency={"mode": mode}))
    if mode == "restart":  # the second one is replaced before or after its first step
        assert found in ([1, 3], [1, 2, 3])
        assert statuses == ["cancelled", "cancelled", "ok"]
    else:
        assert (found, statuses) == ([1, 2, 3], ["ok"] * 3)


def test_triggers_follow_the_files(tmp_path):
    async def story(stage):
        stage.write(flow("shop.sold"), "f0")
        await stage.kernel.flows()
        stage.publish("shop.sold", {"n": 1})
        await until(lambda: stage.ran)
        (stage.folder / "f0.flow.json").unlink()
        await stage.kernel.flows()
        stage.publish("shop.sold", {"n": 2})
        await stage.settled()
        return stage.ran, stage.kernel.host.events.list_subscribers().get("shop.sold")

    assert tell(tmp_path, story) == ([{"n": 1}], None)


def test_a_flow_that_went_since_the_event_starts_nothing(tmp_path):
    """The event was heard while the flow was there; its run is looked up only afterwards."""

    async def story(stage):
        stage.publish("shop.sold", {"n": 1})
        (stage.folder / "f0.flow.json").unlink()
        await until(lambda: not stage.shown())
        await stage.settled()
        return stage.ran

    assert tell(tmp_path, story, flow("shop.sold")) == []


def test_a_trigger_that_only_fails_is_switched_off_until_the_flow_changes(tmp_path):
    async def story(stage):
        for number in range(flow_triggers.OFF_AFTER + 2):
            stage.publish("shop.sold", {"fail": True, "n": number})
            await stage.settled()
        first = len(stage.ran), stage.shown()[0]["off"], stage.issues()
        stage.write(flow("shop.sold", about="corrected"), "f0")
        await stage.kernel.flows()
        stage.publish("shop.sold", {"n": 99})
        await until(lambda: stage.ran[-1]["n"] == 99)
        await stage.settled()
        return first, stage.issues()

    first, issues = tell(tmp_path, story, flow("shop.sold"))
    assert first == (flow_triggers.OFF_AFTER, True, {"flow_trigger_off", "flow_step_failing"})
    assert issues == set()


def test_a_flow_that_publishes_its_own_trigger_ends_with_a_named_issue(tmp_path):
    async def story(stage):
        stage.publish("shop.sold", {})
        await until(lambda: "flow_trigger_loop" in stage.issues())
        await stage.settled()
        return len(stage.kernel.runs.listed())

    steps = [{"id": "again", "emit": "shop.sold"}]
    assert tell(tmp_path, story, flow("shop.sold", steps=steps)) == flow_triggers.MAX_CHAIN


def test_the_hosts_own_word_on_a_run_starts_no_endless_chain(tmp_path):
    async def story(stage):
        await stage.kernel.run("t.flow")
        await until(lambda: "flow_trigger_loop" in stage.issues())
        await stage.settled()

    tell(tmp_path, story, flow({"event": "flow.run", "match": {"status": "ok"}}, steps=[{"set": {"x": 1}}]))


def test_a_flood_of_events_is_dropped_and_told(tmp_path):
    async def story(stage):
        for number in range(500):
            stage.publish("shop.sold", {"n": number})
        [shown] = stage.shown()
        assert (shown["waiting"], shown["dropped"]) == (flow_triggers.MAX_WAITING, 500 - flow_triggers.MAX_WAITING)
        await stage.settled()
        return stage.issues(), len(stage.ran)

    assert tell(tmp_path, story, flow("shop.sold")) == ({"flow_trigger_busy"}, flow_triggers.MAX_WAITING)


def test_runs_that_never_end_are_bounded(tmp_path):
    async def story(stage):
        stage.gate.clear()
        for number in range(80):
            stage.publish("shop.sold", {"n": number})
            if not number % 40:
                await asyncio.sleep(0)
        await until(lambda: len(stage.ran) == flow_triggers.MAX_UNDER_WAY)
        assert len(stage.kernel.runs.listed()) == flow_triggers.MAX_UNDER_WAY
        stage.gate.set()

    tell(tmp_path, story, flow("shop.sold"))


def test_who_listens_is_told_nothing_of_a_closed_kernel(tmp_path):
    async def story(stage):
        await stage.kernel.triggers.close()
        stage.publish("shop.sold", {})
        return stage.ran

    assert tell(tmp_path, story, flow("shop.sold")) == []
