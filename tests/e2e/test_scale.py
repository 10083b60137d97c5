"""Many idle Packs at once: all answer, each costs little, none does anything while nobody asks, and all end in time."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import pytest

from core_runtime.drivers import proc_view
from tests.support.running_host import RunningHost, one_component_pack

PLAIN = """
def run(context):
    context["interface_registry"].register("{key}", lambda args, ctx: args)
"""
COROUTINE = """
def run(context):
    async def echo(args, ctx):
        return args

    context["interface_registry"].register("{key}", echo)
"""
COUNTS = {"embedded": 100, "docker": 30}
DESCRIPTORS_PER_PACK = 4
"""A connection and its second socket (ADR 0045), an output and a status pipe."""
WAKEUPS_PER_S = 2.0
"""What a Pack nobody calls may do on the average: the sign of life that the host asks it for is one in ten seconds."""


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_many_idle_packs_at_once(tmp_path: Path, isolation: str) -> None:
    count = COUNTS[isolation]
    packs = {f"idle{number:03}": f"idle.{number:03}" for number in range(count)}
    with RunningHost(tmp_path / "home", isolation) as host:
        for number, (pack_id, key) in enumerate(packs.items()):
            source = COROUTINE if number % 10 == 0 else PLAIN
            host.put_pack(pack_id, one_component_pack(pack_id, source.format(key=key), provides=(key,)))
        first, *others = packs
        host.approve(first)
        host.ok("GET", "/api/issues/history")
        before = _descriptors(host.pid)  # with everything open that the host opens once
        with ThreadPoolExecutor(4) as four:
            list(four.map(host.approve, others))
        containers = {one["pack_id"]: one for one in host.ok("GET", "/api/containers")}
        assert {pack_id: one["state"] for pack_id, one in containers.items()} == dict.fromkeys(packs, "running")
        assert {one["level"] for one in containers.values()} == {"standard"}
        for number, key in enumerate(packs.values()):
            assert host.result(key, {"number": number}) == {"number": number}

        # connections of our own requests close when the host comes to it
        allowed = before + DESCRIPTORS_PER_PACK * len(others)
        host.until(lambda: _descriptors(host.pid) <= allowed, 20, "no more descriptors than the Packs need")
        trees = {pack_id: [one["pid"], *proc_view.descendants(one["pid"])] for pack_id, one in containers.items()}
        plain = [proc_view.memory_bytes(pids) for number, pids in enumerate(trees.values()) if number % 10]
        coroutines = [proc_view.memory_bytes(pids) for number, pids in enumerate(trees.values()) if number % 10 == 0]
        bare = _memory_of_a_bare_python(count)
        # the bench shows the figures beside what is asked for; here: nothing of a Pack grows with the number of Packs
        assert median(plain) < 3 * bare, (median(plain), bare)
        assert median(coroutines) < 8 * bare, (median(coroutines), bare)

        every = [pid for pids in trees.values() for pid in pids]
        host.until(lambda: _wakeups_per_s(every, 2.0) <= WAKEUPS_PER_S * count, 30, "idle Packs to sleep")
        for number, key in enumerate(packs.values()):
            assert host.result(key, {"again": number}) == {"again": number}
    assert [pid for pid in every if proc_view.start_time(pid) is not None] == []


def _descriptors(pid: int) -> int:
    return sum(1 for _ in (proc_view.PROC / str(pid) / "fd").iterdir())


def _memory_of_a_bare_python(count: int) -> float:
    """As many of them as there are Packs: what they share with each other is shared as often."""
    command = ["/usr/bin/python3", "-I", "-S", "-c", "print(flush=True); input()"]
    bare = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for one in bare:
            assert one.stdout is not None
            one.stdout.readline()
        return median(proc_view.memory_bytes([one.pid]) for one in bare)
    finally:
        for one in bare:
            one.communicate()


def _wakeups_per_s(pids: list[int], window_s: float) -> float:
    """How often the threads of these processes went to sleep again, by the kernel's count."""
    began, first = time.monotonic(), _switches(pids)
    time.sleep(window_s)
    return (_switches(pids) - first) / (time.monotonic() - began)


def _switches(pids: list[int]) -> int:
    statuses = (path for pid in pids for path in (proc_view.PROC / str(pid) / "task").glob("*/status"))
    lines = (line for path in statuses for line in path.read_text().splitlines())
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))
