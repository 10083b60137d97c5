"""Calls between Packs: callables in values, re-entrance, chains that cross, cancellation that travels, deadlines."""

from __future__ import annotations

import time

import pytest

from tests.support.fake_host import BusError, FakeHost, wait_until

BETA = """
    def run(context):
        ir = context["interface_registry"]
        {body}
"""


def test_a_pack_calls_another_pack_and_gets_its_exception(start, host: FakeHost) -> None:
    start("""
        def divide(args, ctx):
            assert ctx["caller"] == "beta", ctx["caller"]
            return args[0] // args[1]
        def run(context): context["interface_registry"].register("divide", divide)
    """)
    start(
        """
        from rumi import MissingInterface, RemoteError
        def run(context):
            ir = context["interface_registry"]
            assert ir.get("nobody") is None
            divide = ir.get("divide")
            assert divide([7, 2]) == 3
            def safe(args, ctx):
                try:
                    return divide(args, ctx)
                except RemoteError as exc:
                    return [exc.type, exc.title, exc.detail, exc.retryable, "in divide" in exc.trace]
            def unsafe(args, ctx):
                return divide(args)
            def gone(args, ctx):
                try:
                    return gone_fn(args)
                except LookupError as exc:
                    return type(exc).__name__
            gone_fn = ir.get("divide")
            for fn in (safe, unsafe, gone):
                ir.register(fn.__name__, fn)
        """,
        pack_id="beta",
    )
    assert host.call("safe", [9, 3]) == 3
    title = "ZeroDivisionError: integer division or modulo by zero"
    assert host.call("safe", [1, 0]) == ["error/ZeroDivisionError", title, title.partition(": ")[2], False, True]
    with pytest.raises(BusError) as caught:
        host.call("unsafe", [1, 0])
    assert caught.value.type == "error/ZeroDivisionError", "a typed error keeps its type on its way"
    host.entries = [entry for entry in host.entries if entry.key != "divide"]
    assert host.call("gone", [1, 1]) == "MissingInterface"


def test_callables_nested_in_values_work_both_ways_and_are_released(start, host: FakeHost) -> None:
    alpha = start("""
        import gc
        def give(args, ctx):
            base = args["base"]
            return {"add": lambda n: base + n, "deep": [{"twice": lambda n: n * 2}]}
        def use(args, ctx):
            return [args["callback"](n) for n in args["numbers"]]
        kept = []
        def keep(args, ctx):
            kept.append(args["callback"])
        def use_kept(args, ctx):
            return kept[0](args)
        def drop(args, ctx):
            kept.clear()
            gc.collect()
        def same(args, ctx):
            return args["callback"]
        def run(context):
            for fn in (give, use, keep, use_kept, drop, same):
                context["interface_registry"].register(fn.__name__, fn)
    """)
    beta = start(
        """
        def run(context):
            ir = context["interface_registry"]
            def take(args, ctx):
                given = ir.get("give")({"base": 100})
                return [given["add"](5), given["deep"][0]["twice"](21)]
            def pass_in(args, ctx):
                seen = []
                def callback(n):
                    seen.append(n)
                    return n * n
                return [ir.get("use")({"callback": callback, "numbers": [1, 2, 3]}), seen]
            def lend(args, ctx):
                ir.get("keep")({"callback": lambda n: n + 1})
            def home(args, ctx):
                def mine(n): return n
                return ir.get("same")({"callback": mine}) is mine
            for fn in (take, pass_in, lend, home):
                ir.register(fn.__name__, fn)
        """,
        pack_id="beta",
    )
    assert host.call("take") == [105, 42]
    assert host.call("pass_in") == [[1, 4, 9], [1, 2, 3]]
    assert host.call("home") is True
    host.call("lend")
    assert host.call("use_kept", 41) == 42
    before = len(alpha.released)
    host.call("drop")
    wait_until(lambda: len(alpha.released) > before, "the release of what alpha no longer holds")
    wait_until(lambda: host.call("take") and beta.released, "the release of what beta no longer holds")


CHAIN = """
    import threading
    def run(context):
        ir = context["interface_registry"]
        threads = set()
        def {own}(args, ctx):
            threads.add(threading.get_ident())
            if args == 0:
                return 0
            return 1 + ir.get("{other}")(args - 1)
        {make_async}
        ir.register("{own}", {own})
        ir.register("threads.{own}", lambda: len(threads))
"""


def test_a_chain_that_returns_runs_on_the_stack_that_waits(start, host: FakeHost) -> None:
    start(CHAIN.format(own="ping", other="pong", make_async=""), limits={"threads": 1})
    start(CHAIN.format(own="pong", other="ping", make_async=""), pack_id="beta", limits={"threads": 1})
    assert host.call("ping", 30) == 30
    assert host.call("threads.ping") == 1
    assert host.call("threads.pong") == 1


@pytest.mark.parametrize("threads", [1, 8])
def test_many_crossing_chains_never_deadlock(start, host: FakeHost, threads: int) -> None:
    start(CHAIN.format(own="ping", other="pong", make_async=""), limits={"threads": threads})
    start(CHAIN.format(own="pong", other="ping", make_async=""), pack_id="beta", limits={"threads": threads})
    calls = [host.start_call(key, 5) for _ in range(60) for key in ("ping", "pong")]
    assert [call.result() for call in calls] == [5] * 120


