"""What came in a body that nobody looks at is given back all the same: its callables, and its memory file."""

from __future__ import annotations

import asyncio
import sys

import msgpack
import pytest

from core_runtime.rules.frames import BusLimits
from tests.support.file_agent import FileAgent
from tests.support.joined import running
from tests.support.raw_agent import CALL, CANCEL, END, ERROR, ITEM, RELEASE, RESULT, eventually, reference, rig
from tests.support.vectors import encode

PROVIDER = """
    import time

    def run(context):
        ir = context["interface_registry"]
        ir.register("a.nap", lambda args, ctx: time.sleep(0.01 if isinstance(args, bytes) else args["s"]))

        def first(args, ctx):
            items = ir.get("b.items")(None, ctx)
            next(items)
            time.sleep(0.1)  # the others are here
            items.close()

        ir.register("a.first", first)

        async def awaited(args, ctx):
            return None

        ir.register("a.awaited", awaited)
"""
GIVES = {"a.nap", "a.first", "a.awaited"}
LONG = msgpack.packb(b"v" * 300_000)


def joined(test, tmp_path, monkeypatch, **limits):
    monkeypatch.setattr("tests.support.raw_agent.RawAgent", FileAgent)

    async def main():
        async with rig(tmp_path, limits=BusLimits(**limits)) as r:
            b, _ = await r.agent("b", provides={"b.items"}, calls=GIVES)
            await b.registered("b.items", 7)
            async with running(r, tmp_path, "a", PROVIDER, provides=GIVES, calls={"b.items"}):
                for key in GIVES:
                    await b.mirror(key)
                await test(r, b)

    asyncio.run(main())


def called_and_given_up(b, key, body, refs=()):
    """A call and its CANCEL in one piece, so that the second is read before anybody has begun with the first."""
    number = b.next_id()
    b.raw(encode([CALL, number, key, 0, 0, 0, None, list(refs), body]) + encode([CANCEL, number]))
    return number


@pytest.mark.parametrize("key", ["a.nap", "a.awaited"])
@pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")
def test_a_memory_file_of_a_call_that_was_given_up_before_it_began(key, tmp_path, monkeypatch):
    async def test(r, b):
        for _ in range(3):  # from now on its handler is known to be slow, and begins in another thread
            await b.answer(b.call("a.nap", {"s": 0.01}))
        memory = r.bus.sessions["a"].memory
        for n in range(1, 9):
            number = called_and_given_up(b, key, b.stored(n, LONG))
            assert (await b.answer(number))[:3] == [ERROR, number, "cancelled"]
            await eventually(lambda: memory.report()["held_bytes"] == 0, 3)
        assert memory.handed == 8

    joined(test, tmp_path, monkeypatch)


@pytest.mark.parametrize("threads", [48, 1], ids=["that was about to begin", "that waited for a thread"])
def test_the_callables_of_a_call_that_was_given_up_before_it_began(threads, tmp_path, monkeypatch):
    async def test(_r, b):
        for _ in range(3):
            await b.answer(b.call("a.nap", {"s": 0.01}))
        if threads == 1:  # both of its threads are busy
            busy = [b.call("a.nap", {"s": 1.0}) for _ in range(2)]
            await asyncio.sleep(0.1)
        given = range(100, 108)
        for n in given:
            called_and_given_up(b, "a.nap", {"s": 0.0, "back": reference(0)}, [[0, n]])
        back: set[int] = set()
        while not back >= set(given):
            back |= set((await b.until(RELEASE))[2])
        if threads == 1:
            for number in busy:
                assert (await b.answer(number))[0] == RESULT

    joined(test, tmp_path, monkeypatch, threads=threads)


def test_the_callables_of_items_that_nobody_takes(tmp_path, monkeypatch):
    async def test(_r, b):
        asked = b.call("a.first")
        opened = await b.until(CALL, lambda frame: frame[2] == 7)
        b.send(RESULT, opened[1], 1, [], None)
        for n in range(3):
            b.send(ITEM, opened[1], [[0, 200 + n]], reference(0))
        back: set[int] = set()
        while not back >= {200, 201, 202}:
            back |= set((await b.until(RELEASE))[2])
        await b.until(CANCEL)
        b.send(END, opened[1], ["cancelled", "", "", False, ""])
        assert (await b.answer(asked))[0] == RESULT

    joined(test, tmp_path, monkeypatch)


