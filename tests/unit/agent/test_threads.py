"""A real agent's threads between callers: calls that never end are their caller's own matter."""

from __future__ import annotations

import time
from typing import Any

from tests.support.agent_module import load_agent
from tests.support.fake_host import Call, FakeHost, Peer, wait_until

HOSTILE = ["", "hostile", [], None]
OTHER = ["", "other", [], None]
HELD = """
    import threading, time
    go = threading.Event()
    def run(context):
        ir = context["interface_registry"]
        now = []
        def blocks(args, ctx):
            now.append(args)
            go.wait(30)
        def count(args, ctx):
            now.append(args)
            for number in range(args):
                yield number
        async def lives(args, ctx):
            return args
        ir.register("blocks", blocks)
        ir.register("count", count)
        ir.register("lives", lives)
        ir.register("echo", lambda args, ctx: args)
        ir.register("now", lambda: len(now))
        ir.register("go", lambda: go.set())
"""


def calls(peer: Peer, ref: int, number: int, context: list[Any], args: Any = None, depth: int = 0) -> list[Call]:
    return [peer.start_call(ref, args, context=context, depth=depth) for _ in range(number)]


def ref(host: FakeHost, key: str) -> int:
    return int(host.entry(key).refs[0][1])


def test_streams_that_nobody_reads_leave_threads_to_everybody_else(start, host: FakeHost) -> None:
    peer = start(HELD, limits={"threads": 8})
    streams = calls(peer, ref(host, "count"), 60, HOSTILE, 10**6)
    began = time.monotonic()
    for context in (OTHER, None, OTHER):
        assert peer.start_call(ref(host, "echo"), 1, context=context).result(5) == 1
    assert time.monotonic() - began < 2
    wait_until(lambda: host.call("now") == 5, "half of the eight and one of its own to be held")
    assert peer.start_call(ref(host, "lives"), 2, context=HOSTILE).result(5) == 2, "a coroutine needs no thread"
    mine = peer.start_call(ref(host, "echo"), 3, context=HOSTILE)
    assert peer.ping()["calls"] == 61
    assert mine.answers.empty(), "it waits behind its own streams"
    for stream in streams:
        stream.cancel()
    assert mine.result(5) == 3
    wait_until(lambda: peer.ping()["calls"] == 0, "every stream to end")


def test_the_host_has_all_threads_and_blocked_handlers_end_in_two_rounds(start, host: FakeHost) -> None:
    peer = start(HELD)
    blocked = calls(peer, ref(host, "blocks"), 64, ["", "", [], None])
    number = ref(host, "now")
    wait_until(lambda: peer.start_call(number, None, context=OTHER).result() == 49, "48 and one to be under way")
    began = time.monotonic()
    peer.start_call(ref(host, "go"), None, context=OTHER).result()
    for call in blocked:
        call.result(5)
    assert time.monotonic() - began < 2
    assert host.call("now") == 64


def test_callers_that_wait_have_turns(start, host: FakeHost) -> None:
    """Five hundred calls of one caller that are under way stand before one call of another for one turn at most."""
    peer = start(
        """
        import time
        order = []
        def run(context):
            ir = context["interface_registry"]
            def works(args, ctx):
                time.sleep(0.02)
                order.append(ctx["caller"])
            ir.register("works", works)
            ir.register("order", lambda: order)
        """,
        limits={"threads": 4},
    )
    number = ref(host, "works")
    many = calls(peer, number, 200, HOSTILE)
    wait_until(lambda: peer.ping()["calls"] >= 190, "them to be there")
    few = calls(peer, number, 10, OTHER)
    for call in few + many:
        call.result()
    order = host.call("order")
    last = max(at for at, caller in enumerate(order) if caller == "other")
    assert last < 80, f"the tenth call of the other one was number {last}"


def test_chains_cross_beside_a_caller_that_holds_what_it_can_at_every_depth(start, host: FakeHost) -> None:
    chain = """
    import threading
    go = threading.Event()
    def run(context):
        ir = context["interface_registry"]
        ir.register("{own}", lambda args, ctx: 0 if args == 0 else 1 + ir.get("{other}")(args - 1))
        ir.register("blocks.{own}", lambda: go.wait(30))
    """
    for own, other, pack_id in (("ping", "pong", "alpha"), ("pong", "ping", "beta")):
        peer = start(chain.format(own=own, other=other), pack_id=pack_id, limits={"threads": 48})
        for depth in range(33):
            calls(peer, ref(host, f"blocks.{own}"), 50 if depth == 0 else 4, HOSTILE, depth=depth)
        wait_until(lambda peer=peer: peer.ping()["threads"] > 60, "its calls to hold threads")
    chains = [host.start_call(key, 5) for _ in range(60) for key in ("ping", "pong")]
    assert [call.result() for call in chains] == [5] * 120


def test_where_no_thread_can_be_started_all_that_wait_are_told_so() -> None:
    agent_module: Any = load_agent()
    sent: list[bytes] = []
    agent = agent_module.Agent(None, agent_module.load_codec())
    agent.share(2)
    agent.send = sent.append

    def refuses(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    agent.employ = refuses
    runs = []
    for number in range(1, 1_001):
        run = agent_module.Run(agent, number, agent_module.Export(lambda: None), None)
        run.context = ("", "abcd"[number % 4], (), None)
        agent.runs[number] = run
        runs.append(run)
    admitted = [run for run in runs if agent.admit(run)]
    assert len(admitted) < 10
    for run in admitted:
        agent.start(run)
    assert len(sent) == 1_000
    assert not agent.runs
    assert not agent.slots.queued()
    assert agent.slots.left == 2


def test_what_waits_is_refused_when_the_pack_is_stopped(start, host: FakeHost) -> None:
    peer = start(HELD, limits={"threads": 2})
    held = calls(peer, ref(host, "blocks"), 20, HOSTILE)
    wait_until(lambda: host.call("now") == 2, "one of two, and one of its own, to be under way")
    peer.send(20, 0, 500)
    kinds = [call.frame()[2] for call in held[2:]]
    assert kinds == ["shutting_down"] * 18
    assert peer.process.wait(10) == 0
