"""Values longer than a frame, with the real agent on both sides: bytes and whole bodies, every way that they can go.

All of it in memory files and in chunks.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from backend_core.errors import PackError
from core_runtime.drivers import memory_file
from core_runtime.rules.frames import BusLimits
from tests.support.joined import running
from tests.support.raw_agent import rig

PROVIDER = """
    def run(context):
        ir = context["interface_registry"]
        ir.register("a.echo", lambda args, ctx: args)
        ir.register("a.size", lambda args, ctx: len(args))
        ir.register("a.make", lambda args, ctx: {"data": b"x" * args, "rest": list(range(1000))})
        ir.register("a.fn", lambda args, ctx: {"data": b"x" * args, "fn": lambda more, ctx: [more, args]})

        async def slow(args, ctx):
            return b"x" * args

        ir.register("a.async", slow)

        def stream(args, ctx):
            for n in range(3):
                yield b"y" * args
                yield n

        ir.register("a.stream", stream)
        ir.register_handler("a.checked", lambda args, ctx: args, input_schema={"type": "string"})
"""
CALLER = """
    import threading

    def run(context):
        ir = context["interface_registry"]
        echo = ir.get("a.echo")
        ir.register("b.echo", lambda args, ctx: len(echo(b"z" * args)))
        ir.register("b.items", lambda args, ctx: [x if isinstance(x, int) else len(x) for x in ir.get("a.stream")(args)])
        ir.register("b.fn", lambda args, ctx: (lambda got: [len(got["data"]), got["fn"]("called")])(ir.get("a.fn")(args)))

        def many(args, ctx):
            found = []

            def one(n):
                try:
                    found.append(len(echo(bytes([n]) * args)))
                except Exception as refused:
                    found.append(str(refused))

            threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            small = [echo(n) for n in range(50)]
            for thread in threads:
                thread.join()
            return [found, small]

        ir.register("b.many", many)
"""
GIVES = {"a.echo", "a.size", "a.make", "a.fn", "a.async", "a.stream", "a.checked"}
TAKES = {"b.echo", "b.items", "b.fn", "b.many"}
MIB = 1024 * 1024


@pytest.fixture(autouse=True, params=["memory files", "chunks"])
def way(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setattr(memory_file, "why_not", lambda: "this test wants chunks")


def joined(test, tmp_path, **limits):
    async def main():
        async with (
            rig(tmp_path, limits=BusLimits(**limits)) as r,
            running(r, tmp_path, "a", PROVIDER, provides=GIVES),
            running(r, tmp_path, "b", CALLER, provides=TAKES, calls=GIVES),
        ):
            await test(r)
            assert r.bus.router.room.used_bytes == 0, "what passed through is given back"

    asyncio.run(main())


@pytest.mark.parametrize("size", [MIB - 20_000, MIB - 16_384, MIB - 10, MIB + 1, 5 * MIB])
def test_bytes_go_every_way_around_the_limit_of_a_frame(tmp_path, size):
    async def test(r):
        made = await r.bus.call("a.make", size)
        assert made == {"data": b"x" * size, "rest": list(range(1000))}
        assert await r.bus.call("a.async", size) == b"x" * size
        assert await r.bus.call("a.size", b"h" * size) == size
        assert await r.bus.call("b.echo", size) == size

    joined(test, tmp_path)


def test_two_that_exchange_them_need_not_rest_for_each_other(tmp_path):
    """Only whoever is stalled is rested for; else megabytes took a second where they take milliseconds."""

    async def test(r):
        await r.bus.call("b.echo", 2 * MIB)
        asked, asking = (r.bus.sessions[pack_id]._link for pack_id in "ab")
        assert (asking.only, asked.only) == (asked, asking)
        asking.mixed_at = asked.mixed_at = 0.0
        asked._turn.seen[asked] = time.monotonic()
        assert not asking.shares()

    joined(test, tmp_path)


def test_a_whole_body_need_not_be_bytes(tmp_path):
    async def test(r):
        value = {"text": ["word " * 20 for _ in range(40_000)]}
        assert await r.bus.call("a.echo", value) == value

    joined(test, tmp_path)


def test_items_of_a_stream_keep_their_order_among_small_ones(tmp_path):
    async def test(r):
        assert await r.bus.call("b.items", 3 * MIB) == [3 * MIB, 0, 3 * MIB, 1, 3 * MIB, 2]
        stream = await r.bus.call("a.stream", 2 * MIB)
        assert [len(item) if isinstance(item, bytes) else item async for item in stream] == [
            2 * MIB, 0, 2 * MIB, 1, 2 * MIB, 2,
        ]  # fmt: skip

    joined(test, tmp_path)


def test_callables_beside_a_long_body_are_references_as_ever(tmp_path):
    async def test(r):
        assert await r.bus.call("b.fn", 2 * MIB) == [2 * MIB, ["called", 2 * MIB]]

    joined(test, tmp_path)


def test_many_at_once_and_small_calls_between_them(tmp_path):
    async def test(r):
        size = 3 * MIB // 2  # one caller may hold half of the 32 MiB of arguments that wait for a Pack
        sizes, small = await r.bus.call("b.many", size, timeout_s=60)
        assert sizes == [size] * 8
        assert small == list(range(50))

    joined(test, tmp_path)


def test_beyond_the_limit_is_refused_by_name_on_both_sides(tmp_path):
    async def test(r):
        with pytest.raises(PackError) as caught:
            await r.bus.call("a.make", 4 * MIB)
        assert caught.value.code == "value.too_large"
        with pytest.raises(PackError) as caught:
            await r.bus.call("a.size", b"x" * 4 * MIB)
        assert caught.value.code == "value.too_large"
        assert await r.bus.call("b.echo", 2 * MIB) == 2 * MIB

    joined(test, tmp_path, value_bytes=3 * MIB)


def test_what_a_schema_is_checked_against_stays_small(tmp_path):
    async def test(r):
        assert await r.bus.call("a.checked", "x" * 1000) == "x" * 1000
        with pytest.raises(PackError) as caught:
            await r.bus.call("a.checked", "x" * 2 * MIB)
        assert caught.value.code == "value.too_large"

    joined(test, tmp_path)
