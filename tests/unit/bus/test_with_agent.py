"""The host's side against the real agent, as a plain subprocess (isolation has tests of its own)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import NotFoundError, PackError
from tests.support.joined import running
from tests.support.raw_agent import eventually, rig

A = """
    def run(context):
        ir = context["interface_registry"]
        def hello(args, ctx):
            return {"message": "Hello, %s!" % args["name"], "caller": ctx["caller"]}
        def count(args, ctx):
            for i in range(args):
                yield i
        def boom(args, ctx):
            raise KeyError("gone")
        def die(args, ctx):
            import os
            os._exit(9)
        def counter(args, ctx):
            state = {"n": args}
            def more(args, ctx):
                state["n"] += args
                return state["n"]
            return {"more": more}
        def each(args, ctx):
            return [args["fn"](item) for item in args["items"]]
        def bounce(args, ctx):
            if args == 0:
                return "bottom"
            return ir.get("b.bounce")(args - 1, ctx)
        for name, fn in dict(hello=hello, count=count, boom=boom, die=die, counter=counter, each=each,
                             bounce=bounce).items():
            ir.register("a." + name, fn)
"""

B = """
    def run(context):
        ir = context["interface_registry"]
        def relay(args, ctx):
            return ir.get("a.hello")(args, ctx)
        def total(args, ctx):
            return sum(ir.get("a.count")(args, ctx))
        def caught(args, ctx):
            try:
                ir.get("a." + args)(None, ctx)
            except Exception as exc:
                return [type(exc).__name__, getattr(exc, "type", None)]
        def use(args, ctx):
            more = ir.get("a.counter")(10, ctx)["more"]
            return [more(1), more(2)]
        def squares(args, ctx):
            return ir.get("a.each")({"items": args, "fn": lambda n: n * n}, ctx)
        def bounce(args, ctx):
            if args == 0:
                return "bottom"
            return ir.get("a.bounce")(args - 1, ctx)
        for name, fn in dict(relay=relay, total=total, caught=caught, use=use, squares=squares, bounce=bounce).items():
            ir.register("b." + name, fn)
