"""Attacks with and on streams in arguments: one named test for each. `k` is a callee's, `evil` the one that lies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend_core.errors import PackTimeout
from core_runtime.rules.frames import BusLimits
from tests.support.joined import running
from tests.support.raw_agent import (
    CALL,
    CANCEL,
    CREDIT,
    END,
    ERROR,
    ITEM,
    RELEASE,
    RESULT,
    RawAgent,
    eventually,
    reference,
    rig,
)  # fmt: skip

SOURCE = 2
EVERYTHING = 2**32 - 1


def run(scenario: Any) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 60))


async def pair(r: Any, reader: str = "reader", caller: str = "caller") -> tuple[RawAgent, RawAgent]:
    """One that provides ``k``, and one that may call it."""
    a, _ = await r.agent(reader, provides={"k"})
    b, _ = await r.agent(caller, calls={"k"})
    await a.registered("k")
    return a, b


async def passed(a: RawAgent, b: RawAgent, number: int = 7, **options: Any) -> tuple[int, list[Any]]:
    """``b`` calls ``k`` with a stream of its own: the id of its call, and the CALL that ``a`` got."""
    asked = b.call("k", {"items": reference(0)}, refs=[[SOURCE, number]], **options)
    return asked, await a.until(CALL)


async def opened(a: RawAgent, b: RawAgent, served: list[Any]) -> tuple[int, list[Any]]:
    """``a`` reads the stream of a call that it serves: the id of its own CALL, and the CALL that ``b`` got."""
    reading = a.call(served[9][0][1])
    asked = await b.until(CALL)
    b.send(RESULT, asked[1], 1, [], None)
    assert (await a.answer(reading))[2] == 1
    return reading, asked


def test_a_reader_that_grants_everything_opens_a_bounded_window(tmp_path):
    async def scenario():
        async with rig(tmp_path, limits=BusLimits(credit_ahead=64)) as r:
            evil, b = await pair(r, "evil", "b")
            _, served = await passed(evil, b)
            reading, asked = await opened(evil, b, served)
            for _ in range(5):
                evil.send(CREDIT, reading, EVERYTHING)
            assert (await b.until(CREDIT))[1:] == [asked[1], 48]
            b.send(END, asked[1], None)
            await evil.until(END)
            assert not any(frame[0] == CREDIT for frame in b.frames)

    run(scenario)


def test_a_producer_beyond_its_credit_is_cut_off_and_its_reader_hears_of_it(tmp_path):
    async def scenario():
        async with rig(tmp_path) as r:
            a, evil = await pair(r, "a", "evil")
            _, served = await passed(a, evil)
            reading, asked = await opened(a, evil, served)
            for item in range(17):
                evil.send(ITEM, asked[1], [], item)
            end = await a.until(END)
            assert (end[1], end[2][0]) == (reading, "unavailable")
            assert sum(frame[0] == ITEM for frame in a.frames) <= 16
            assert await a.until(CANCEL) == [CANCEL, served[1]]
            assert "a" in r.bus.sessions

    run(scenario)


def test_a_stream_is_out_of_reach_of_whoever_it_was_not_given_to(tmp_path):
    async def scenario():
        async with rig(tmp_path) as r:
            a, b = await pair(r, "a", "b")
            _, served = await passed(a, b)
            evil, _ = await r.agent("evil", calls={"k"})
            await evil.mirror("k")
            for number in (7, 0, 2, 1000):  # 1 is `k` itself, on this connection
                assert (await evil.answer(evil.call(number)))[:3:2] == [ERROR, "dead_reference"]
            # what it passes on by a number that it guessed is a stream of its own, and leads to nobody else
            evil.call("k", None, refs=[[SOURCE, served[9][0][1]]])
            second = await a.until(CALL)
            a.call(second[9][0][1])
            assert (await evil.until(CALL))[2] == served[9][0][1]
            assert not any(frame[0] == CALL for frame in b.frames)

    run(scenario)


def test_a_stream_can_not_be_read_longer_than_its_call_runs(tmp_path):
    """The reader sheds the parent and asks for a day; the host knows whose argument the stream is."""

    async def scenario():
        async with rig(tmp_path) as r:
            evil, b = await pair(r, "evil", "b")
            asked, served = await passed(evil, b, deadline_ms=300)
            evil.call(served[9][0][1], parent=0, deadline_ms=24 * 3600 * 1000)
            read = await b.until(CALL)
            assert read[3] <= 300
            assert read[6] == asked, "it descends from the call that it feeds"
            b.send(RESULT, read[1], 1, [], None)
            assert (await b.answer(asked))[:3:2] == [ERROR, "timeout"]
            assert await b.until(CANCEL) == [CANCEL, read[1]]
            evil.send(ERROR, served[1], "cancelled", "", "", False, "")
            late = evil.call(served[9][0][1])
            assert (await evil.answer(late))[:3:2] == [ERROR, "dead_reference"]

    run(scenario)


def test_an_answer_ends_the_stream_also_when_the_reader_keeps_it(tmp_path):
    async def scenario():
        async with rig(tmp_path) as r:
            evil, b = await pair(r, "evil", "b")
            asked, served = await passed(evil, b)
            reading, read = await opened(evil, b, served)
            evil.result(served[1], "answered")
            assert (await b.answer(asked))[4] == "answered"
            assert await b.until(CANCEL) == [CANCEL, read[1]]
            assert await b.until(RELEASE) == [RELEASE, 0, [7]]
            for _ in range(10):
                evil.send(CREDIT, reading, EVERYTHING)
            b.send(END, read[1], None)
            await b.answer(b.call("k", None, deadline_ms=50))
            assert not any(frame[0] == CREDIT for frame in b.frames)

    run(scenario)


def test_a_revocation_does_not_leave_a_stream_that_can_be_read_later(tmp_path):
    async def scenario():
        async with rig(tmp_path) as r:
            a, b = await pair(r, "a", "b")
            asked, served = await passed(a, b)
            r.grants["b"].calls.clear()
            _, read = await opened(a, b, served)  # the call that was allowed goes on, with all that is part of it
            a.result(served[1], None)
            await b.answer(asked)
            assert await b.until(CANCEL) == [CANCEL, read[1]]
            assert (await b.answer(b.call("k", None, refs=[[SOURCE, 8]])))[:3:2] == [ERROR, "denied"]

    run(scenario)


def test_more_streams_than_a_call_may_have(tmp_path):
    async def scenario():
        async with rig(tmp_path) as r:
            a, evil = await pair(r, "a", "evil")
            many = [[SOURCE, number] for number in range(1, 1025)]
            assert (await evil.answer(evil.call("k", None, refs=many)))[:3:2] == [ERROR, "limit"]
            assert not r.bus.sessions["a"].references.held
            assert not any(frame[0] == CALL for frame in a.frames)

    run(scenario)


def test_what_never_went_out_takes_none_of_the_receivers_numbers(tmp_path):
    """Calls and answers that are refused on their way, each with as many callables as a frame may name."""

    async def scenario():
        async with rig(tmp_path, limits=BusLimits(references=2048, depth=0, frame_bytes=8192)) as r:
            victim, sv = await r.agent("victim", provides={"k"}, calls={"evil.k"})
            evil, _ = await r.agent("evil", provides={"evil.k"}, calls={"k"})
            await victim.registered("k")
            await evil.registered("evil.k")
            await eventually(lambda: {"k", "evil.k"} <= set(sv.mirror.shown))
            before = len(sv.references.held)
            callables = [[0, 10]] * 790  # a short number there, a longer one here
            for _ in range(4):  # refused: deeper than 0
                served = victim.call("evil.k", None)
                frame = await evil.until(CALL)
                assert (await evil.answer(evil.call("k", None, parent=frame[1], refs=callables)))[2] == "depth"
                evil.result(frame[1], None)
                await victim.answer(served)
            for _ in range(4):  # refused: one reference of many is dead
                assert (await evil.answer(evil.call("k", None, refs=[*callables, [1, 9999]])))[2] == "dead_reference"
            for _ in range(4):  # an answer that does not fit a frame any more
                asked = victim.call("evil.k", None)
                frame = await evil.until(CALL)
                evil.send(RESULT, frame[1], 0, callables, b"x" * (8192 - 790 * 3 - 20))
                assert (await victim.answer(asked))[2] == "value.too_large"
            assert len(sv.references.held) == before
            served = await evil.answer(evil.call("k", None, refs=[[0, 1]], deadline_ms=50))
            assert served[2] == "timeout", "the victim still takes callables"

    run(scenario)


READER = """
    import time
    def run(context):
        ir = context["interface_registry"]
        def deaf(args, ctx):
            while not ctx["cancelled"]():
                time.sleep(0.005)
        def sip(args, ctx):
            next(args)
            while not ctx["cancelled"]():
                time.sleep(0.005)
        def drink(args, ctx):
            for _ in args:
                pass
        for name, fn in dict(deaf=deaf, sip=sip, drink=drink, alive=lambda args, ctx: True).items():
            ir.register("reader." + name, fn)
