"""A chain that comes back with a stream: who reads it waits below who makes it, and neither waits for the other."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.joined import running
from tests.support.raw_agent import rig

MANY = 500
"""More than the window of a stream: its producer has to wait for its reader."""
PLAIN = f"""
    def run(context):
        ir = context["interface_registry"]

        def items(args, ctx):
            for number in range({MANY}):
                yield number

        def total(args, ctx):
            return sum(ir.get(args)(None, ctx, timeout_s=10))

        def early(args, ctx):
            found = ir.get(args)(None, ctx, timeout_s=10)
            first = next(found)
            found.close()
            return first

        ir.register("NAME.items", items)
        ir.register("NAME.total", total)
        ir.register("NAME.early", early)
        ir.register("NAME.pass", lambda args, ctx: ir.get(args)(None, ctx))
        ir.register("NAME.iterator", lambda args, ctx: iter(range({MANY})))
"""
TOLD = ("items", "total", "early", "pass", "iterator")


def keys(name: str) -> set[str]:
    return {f"{name}.{what}" for what in TOLD}


def held(test, tmp_path) -> None:
    async def main() -> None:
        both = keys("a") | keys("b")
        async with (
            rig(tmp_path) as r,
            running(r, tmp_path, "a", PLAIN.replace("NAME", "a"), provides=keys("a"), calls=both),
            running(r, tmp_path, "b", PLAIN.replace("NAME", "b").replace("ir.get(args)", 'ir.get("a.items")'), provides=keys("b"), calls=both),
        ):
            await test(r)
            assert r.bus.statistics()["packs"]["a"]["in_flight"] == 0

    asyncio.run(main())


@pytest.mark.parametrize("key", ["a.items", "a.iterator", "b.pass"], ids=["its own", "its own iterator", "its own, over another"])
def test_a_plain_pack_reads_a_stream_that_it_makes_itself(key, tmp_path):
    async def test(r):
        assert await r.bus.call("a.total", key, timeout_s=10) == sum(range(MANY))
        assert await r.bus.call("a.early", key, timeout_s=10) == 0
        assert await r.bus.call("a.total", key, timeout_s=10) == sum(range(MANY))

    held(test, tmp_path)


def test_many_of_them_at_once_all_end(tmp_path):
    async def test(r):
        asked = [r.bus.call("a.total", key, timeout_s=25) for _ in range(40) for key in ("a.items", "b.pass")]
        assert await asyncio.gather(*asked) == [sum(range(MANY))] * 80

    held(test, tmp_path)
