from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core_runtime import event_history
from core_runtime.api.live import Live
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.event_journal import Retention
from core_runtime.drivers.redactions import Redactions
from core_runtime.event_bus import Event, EventBus, RawPayload
from core_runtime.event_history import PAYLOAD_BYTES, EventHistory

KEY = "ab" * 32


def opened(home: Path, redactions: Redactions | None = None) -> tuple[EventHistory, EventBus, Diagnostics]:
    diagnostics = Diagnostics()
    history = EventHistory(diagnostics, (redactions or Redactions()).hide_any_in)
    history.open(home, lambda: KEY)
    return history, EventBus(diagnostics, history=history), diagnostics


def kept(history: EventHistory) -> list[dict[str, Any]]:
    return [json.loads(row.shown) for row in asyncio.run(history.newest("", 1000))]


async def replayed(bus: EventBus, since: str = "oldest") -> list[tuple[str, Any]]:
    replay = await bus.replay(since, lambda topic: True)
    return [(event.type, event.data) async for event in replay.events(bus.last_number)]


def test_events_are_kept_over_a_restart_and_told_from_an_id_on(tmp_path: Path) -> None:
    history, bus, diagnostics = opened(tmp_path)
    ids: list[str] = []
    bus.subscribe_events("*", lambda event: ids.append(event.id))
    for number in range(5):
        bus.publish("t", {"n": number, "bytes": b"\x00"}, source="rumi:pack/a")
    history.close()
    history, bus, _ = opened(tmp_path)
    bus.publish("u", 9)
    assert asyncio.run(replayed(bus, ids[2])) == [("t", {"n": 3, "bytes": b"\x00"}), ("t", {"n": 4, "bytes": b"\x00"}), ("u", 9)]
    first = kept(history)[0]
    assert (first["id"], first["source"], first["type"], first["data"]) == (ids[0], "rumi:pack/a", "t", {"n": 0, "bytes": {"$base64": "AA=="}})
    assert [json.loads(row.shown)["data"]["n"] for row in asyncio.run(history.newest("rumi:pack/a", 2))] == [3, 4]
    assert history.totals()[0] == 6
    history.close()
    assert diagnostics.issues() == []


def test_steps_are_not_kept(tmp_path: Path) -> None:
    history, bus, _ = opened(tmp_path)
    bus.publish("flow.step", {})
    bus.publish("flow.run", {})
    assert [event["type"] for event in kept(history)] == ["flow.run"]
    history.close()


def test_what_has_no_form_to_be_kept_in_is_shown_without_payload(tmp_path: Path) -> None:
    history, bus, diagnostics = opened(tmp_path)
    bus.publish("function", {"f": print})
    bus.publish("large", "x" * PAYLOAD_BYTES)
    bus.publish_event(Event(bus.new_id(), "rumi:pack/a", "references", time.time(), lambda: {"f": print}, RawPayload(None, [(0, 1)], b"\xc0")))
    bus.publish_event(Event(bus.new_id(), "rumi:pack/a", "malformed", time.time(), event_history._Load(b"\xc1"), RawPayload(None, [], b"\xc1")))
    bus.publish("small", 1)
    told = {event["type"]: event.get("omitted") for event in kept(history)}
    assert told == {
        "function": "result_not_json", "large": "too_large", "references": "result_not_json", "malformed": "value.malformed",
        "small": None,
    }  # fmt: skip
    assert [topic for topic, _ in asyncio.run(replayed_topics(bus))] == ["malformed", "small"]
    history.close()
    assert diagnostics.issues() == []


async def replayed_topics(bus: EventBus) -> list[tuple[str, None]]:
    replay = await bus.replay("oldest", lambda topic: True)
    return [(event.type, None) async for event in replay.events(bus.last_number)]


def test_one_source_may_not_flood_and_the_gap_is_told(tmp_path: Path) -> None:
    history, bus, _ = opened(tmp_path)
    bus.publish("first")
    since = kept(history)[0]["id"]
    for number in range(2_000):
        bus.publish("loud", number, source="rumi:pack/loud")
        if number % 500 == 0:
            bus.publish("quiet", number)
    found = kept(history)
    assert [event["data"] for event in found if event["type"] == "quiet"] == [0, 500, 1000, 1500]
    assert history.unkept > 0
    assert not asyncio.run(bus.replay(since, lambda topic: True)).complete
    history.close()