"""
WRITER = """
    import itertools
    def run(context):
        ir = context["interface_registry"]
        made = [0]
        def endless():
            for number in itertools.count():
                made[0] += 1
                yield b"x" * 1000
        def pour(args, ctx):
            return ir.get(args)(endless())
        ir.register("writer.pour", pour)
        ir.register("writer.made", lambda args, ctx: made[0])
"""


@pytest.mark.parametrize(("reader", "most"), [("reader.deaf", 0), ("reader.sip", 32), ("reader.drink", None)])
def test_an_endless_stream_ends_with_its_call_whoever_reads_it(reader, most, tmp_path):
    keys = {f"reader.{name}" for name in ("deaf", "sip", "drink", "alive")}

    async def scenario():
        async with (
            rig(tmp_path) as r,
            running(r, tmp_path, "reader", READER, provides=keys),
            running(r, tmp_path, "writer", WRITER, provides={"writer.pour", "writer.made"}, calls=keys),
        ):
            with pytest.raises(PackTimeout):
                await r.bus.call("writer.pour", reader, timeout_s=0.7)
            assert await r.bus.call("reader.alive") is True
            both = [r.bus.sessions["reader"], r.bus.sessions["writer"]]
            await eventually(lambda: not any(s.incoming or s.outgoing for s in both))
            made = await r.bus.call("writer.made")
            assert most is None or made <= most
            assert await r.bus.call("writer.made") == made, "nothing is made any more"
            assert not any(handle.feeds for handle in both[0].references.held.values())

    run(scenario)
