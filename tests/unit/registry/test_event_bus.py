from __future__ import annotations

import asyncio
from typing import Any

from core_runtime.diagnostics import Diagnostics
from core_runtime.event_bus import EventBus
from tests.support.raw_agent import eventually


def test_publish_to_topic_and_glob():
    bus = EventBus()
    seen: list[Any] = []
    one = bus.subscribe("a.b", lambda payload: seen.append(("one", payload)))
    bus.subscribe("a.*", lambda payload: seen.append(("two", payload)), "two")
    assert bus.publish("a.b", {"x": 1}) == 2
    assert bus.publish("a.c", 2) == 1
    assert bus.publish("z", 3) == 0
    assert seen == [("one", {"x": 1}), ("two", {"x": 1}), ("two", 2)]
    assert bus.list_subscribers() == {"a.b": [one], "a.*": ["two"]}
    assert not bus.unsubscribe("a.b", "two")
    assert bus.unsubscribe("a.*", "two")
    assert not bus.unsubscribe("a.*", "two")
    assert bus.publish("a.c") == 0


def test_an_id_given_again_replaces_and_clear_counts():
    bus = EventBus()
    seen: list[Any] = []
    bus.subscribe("a", lambda p: seen.append(1), "x")
    bus.subscribe("b", lambda p: seen.append(2), "x")
    bus.publish("a")
    bus.publish("b")
    assert seen == [2]
    bus.subscribe("b", seen.append)
    bus.subscribe("c", seen.append)
    assert bus.clear("b") == 2
    assert bus.clear() == 1


def test_whole_events_have_cloudevents_attributes():
    bus = EventBus(clock=lambda: 0.5)
    seen: list[Any] = []
    bus.subscribe_events("t", seen.append)
    bus.publish("t", 9, source="rumi:test")
    bus.publish("t", 9)
    first, second = (event.attributes for event in seen)
    assert first | {"id": ""} == {"id": "", "source": "rumi:test", "type": "t", "time": "1970-01-01T00:00:00.500000Z"}
    assert first["id"] != second["id"]
    assert seen[0].data == 9


def test_a_failing_subscriber_is_isolated_and_recorded():
    diagnostics = Diagnostics()
    bus = EventBus(diagnostics)
    seen: list[Any] = []

    def bad(payload):
        raise RuntimeError("no")

    bus.subscribe("t", bad)
    bus.subscribe("t", seen.append)
    assert bus.publish("t", 1) == 2
    assert seen == [1]
    assert diagnostics.issues()[0].evidence["type"] == "RuntimeError"


def test_slow_coroutine_subscribers_lose_the_oldest_only():
    async def main():
        diagnostics = Diagnostics()
        bus = EventBus(diagnostics, queue=4)
        gate = asyncio.Event()
        slow: list[Any] = []
        fast: list[Any] = []

        async def wait(payload):
            await gate.wait()
            slow.append(payload)

        bus.subscribe("t", wait, "slow")
        bus.subscribe("t", fast.append)
        for i in range(10):
            bus.publish("t", i)
        assert fast == list(range(10))
        assert bus.dropped() == {"slow": 6}
        gate.set()
        await eventually(lambda: len(slow) == 4)
        assert slow == [6, 7, 8, 9]
        assert [issue.code for issue in diagnostics.issues()] == ["events_dropped"]
        # a coroutine that fails does not end its subscription
        bus.clear()
        hits: list[Any] = []

        async def bad(payload):
            hits.append(payload)
            raise ValueError

        bus.subscribe("t", bad)
        bus.publish("t", 1)
        bus.publish("t", 2)
        await eventually(lambda: len(hits) == 2)
        assert bus.publish("t", 3) == 1
        bus.clear()

    asyncio.run(main())


def test_many_topics_do_not_fill_memory():
    bus = EventBus()
    bus.subscribe("never", print)
    for i in range(10_000):
        bus.publish(f"t{i}")
    assert len(bus._cache) <= 4_096
