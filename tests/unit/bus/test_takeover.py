"""A generation beside the one that serves: what nobody sees before the take-over, and what nobody loses by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend_core.errors import ConflictError, NotFoundError, PackError, PackTimeout
from core_runtime.bus import holding
from core_runtime.bus.sessions import Session
from tests.support.raw_agent import (
    CALL,
    ERROR,
    EVENT,
    PUBLISH,
    REGISTER,
    RELEASE,
    RESULT,
    SHUTDOWN,
    SUBSCRIBE,
    WAIT_S,
    WELCOME,
    RawAgent,
    Rig,
    eventually,
    reference,
    rig,
)


async def beside(r: Rig, pack_id: str, generation: int) -> tuple[RawAgent, Session]:
    """Another generation of a Pack, with the rights that the Pack has."""
    endpoint = await r.bus.open(
        pack_id,
        generation,
        lambda: r.grants[pack_id],
        socket_path=f"{r.folder}/{pack_id}-{generation}",
        beside=True,
    )
    waiting = asyncio.ensure_future(endpoint.connected(WAIT_S))
    agent = await RawAgent.connect(endpoint.path)
    agent.hello()
    session = await waiting
    r.agents.append(agent)
    await session.welcome({})
    await agent.until(WELCOME)
    return agent, session


async def serve(agent: RawAgent, value: Any) -> list[Any]:
    frame = await agent.until(CALL)
    agent.result(frame[1], value)
    return frame


def test_a_shadow_is_seen_by_itself_alone_until_it_takes_over(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, first = await r.agent("a", provides={"k", "new"})
            caller, _ = await r.agent("c", calls={"k", "new"})
            await old.registered("k", 1)
            await caller.mirror("k")
            new, second = await beside(r, "a", 2)
            changed: list[str] = []
            r.registry.listen(changed.append)
            await new.registered("k", 7)
            await new.registered("new", 8)
            # it sees its own instead of the older one's
            mine = await new.mirror("k", lambda m: len(m[3]) == 1 and m[3][0]["mine"])
            assert mine[4] == [[1, 7]]
            assert r.registry.resolve("k").generation == 1
            assert r.registry.list() == {"k": 1}
            assert changed == []
            assert r.bus.sessions["a"] is first
            assert list(r.bus.statistics()["packs"]) == ["a", "c"]
            number = caller.call("new")
            assert (await caller.answer(number))[2] == "missing"
            # its own call of its own key reaches itself
            number = new.call("k", 1)
            await serve(new, "mine")
            assert (await new.answer(number))[4] == "mine"

            second.take_over()
            assert r.registry.resolve("k").generation == 2
            assert r.registry.list() == {"k": 1, "new": 1}
            assert r.bus.sessions["a"] is second
            await caller.mirror("new", lambda m: bool(m[3]))
            number = caller.call("k")
            await serve(new, "two")
            assert (await caller.answer(number))[4] == "two"
            with pytest.raises(ConflictError):
                second.take_over()

    asyncio.run(main())


def test_numbers_that_callers_hold_go_on_standing_for_the_key(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, _ = await r.agent("a", provides={"k"})
            caller, _ = await r.agent("c", calls={"k"})
            await old.registered("k", 1)
            number_of_k = (await caller.mirror("k"))[4][0][1]
            new, second = await beside(r, "a", 2)
            await new.registered("k", 9)
            second.take_over()
            # the caller has not been told of anything yet: its frame crosses the take-over
            number = caller.call(number_of_k, "x")
            frame = await serve(new, "from the new one")
            assert frame[2] == 9
            assert (await caller.answer(number))[4] == "from the new one"
            told = await caller.mirror("k", lambda m: m[3][0]["registration"] == r.registry.resolve("k").number)
            assert told[4][0][1] == number_of_k
            assert (await old.until(RELEASE))[2] == [1]

    asyncio.run(main())


def test_calls_in_flight_stay_with_the_older_generation_and_may_call_back_into_it(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, first = await r.agent("a", provides={"k"}, calls={"b"})
            helper, _ = await r.agent("h", provides={"b"})
            caller, _ = await r.agent("c", calls={"k"})
            await old.registered("k", 1)
            await helper.registered("b", 1)
            number = caller.call("k")
            run = await old.until(CALL)
            # the older one calls the helper with a callable of its own
            asked = old.call("b", reference(0), parent=run[1], refs=[[0, 44]])
            at_helper = await helper.until(CALL)
            new, second = await beside(r, "a", 2)
            await new.registered("k", 9)
            second.take_over()
            draining = asyncio.ensure_future(first.shutdown(5))
            await asyncio.sleep(0)
            back = helper.call(at_helper[9][0][1], "back", parent=at_helper[1])
            again = await old.until(CALL)
            assert again[2] == 44
            old.result(again[1], "still here")
            assert (await helper.answer(back))[4] == "still here"
            helper.result(at_helper[1], "ok")
            assert (await old.answer(asked))[4] == "ok"
            assert not any(frame[0] == SHUTDOWN for frame in old.frames)
            old.result(run[1], "one")
            assert (await caller.answer(number))[4] == "one"
            await old.until(SHUTDOWN)
            await old.close()
            await draining

    asyncio.run(main())


def test_a_drain_refuses_new_calls_and_is_bounded(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k", 1)
            caller, _ = await r.agent("c", calls={"k"})
            hanging = caller.call("k")
            await a.until(CALL)
            draining = asyncio.ensure_future(session.shutdown(0.05))
            await asyncio.sleep(0)
            assert (await caller.answer(caller.call("k")))[2] == "unavailable"
            await draining
            answer = await caller.answer(hanging)
            assert answer[2] == "unavailable"
            assert answer[5], "may be tried again"

    asyncio.run(main())


def test_each_event_reaches_exactly_one_generation(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, first = await r.agent("a", subscribe=("t",), publish=("out",))
            listener, _ = await r.agent("l", subscribe=("out",))
            for agent in (old, listener):
                agent.send(SUBSCRIBE, 90, "t" if agent is old else "out")
                await agent.answer(90)
            new, second = await beside(r, "a", 2)
            new.send(SUBSCRIBE, 90, "t")
            assert (await new.answer(90))[0] == RESULT
            new.send(PUBLISH, 91, "out", [], "from the trial")
            assert (await new.answer(91))[4] == 0, "nobody has heard it"
            assert r.events.publish("t", 1) == 1
            assert (await old.until(EVENT))[5] == 1
            second.take_over()
            assert r.events.publish("t", 2) == 1
            assert (await new.until(EVENT))[5] == 2
            assert (await listener.until(EVENT))[5] == "from the trial"
            assert r.events.list_subscribers() == {"t": ["pack:a:2:1"], "out": ["pack:l:1:1"]}
            assert first.retired

    asyncio.run(main())


def test_what_a_trial_publishes_is_bounded_and_dropped_with_it(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            await r.agent("a", publish=("out",))
            listener, _ = await r.agent("l", subscribe=("out",))
            listener.send(SUBSCRIBE, 90, "out")
            await listener.answer(90)
            new, _ = await beside(r, "a", 2)
            for number in range(1, 300):
                new.send(PUBLISH, number, "out", [], number)
            kinds = [(await new.answer(number))[0] for number in range(1, 300)]
            assert kinds == [RESULT] * 256 + [ERROR] * 43
            await new.close()
            r.events.publish("out", "after")
            assert (await listener.until(EVENT))[5] == "after"

    asyncio.run(main())


def test_a_trial_that_ends_leaves_everything_as_it_was(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, first = await r.agent("a", provides={"k"}, subscribe=("t",))
            await old.registered("k", 1)
            before = r.registry.resolve("k")
            new, second = await beside(r, "a", 2)
            await new.registered("k", 2)
            new.send(SUBSCRIBE, 90, "t")
            await new.answer(90)
            await new.close()
            await asyncio.wait([second.closed])
            assert r.registry.resolve("k") is before
            assert r.bus.sessions["a"] is first
            assert r.events.list_subscribers() == {}
            with pytest.raises(PackError):
                second.take_over()
            calling = asyncio.ensure_future(r.bus.call("k"))
            await serve(old, "one")
            assert await calling == "one"

    asyncio.run(main())


def test_a_retired_generation_registers_and_subscribes_nothing_more(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, _ = await r.agent("a", provides={"k"}, subscribe=("t",))
            await old.registered("k", 1)
            new, second = await beside(r, "a", 2)
            await new.registered("k", 2)
            second.take_over()
            answer = await old.answer(old.register("k", 5))
            assert (answer[0], answer[2]) == (ERROR, "superseded")
            old.send(SUBSCRIBE, 91, "t")
            answer = await old.answer(91)
            assert (answer[0], answer[2]) == (ERROR, "superseded")
            assert r.registry.resolve("k").generation == 2
            assert REGISTER not in {frame[0] for frame in old.frames}

    asyncio.run(main())


def test_calls_wait_while_a_pack_changes_hands(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, _ = await r.agent("a", provides={"k"})
            await old.registered("k", 1)
            caller, session = await r.agent("c", calls={"k"})
            with r.bus.holding("a"):
                await old.close()
                await eventually(lambda: r.registry.resolve("k") is None)
                waiting = caller.call("k", reference(0), refs=[[0, 5]])
                gone = caller.call("k", "gone")
                late = caller.call("k", "late", deadline_ms=30)
                host = asyncio.ensure_future(r.bus.call("k", "host"))
                caller.send(4, gone)
                assert (await caller.answer(gone))[2] == "cancelled"
                assert (await caller.answer(late))[2] == "timeout"
                with pytest.raises(PackTimeout):
                    await r.bus.call("k", timeout_s=0.02)
                denied = await r.agent("d")
                assert (await denied[0].answer(denied[0].call("k")))[2] == "denied"
                new, _ = await r.agent("a", 2, provides={"k"})
                await new.registered("k", 3)
                assert not host.done()
                assert not any(frame[0] == RELEASE for frame in caller.frames), "the callable offered is kept"
            frame = await serve(new, "two")
            assert frame[9] == [[0, 1]], "its callable came along"
            assert (await caller.answer(waiting))[4] == "two"
            await serve(new, "to the host")
            assert await host == "to the host"
            assert session.outgoing == {}
            new.send(RELEASE, 0, [1])
            assert (await caller.until(RELEASE))[2] == [5]

    asyncio.run(main())


def test_held_calls_fail_as_missing_when_nobody_came(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            old, _ = await r.agent("a", provides={"k"})
            await old.registered("k", 1)
            caller, _ = await r.agent("c", calls={"k"})
            with r.bus.holding("a"):
                await old.close()
                await eventually(lambda: r.registry.resolve("k") is None)
                number = caller.call("k")
                host = asyncio.ensure_future(r.bus.call("k"))
                await caller.mirror("k", lambda m: not m[3])
            assert (await caller.answer(number))[2] == "missing"
            with pytest.raises(NotFoundError):
                await host

    asyncio.run(main())


def test_what_is_held_is_bounded_and_nothing_waits_for_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(holding, "MAX_HELD", 4)

    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, calls={"b"})
            b, _ = await r.agent("b", provides={"b"}, calls={"k"})
            await a.registered("k", 1)
            await b.registered("b", 1)
            with r.bus.holding("a"):
                own = a.call("k", "own")
                await serve(a, "not held")
                assert (await a.answer(own))[4] == "not held"
                outer = a.call("b")
                run = await b.until(CALL)
                inner = b.call("k", "on its behalf", parent=run[1])
                await serve(a, "not held either")
                assert (await b.answer(inner))[4] == "not held either"
                b.result(run[1], None)
                await a.answer(outer)
                held = [b.call("k"), b.call("k")]
                assert (await b.answer(b.call("k")))[2] == "limit"
            for _ in held:
                await serve(a, "later")
            assert [(await b.answer(number))[4] for number in held] == ["later", "later"]

    asyncio.run(main())
