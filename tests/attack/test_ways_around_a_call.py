"""Ways to a call that are not the usual one, to get past what the usual one looks at: by number, and while it waits."""

from __future__ import annotations

import asyncio

import pytest

from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.spec.models import Contract
from backend_core.errors import ConflictError, DeniedError
from core_runtime.bus import holding
from core_runtime.rules.contracts import NO_TERMS, Terms
from tests.support.raw_agent import (
    CALL,
    END,
    ITEM,
    REGISTER,
    RESULT,
    UNREGISTER,
    Grant,
    RawAgent,
    Rig,
    eventually,
    reference,
    rig,
)

NARROW = Terms({"k": Contract("1.0.0", freeze({"type": "integer"}), freeze({"type": "string"}))})
BROAD = Terms({"k": Contract("2.0.0")})
NEEDS_1 = Terms(ranges={"k": "^1"})


class Once(Grant):
    """An edge that was granted for one use."""

    def may_call(self, key: str) -> bool:
        may = key in self.calls
        self.calls.discard(key)
        return may


async def nothing_reaches(agent: RawAgent) -> None:
    """What the host sends after all that it was asked before: no call is among it."""
    await agent.registered("end")
    assert CALL not in {frame[0] for frame in agent.frames}


async def provider(r: Rig, generation: int = 1, terms: Terms = NO_TERMS) -> RawAgent:
    agent, _ = await r.agent("a", generation, provides={"k", "end"}, terms=terms)
    await agent.registered("k")
    return agent


