"""Streams in arguments, between real agents and from the host: ``ir.get(key)({"items": iterator})``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend_core.errors import PackError
from core_runtime.rules.frames import BusLimits
from tests.support.joined import running
from tests.support.raw_agent import eventually, rig

READER = """
    import time
    def run(context):
        ir = context["interface_registry"]
        seen = []
        def total(args, ctx):
            return sum(args["items"])
        async def total_async(args, ctx):
            result = 0
            async for item in args["items"]:
                result += item
            return result
        def first(args, ctx):
            for item in args["items"]:
                return item
        def ignore(args, ctx):
            return "not read"
        def both(args, ctx):
            return list(zip(args["a"], args["b"]))
        def doubled(args, ctx):
            for item in args:
                yield item * 2
        async def doubled_async(args, ctx):
            async for item in args:
                yield item * 2
        def slowly(args, ctx):
            for item in args["items"]:
                seen.append(item)
                if item == args["until"]:
                    while not ctx["cancelled"]():
                        time.sleep(0.005)
                    return  # what has arrived by then may still be read
        def twice(args, ctx):
            return [list(args["items"]), list(args["items"])]
        def keep(args, ctx):
            seen.append(args["items"])
        def kept(args, ctx):
            try:
                return next(seen[-1])
            except Exception as exc:
                return [type(exc).__name__, exc.type]
        def caught(args, ctx):
            got = []
            try:
                for item in args["items"]:
                    got.append(item)
            except Exception as exc:
                seen.append(exc.type)
                return [got, type(exc).__name__, exc.type, exc.title]
        def onward(args, ctx):
            return ir.get("b.total")(args)
        def sums(args, ctx):
            yield "begun"
            yield sum(args)
        def big(args, ctx):
            return [len(item) for item in args]
        for name, fn in dict(total=total, total_async=total_async, first=first, ignore=ignore, both=both, big=big, sums=sums,
                             doubled=doubled, doubled_async=doubled_async, slowly=slowly, twice=twice, keep=keep,
                             kept=kept, caught=caught, onward=onward, seen=lambda args, ctx: seen).items():
            ir.register("a." + name, fn)
"""
WRITER = """
    import asyncio, threading, time
    def run(context):
        ir = context["interface_registry"]
        state = {"made": 0, "closed": 0}
        hold = threading.Event()
        def count(n):
            try:
                for item in range(n):
                    state["made"] += 1
                    yield item
            finally:
                state["closed"] += 1
        async def count_async(n):
            try:
                for item in range(n):
                    state["made"] += 1
                    await asyncio.sleep(0)
                    yield item
            finally:
                state["closed"] += 1
        def plain(args, ctx):
            return ir.get(args["key"])({"items": count(args["n"]), "until": args.get("until")})
        def plain_async(args, ctx):
            return ir.get(args["key"])({"items": count_async(args["n"])})
        async def coroutine(args, ctx):
            return await ir.get(args["key"])({"items": count_async(args["n"])})
        async def coroutine_plain(args, ctx):
            return await ir.get(args["key"])({"items": count(args["n"])})
        def relayed(args, ctx):
            yield from ir.get(args["key"])(count(args["n"]))
        def pair(args, ctx):
            return ir.get("a.both")({"a": iter("xyz"), "b": map(str, range(3))})
        def breaks():
            yield 1
            raise LookupError("the tap is dry")
        def broken(args, ctx):
            return ir.get(args["key"])({"items": breaks()})
        def odd():
            yield 1
            yield object()
        def unfit(args, ctx):
            return ir.get(args["key"])({"items": odd()})
        def waits():
            try:
                yield 1
                hold.wait()
            finally:
                state["closed"] += 1
        def blocked(args, ctx):
            return ir.get(args["key"])({"items": waits()})
        def free(args, ctx):
            hold.set()
        def many(args, ctx):
            return ir.get("a.ignore")([iter(()) for _ in range(args)])
        def elsewhere(args, ctx):
            return {"items": count(3)}
        def blobs(args, ctx):
            return ir.get("a.big")(bytes(size) for size in args)
        for name, fn in dict(plain=plain, plain_async=plain_async, coroutine=coroutine, coroutine_plain=coroutine_plain,
                             relayed=relayed, pair=pair, broken=broken, unfit=unfit, blocked=blocked, free=free,
                             many=many, elsewhere=elsewhere, blobs=blobs, total=lambda args, ctx: sum(args["items"]),
                             state=lambda args, ctx: dict(state)).items():
            ir.register("b." + name, fn)
