"""STREAM_BATCH at the host: items that come together are items, each held to credit, schema and rights as ever."""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from backend_core.errors import PackError
from core_runtime.bus.streams import FAST_S, SHORT_BYTES, WIDE_ITEMS, HostStream
from tests.support.raw_agent import BATCH, CALL, CANCEL, CREDIT, END, ITEM
from tests.support.streaming import OneByOne, opened, read_by_host, with_stream

UNKNOWN = msgpack.ExtType(9, b"")


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_host_code_reads_the_items_one_by_one_and_grants_each(tmp_path):
    async def story(r, a, _session, _b):
        stream, number = await read_by_host(r, a)
        a.send(ITEM, number, [], 0)
        a.send(BATCH, number, [], [1, {"two": 2}, b"3"])
        a.send(BATCH, number, [], [4])
        a.send(BATCH, number, [], list(range(5, 16)))
        assert [await anext(stream) for _ in range(4)] == [0, 1, {"two": 2}, b"3"]
        assert [await anext(stream) for _ in range(12)] == list(range(4, 16))
        granted = 0
        while granted < 16:
            granted += (await a.until(CREDIT))[2]
        a.send(END, number, None)
        assert [item async for item in stream] == []
        return granted

    assert with_stream(story, tmp_path) == 16


def test_a_pack_that_takes_batches_gets_them_as_they_came(tmp_path):
    async def story(_r, a, _session, b):
        asked = b.call("k")
        number = await opened(a)
        a.send(BATCH, number, [], [1, UNKNOWN, "three"])  # what is malformed is its reader's to find
        return (await b.until(BATCH))[1:], asked

    frame, asked = with_stream(story, tmp_path)
    assert frame == [asked, [], [1, UNKNOWN, "three"]]


def test_a_pack_that_takes_none_gets_the_items(tmp_path):
    async def story(_r, a, _session, b):
        b.call("k")
        number = await opened(a)
        a.send(BATCH, number, [], [1, {"n": 2}, UNKNOWN])
        return [(await b.until(ITEM))[3] for _ in range(3)], b.frames

    items, others = with_stream(story, tmp_path, kind=OneByOne)
    assert items == [1, {"n": 2}, UNKNOWN]
    assert not [frame for frame in others if frame[0] == BATCH]


@pytest.mark.parametrize("reader", ["host", "pack"])
def test_each_item_is_held_to_the_schema(tmp_path, reader):
    schemas = {"output": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}

    async def story(r, a, _session, b):
        batch = [{"n": 1}, {"n": 2}, {"n": "three"}, {"n": 4}]
        if reader == "host":
            stream, number = await read_by_host(r, a)
            a.send(BATCH, number, [], batch)
            got = [await anext(stream), await anext(stream)]
            with pytest.raises(PackError, match="schema"):
                await anext(stream)
        else:
            b.call("k")
            number = await opened(a)
            a.send(BATCH, number, [], batch)
            got = [(await b.until(ITEM))[3] for _ in range(2)]
            end = await b.until(END)
            assert end[2][0] == "schema"
            assert "$.n" in end[2][2]
        assert (await a.until(CANCEL))[1] == number
        return got

    assert with_stream(story, tmp_path, schemas=schemas) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(("item", "type_"), [(UNKNOWN, "value.malformed"), (msgpack.ExtType(1, b"\x00"), "value.malformed"), (nested(70), "value.too_deep")], ids=["extension", "reference", "depth"])
def test_a_batch_with_one_that_host_code_cannot_have_ends_the_stream(tmp_path, item, type_):
    async def story(r, a, session, _b):
        stream, number = await read_by_host(r, a)
        a.send(BATCH, number, [], [1, item])
        with pytest.raises(PackError) as caught:
            await anext(stream)
        assert (await a.until(CANCEL))[1] == number
        assert not session.closed.done(), "its producer is not cut off for it"
        return caught.value

    assert type_ in f"{with_stream(story, tmp_path)}"


def test_an_item_may_be_as_deep_as_a_value_may(tmp_path):
    async def story(r, a, _session, _b):
        stream, number = await read_by_host(r, a)
        a.send(BATCH, number, [], [nested(64), nested(64)])
        return [await anext(stream), await anext(stream)]

    assert with_stream(story, tmp_path) == [nested(64), nested(64)]


def test_batches_of_a_stream_that_nobody_reads_any_more_are_dropped(tmp_path):
    async def story(r, a, session, b):
        stream, number = await read_by_host(r, a)
        await stream.aclose()
        await a.until(CANCEL)
        a.send(BATCH, number, [], [1, 2])
        a.send(END, number, ["cancelled", "", "", False, ""])
        b.call("k")
        await a.until(CALL)
        return session.closed.done()

    assert with_stream(story, tmp_path) is False


# --- how far host code lets a producer be ahead ----------------------------------------------------------------


class Reading:
    """Host code with a clock of its own; ``ahead`` is the most its producer ever was."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, size_bytes: int = 100) -> None:
        self.clock, self.room, self.sent, self.read, self.most, self.size_bytes = 50.0, 16, 0, 0, 0, size_bytes
        monkeypatch.setattr("core_runtime.bus.streams.time.monotonic", lambda: self.clock)
        self.stream = HostStream(16, 16, self._granted, lambda: None)

    def _granted(self, n: int) -> None:
        assert n > 0
        self.room += n

    async def take(self, count: int, seconds: float) -> None:
        for _ in range(count):
            if self.room:
                made, self.room = self.room, 0
                self.stream.feed(range(self.sent, self.sent + made), self.size_bytes * made)
                self.sent += made
            self.clock += seconds
            assert await anext(self.stream) == self.read
            self.read += 1
            self.most = max(self.most, self.sent + self.room - self.read)


def test_a_reader_that_takes_fast_lets_the_producer_go_further_ahead(monkeypatch):
    async def story():
        reading = Reading(monkeypatch)
        await reading.take(WIDE_ITEMS // 2, 1e-6)
        assert reading.most <= 16
        await reading.take(1_000, 1e-6)
        return reading.most

    assert WIDE_ITEMS // 2 < asyncio.run(story()) <= WIDE_ITEMS


@pytest.mark.parametrize(("seconds", "size_bytes"), [(FAST_S, 100), (1e-6, SHORT_BYTES + 1)], ids=["slow", "long items"])
def test_one_that_takes_its_time_or_reads_long_items_does_not(monkeypatch, seconds, size_bytes):
    async def story():
        reading = Reading(monkeypatch, size_bytes)
        await reading.take(1_000, seconds)
        return reading.most

    assert asyncio.run(story()) <= 16
