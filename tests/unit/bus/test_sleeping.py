"""Packs asleep: what others go on seeing, what waking costs them, and who may not sleep."""

from __future__ import annotations

import asyncio

import pytest

from backend_core.errors import NotFoundError, PackTimeout
from tests.support.raw_agent import CALL, END, REQUEST, RESULT, SUBSCRIBE, eventually, rig


def test_a_sleeping_pack_is_seen_as_before_and_woken_once(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            woken: list[str] = []
            r.bus.sleep.on_wake = woken.append
            a, session = await r.agent("a", provides={"k", "l"})
            caller, _ = await r.agent("c", calls={"k", "l"})
            await a.registered("k", 1, schemas={"input": {"type": "integer"}})
            await a.registered("l", 2)
            number_of_l = (await caller.mirror("l"))[4][0][1]
            assert r.bus.sleep.fall("a")
            assert session.retired
            await a.close()
            await asyncio.wait([session.closed])
            assert "a" in r.bus.sleep
            assert r.registry.list() == {"k": 1, "l": 1}
            assert r.registry.get_schema("k")["input"] == {"type": "integer"}
            seen = await caller.mirror("l", lambda m: m[3][0]["registration"] == r.registry.resolve("l").number)
            assert seen[4][0][1] == number_of_l
            assert not woken, "looking is no use"

            wrong = caller.call("k", "text")
            right = caller.call("k", 5)
            late = caller.call("k", 6, deadline_ms=20)
            by_number = caller.call(number_of_l, 7)
            host = asyncio.ensure_future(r.bus.call("l", 8))
            with pytest.raises(PackTimeout):
                await r.registry.get("l")(9, timeout_s=0.02)
            assert (await caller.answer(late))[2] == "timeout"
            assert woken == ["a"]
            stranger, _ = await r.agent("s")
            assert (await stranger.answer(stranger.call("k", 1)))[2] == "denied"

            b, _ = await r.agent("a", 2, provides={"k", "l"})
            await b.registered("k", 11, schemas={"input": {"type": "integer"}})
            await b.registered("l", 12)
            r.bus.sleep.end("a")
            assert "a" not in r.bus.sleep
            assert r.registry.list() == {"k": 1, "l": 1}
            assert (await caller.answer(wrong))[2] == "schema"
            for wanted in (5, 7, 8):
                frame = await b.until(CALL, lambda f, wanted=wanted: f[10] == wanted)
                b.result(frame[1], frame[2])
            assert (await caller.answer(right))[4] == 11
            assert (await caller.answer(by_number))[4] == 12
            assert await host == 12
            again = caller.call(number_of_l, 10)
            frame = await b.until(CALL)
            b.result(frame[1], "direct")
            assert (await caller.answer(again))[4] == "direct"
            r.bus.sleep.end("a")

    asyncio.run(main())


def test_calls_fail_as_missing_when_it_is_not_started(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            r.bus.sleep.on_wake = lambda _pack_id: None
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k", 1)
            caller, _ = await r.agent("c", calls={"k"})
            r.bus.sleep.fall("a")
            await a.close()
            await asyncio.wait([session.closed])
            number = caller.call("k")
            host = asyncio.ensure_future(r.bus.call("k"))
            await eventually(lambda: r.bus.router.holds.active and r.bus.router.holds.active[0].waiting)
            r.bus.sleep.end("a")
            assert (await caller.answer(number))[2] == "missing"
            with pytest.raises(NotFoundError):
                await host
            assert r.registry.list() == {}

    asyncio.run(main())


def test_who_could_be_missed_does_not_sleep(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k", "d", "t"}, subscribe=("e",))
            await a.registered("k", 1)
            assert not r.bus.sleep.fall("a"), "nobody could wake it"
            r.bus.sleep.on_wake = lambda _pack_id: None
            assert not r.bus.sleep.fall("unknown")
            caller, _ = await r.agent("c", calls={"k"})
            assert not r.bus.sleep.fall("c"), "nobody can call it"
            number = caller.call("k")
            frame = await a.until(CALL)
            assert not r.bus.sleep.fall("a"), "it serves"
            a.result(frame[1], None)
            await caller.answer(number)
            data = await a.registered("d", None, value={"x": 1})
            assert not r.bus.sleep.fall("a"), "its data would be gone"
            a.send(33, 80, [data])
            await a.answer(80)
            passing = await a.registered("t", 2, ttl_ms=60_000)
            assert not r.bus.sleep.fall("a"), "it has promised to take something back"
            a.send(33, 81, [passing])
            await a.answer(81)
            a.send(SUBSCRIBE, 90, "e")
            assert (await a.answer(90))[0] == RESULT
            assert not r.bus.sleep.fall("a"), "it listens"

    asyncio.run(main())


def test_a_pack_with_an_open_connection_does_not_sleep(tmp_path):
    async def hold(channel, _operation, _args):
        channel.open()
        await channel.read()

    async def main():
        async with rig(tmp_path) as r:
            r.bus.sleep.on_wake = lambda _pack_id: None
            r.bus.channels["test.hold"] = hold
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k", 1)
            number = a.next_id()
            a.send(REQUEST, number, "test.hold", 0, [], {})
            up = (await a.answer(number))[4]["up"]
            assert not r.bus.sleep.fall("a")
            a.send(END, up, None)
            await eventually(lambda: not session.connected)
            assert r.bus.sleep.fall("a")

    asyncio.run(main())