def test_chains_that_fan_out_never_deadlock(start, host: FakeHost) -> None:
    """Each level calls the other Pack twice from threads of its own: no single stack could carry it."""
    source = """
        import contextvars
        from threading import Thread
        def run(context):
            ir = context["interface_registry"]
            def {own}(args, ctx):
                if args == 0:
                    return 1
                results = []
                threads = [Thread(target=contextvars.copy_context().run, args=(lambda: results.append(ir.get("{other}")(args - 1, ctx)),))
                           for _ in range(2)]
                for thread in threads: thread.start()
                for thread in threads: thread.join()
                return sum(results)
            ir.register("{own}", {own})
    """
    start(source.format(own="ping", other="pong"), limits={"threads": 4})
    start(source.format(own="pong", other="ping"), pack_id="beta", limits={"threads": 4})
    assert host.call("ping", 4) == 16


def test_cancelling_a_call_ends_its_wait_and_cancels_what_it_called(start, host: FakeHost) -> None:
    start("""
        import time
        seen = []
        def waits(args, ctx):
            print("entered", flush=True)
            while not ctx.cancelled():
                time.sleep(0.002)
            seen.append("cancelled")
        def run(context):
            context["interface_registry"].register("waits", waits)
            context["interface_registry"].register("seen", lambda: list(seen))
    """)
    start(
        """
        from rumi import CallCancelled
        def run(context):
            ir = context["interface_registry"]
            def caller(args, ctx):
                try:
                    ir.get("waits")(None)
                except CallCancelled:
                    assert ctx.cancelled()
                    raise
            ir.register("caller", caller)
        """,
        pack_id="beta",
    )
    call = host.start_call("caller")
    host.peers[0].wait_for_log(lambda log: "entered" in log[2])
    call.cancel()
    with pytest.raises(BusError) as caught:
        call.result()
    assert "Cancelled" in caught.value.type
    wait_until(lambda: host.call("seen") == ["cancelled"], "the cancelled callee")


def test_a_silent_host_does_not_hang_a_pack(start, host: FakeHost) -> None:
    host.silent_keys.add("echo")
    start("def run(c): c['interface_registry'].register('echo', lambda a: a)")
    start(
        """
        def run(context):
            ir = context["interface_registry"]
            def caller(args, ctx):
                try:
                    ir.get("echo")(1, timeout_s=0.05)
                except TimeoutError as exc:
                    return exc.type
            async def caller_async(args, ctx):
                try:
                    await ir.get("echo")(1, timeout_s=0.05)
                except TimeoutError as exc:
                    return exc.type
            ir.register("caller", caller)
            if "async" in context["phase"]:
                ir.register("caller_async", caller_async)
        """,
        pack_id="beta",
    )
    beta = host.peers[1]
    began = time.monotonic()
    assert host.call("caller") == "timeout"
    beta.good_phase("one", phase="async")
    assert host.call("caller_async") == "timeout"
    assert time.monotonic() - began < 10
    assert host.call("caller") == "timeout"


def test_the_late_answer_to_a_call_that_was_given_up_is_dropped_and_its_references_released(
    start, host: FakeHost
) -> None:
    host.silent_keys.add("echo")
    start("def run(c): c['interface_registry'].register('echo', lambda a: a)")
    beta = start(
        """
        def run(context):
            ir = context["interface_registry"]
            def caller(args, ctx):
                try:
                    ir.get("echo")(1, timeout_s=0.01)
                except TimeoutError:
                    return "late"
            ir.register("caller", caller)
        """,
        pack_id="beta",
    )
    assert host.call("caller") == "late"
    number = next(frame[1] for frame in beta.frames if frame[0] == 1)
    beta.send(2, number, 0, [[0, 777]], None)
    wait_until(lambda: host.call("caller") == "late" and 777 in beta.released, "the release")


def test_a_pack_calls_itself_through_the_bus(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir = context["interface_registry"]
            def down(args, ctx):
                return 0 if args == 0 else 1 + ir.get("down")(args - 1)
            ir.register("down", down)
            assert ir.get("down", "all")[0](0) == 0
    """)
    assert host.call("down", 10) == 10


def test_a_handlers_own_event_loop_may_await_calls(start, host: FakeHost) -> None:
    start("def run(c): c['interface_registry'].register('echo', lambda a: a)")
    start(
        """
        import asyncio
        def run(context):
            ir = context["interface_registry"]
            async def inner(args):
                return await asyncio.gather(*(ir.get("echo")(n) for n in range(args)))
            ir.register("own", lambda args, ctx: asyncio.run(inner(args)))
        """,
        pack_id="beta",
    )
    assert host.call("own", 20) == list(range(20))


def test_more_callables_than_a_frame_may_name_are_refused_and_many_are_given_back_in_parts(start, host: FakeHost) -> None:
    peer = start("""
        held = []
        def run(c):
            ir = c["interface_registry"]
            ir.register("many", lambda args, ctx: [(lambda: n) for n in range(args)])
            ir.register("hold", lambda args, ctx: held.append(args))
            ir.register("drop", lambda args, ctx: held.clear())
    """)
    with pytest.raises(BusError) as caught:
        host.call("many", 1_025)
    assert caught.value.type == "value.too_large"
    assert len(host.call("many", 1_024)) == 1_024
    assert peer.process.poll() is None