"""
A = {f"a.{name}" for name in (
    "total", "total_async", "first", "ignore", "both", "doubled", "doubled_async", "slowly", "twice", "keep", "kept",
    "caught", "onward", "seen", "big", "sums",
)}  # fmt: skip
B = {f"b.{name}" for name in (
    "plain", "plain_async", "coroutine", "coroutine_plain", "relayed", "pair", "broken", "unfit", "blocked", "free",
    "many", "elsewhere", "blobs", "total", "state",
)}  # fmt: skip


def joined(folder, scenario, **limits: Any) -> Any:
    """Run ``scenario(rig)`` with a Pack that reads streams and one that passes them."""

    async def main() -> Any:
        async with (
            rig(folder, limits=BusLimits(**limits)) as r,
            running(r, folder, "alpha", READER, provides=A, calls=B),
            running(r, folder, "beta", WRITER, provides=B, calls=A),
        ):
            return await scenario(r)

    return asyncio.run(asyncio.wait_for(main(), 60))


async def closed(r: Any, times: int = 1) -> dict[str, int]:
    """What the writer made, once it was told to stop."""
    for _ in range(1000):
        state: dict[str, int] = await r.bus.call("b.state")
        if state["closed"] >= times:
            return state
    raise AssertionError("the producer goes on")


@pytest.mark.parametrize("reader", ["a.total", "a.total_async"])
@pytest.mark.parametrize("writer", ["b.plain", "b.plain_async", "b.coroutine", "b.coroutine_plain"])
def test_every_kind_of_iterator_reaches_every_kind_of_handler(writer, reader, tmp_path):
    async def scenario(r):
        assert await r.bus.call(writer, {"key": reader, "n": 1000}) == sum(range(1000))
        assert await closed(r) == {"made": 1000, "closed": 1}

    joined(tmp_path, scenario)


@pytest.mark.parametrize("reader", ["a.doubled", "a.doubled_async"])
def test_streams_go_both_ways_in_one_call(reader, tmp_path):
    async def scenario(r):
        stream = await r.bus.call("b.relayed", {"key": reader, "n": 500})
        assert [item async for item in stream] == [2 * n for n in range(500)]

    joined(tmp_path, scenario)


def test_several_streams_are_read_side_by_side(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.pair") == [["x", "0"], ["y", "1"], ["z", "2"]]

    joined(tmp_path, scenario)


@pytest.mark.parametrize("writer", ["b.plain", "b.plain_async", "b.coroutine", "b.coroutine_plain"])
def test_a_reader_that_leaves_stops_the_producer(writer, tmp_path):
    async def scenario(r):
        assert await r.bus.call(writer, {"key": "a.first", "n": 10**9}) == 0
        assert (await closed(r))["made"] <= 40

    joined(tmp_path, scenario)


def test_what_nobody_reads_is_not_made(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.plain", {"key": "a.ignore", "n": 10**9}) == "not read"
        assert (await r.bus.call("b.state"))["made"] == 0

    joined(tmp_path, scenario)


def test_a_producer_waits_for_its_reader_and_ends_with_the_call(tmp_path):
    async def scenario(r):
        calling = asyncio.ensure_future(r.bus.call("b.plain", {"key": "a.slowly", "n": 10**9, "until": 20}))
        while await r.bus.call("a.seen") != list(range(21)):
            assert not calling.done()
        calling.cancel()
        assert 20 < (await closed(r))["made"] <= 40
        assert await r.bus.call("a.seen") == list(range(21))

    joined(tmp_path, scenario)


def test_an_answer_does_not_wait_for_an_iterator_that_does_not_go_on(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.blocked", {"key": "a.first"}) == 1
        await r.bus.call("b.free")
        await closed(r)

    joined(tmp_path, scenario)


def test_a_stream_is_read_once_and_while_its_call_runs(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.plain", {"key": "a.twice", "n": 3}) == [[0, 1, 2], []]
        await r.bus.call("b.plain", {"key": "a.keep", "n": 3})
        assert await r.bus.call("a.kept") == ["DeadReference", "dead_reference"]

    joined(tmp_path, scenario)


def test_what_breaks_a_producer_reaches_the_reader_with_its_type(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.broken", {"key": "a.caught"}) == [
            [1], "RemoteError", "error/LookupError", "LookupError: the tap is dry",
        ]  # fmt: skip
        got = await r.bus.call("b.unfit", {"key": "a.caught"})
        assert got[:3] == [[1], "ValueRefused", "value.unsupported"]

    joined(tmp_path, scenario)


def test_a_stream_that_was_received_can_be_passed_on(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.plain", {"key": "a.onward", "n": 100}) == sum(range(100))

    joined(tmp_path, scenario)


def test_a_stream_stands_in_arguments_and_nowhere_else(tmp_path):
    async def scenario(r):
        with pytest.raises(PackError) as caught:
            await r.bus.call("b.elsewhere")
        assert caught.value.code == "value.unsupported"

    joined(tmp_path, scenario)


def test_there_are_so_many_streams_in_a_call_and_no_more(tmp_path):
    async def scenario(r):
        assert await r.bus.call("b.many", 4) == "not read"
        with pytest.raises(PackError) as caught:
            await r.bus.call("b.many", 5)
        assert "error/LimitReached" in str(caught.value) or caught.value.code.endswith("LimitReached")
        assert not any(h.feeds for h in r.bus.sessions["alpha"].references.held.values())

    joined(tmp_path, scenario, sources=4)


def test_items_may_be_longer_than_a_frame(tmp_path):
    async def scenario(r):
        sizes = [10, 3_000_000, 10, 5_000_000]
        assert await r.bus.call("b.blobs", sizes) == sizes

    joined(tmp_path, scenario)


def test_nothing_is_left_of_streams_that_ended(tmp_path):
    async def scenario(r):
        for number in range(30):
            reader = ("a.total", "a.first", "a.ignore")[number % 3]
            await r.bus.call("b.plain", {"key": reader, "n": 50})
        alpha, beta = r.bus.sessions["alpha"], r.bus.sessions["beta"]
        await eventually(lambda: not any(h.feeds for h in alpha.references.held.values()))
        await eventually(lambda: not (alpha.incoming or alpha.outgoing or beta.incoming or beta.outgoing))
        await eventually(lambda: len(beta.references._own) == len(B))

    joined(tmp_path, scenario)


# --- from the host


async def numbers(n: int, log: list[int]) -> Any:
    try:
        for item in range(n):
            log.append(item)
            yield item
    finally:
        log.append(-1)


@pytest.mark.parametrize("reader", ["a.total", "a.total_async"])
def test_the_host_passes_iterators_of_either_kind(reader, tmp_path):
    async def scenario(r):
        log: list[int] = []
        assert await r.bus.call(reader, {"items": numbers(200, log)}) == sum(range(200))
        assert await r.bus.call(reader, {"items": iter(range(200))}) == sum(range(200))
        await eventually(lambda: log[-1] == -1)

    joined(tmp_path, scenario)


def test_a_reader_that_leaves_stops_the_host(tmp_path):
    async def scenario(r):
        log: list[int] = []
        assert await r.bus.call("a.first", {"items": numbers(10**9, log)}) == 0
        await eventually(lambda: log[-1] == -1)
        assert len(log) <= 40
        assert not r.bus.router.calls.local

    joined(tmp_path, scenario)


def test_the_streams_of_one_pack_are_passed_to_another_by_the_host(tmp_path):
    async def scenario(r):
        stream = await r.bus.call("b.relayed", {"key": "a.doubled", "n": 50})
        assert await r.bus.call("a.total", {"items": stream}) == 2 * sum(range(50))

    joined(tmp_path, scenario)


def test_items_on_their_way_in_keep_a_stream_that_goes_out_alive(tmp_path):
    """A call whose answer streams ends when nothing moves, in either direction."""

    async def slowly(n: int) -> Any:
        for item in range(n):
            await asyncio.sleep(0.2)
            yield item

    async def scenario(r):
        stream = await r.bus.call("a.sums", slowly(12), timeout_s=1.5)
        assert [item async for item in stream] == ["begun", sum(range(12))]

    joined(tmp_path, scenario)


# --- deaths


def test_a_caller_that_dies_ends_the_stream_with_a_typed_error(tmp_path):
    async def main():
        async with (
            rig(tmp_path) as r,
            running(r, tmp_path, "alpha", READER, provides=A, calls=B),
            running(r, tmp_path, "beta", WRITER, provides=B, calls=A) as (_session, process),
        ):
            calling = asyncio.ensure_future(r.bus.call("b.blocked", {"key": "a.caught"}))
            await eventually(lambda: any(c.streaming for c in r.bus.sessions["beta"].incoming.values()))
            process.kill()
            with pytest.raises(PackError):
                await calling
            await eventually(lambda: not r.bus.sessions["alpha"].incoming)
            assert await r.bus.call("a.seen") == ["unavailable"]

    asyncio.run(asyncio.wait_for(main(), 60))
