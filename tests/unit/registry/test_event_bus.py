from __future__ import annotations

import asyncio
from typing import Any

from core_runtime.diagnostics import Diagnostics
from core_runtime.event_bus import EventBus
from core_runtime.event_history import EventHistory
from core_runtime.rules.subscriptions import Policy
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
    assert first | {"id": ""} == {
        "specversion": "1.0", "id": "", "source": "rumi:test", "type": "t", "time": "1970-01-01T00:00:00.500000Z",
    }  # fmt: skip
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


def test_subscribers_are_told_in_the_order_in_which_they_subscribed():
    bus = EventBus()
    seen: list[str] = []
    for name, topic in (("1", "a.*"), ("2", "a.b"), ("3", "*"), ("4", "a.b")):
        bus.subscribe(topic, lambda _payload, name=name: seen.append(name), name)
    bus.publish("a.b")
    assert seen == ["1", "2", "3", "4"]
    bus.unsubscribe("a.b", "2")
    bus.publish("a.b")
    assert seen[4:] == ["1", "3", "4"]


def test_policies_of_full_queues():
    async def main():
        bus = EventBus()
        gate = asyncio.Event()
        got: dict[str, list[Any]] = {policy.value: [] for policy in Policy}
        for policy in Policy:

            async def wait(event, name=policy.value):
                await gate.wait()
                got[name].append((event.type, event.data))

            bus.subscribe_events("t.*", wait, policy.value, queue=2, policy=policy)
        for topic, number in (("t.a", 1), ("t.b", 2), ("t.a", 3), ("t.a", 4)):
            bus.publish(topic, number)
        gate.set()
        await eventually(lambda: all(len(events) == 2 for events in got.values()))
        assert got["drop_oldest"] == [("t.a", 3), ("t.a", 4)]
        assert got["drop_newest"] == [("t.a", 1), ("t.b", 2)]
        assert got["latest"] == [("t.b", 2), ("t.a", 4)]
        assert bus.dropped() == {"drop_oldest": 2, "drop_newest": 2}
        assert bus.lost == 4
        bus.clear()

    asyncio.run(main())


def test_a_subscriber_with_since_hears_what_was_then_what_comes(tmp_path):
    async def main():
        diagnostics = Diagnostics()
        history = EventHistory(diagnostics, lambda value: value)
        history.open(tmp_path, lambda: "ab" * 32)
        bus = EventBus(diagnostics, history=history)
        seen: list[Any] = []
        first: list[Any] = []
        number = bus.subscribe_events("t", first.append)
        for n in range(600):
            bus.publish("t" if n % 2 else "other", n, source=f"rumi:test/{n % 10}")
        bus.unsubscribe("t", number)
        since = first[9].id
        bus.subscribe("t", seen.append, "plain", since=since)
        bus.publish("t", "live")
        await eventually(lambda: "live" in seen)
        assert seen == [*range(21, 600, 2), "live"]
        assert bus.publish("t", "again") == 1
        assert seen[-1] == "again", "from then on in the publisher's turn"
        late: list[Any] = []

        async def later(payload):
            late.append(payload)

        bus.subscribe("t", later, since="oldest")
        await eventually(lambda: late[-1:] == ["again"])
        assert late == [*range(1, 600, 2), "live", "again"]
        assert not (await bus.replay("00000000-1", lambda topic: True)).complete
        bus.clear()
        history.close()
        assert diagnostics.issues() == []

    asyncio.run(main())


def test_a_bus_without_a_journal_replays_nothing_and_says_so():
    async def main():
        bus = EventBus()
        seen: list[Any] = []
        bus.publish("t", 1)
        bus.subscribe("t", seen.append, since="oldest")
        bus.publish("t", 2)
        await eventually(lambda: seen == [2])
        assert not (await bus.replay("oldest", lambda topic: True)).complete

    asyncio.run(main())
