"""What a Pack, or an editor of the file, could try with the journal of events."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import asynccontextmanager
from typing import Any

from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.redactions import Redactions
from core_runtime.event_history import EventHistory
from tests.support.raw_agent import EVENT, PUBLISH, SUBSCRIBE, rig

SECRET = "correct-horse-battery"


@asynccontextmanager
async def journalled(folder: Any, redactions: Redactions | None = None):
    history = EventHistory(Diagnostics(), (redactions or Redactions()).hide_any_in)
    await asyncio.to_thread(history.open, folder, lambda: "ab" * 32)
    try:
        async with rig(folder, history=history) as r:
            yield r, history
    finally:
        await asyncio.to_thread(history.close)


async def told_again(agent: Any, number: int, topic: str) -> list[tuple[str, Any]]:
    """What SUBSCRIBE with ``oldest`` brings, up to an event that comes now."""
    agent.send(SUBSCRIBE, number, topic, {"since": "oldest"})
    await agent.answer(number)
    found = []
    while not found or found[-1][1] != "end":
        event = await agent.until(EVENT)
        found.append((event[3]["type"], event[5]))
    return found[:-1]


def test_the_past_is_no_way_around_a_grant(tmp_path):
    async def main():
        async with journalled(tmp_path) as (r, _):
            a, _session = await r.agent("a", subscribe=("t",))
            r.events.publish("t", "before the grant")
            r.events.publish("u", "never granted")
            r.grants["a"].since = time.time()
            r.events.publish("t", "granted")
            asyncio.get_running_loop().call_later(0.5, r.events.publish, "t", "end")
            assert await told_again(a, 1, "t") == [("t", "granted")]
            a.send(SUBSCRIBE, 2, "*", {"since": "oldest"})
            assert (await a.answer(2))[2] == "denied"
            assert [denial[1:3] for denial in r.denials] == [("event.subscribe", "*")]

    asyncio.run(main())


def test_guessed_secrets_come_back_as_they_were_published(tmp_path):
    """Were a replay concealed, two Packs could try guesses and see which of them is somebody's secret."""

    async def main():
        redactions = Redactions()
        redactions.learn("victim", SECRET)
        async with journalled(tmp_path, redactions) as (r, history):
            a, _ = await r.agent("a", publish=("t.*",))
            b, _ = await r.agent("b", subscribe=("t.*",))
            guesses = ["wrong-horse-battery", SECRET]
            for number, guess in enumerate(guesses, 1):
                a.send(PUBLISH, number, f"t.{guess}", [], {"guess": guess})
                await a.answer(number)
            asyncio.get_running_loop().call_later(0.5, r.events.publish, "t.end", "end")
            assert await told_again(b, 1, "t.*") == [(f"t.{guess}", {"guess": guess}) for guess in guesses]
            shown = b"".join(row.shown for row in await history.newest("", 10))
            assert guesses[0].encode() in shown
            assert SECRET.encode() not in shown
        for path in (tmp_path / "user_data" / "events").iterdir():
            assert SECRET.encode() not in path.read_bytes(), path

    asyncio.run(main())


def test_a_pack_that_publishes_without_end_pushes_out_nobody_elses_events(tmp_path):
    async def main():
        async with journalled(tmp_path) as (r, history):
            a, _ = await r.agent("loud", publish=("t",))
            r.events.publish("quiet", "kept")
            for number in range(1, 20_001):
                a.send(PUBLISH, 0, "t", [], "x" * 100)
                if number % 2_000 == 0:
                    await a.writer.drain()
            a.send(PUBLISH, 1, "t", [], None)
            await a.answer(1)
            rows = await history.newest("", 20_000)
            assert b"kept" in rows[0].shown
            assert len(rows) < 5_000
            assert not (await r.events.replay(f"{r.events.run}-1", lambda topic: True)).complete

    asyncio.run(main())


def test_a_payload_moved_to_another_event_is_not_told(tmp_path):
    async def main():
        async with journalled(tmp_path) as (r, history):
            b, _ = await r.agent("b", subscribe=("t",))
            r.events.publish("t", "mine", source="rumi:pack/a")
            r.events.publish("u", "others'", source="rumi:pack/a")
            r.events.publish("t", "last", source="rumi:pack/a")
            await history.newest("", 1)
            with sqlite3.connect(tmp_path / "user_data" / "events" / "journal.db") as db:
                db.execute("UPDATE events SET sealed = (SELECT sealed FROM events WHERE seq = 2) WHERE seq = 1")
            db.close()
            asyncio.get_running_loop().call_later(0.5, r.events.publish, "t", "end")
            assert await told_again(b, 1, "t") == [("t", "last")]

    asyncio.run(main())
