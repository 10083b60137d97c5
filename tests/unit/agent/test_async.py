from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.agent_module import load_agent
from tests.support.fake_host import BusError, FakeHost, wait_until

SOURCE = """
    import asyncio, threading, time
    background = []
    async def work(args, ctx):
        await asyncio.sleep(0.01)
        return args
    async def fails(args, ctx):
        raise KeyError("async")
    async def waits(args, ctx):
        print("entered", flush=True)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            background.append("cancelled")
            raise
    async def threaded(args, ctx):
        return await asyncio.to_thread(lambda: threading.current_thread() is not threading.main_thread())
    async def many(args, ctx):
        return await asyncio.gather(*(work(n, ctx) for n in range(args)))
    def plain(args, ctx):
        time.sleep(0.01)
        return args
    def gives_coroutine(args, ctx):
        return work(args, ctx)
    async def ticks():
        while True:
            background.append("tick")
            await asyncio.sleep(0.002)
    async def blocks(args, ctx):
        time.sleep(0.5)
        return "unblocked"
    async def run(context):
        ir = context["interface_registry"]
        for fn in (work, fails, waits, threaded, many, plain, gives_coroutine, blocks):
            ir.register(fn.__name__, fn)
        ir.register("background", lambda: list(background))
        run.task = asyncio.create_task(ticks())
"""


def test_asynchronous_handlers_run_side_by_side(start, host: FakeHost) -> None:
    peer = start(SOURCE, run=False)
    assert peer.good_phase("one")["asynchronous"] is True
    calls = [host.start_call("work", n) for n in range(300)]
    assert [call.result() for call in calls] == list(range(300))
    assert host.call("many", 50) == list(range(50))
    assert host.call("threaded") is True
    assert host.call("gives_coroutine", 5) == 5
    with pytest.raises(BusError) as caught:
        host.call("fails")
    assert caught.value.type == "error/KeyError"
    assert "in fails" in caught.value.trace


def test_plain_handlers_of_an_asynchronous_pack_go_to_threads(start, host: FakeHost) -> None:
    start(SOURCE)
    calls = [host.start_call(key, n) for n in range(60) for key in ("plain", "work")]
    assert [call.result() for call in calls] == [n for n in range(60) for _ in range(2)]


def test_tasks_of_setup_go_on_living(start, host: FakeHost) -> None:
    start(SOURCE)
    first = len(host.call("background"))
    wait_until(lambda: len(host.call("background")) > first + 3, "more ticks")


def test_cancel_cancels_the_task(start, host: FakeHost) -> None:
    peer = start(SOURCE)
    call = host.start_call("waits")
    peer.wait_for_log(lambda log: "entered" in log[2])
    call.cancel()
    with pytest.raises(BusError) as caught:
        call.result()
    assert caught.value.type == "cancelled"
    wait_until(lambda: "cancelled" in host.call("background"), "the handler's own clean-up")


def test_cancel_that_follows_at_once_is_answered_once(start, host: FakeHost) -> None:
    peer = start(SOURCE)
    calls = [host.start_call("waits") for _ in range(50)]
    for call in calls:
        call.cancel()
    for call in calls:
        assert call.frame()[2] == "cancelled"
    peer.ping()
    assert all(call.answers.empty() for call in calls)


def test_a_blocked_loop_does_not_stop_the_reading(start, host: FakeHost) -> None:
    peer = start(SOURCE)
    blocked = host.start_call("blocks")
    wait_until(lambda: peer.ping()["calls"] >= 1 or not blocked.answers.empty(), "a pong")
    assert host.call("plain", 1) == 1
    assert blocked.result() == "unblocked"
    assert host.call("work", 2) == 2


def test_a_first_asynchronous_handler_after_plain_ones(start, host: FakeHost) -> None:
    peer = start("""
        def run(context):
            ir = context["interface_registry"]
            ir.register("plain", lambda a: a)
            if context["phase"] == "later":
                async def later(args, ctx): return [args]
                ir.register("later", later)
    """)
    assert host.call("plain", 1) == 1
    assert peer.good_phase("one", phase="later")["asynchronous"] is True
    assert host.call("later", 1) == [1]
    assert [host.call("plain", n) for n in range(50)] == list(range(50))


