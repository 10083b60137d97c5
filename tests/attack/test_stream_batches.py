"""Lies in batches of a stream's items: they end the liar's connection and reach nobody."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from backend_core.errors import PackError
from tests.support.raw_agent import BATCH, CALL, END, ITEM, RawAgent, issue_codes
from tests.support.streaming import OneByOne, opened, read_by_host, with_stream

CHUNKED = msgpack.ExtType(4, (1).to_bytes(4, "little") + (99).to_bytes(4, "little"))
STORED = msgpack.ExtType(3, (1).to_bytes(4, "little") + (99).to_bytes(4, "little"))
LIES: dict[str, list[Any]] = {
    "more than granted": [BATCH, None, [], [0] * 17],
    "more than a batch may have": [BATCH, None, [], [0] * 65],
    "empty": [BATCH, None, [], []],
    "no array": [BATCH, None, [], {"0": 1}],
    "references": [BATCH, None, [[0, 1]], [1]],
    "too long": [BATCH, None, [], ["x" * 16_000]],
    "in chunks": [BATCH, None, [], CHUNKED],
    "in a memory file": [BATCH, None, [], STORED],
}


@pytest.mark.parametrize("reader", ["host", "pack", "pack that takes none"])
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_about_a_batch_ends_the_liars_connection(tmp_path, lie, reader):
    async def story(r, a, session, b):
        if reader == "host":
            stream, number = await read_by_host(r, a)
        else:
            b.call("k")
            number = await opened(a)
        frame = list(LIES[lie])
        frame[1] = number
        a.send(*frame)
        await a.ended()
        assert session.closed.done()
        assert "bus_protocol" in issue_codes(r)
        if reader == "host":
            with pytest.raises(PackError):
                await anext(stream)
        else:
            assert (await b.until(END))[2][0] == "unavailable"
        return [frame for frame in b.frames if frame[0] in {ITEM, BATCH}]

    assert with_stream(story, tmp_path, kind=OneByOne if reader == "pack that takes none" else RawAgent) == []


@pytest.mark.parametrize("mark", [CHUNKED, STORED], ids=["chunks", "memory file"])
def test_an_item_that_says_it_is_elsewhere_is_not_passed_on(tmp_path, mark):
    """A reader that takes items one by one would look for a body that another sender's frames may have brought."""

    async def story(_r, a, session, b):
        b.call("k")
        number = await opened(a)
        a.send(BATCH, number, [], [1, mark])
        await a.ended()
        assert session.closed.done()
        await b.until(END)
        return [frame[3] for frame in b.frames if frame[0] == ITEM]

    assert with_stream(story, tmp_path, kind=OneByOne) == [1]


def test_a_batch_before_the_stream_is_open_ends_the_connection(tmp_path):
    async def story(_r, a, session, b):
        b.call("k")
        frame = await a.until(CALL)
        a.send(BATCH, frame[1], [], [1])
        await a.ended()
        return session.closed.done()

    assert with_stream(story, tmp_path)


def test_batches_of_calls_that_were_never_made_are_counted_as_strays(tmp_path):
    async def story(r, a, session, _b):
        for number in range(r.bus.limits.strays + 1):
            a.send(BATCH, 1_000 + number, [], [1])
        await a.ended()
        return session.closed.done(), issue_codes(r)

    closed, codes = with_stream(story, tmp_path)
    assert closed
    assert "stray_answer" in codes
