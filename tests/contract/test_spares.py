"""Processes kept ready for the embedded sandbox: as strict as a start without, gone with their host, given out once."""

import asyncio
import os
import signal
import time

import pytest
from msgspec.structs import replace

from core_runtime.drivers import cgroup_reading, proc_view
from core_runtime.drivers.launcher import ORDER_FD
from core_runtime.drivers.spares import COUNT
from core_runtime.rules.sandbox import Limits
from tests.support import sandboxes
from tests.support.sandboxes import cell

pytestmark = pytest.mark.embedded


@pytest.fixture
def yard():
    with sandboxes.yard("embedded") as made:
        if made.driver._cgroups is None:
            pytest.skip("no control group can be made here, so nothing is kept ready")
        yield made


def until(condition, deadline_s=10.0):
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def waiting(yard):
    """Pids of the processes that are in a group of their own and have no order yet."""
    groups = [spare.group for spare in yard.driver._spares._ready]
    inside = [set((group.folders["memory"] / "cgroup.procs").read_text().split()) for group in groups]
    return [int(pid) for pids in inside for pid in pids]


def filled(yard):
    until(lambda: len(waiting(yard)) == COUNT)
    return waiting(yard)


def measured(yard, one):
    return yard.run(one.sandbox.measure(one.probe))


def test_a_sandbox_from_a_spare_is_measured_equal_to_one_without(yard):
    spec = yard.spec()
    plain = sandboxes.Cell(yard, spec)
    first = measured(yard, plain)
    plain.close()
    spares = filled(yard)
    again = sandboxes.Cell(yard, replace(spec, generation=spec.generation + 50))
    try:
        assert again.sandbox.pid in spares, "it was not started from a spare"
        assert measured(yard, again) == first
        assert again.probe == plain.probe
    finally:
        again.close()


def test_a_spare_holds_nothing_but_the_end_of_its_own_socket(yard):
    with cell(yard) as one:
        measured(yard, one)
        launcher = yard.driver._launcher._process.pid
        for pid in filled(yard):
            folder = proc_view.PROC / str(pid) / "fd"
            until(lambda folder=folder: {int(path.name) for path in folder.iterdir()} == {0, 1, 2, ORDER_FD})
            assert (folder / str(ORDER_FD)).readlink().name.startswith("socket:")
            assert {str((folder / name).readlink()) for name in "01"} == {"/dev/null"}
            assert (proc_view.PROC / str(pid) / "environ").read_bytes() == b""
            assert f"\nPPid:\t{launcher}\n" in (proc_view.PROC / str(pid) / "status").read_text()


def test_a_spare_gets_the_limits_of_the_pack_that_it_becomes(yard):
    with cell(yard) as one:
        measured(yard, one)
        filled(yard)
        for limits in (Limits(memory_bytes=96 << 20, pids=33, cpus=0.25), Limits(memory_bytes=1 << 30, pids=500, cpus=2)):
            with cell(yard, limits=limits) as other:
                got = cgroup_reading.read_limits(other.sandbox.pid)
                assert (got.memory_bytes, got.pids) == (limits.memory_bytes, limits.pids)
                assert got.cpus == pytest.approx(limits.cpus)


def test_a_spare_that_was_killed_costs_no_start(yard):
    with cell(yard) as one:
        measured(yard, one)
        for pid in filled(yard):
            os.kill(pid, signal.SIGKILL)
        with cell(yard) as other:
            assert other.run("answer = 'through'") == "through"


def test_a_spare_killed_in_the_moment_of_its_order_is_replaced(yard):
    with cell(yard) as one:
        measured(yard, one)
        filled(yard)

        async def start_beside_the_kill():
            for spare in yard.driver._spares._ready:
                for pid in (spare.group.folders["memory"] / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
            return await yard.driver.start(yard_spec)

        yard_spec = yard.spec()
        server = yard.run(asyncio.start_unix_server(lambda _reader, _writer: None, yard_spec.socket_path))
        try:
            sandbox = yard.run(start_beside_the_kill())
            assert yard.run(sandbox.stop(0)).cause == "killed"
        finally:
            yard.run.loop.call_soon_threadsafe(server.close)


def test_spares_are_no_leftovers_while_the_host_runs_and_gone_when_it_closed(yard):
    with cell(yard) as one:
        measured(yard, one)
        pids = filled(yard)
        assert yard.run(yard.driver.remove_leftovers(yard.installation)) == []
        assert waiting(yard) == pids
    parents = list(yard.driver._cgroups._parents.values())
    yard.run(yard.driver.close())
    assert not any(proc_view.start_time(pid) for pid in pids)
    assert not any(parent.exists() for parent in parents)


def test_spares_end_with_a_killed_launcher_and_their_groups_with_the_next_boot(yard):
    with cell(yard) as one:
        measured(yard, one)
        pids = filled(yard)
        yard.driver._launcher._process.kill()
        until(lambda: not any(proc_view.start_time(pid) for pid in pids))
    yard.driver._spares.groups.clear()  # what another process would know of them: nothing
    removed = yard.run(yard.driver.remove_leftovers(yard.installation))
    assert len([name for name in removed if name.startswith("embedded-spare-")]) == COUNT
