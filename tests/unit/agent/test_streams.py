from __future__ import annotations

import pytest

from tests.support.fake_host import BusError, FakeHost, wait_until

PRODUCERS = """
    import asyncio
    closed = []
    def plain(args, ctx):
        try:
            for number in range(args):
                yield number
        finally:
            closed.append("plain")
    async def asynchronous(args, ctx):
        try:
            for number in range(args):
                await asyncio.sleep(0)
                yield number
        finally:
            closed.append("asynchronous")
    async def gives_iterator(args, ctx):
        return plain(args, ctx)
    def gives_async(args, ctx):
        return asynchronous(args, ctx)
    def run(context):
        ir = context["interface_registry"]
        for fn in (plain, asynchronous, gives_iterator, gives_async):
            ir.register(fn.__name__, fn)
        ir.register("map", lambda n: map(str, range(n)))
        ir.register("closed", lambda: list(closed))
"""
KINDS = ["plain", "asynchronous", "gives_iterator", "gives_async"]


@pytest.mark.parametrize("key", KINDS)
def test_items_arrive_in_order_and_end(start, host: FakeHost, key: str) -> None:
    start(PRODUCERS)
    call = host.start_call(key, 100)
    call.result()
    assert call.streaming
    assert list(call.items()) == list(range(100))
    assert host.call("closed")[-1] in {"plain", "asynchronous"}


def test_any_iterator_streams(start, host: FakeHost) -> None:
    start(PRODUCERS)
    call = host.start_call("map", 3)
    call.result()
    assert list(call.items()) == ["0", "1", "2"]


@pytest.mark.parametrize("key", KINDS)
def test_without_credit_the_producer_stops(start, host: FakeHost, key: str) -> None:
    peer = start(PRODUCERS, limits={"stream_credit": 4})
    call = host.start_call(key, 10)
    call.result()
    got = [call.frame()[3] for _ in range(4)]
    peer.ping()
    peer.ping()
    assert got == [0, 1, 2, 3]
    assert call.answers.empty()
    peer.send(7, call.id, 2)
    assert [call.frame()[3] for _ in range(2)] == [4, 5]
    peer.send(7, call.id, 100)
    assert list(call.items(credit=False)) == [6, 7, 8, 9]


@pytest.mark.parametrize("key", KINDS)
def test_cancel_ends_a_stream_that_waits_for_credit_and_closes_it(start, host: FakeHost, key: str) -> None:
    start(PRODUCERS, limits={"stream_credit": 2})
    call = host.start_call(key, 10**9)
    call.result()
    assert [call.frame()[3] for _ in range(2)] == [0, 1]
    call.cancel()
    end = call.frame()
    assert end[0] == 6
    assert end[2][0] == "cancelled"
    wait_until(lambda: host.call("closed"), "the generator's end")


def test_the_first_item_does_not_wait_for_the_second(start, host: FakeHost) -> None:
    start("""
        import threading
        go = threading.Event()
        def items(args, ctx):
            yield "first"
            go.wait(20)
            yield "second"
        def run(context):
            context["interface_registry"].register("items", items)
            context["interface_registry"].register("go", lambda: go.set())
    """)
    call = host.start_call("items")
    call.result()
    assert call.frame()[3] == "first"
    host.call("go")
    assert list(call.items()) == ["second"]


def test_an_exception_in_the_middle_ends_the_stream_with_it(start, host: FakeHost) -> None:
    start("""
        def items(args, ctx):
            yield 1
            raise KeyError("gone")
        async def async_items(args, ctx):
            yield 1
            raise KeyError("gone")
        def unsendable(args, ctx):
            yield {1, 2}
        def run(context):
            for fn in (items, async_items, unsendable):
                context["interface_registry"].register(fn.__name__, fn)
    """)
    for key, kind in (
        ("items", "error/KeyError"),
        ("async_items", "error/KeyError"),
        ("unsendable", "value.unsupported"),
    ):
        call = host.start_call(key)
        call.result()
        with pytest.raises(BusError) as caught:
            list(call.items())
        assert caught.value.type == kind


CONSUMER = """
    import gc
    def run(context):
        ir = context["interface_registry"]
        def total(args, ctx):
            return sum(ir.get("plain")(args, ctx))
        def first(args, ctx):
            with ir.get("plain")(args) as stream:
                return next(stream)
        def drops(args, ctx):
            stream = ir.get("plain")(args)
            item = next(stream)
            del stream
            gc.collect()
            return item
        async def total_async(args, ctx):
            seen = 0
            async for item in await ir.get("plain")(args):
                seen += item
            async for item in ir.get("asynchronous")(args):
                seen += item
            return seen
        async def first_async(args, ctx):
            async for item in ir.get("asynchronous")(args):
                return item
        def fails(args, ctx):
            return list(ir.get("broken")())
        def relays(args, ctx):
            return ir.get("plain")(args)
        async def relays_async(args, ctx):
            return await ir.get("plain")(args)
        for fn in (total, first, drops, total_async, first_async, fails, relays, relays_async):
            ir.register(fn.__name__, fn)
"""


@pytest.fixture
def two(start, host: FakeHost):
    start(
        PRODUCERS.replace('"closed", lambda: list(closed)', '"closed", lambda: list(closed)')
        + "        def broken(args, ctx):\n            yield 1\n            raise KeyError('gone')\n        ir.register('broken', broken)\n"
    )
    return start(CONSUMER, pack_id="beta")


def test_a_pack_reads_another_packs_streams(two, host: FakeHost) -> None:
    assert host.call("total", 1_000) == sum(range(1_000))
    assert host.call("total_async", 300) == 2 * sum(range(300))


@pytest.mark.parametrize("key", ["first", "drops", "first_async"])
def test_leaving_early_cancels_the_producer(two, host: FakeHost, key: str) -> None:
    assert host.call(key, 10**9) == 0
    wait_until(lambda: host.call("closed"), "the producer's end")


def test_a_streams_error_is_raised_where_it_is_read(two, host: FakeHost) -> None:
    with pytest.raises(BusError) as caught:
        host.call("fails")
    assert caught.value.type == "error/KeyError"


@pytest.mark.parametrize("key", ["relays", "relays_async"])
def test_a_stream_may_be_passed_on(two, host: FakeHost, key: str) -> None:
    call = host.start_call(key, 50)
    call.result()
    assert list(call.items()) == list(range(50))
