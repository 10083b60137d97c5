"""Subscriptions with options, by a bare agent over the real socket."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import Any

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.event_history import EventHistory
from core_runtime.rules.frames import BusLimits
from tests.support.raw_agent import (
    ERROR,
    EVENT,
    PUBLISH,
    RESULT,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Grant,
    eventually,
    issue_codes,
    rig,
)


@asynccontextmanager
async def kept_rig(folder, **options: Any):
    history = EventHistory(Diagnostics(), lambda value: value)
    await asyncio.to_thread(history.open, folder, lambda: "ab" * 32)
    try:
        async with rig(folder, history=history, **options) as r:
            yield r
    finally:
        await asyncio.to_thread(history.close)


async def bodies(agent, count: int) -> list[Any]:
    return [(await agent.until(EVENT))[5] for _ in range(count)]


@pytest.mark.parametrize(
    "options", [{"queue": 0}, {"queue": 5000}, {"policy": "wait"}, {"since": "yesterday"}, {"more": 1}, {"queue": [1] * 50}]
)
def test_options_that_are_not_usable_fail_that_request_only(tmp_path, options):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", subscribe=("t",))
            a.send(SUBSCRIBE, 1, "t", options)
            answer = await a.answer(1)
            assert (answer[0], answer[2]) == (ERROR, "options")
            a.send(SUBSCRIBE, 2, "t", {})
            assert (await a.answer(2))[4] == 1

    asyncio.run(main())


def test_since_an_id_tells_the_past_then_the_present(tmp_path):
    async def main():
        async with kept_rig(tmp_path) as r:
            a, _ = await r.agent("a", publish=("t.*",))
            b, _ = await r.agent("b", subscribe=("t.*",))
            ids: list[str] = []
            r.events.subscribe_events("t.x", lambda event: ids.append(event.id))
            for number in range(10):
                a.send(PUBLISH, 10 + number, "t.x" if number % 2 == 0 else "t.y", [], {"n": number})
                await a.answer(10 + number)
            b.send(SUBSCRIBE, 1, "t.x", {"since": ids[1]})
            answer = await b.answer(1)
            assert answer[0] == RESULT
            assert answer[4] == {"subscription": 1, "complete": True}
            a.send(PUBLISH, 30, "t.x", [], {"n": "now"})
            assert await bodies(b, 4) == [{"n": 4}, {"n": 6}, {"n": 8}, {"n": "now"}]
            b.send(SUBSCRIBE, 2, "t.*", {"since": "00000000-1"})
            assert (await b.answer(2))[4] == {"subscription": 2, "complete": False}
            b.send(UNSUBSCRIBE, 3, 2)
            assert (await b.answer(3))[4] is True

    asyncio.run(main())


class Narrow(Grant):
    """May ask for everything, and hear ``t.`` only: rights are judged at each event, whatever was subscribed."""

    def may_subscribe(self, topic: str) -> bool:
        return topic == "*" or topic.startswith("t.")


def test_what_was_published_before_the_grant_or_without_the_right_is_not_told_again(tmp_path):
    async def main():
        async with kept_rig(tmp_path) as r:
            b, _ = await r.agent("b")
            for topic in ("t.a", "u.a"):
                r.events.publish(topic, "before")
            r.grants["b"] = Narrow(since=time.time())
            for topic in ("t.a", "u.a", "t.b"):
                r.events.publish(topic, "after")
            b.send(SUBSCRIBE, 1, "*", {"since": "oldest"})
            await b.answer(1)
            r.events.publish("u.a", "now")
            r.events.publish("t.a", "now")
            heard = [await b.until(EVENT) for _ in range(3)]
            assert [(event[3]["type"], event[5]) for event in heard] == [("t.a", "after"), ("t.b", "after"), ("t.a", "now")]

    asyncio.run(main())


def test_a_revocation_ends_what_is_told_again_and_what_waits(tmp_path):
    async def main():
        async with kept_rig(tmp_path, limits=BusLimits(backlog_bytes=200_000)) as r:
            a, session = await r.agent("a", subscribe=("t", "u"))
            for number in range(100):
                r.events.publish("t", [number, "x" * 10_000], source=f"s{number}")
            a.send(SUBSCRIBE, 1, "u")
            await a.answer(1)
            a.writer.transport.pause_reading()
            a.send(SUBSCRIBE, 2, "t", {"since": "oldest"})
            await eventually(lambda: session.congested)
            r.events.publish("u", "waits")
            r.grants["a"].subscribe = ()
            a.writer.transport.resume_reading()
            await eventually(lambda: not session.congested)
            r.grants["a"].subscribe = ("u",)
            r.events.publish("u", "end")
            sent = []
            while sent[-1:] != ["end"]:
                sent.append((await a.until(EVENT))[5])
            assert 1 < len(sent) < 60
            assert [body[0] for body in sent[:-1]] == list(range(len(sent) - 1))

    asyncio.run(main())


def test_asking_for_the_past_again_and_again_is_limited(tmp_path):
    async def main():
        async with kept_rig(tmp_path) as r:
            a, _ = await r.agent("a", subscribe=("t",))
            for number in range(1, 12):
                a.send(SUBSCRIBE, number, "t", {"since": "oldest"})
            answers = [await a.answer(number) for number in range(1, 12)]
            refused = [answer for answer in answers if answer[0] == ERROR]
            assert len(refused) == 3
            assert {(answer[2], answer[5]) for answer in refused} == {("limit", True)}

    asyncio.run(main())


def test_each_subscription_has_a_queue_of_its_own_with_its_policy(tmp_path):
    async def main():
        limits = BusLimits(backlog_bytes=200_000)
        async with rig(tmp_path, limits=limits) as r:
            a, session = await r.agent("a", subscribe=("*",))
            asked = {"loud": {"queue": 8}, "first": {"queue": 2, "policy": "drop_newest"}, "state.*": {"policy": "latest"}}
            topics = {}
            for number, (topic, options) in enumerate(asked.items(), 1):
                a.send(SUBSCRIBE, number, topic, options)
                topics[(await a.answer(number))[4]] = topic
            filler = "x" * 50_000
            while not session.congested:
                r.events.publish("loud", ["filler", filler])
            for number in range(1_000):
                r.events.publish("loud", ["late", number])
                r.events.publish("first", number)
                r.events.publish(f"state.{number % 3}", number)
            lost = session.events.lost
            assert lost == 992 + 998
            assert session.events.waiting == 8 + 2 + 3
            found: dict[str, list[Any]] = {topic: [] for topic in asked}
            while sum(len(events) for topic, events in found.items() if topic != "loud") < 5 or found["loud"][-1:] != [["late", 999]]:
                event = await a.until(EVENT)
                found[topics[event[2]]].append(event[5])
            assert [item for item in found["loud"] if item[0] == "late"] == [["late", n] for n in range(992, 1000)]
            assert found["first"] == [0, 1]
            assert sorted(found["state.*"]) == [997, 998, 999]
            assert "events_dropped" in issue_codes(r)

    asyncio.run(main())


def test_the_past_waits_for_a_pack_that_does_not_read(tmp_path):
    async def main():
        async with kept_rig(tmp_path, limits=BusLimits(backlog_bytes=200_000)) as r:
            a, session = await r.agent("a", subscribe=("t",))
            for number in range(100):
                r.events.publish("t", [number, "x" * 10_000], source=f"s{number}")
            a.writer.transport.pause_reading()
            a.send(SUBSCRIBE, 1, "t", {"since": "oldest", "queue": 1})
            await eventually(lambda: session.congested)
            a.writer.transport.resume_reading()
            await a.answer(1)
            assert [body[0] for body in await bodies(a, 100)] == list(range(100))
            assert session.events.lost == 0

    asyncio.run(main())


def test_a_connection_that_ends_while_the_past_is_told_leaves_nothing(tmp_path):
    async def main():
        async with kept_rig(tmp_path, limits=BusLimits(backlog_bytes=200_000)) as r:
            a, session = await r.agent("a", subscribe=("t",))
            for number in range(100):
                r.events.publish("t", [number, "x" * 10_000], source=f"s{number}")
            a.writer.transport.pause_reading()
            a.send(SUBSCRIBE, 1, "t", {"since": "oldest"})
            await eventually(lambda: session.congested)
            await a.close()
            await eventually(lambda: session.dead)
            assert r.events.list_subscribers() == {}
            assert r.diagnostics.issues() == []

    asyncio.run(main())
