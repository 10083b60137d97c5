"""Items of a stream are held to the output schema of its interface, whoever reads them."""

from __future__ import annotations

import asyncio

import pytest

from backend_core.errors import PackError
from tests.support.joined import running
from tests.support.raw_agent import CANCEL, END, ITEM, eventually, rig
from tests.support.streaming import opened, with_stream

SCHEMAS = {"output": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}


def test_items_that_fit_pass_and_one_that_does_not_ends_the_stream_with_its_place(tmp_path):
    async def test(_r, a, _session, b):
        asked = b.call("k")
        number = await opened(a)
        a.send(ITEM, number, [], {"n": 1})
        a.send(ITEM, number, [], {"n": "two"})
        a.send(ITEM, number, [], {"n": 3})
        assert (await b.until(ITEM))[3] == {"n": 1}
        end = await b.until(END)
        assert end[1] == asked
        assert end[2][0] == "schema"
        assert "an item" in end[2][1]
        assert "$.n" in end[2][2]
        assert (await a.until(CANCEL))[1] == number, "its producer is told to stop"
        a.send(END, number, ["cancelled", "", "", False, ""])
        assert not [frame for frame in b.frames if frame[0] == ITEM]

    with_stream(test, tmp_path, schemas=SCHEMAS)


def test_the_host_reads_no_further_either(tmp_path):
    async def test(r, a, _session, _b):
        call = asyncio.ensure_future(r.bus.call("k"))
        number = await opened(a)
        stream = await call
        a.send(ITEM, number, [], {"n": 1})
        a.send(ITEM, number, [], [])
        assert await anext(stream) == {"n": 1}
        with pytest.raises(PackError) as caught:
            await anext(stream)
        assert caught.value.code == "schema"
        assert (await a.until(CANCEL))[1] == number
        a.send(END, number, None)
        await eventually(lambda: not r.bus.sessions["a"].incoming)
        assert not r.bus.sessions["a"].dead

    with_stream(test, tmp_path, schemas=SCHEMAS)


def test_what_is_too_large_to_be_checked_ends_it_too(tmp_path):
    async def test(_r, a, _session, b):
        b.call("k")
        number = await opened(a)
        a.send(ITEM, number, [], {"n": 1, "rest": [[]] * 200_000})
        assert (await b.until(END))[2][0] == "value.too_large"

    with_stream(test, tmp_path, schemas=SCHEMAS)


@pytest.mark.parametrize("schemas", [None, {"input": {"type": "null"}}], ids=["no schema", "one for arguments only"])
def test_without_an_output_schema_an_item_may_be_anything(tmp_path, schemas):
    async def test(_r, a, _session, b):
        b.call("k")
        number = await opened(a)
        a.send(ITEM, number, [], "anything")
        assert (await b.until(ITEM))[3] == "anything"

    with_stream(test, tmp_path, schemas=schemas)


def test_a_generator_of_a_pack_hears_that_it_ended(tmp_path):
    provider = """
        ENDED = []

        def run(context):
            ir = context["interface_registry"]

            def count(args, ctx):
                try:
                    for n in args:
                        yield n
                finally:
                    ENDED.append(True)

            ir.register_handler("a.count", count, output_schema={"type": "integer"})
            ir.register("a.ended", lambda args, ctx: len(ENDED))
    """
    caller = """
        def run(context):
            ir = context["interface_registry"]

            def read(args, ctx):
                got = []
                try:
                    for item in ir.get("a.count")(args, ctx):
                        got.append(item)
                except Exception as refused:
                    return [got, refused.type]
                return [got, ""]

            ir.register("b.read", read)
    """

    async def main():
        gives = {"a.count", "a.ended"}
        async with (
            rig(tmp_path) as r,
            running(r, tmp_path, "a", provider, provides=gives),
            running(r, tmp_path, "b", caller, provides={"b.read"}, calls=gives),
        ):
            assert await r.bus.call("b.read", [1, 2, 3]) == [[1, 2, 3], ""]
            assert await r.bus.call("b.read", [1, "two", 3]) == [[1], "schema"]
            assert await r.bus.call("a.ended") == 2

    asyncio.run(main())
