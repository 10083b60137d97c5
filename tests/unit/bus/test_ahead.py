"""How far a handler is ahead of the host code that reads its stream: ``HostStream.keep_ahead``, ``buffer`` of a flow."""

from __future__ import annotations

import asyncio
import json

import pytest

from core_runtime.bus.streams import AHEAD_BYTES, HostStream
from core_runtime.kernel import Kernel
from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.frames import CALL, RESULT, STREAM_ITEM
from tests.support.hosts import bare_host
from tests.support.joined import running
from tests.support.raw_agent import Rig, eventually, rig

WINDOW = 16


class Producer:
    """Sends an item for each that it may, at once; ``most`` is how far it ever was ahead of the reader."""

    def __init__(self, size_bytes: int = 1) -> None:
        self.room, self.sent, self.read, self.most, self.size_bytes = WINDOW, 0, 0, 0, size_bytes
        self.stream = HostStream(WINDOW, WINDOW, self._granted, lambda: None)

    def _granted(self, n: int) -> None:
        assert n > 0
        self.room += n

    def produce(self) -> int:
        """As far as it may; how far it is ahead then."""
        while self.room:
            self.room -= 1
            self.sent += 1
            self.stream.feed((self.sent,), self.size_bytes)
            self.most = max(self.most, self.sent - self.read)
        return self.sent - self.read

    async def _one(self) -> int:
        item = await anext(self.stream)
        self.read += 1
        return item

    async def taken(self, count: int) -> None:
        for _ in range(count):
            reading = asyncio.ensure_future(self._one())
            await asyncio.sleep(0)  # it reads, or waits
            self.produce()
            assert await asyncio.wait_for(reading, 5) == self.read, "in order, and it never starves"


def tell(story):
    return asyncio.run(story())


@pytest.mark.parametrize("ahead", [17, 64, 200, 1_024])
def test_a_handler_fills_the_buffer_that_its_reader_asked_for_and_no_more(ahead):
    async def story():
        producer = Producer()
        producer.stream.keep_ahead(ahead)
        assert ahead - WINDOW // 2 < producer.produce() <= ahead
        await producer.taken(500)
        return producer.most

    assert ahead - WINDOW // 2 < tell(story) <= ahead


@pytest.mark.parametrize("ahead", [0, 1, 2, 5, 15, 16])
def test_a_handler_is_kept_as_close_as_its_reader_asked_once_it_was_read_up_to_there(ahead):
    async def story():
        producer = Producer()
        producer.stream.keep_ahead(ahead)
        assert producer.produce() == WINDOW
        await producer.taken(WINDOW)
        producer.most = 0
        await producer.taken(200)
        return producer.most

    assert tell(story) == max(1, ahead), "0: the one that is waited for"


def test_what_waits_is_bounded_in_bytes_too():
    async def story():
        producer = Producer(size_bytes=AHEAD_BYTES // 20)
        producer.stream.keep_ahead(1_024)
        producer.produce()
        await producer.taken(100)
        return producer.most

    assert 20 <= tell(story) <= 20 + WINDOW


def test_items_that_are_large_each_wait_no_more_than_the_window():
    async def story():
        producer = Producer(size_bytes=AHEAD_BYTES)
        producer.stream.keep_ahead(1_024)
        producer.produce()
        await producer.taken(50)
        return producer.most

    assert tell(story) <= WINDOW + 1


def test_nothing_is_granted_after_the_end():
    async def story():
        producer = Producer()
        producer.produce()
        producer.stream.end(None)
        producer.stream.keep_ahead(100)
        assert [item async for item in producer.stream] == list(range(1, WINDOW + 1))
        return producer.room

    assert tell(story) == 0


# --- on the bus --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "room"), [(1, 16), (3, 2)], ids=["does not know the word", "knows it"])
def test_a_producer_has_the_window_that_it_says_it_has(tmp_path, flags, room):
    """One that was never told of closer windows goes on as before; one that says it knows them is held to it."""

    async def story():
        async with rig(tmp_path) as r:
            agent, session = await r.agent("a", provides={"k"})
            await agent.registered("k")
            calling = asyncio.ensure_future(r.bus.call("k", ahead=2))
            frame = await agent.until(CALL)
            assert frame[4] == 2 << 8
            agent.send(RESULT, frame[1], flags, [], None)
            stream = await calling
            for number in range(room):
                agent.send(STREAM_ITEM, frame[1], [], number)
            assert [await anext(stream) for _ in range(room)] == list(range(room))
            assert not session.closed.done()
            usual = asyncio.ensure_future(r.bus.call("k", ahead=16))
            assert (await agent.until(CALL))[4] == 0
            usual.cancel()
            for number in range(1_000):  # more than it was ever granted
                agent.send(STREAM_ITEM, frame[1], [], number)
            await agent.ended()

    asyncio.run(story())


# --- a flow, with a real agent -----------------------------------------------------------------------------

MAKES = """
    made = []

    def run(context):
        def items(args, ctx):
            for number in range(args):
                made.append(number)
                yield number
        ir = context["interface_registry"]
        ir.register("acme.items", items)
        ir.register("acme.made", lambda args, ctx: len(made))
"""


@pytest.mark.parametrize("buffer", [0, 1, 3, 15, 16, 100, 1_024])
def test_a_flows_buffer_is_how_far_its_handler_runs_ahead(tmp_path, buffer):
    """From its first item on: the reader takes nothing behind that until the handler stands still; then all comes."""
    stream = {"yield": "${item}", "collect": "${item}", "as": "last", "buffer": buffer}
    flow = {"flow": "t.flow", "steps": [{"id": "s", "call": "acme.items", "with": 3_000, "stream": stream}], "output": "${last}"}

    async def story():
        host, gate, taken = bare_host(tmp_path), asyncio.Event(), []
        folder = host.settings.home / "user_data" / "flows"
        folder.mkdir(parents=True)
        (folder / "t.flow.json").write_text(json.dumps(flow))
        r = Rig(str(tmp_path))
        host.registry, host.events, host.diagnostics, host.bus = r.registry, r.events, r.diagnostics, r.bus
        await r.bus.start()

        async def emit(item):
            taken.append(item)
            await gate.wait()

        async with running(r, tmp_path, "acme", MAKES, provides={"acme.items", "acme.made"}):
            kernel = Kernel(host)
            run = asyncio.ensure_future(kernel.run("t.flow", emit=emit))
            await eventually(lambda: taken == [0])
            made = before = -1
            while made != before or made < min(buffer, WINDOW):
                before, made = made, await r.bus.call("acme.made")
            gate.set()
            report = await run
        await r.bus.close()
        return made, report, taken

    made, report, taken = asyncio.run(story())
    assert made <= buffer + 2, "one is taken, and a generator makes one that it may not send yet"
    assert (report.status, report.output, taken) == (RunStatus.OK, 2_999, list(range(3_000)))
