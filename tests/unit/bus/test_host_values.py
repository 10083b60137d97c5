"""Values that a Pack gives to host code: what arrives is Python, whether or not the frame brings references."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import msgpack
import pytest

from backend_core.errors import PackError
from tests.support.raw_agent import CALL, END, ITEM, RESULT, RawAgent, Rig, reference, rig

DATE = msgpack.ExtType(2, b"2031-05-06")
RESERVED = msgpack.ExtType(9, b"")


async def asked(r: Rig) -> tuple[RawAgent, asyncio.Future[Any], int]:
    """A Pack that was called by the host, the call, and its id."""
    agent, _ = await r.agent("a", provides={"k"})
    await agent.registered("k")
    call = asyncio.ensure_future(r.bus.call("k"))
    return agent, call, (await agent.until(CALL))[1]


@pytest.mark.parametrize("refs", [[], [[0, 5]]], ids=["without references", "with one"])
def test_a_date_is_a_date(tmp_path, refs):
    async def main() -> None:
        async with rig(tmp_path) as r:
            agent, call, number = await asked(r)
            agent.send(RESULT, number, 0, refs, {"on": DATE})
            assert await call == {"on": date(2031, 5, 6)}

    asyncio.run(main())


@pytest.mark.parametrize("value", [reference(0), RESERVED, msgpack.ExtType(2, b"soon")], ids=["dangling", "reserved", "no date"])
def test_what_means_nothing_fails_the_call_by_name(tmp_path, value):
    async def main() -> None:
        async with rig(tmp_path) as r:
            agent, call, number = await asked(r)
            agent.send(RESULT, number, 0, [], [value])
            with pytest.raises(PackError) as caught:
                await call
            assert caught.value.code == "value.malformed"

    asyncio.run(main())


def test_items_of_a_stream_are_values_too(tmp_path):
    async def main() -> None:
        async with rig(tmp_path) as r:
            agent, call, number = await asked(r)
            agent.send(RESULT, number, 1, [], None)
            stream = await call
            agent.send(ITEM, number, [], DATE)
            assert await anext(stream) == date(2031, 5, 6)
            agent.send(ITEM, number, [], reference(0))
            with pytest.raises(PackError) as caught:
                await anext(stream)
            assert caught.value.code == "value.malformed"
            agent.send(END, number, None)

    asyncio.run(main())


def test_long_arguments_are_encoded_once(tmp_path, monkeypatch):
    """The loop does nothing else meanwhile."""
    lengths: list[int] = []

    def encode(value: Any) -> bytes:
        data = msgpack.packb(value)
        lengths.append(len(data))
        return data

    async def main() -> None:
        async with rig(tmp_path) as r:
            agent, _ = await r.agent("a", provides={"k"})
            await agent.registered("k")
            monkeypatch.setattr("core_runtime.rules.values._encode", encode)
            call = asyncio.ensure_future(r.bus.call("k", {"long": b"x" * 300_000}))
            agent.result((await agent.until(CALL))[1], 1)
            assert await call == 1
            assert len([length for length in lengths if length > 300_000]) == 1

    asyncio.run(main())