def test_asynchronous_code_calls_other_packs(start, host: FakeHost) -> None:
    start("""
        def run(context):
            ir = context["interface_registry"]
            def fails(args, ctx): raise ValueError("no")
            ir.register("echo", lambda a: a)
            ir.register("fails", fails)
            ir.register("callback", lambda fn, ctx: fn(3))
    """)
    start(
        """
        import asyncio
        from rumi import RemoteError
        async def run(context):
            ir = context["interface_registry"]
            echo = ir.get("echo")
            assert await echo("in setup") == "in setup"
            async def fan(args, ctx):
                tasks = [asyncio.create_task(echo(n)) for n in range(args)]
                return [await task for task in tasks]
            async def wait_for(args, ctx):
                return await asyncio.wait_for(echo(args, ctx), 5)
            async def typed(args, ctx):
                try:
                    await ir.get("fails")()
                except RemoteError as exc:
                    return exc.type
            async def callback(args, ctx):
                async def mine(n):
                    await asyncio.sleep(0)
                    return n * 2
                return await ir.get("callback")(mine)
            async def registers(args, ctx):
                ir.register("made.later", lambda: "made")
                return ir.get("made.later") is not None
            for fn in (fan, wait_for, typed, callback, registers):
                ir.register(fn.__name__ if fn is not callback else "own.callback", fn)
        """,
        pack_id="beta",
    )
    assert host.call("fan", 100) == list(range(100))
    assert host.call("wait_for", "x") == "x"
    assert host.call("typed") == "error/ValueError"
    assert host.call("own.callback") == 6
    assert host.call("registers") is True
    assert host.call("made.later") == "made"


def test_crossing_chains_of_plain_and_asynchronous_packs(start, host: FakeHost) -> None:
    start(
        """
        def run(context):
            ir = context["interface_registry"]
            ir.register("ping", lambda n: 0 if n == 0 else 1 + ir.get("pong")(n - 1))
        """,
        limits={"threads": 2},
    )
    start(
        """
        async def run(context):
            ir = context["interface_registry"]
            async def pong(n): return 0 if n == 0 else 1 + await ir.get("ping")(n - 1)
            ir.register("pong", pong)
        """,
        pack_id="beta",
    )
    calls = [host.start_call(key, 6) for _ in range(40) for key in ("ping", "pong")]
    assert [call.result() for call in calls] == [6] * 80


def test_a_task_that_calls_is_cancelled_with_what_it_called(start, host: FakeHost) -> None:
    alpha = start("""
        import time
        def waits(args, ctx):
            print("entered", flush=True)
            while not ctx.cancelled(): time.sleep(0.002)
            print("left", flush=True)
        def run(context): context["interface_registry"].register("waits", waits)
    """)
    start(
        """
        async def run(context):
            ir = context["interface_registry"]
            async def caller(args, ctx): return await ir.get("waits")()
            ir.register("caller", caller)
        """,
        pack_id="beta",
    )
    call = host.start_call("caller")
    alpha.wait_for_log(lambda log: "entered" in log[2])
    call.cancel()
    with pytest.raises(BusError) as caught:
        call.result()
    assert caught.value.type == "cancelled"
    alpha.wait_for_log(lambda log: "left" in log[2])