def test_a_number_in_a_mirror_is_no_way_around_the_schemas(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a = await provider(r, terms=NARROW)
            c, _ = await r.agent("c", calls={"k"})
            number = (await c.mirror("k"))[4][0][1]
            assert (await c.answer(c.call(number, "no integer")))[2] == "schema"
            await nothing_reaches(a)
            asked = c.call(number, 5)
            a.result((await a.until(CALL))[1], {"no": "string"})
            assert (await c.answer(asked))[2] == "schema"
            asked = c.call(number, 6)
            run = await a.until(CALL)
            a.send(RESULT, run[1], 1, [], None)
            a.send(ITEM, run[1], [], {"no": "string"})
            assert (await c.answer(asked))[0] == RESULT
            assert (await c.until(END))[2][0] == "schema"

    asyncio.run(main())


def test_a_number_in_a_mirror_ends_with_its_registration_for_who_does_not_read_that(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a = await provider(r)
            b, _ = await r.agent("b", provides={"much"})
            await b.registered("much")
            c, session = await r.agent("c", calls={"k", "much"})
            number = (await c.mirror("k"))[4][0][1]
            while not session.congested:
                c.call("much")
                b.result((await b.until(CALL))[1], b"x" * 900_000)
                await asyncio.sleep(0)
            a.send(UNREGISTER, 90, [r.registry.resolve("k").number])
            await eventually(lambda: r.registry.resolve("k") is None)
            assert session.congested
            assert number in session.references.held, "it could not be told"
            asked = c.call(number)
            assert (await c.answer(asked))[2] == "dead_reference"
            await nothing_reaches(a)

    asyncio.run(main())


OPTIONS = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}


@pytest.mark.parametrize("value", [reference(0), {"inside": [reference(0)]}], ids=["itself", "inside"])
@pytest.mark.parametrize("whose", ["another Pack's", "the host's", "a caller's"])
def test_nobody_registers_what_belongs_to_another(tmp_path, whose, value):
    """Whoever may reach the key would reach that as well, also once the right to it was taken from who registered it."""

    async def main():
        async with rig(tmp_path) as r:
            r.registry.register("host.fn", lambda args, ctx: args)
            a = await provider(r)
            evil, _ = await r.agent("evil", provides={"e"}, calls={"k", "host.fn"})
            if whose == "a caller's":
                await evil.registered("e")
                a_calls = Grant(calls={"e"}, provides={"k", "end"})
                r.grants["a"] = a_calls
                a.call("e", reference(0), refs=[[0, 7]])
                number = (await evil.until(CALL))[9][0][1]
            else:
                number = (await evil.mirror("k" if whose == "another Pack's" else "host.fn"))[4][0][1]
            request = evil.next_id()
            evil.send(REGISTER, request, "e", OPTIONS, None, None, [[1, number]], value)
            assert (await evil.answer(request))[2] == "value.unsupported"
            slot = r.registry.slot("e")
            assert (len(slot.entries) if slot is not None else 0) == (1 if whose == "a caller's" else 0)

    asyncio.run(main())


async def waiting(r: Rig, count: int = 1) -> None:
    await eventually(lambda: sum(len(hold.waiting) for hold in r.bus.router.holds.active) == count)


def test_a_right_that_ends_while_a_call_is_held_ends_the_call(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a = await provider(r)
            c, _ = await r.agent("c", calls={"k"})
            with r.bus.holding("a"):
                asked = c.call("k")
                for_it = asyncio.ensure_future(r.bus.call("k", caller="c"))
                await waiting(r)
                r.grants["c"].calls.clear()
                r.bus.rights_changed("c")
            assert (await c.answer(asked))[2] == "denied"
            with pytest.raises(DeniedError):
                await for_it
            await nothing_reaches(a)
            assert {denial[:3] for denial in r.denials} == {("c", "interface.call", "k")}

    asyncio.run(main())


def test_a_call_that_was_held_reaches_no_version_that_its_caller_does_not_take(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            first = await provider(r, terms=NARROW)
            c, _ = await r.agent("c", calls={"k"}, terms=NEEDS_1)
            with r.bus.holding("a"):
                asked = c.call("k", 5)
                for_it = asyncio.ensure_future(r.bus.call("k", 5, caller="c"))
                await waiting(r)
                await first.close()
                await eventually(lambda: r.registry.resolve("k") is None)
                second = await provider(r, 2, terms=BROAD)
            assert (await c.answer(asked))[2] == "incompatible"
            with pytest.raises(ConflictError, match="can't use what provides"):
                await for_it
            await nothing_reaches(second)

    asyncio.run(main())


@pytest.mark.parametrize(("limit", "most", "value"), [("MAX_HELD", 12, None), ("MAX_HELD_BYTES", 120_000, b"x" * 10_000)])
def test_whoever_calls_most_while_a_pack_changes_hands_leaves_the_others_room(tmp_path, monkeypatch, limit, most, value):
    monkeypatch.setattr(holding, limit, most)

    async def main():
        async with rig(tmp_path) as r:
            a = await provider(r)
            evil, _ = await r.agent("evil", calls={"k"})
            good, _ = await r.agent("good", calls={"k"})
            with r.bus.holding("a"):
                asked = [evil.call("k", value) for _ in range(20)]
                assert (await evil.answer(asked[-1]))[2] == "limit"
                mine = good.call("k", value)
                await eventually(lambda: any(held.call.caller_name == "good" for held in r.bus.router.holds.active[0].waiting))
            run = await a.until(CALL, lambda frame: frame[7][1] == "good")
            a.result(run[1], "served")
            assert (await good.answer(mine))[4] == "served"

    asyncio.run(main())


@pytest.mark.parametrize(("how", "by"), [("held", "key"), ("asleep", "key"), ("asleep", "number")])
def test_an_edge_for_one_use_is_one_call_however_many_wait(tmp_path, how, by):
    async def main():
        async with rig(tmp_path) as r:
            r.bus.sleep.on_wake = lambda _pack_id: None
            a = await provider(r)
            c, _ = await r.agent("c", calls={"k"})
            r.grants["c"] = Once(calls={"k"})
            target = "k" if by == "key" else (await c.mirror("k"))[4][0][1]
            if how == "asleep":
                assert r.bus.sleep.fall("a")
                asked = [c.call(target, n) for n in range(3)]
                await waiting(r, 3)
                await a.close()
                await eventually(lambda: "a" not in r.bus.sessions)
                a = await provider(r, 2)
                r.bus.sleep.end("a")
            else:
                with r.bus.holding("a"):
                    asked = [c.call("k", n) for n in range(3)]
                    await waiting(r, 3)
            run = await a.until(CALL)
            a.result(run[1], run[10])
            answers = [await c.answer(number) for number in asked]
            assert [answer[4] for answer in answers[:1]] == [0]
            assert [answer[2] for answer in answers[1:]] == ["denied", "denied"]
            await nothing_reaches(a)

    asyncio.run(main())