def test_what_goes_while_somebody_reads_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow reader is on its first page when a flood pushes out what would have been its second."""
    monkeypatch.setattr(event_history, "PAGE", 4)
    history = EventHistory(Diagnostics(), Redactions().hide_any_in)
    history.open(tmp_path, lambda: KEY, Retention(source_events=20))
    bus = EventBus(Diagnostics(), history=history)

    async def numbers(flood: int) -> tuple[list[int], bool]:
        rows = await history.rows("oldest")
        assert rows is not None
        assert rows.complete
        seen = []
        async for page in rows.pages():
            seen += [json.loads(row.shown)["data"] for row in page]
            for number in range(flood):
                bus.publish("t", 100 + number, source="rumi:pack/a")
            flood = 0
        return seen, rows.complete

    for number in range(10):
        bus.publish("t", number, source="rumi:pack/a")
    assert asyncio.run(numbers(5)) == ([*range(10), *range(100, 105)], True)
    seen, complete = asyncio.run(numbers(20))
    assert seen[:4] == [0, 1, 2, 3]
    assert 4 not in seen
    assert not complete
    history.close()


def test_the_operators_stream_tells_what_went_between_two_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_history, "PAGE", 4)
    history = EventHistory(Diagnostics(), Redactions().hide_any_in)
    history.open(tmp_path, lambda: KEY, Retention(source_events=20))
    bus = EventBus(Diagnostics(), history=history)
    for number in range(10):
        bus.publish("t", number, source="rumi:pack/a")

    async def story() -> list[bytes]:
        live = Live(bus, Redactions().hide_any_in, history)
        stream = live.stream(f"{bus.run}-1")
        got = [await anext(stream) for _ in range(3)]
        for number in range(20):
            bus.publish("t", 100 + number, source="rumi:pack/a")
        while b'"data":119' not in got[-1]:
            got.append(await anext(stream))
        await stream.aclose()
        live.close()
        return got

    got = asyncio.run(asyncio.wait_for(story(), 20))
    names = [chunk.split(b"event: ", 1)[1].split(b"\n", 1)[0].decode() for chunk in got]
    assert names[:6] == ["open", *["event"] * 4, "lost"]
    assert names.count("lost") == 1
    history.close()


def test_a_disk_that_takes_nothing_is_an_issue_and_nothing_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history, bus, diagnostics = opened(tmp_path)

    def full(*_args: Any, **_kw: Any) -> None:
        raise OSError(28, "No space left on device")

    assert history._journal is not None
    monkeypatch.setattr(history._journal, "append", full)
    bus.publish("t", 1)
    history.flush()
    monkeypatch.undo()
    assert [issue.code for issue in diagnostics.issues()] == ["event_journal_unwritable"]
    bus.publish("t", 2)
    assert [event["data"] for event in kept(history)] == [2]
    assert not asyncio.run(bus.replay("oldest", lambda topic: True)).complete
    history.close()


def test_a_journal_that_can_not_be_opened_costs_nothing_but_the_past(tmp_path: Path) -> None:
    (tmp_path / "user_data").write_text("in the way")
    history, bus, diagnostics = opened(tmp_path)
    heard: list[Any] = []
    bus.subscribe("t", heard.append)
    bus.publish("t", 1)
    assert heard == [1]
    assert kept(history) == []
    assert asyncio.run(replayed(bus)) == []
    assert [issue.code for issue in diagnostics.issues()] == ["event_journal_unwritable"]
    history.close()


def test_without_a_key_packs_are_told_nothing_again(tmp_path: Path) -> None:
    diagnostics = Diagnostics()
    history = EventHistory(diagnostics, lambda value: value)
    history.open(tmp_path, event_history._no_key)
    bus = EventBus(diagnostics, history=history)
    bus.publish("t", 1)
    assert asyncio.run(replayed(bus)) == []
    assert [event["data"] for event in kept(history)] == [1]
    history.close()
    assert diagnostics.issues() == []


def test_publishing_from_many_threads_loses_and_doubles_nothing(tmp_path: Path) -> None:
    history, bus, _ = opened(tmp_path)

    def publish(name: int) -> None:
        for number in range(100):
            bus.publish("t", [name, number], source=f"s{name}")

    threads = [threading.Thread(target=publish, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [tuple(event["data"]) for event in kept(history)]
    assert len(found) == len(set(found)) == 800 - history.unkept
    assert history.unkept == 0
    for name in range(8):
        assert [number for thread, number in found if thread == name] == list(range(100))
    history.close()


def older(history: EventHistory, before: str = "", count: int = 1000, **chosen: str) -> list[Any] | None:
    found = asyncio.run(history.older(before, count, **chosen))
    return None if found is None else [json.loads(row.shown)["data"] for row in found]


def test_what_is_older_than_an_event_is_read_page_by_page_over_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_history, "PAGE", 3)
    history, bus, _ = opened(tmp_path)
    for number in range(5):
        bus.publish(f"old.{number % 2}", number, source="rumi:pack/a")
    history.close()
    history, bus, _ = opened(tmp_path)
    for number in range(5, 9):
        bus.publish(f"new.{number % 2}", number, source="rumi:pack/b")
    assert older(history) == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    seen: list[Any] = []
    before = ""
    while rows := asyncio.run(history.older(before, 2)):
        seen += [json.loads(row.shown)["data"] for row in rows]
        before = f"{rows[-1].run}-{rows[-1].number}"
    assert seen == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert older(history, topic="new.1") == [7, 5]
    assert older(history, topic="*.1") == [7, 5, 3, 1]
    assert older(history, topic="*.1", count=3) == [7, 5, 3]
    assert older(history, topic="*.1", source="rumi:pack/a") == [3, 1]
    assert older(history, topic="none") == []
    assert older(history, f"{history.run}-7", topic="*.1") == [7, 5, 3, 1], "an id that is still to come, or is not kept"
    assert [older(history, bad) for bad in ("00000000-3", "x", "-1")] == [None, None, None]
    history.close()


def test_a_topic_is_searched_as_the_operator_sees_it(tmp_path: Path) -> None:
    redactions = Redactions()
    redactions.learn("p", "hunter22-secret")
    history, bus, _ = opened(tmp_path, redactions)
    bus.publish("say.hunter22-secret", 1)
    assert older(history, topic="say.*") == [1]
    assert older(history, topic="*hunter22*") == []
    history.close()


def test_without_a_journal_there_is_nothing_older(tmp_path: Path) -> None:
    history = EventHistory(Diagnostics(), lambda value: value)
    assert older(history) == []
    assert older(history, "00000000-1") is None