LOOP = """
    import asyncio, contextvars
    var = contextvars.ContextVar("var", default=0)
    async def order(args, ctx):
        loop, seen = asyncio.get_running_loop(), []
        handles = [loop.call_soon(seen.append, n) for n in range(4)]
        handles[2].cancel()
        loop.call_soon(lambda: loop.call_soon(seen.append, "later"))
        await asyncio.sleep(0)
        first = list(seen)
        await asyncio.sleep(0)
        return [first, seen, handles[2].cancelled()]
    async def contexts(args, ctx):
        loop, seen = asyncio.get_running_loop(), []
        var.set(1)
        loop.call_soon(lambda: seen.append(var.get()))
        var.set(2)
        other = contextvars.copy_context()
        other.run(var.set, 3)
        loop.call_soon(lambda: seen.append(var.get()), context=other)
        await asyncio.sleep(0)
        return [*seen, var.get()]
    async def broken(args, ctx):
        loop, seen = asyncio.get_running_loop(), []
        loop.set_exception_handler(lambda loop, context: seen.append(type(context["exception"]).__name__))
        loop.call_soon({}.pop, "nothing")
        loop.call_soon(seen.append, "after it")
        await asyncio.sleep(0)
        loop.set_exception_handler(None)
        return seen
    async def timers(args, ctx):
        loop, seen = asyncio.get_running_loop(), []
        loop.call_later(0.02, seen.append, "second")
        loop.call_later(0.01, seen.append, "first")
        loop.call_later(0.015, seen.append, "never").cancel()
        while len(seen) < 2:
            await asyncio.sleep(0)
        return seen
    async def from_a_thread(args, ctx):
        loop, future = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        await asyncio.to_thread(loop.call_soon_threadsafe, future.set_result, "from a thread")
        return await future
    async def run(context):
        ir = context["interface_registry"]
        for fn in (order, contexts, broken, timers, from_a_thread):
            ir.register(fn.__name__, fn)
        ir.register("debug", lambda args: run.loop.set_debug(args))
        run.loop = asyncio.get_running_loop()
"""


@pytest.mark.parametrize("debug", [False, True])
def test_the_event_loop_is_the_one_that_packs_know(start, host: FakeHost, debug: bool) -> None:
    start(LOOP)
    host.call("debug", debug)
    for _ in range(2):
        assert host.call("order") == [[0, 1, 3], [0, 1, 3, "later"], True]
        assert host.call("contexts") == [1, 3, 2]
        assert host.call("broken") == ["KeyError", "after it"]
        assert host.call("timers") == ["first", "second"]
        assert host.call("from_a_thread") == "from a thread"
    calls = [host.start_call(key) for _ in range(20) for key in ("order", "timers", "from_a_thread")]
    assert [len(call.result()) for call in calls] == [3, 2, 13] * 20


@pytest.mark.parametrize("how", ["--fd", "--stdio"])
def test_each_call_in_a_coroutine_has_its_own_time(start, host: FakeHost, how: str) -> None:
    host.silent_keys.add("echo")
    start("def run(c): c['interface_registry'].register('echo', lambda a: a)", pack_id="beta")
    start("""
        import asyncio
        async def run(context):
            ir = context["interface_registry"]
            ended = []
            async def one(timeout_s):
                try:
                    await ir.get("echo")(1, timeout_s=timeout_s)
                except TimeoutError:
                    ended.append(timeout_s)
            async def both(args, ctx):
                await asyncio.gather(one(1.5), one(0.1))
                return ended
            ir.register("both", both)
    """, how=how)
    assert host.call("both") == [0.1, 1.5], "though nothing comes that would wake it"


class Quiet:
    """A connection on which nothing comes."""

    def __init__(self) -> None:
        self.bounded = False
        self.bounds: list[int] = []

    def bound(self, seconds: int) -> None:
        self.bounded = seconds > 0
        self.bounds.append(seconds)

    def recv_into(self, _view: Any) -> int:
        raise BlockingIOError


def test_an_idle_loop_wakes_while_a_call_may_be_late_and_sleeps_when_none_is() -> None:
    module: Any = load_agent()
    link = Quiet()
    agent = module.Agent(link, module.PureCodec())
    module.count_threads = lambda: 0  # others of the test's own process end when they like
    mode = agent.mode = module.LoopMode(agent)
    mode.others = 1

    def look() -> None:
        mode.token = [1]
        assert mode.select(None) == []

    pending = agent.open_pending(None)
    pending.future = mode.asyncio.new_event_loop().create_future()
    pending.future.get_loop().close()
    pending.until = mode.due = time.monotonic() + 100
    look()
    assert (link.bounds, mode.due) == ([1], pending.until)
    agent.pending.clear()
    look()
    assert (link.bounds, mode.due) == ([1], float("inf"))
    look()
    assert link.bounds == [1, 0]