"""
A_KEYS = {f"a.{n}" for n in ("hello", "count", "boom", "die", "counter", "each", "bounce")}
B_KEYS = {f"b.{n}" for n in ("relay", "total", "caught", "use", "squares", "bounce")}


def both(tmp_path: Path, test: Any) -> None:
    async def main() -> None:
        async with (
            rig(tmp_path) as r,
            running(r, tmp_path, "a", A, provides=A_KEYS, calls={"b.bounce"}) as (sa, pa),
            running(r, tmp_path, "b", B, provides=B_KEYS, calls=set(A_KEYS)) as (sb, _),
        ):
            await asyncio.wait_for(test(r, sa, sb, pa), 60)

    asyncio.run(main())


def test_host_to_pack_and_pack_to_pack(tmp_path):
    async def test(r, sa, sb, pa):
        assert await r.bus.call("a.hello", {"name": "Bob"}) == {"message": "Hello, Bob!", "caller": ""}
        assert await r.bus.call("b.relay", {"name": "Eve"}) == {"message": "Hello, Eve!", "caller": "b"}
        assert r.bus.router.edges["b", "a.hello"].calls == 1

    both(tmp_path, test)


def test_streams_to_the_host_and_between_packs(tmp_path):
    async def test(r, sa, sb, pa):
        stream = await r.bus.call("a.count", 300)
        assert [item async for item in stream] == list(range(300))
        assert await r.bus.call("b.total", 300) == sum(range(300))
        stream = await r.bus.call("a.count", 10**9)
        assert await anext(stream) == 0
        await stream.aclose()
        await eventually(lambda: not sa.incoming)

    both(tmp_path, test)


def test_a_typed_exception_crosses_both_borders(tmp_path):
    async def test(r, sa, sb, pa):
        with pytest.raises(PackError) as caught:
            await r.bus.call("a.boom")
        assert caught.value.code == "error/KeyError"
        assert (await r.bus.call("b.caught", "boom"))[1] == "error/KeyError"

    both(tmp_path, test)


def test_death_in_the_middle_is_a_typed_error_at_once_and_a_new_generation_serves(tmp_path):
    async def test(r, sa, sb, pa):
        started = asyncio.get_running_loop().time()
        assert (await r.bus.call("b.caught", "die"))[1] == "unavailable"
        assert asyncio.get_running_loop().time() - started < 5
        assert await asyncio.wait_for(sa.closed, 5)
        with pytest.raises(NotFoundError):
            await r.bus.call("a.hello", {"name": "x"})
        async with running(r, tmp_path, "a", A, generation=2, provides=A_KEYS, calls={"b.bounce"}):
            assert (await r.bus.call("b.relay", {"name": "again"}))["message"] == "Hello, again!"

    both(tmp_path, test)


def test_nested_callables_both_ways(tmp_path):
    async def test(r, sa, sb, pa):
        assert await r.bus.call("b.use") == [11, 13]
        assert await r.bus.call("b.squares", [1, 2, 3]) == [1, 4, 9]
        more = (await r.bus.call("a.counter", 5))["more"]
        assert await more(2) == 7
        held = sa.references._own.copy()
        del more
        await eventually(lambda: len(sa.references._own) < len(held))

    both(tmp_path, test)


def test_reentrance_on_one_stack(tmp_path):
    async def test(r, sa, sb, pa):
        assert await r.bus.call("a.bounce", 20) == "bottom"
        results = await asyncio.gather(*(r.bus.call("a.bounce", 8, timeout_s=20) for _ in range(30)))
        assert results == ["bottom"] * 30
        with pytest.raises(PackError) as caught:
            await r.bus.call("a.bounce", 60)
        # the host refuses the 33rd hop with `depth`; what arrives is how the handlers above it let that pass
        assert "nested deeper than 32" in caught.value.detail

    both(tmp_path, test)


def test_many_chains_that_cross_never_deadlock(tmp_path):
    """60 chains from either side, each deeper than a Pack has threads to spare for: all of them wait on the other Pack."""

    async def test(r, sa, sb, pa):
        assert r.bus.limits.threads == 48
        chains = [r.bus.call(f"{side}.bounce", 6, timeout_s=25) for side in "ab" for _ in range(60)]
        assert await asyncio.gather(*chains) == ["bottom"] * 120
        assert not sa.incoming
        assert not sb.incoming

    both(tmp_path, test)


def test_ping_and_orderly_shutdown(tmp_path):
    async def test(r, sa, sb, pa):
        assert set(await sa.ping(5)) >= {"threads", "stuck", "calls"}
        await sa.shutdown(5)
        assert await asyncio.wait_for(pa.wait(), 5) == 0
        assert r.registry.get("a.hello") is None

    both(tmp_path, test)


def test_the_source_of_what_a_pack_may_see_is_asked_for(tmp_path):
    setup = """
        def run(context):
            ir = context["interface_registry"]
            ir.register_handler("a.k", lambda args, ctx: args, source_code="def k(args): return args")
            ir.register_handler("a.hidden", lambda args, ctx: args, source_code="hidden")
            ir.register("a.plain", lambda args, ctx: args)
    """
    reader = """
        def run(context):
            ir = context["interface_registry"]
            ir.register("b.sources", lambda args, ctx: [ir.get_source(key) for key in args])
    """

    async def main():
        async with (
            rig(tmp_path) as r,
            running(r, tmp_path, "alpha", setup, provides={"a.k", "a.hidden", "a.plain"}),
            running(r, tmp_path, "beta", reader, provides={"b.sources"}, calls={"a.k", "a.plain"}),
        ):
            keys = ["a.k", "a.hidden", "a.plain", "nobody's"]
            assert await r.bus.call("b.sources", keys) == ["def k(args): return args", None, None, None]
            r.grants["beta"].calls.clear()
            assert await r.bus.call("b.sources", keys) == [None] * 4

    asyncio.run(asyncio.wait_for(main(), 60))
