"""The loop stays awake for a moment after a write, and only where that pays."""

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgpack
import pytest
import uvloop

from core_runtime.drivers import busy_poll
from core_runtime.drivers.busy_poll import AFTER_ANSWER, AFTER_CALL, MOST, POLL_S, PROBE, BusyPoll
from core_runtime.drivers.link import attach
from core_runtime.drivers.turns import Turn
from core_runtime.rules import frames
from core_runtime.rules.frames import BusLimits

ROOT = Path(__file__).resolve().parents[3]
SOME_TURNS = 10


class World:
    """A clock that stands still until it is told, and how often the loop gave way to others while it polled."""

    now = 1000.0
    looks = 0


@pytest.fixture
def world(monkeypatch):
    made = World()

    def look():
        made.looks += 1

    monkeypatch.setattr(busy_poll, "monotonic", lambda: made.now)
    monkeypatch.setattr(busy_poll, "_give_way", look)
    monkeypatch.setattr(busy_poll, "processors", lambda: 2)
    return made


async def looks_of(world, turns=SOME_TURNS):
    """How often it looked during so many turns of the loop."""
    before = world.looks
    for _ in range(turns):
        await asyncio.sleep(0)
    return world.looks - before


def called(poll):
    poll.sent(AFTER_CALL, asyncio.get_running_loop())


def answered(poll):
    poll.sent(AFTER_ANSWER, asyncio.get_running_loop())


async def in_vain(world, poll):
    """A call that nothing answers in time."""
    called(poll)
    world.now += POLL_S
    await looks_of(world, 2)


def run(story):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(story())


def test_it_looks_in_each_turn_until_something_came(world) -> None:
    async def story():
        poll = BusyPoll()
        assert await looks_of(world) == 0, "nothing was written"
        called(poll)
        assert await looks_of(world) >= SOME_TURNS - 1
        poll.until = 0.0
        assert await looks_of(world) <= 1
        assert await looks_of(world) == 0
        called(poll)
        assert await looks_of(world) > 0

    run(story)


def test_it_sleeps_when_nothing_came_in_time(world) -> None:
    async def story():
        poll = BusyPoll()
        called(poll)
        assert await looks_of(world) > 0
        world.now += POLL_S
        assert await looks_of(world) <= 1
        assert await looks_of(world) == 0

    run(story)


def test_a_further_write_prolongs_it_and_is_no_second_one(world) -> None:
    async def story():
        poll = BusyPoll()
        called(poll)
        world.now += POLL_S * 0.9
        called(poll)
        world.now += POLL_S * 0.9
        assert SOME_TURNS - 1 <= await looks_of(world) <= SOME_TURNS

    run(story)


def test_polls_in_vain_end_it_and_one_write_in_many_asks_again(world) -> None:
    async def story():
        poll = BusyPoll()
        for _ in range(MOST):
            assert poll._left[AFTER_CALL]
            await in_vain(world, poll)
        for round_ in range(3):
            for _ in range(PROBE - 1):
                called(poll)
                assert await looks_of(world, 2) == 0, round_
            called(poll)
            assert await looks_of(world) > 0
            world.now += POLL_S
            await looks_of(world, 2)
        for _ in range(PROBE - 1):
            called(poll)
        called(poll)
        poll.until = 0.0
        await looks_of(world, 2)
        called(poll)
        assert await looks_of(world) > 0, "an answer came while it looked: it pays again"

    run(story)


def test_what_is_as_often_in_vain_as_not_is_paid_for_and_what_is_more_often_ends(world) -> None:
    async def story():
        poll = BusyPoll()
        for turn in range(8 * MOST):
            if turn % 2:
                called(poll)
                poll.until = 0.0
                await looks_of(world, 2)
            else:
                await in_vain(world, poll)
        assert poll._left[AFTER_CALL] >= MOST - 1
        for turn in range(3 * MOST):
            if turn % 3 == 0:
                called(poll)
                poll.until = 0.0
                await looks_of(world, 2)
            else:
                await in_vain(world, poll)
        assert poll._left[AFTER_CALL] <= 1

    run(story)


def test_with_one_processor_nothing_is_polled(world, monkeypatch) -> None:
    monkeypatch.setattr(busy_poll, "processors", lambda: 1)

    async def story():
        poll = BusyPoll()
        for _ in range(3 * PROBE):
            called(poll)
            poll.until = 0.0
        assert await looks_of(world) == 0

    run(story)


def test_processors_are_those_that_the_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from core_runtime.drivers.busy_poll import processors; print(processors())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert busy_poll.processors() == len(os.sched_getaffinity(0))


def test_calls_that_are_answered_in_time_are_polled_for_though_nothing_follows_their_answers(world) -> None:
    """Pack → Pack, now and then: the caller's call is passed on, its answer comes and is passed on, and all is quiet."""

    async def story():
        poll = BusyPoll()
        for _ in range(3 * MOST):
            called(poll)
            assert await looks_of(world, 4) > 0
            poll.until = 0.0
            answered(poll)
            await looks_of(world, 1)
            world.now += POLL_S
            await looks_of(world, 2)
        called(poll)
        poll.until = 0.0
        answered(poll)
        assert await looks_of(world) <= 1, "what never follows is not looked for"

    run(story)


def test_a_pack_that_calls_without_a_pause_is_polled_for_after_each_answer(world) -> None:
    async def story():
        poll = BusyPoll()
        for _ in range(3 * MOST):
            called(poll)
            poll.until = 0.0
            answered(poll)
            assert await looks_of(world, 3) >= 2
            poll.until = 0.0

    run(story)


def test_an_answer_that_is_not_polled_after_leaves_the_poll_for_another_call_alone(world) -> None:
    async def story():
        poll = BusyPoll()
        for _ in range(MOST):
            answered(poll)
            world.now += POLL_S
            await looks_of(world, 2)
        called(poll)
        world.now += POLL_S * 0.9
        answered(poll)
        assert await looks_of(world) > 0
        world.now += POLL_S * 0.2
        assert await looks_of(world) <= 1

    run(story)


@pytest.mark.parametrize("answer_bytes", [1, 10_000])
@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_whatever_a_link_reads_ends_it(world, factory, answer_bytes) -> None:
    class Answered:
        def __init__(self):
            self.came = asyncio.Event()

        def on_frame(self, frame):
            self.came.set()

        def on_lost(self, reason):
            pass

    async def story():
        near, far = socket.socketpair()
        for end in (near, far):
            end.setblocking(False)
        peer, turn = Answered(), Turn()
        link = await attach(near, peer, BusLimits(), turn)
        called(turn.poll)
        assert await looks_of(world) >= SOME_TURNS - 1
        answer = msgpack.packb((frames.RESULT, 1, 0, [], b"x" * answer_bytes))
        far.send(len(answer).to_bytes(4, "little") + answer)
        await asyncio.wait_for(peer.came.wait(), 10)
        await looks_of(world, 2)
        assert await looks_of(world) == 0
        link.abort("the end of the test")
        far.close()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())
