"""The launcher without bubblewrap: who was given an order, and who has taken it."""

import asyncio
import contextlib
import os
import signal
import time

import pytest

from core_runtime.drivers import proc_view
from core_runtime.drivers.launch import Launcher, Order

TRUE = Order(command=("/bin/true",), options=(), seccomp=b"", uid=None, gid=None, join=(), rlimits={})


@contextlib.contextmanager
def launcher():
    """A launcher, and a descriptor that swallows everything."""
    made, sink = Launcher(), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield made, sink
    finally:
        made.close()
        os.close(sink)


def children(made):
    assert made._process is not None
    return {pid for pid in proc_view.descendants(made._process.pid) if pid != made._process.pid}


async def grown(made, known):
    """The child that came since."""

    def look():
        end = time.monotonic() + 30
        while not (new := children(made) - known):
            assert time.monotonic() < end, "no child came"
            time.sleep(0.005)
        return new.pop()

    return await asyncio.to_thread(look)


async def ended(job):
    async with asyncio.timeout(30):
        return await job.ended


def test_a_child_killed_with_its_order_untaken_is_replaced():
    async def scenario():
        with launcher() as (made, sink):
            prepared = made.prepare(())
            first = await grown(made, set())
            os.kill(first, signal.SIGSTOP)  # it is there, and takes nothing
            starting = asyncio.ensure_future(made.start(TRUE, sink, sink, prepared))
            await asyncio.sleep(0)  # sent
            made.prepare(())
            await grown(made, {first})  # so the launcher has handed the order over
            os.kill(first, signal.SIGKILL)
            job, pid = await starting
            assert (job is prepared, pid == first) == (False, False)
            assert await ended(job) == 0
            assert await ended(prepared) == -signal.SIGKILL

    asyncio.run(scenario())


def test_a_child_that_took_its_order_is_the_one_that_was_started():
    async def scenario():
        with launcher() as (made, sink):
            prepared = made.prepare(())
            pid = await grown(made, set())
            assert await made.start(TRUE, sink, sink, prepared) == (prepared, pid)
            assert await ended(prepared) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("prepared", [True, False])
def test_one_that_ends_at_once_was_started_all_the_same(prepared):
    async def scenario():
        with launcher() as (made, sink):
            for _ in range(20):
                job, pid = await made.start(TRUE, sink, sink, made.prepare(()) if prepared else None)
                assert pid > 0
                assert await ended(job) == 0

    asyncio.run(scenario())
