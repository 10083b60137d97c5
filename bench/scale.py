"""Many idle Packs at once: what one costs the machine, how fast one of them starts, and what all do while nobody calls.

Memory is the proportional set size of all processes of a Pack, shared pages divided by those who share them, beside as
many bare Pythons counted in the same way. For Docker the engine's own process for each container counts as well, on
both sides.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

import psutil
import uvloop

from backend_core.errors import RumiError
from bench.harness import Report, Row, rows_of, tail
from bench.peers import PYTHON, bubblewrap_command, docker_command
from bench.stand import BenchPack, host_with_packs
from core_runtime.drivers import proc_view
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host

COUNTS = {"embedded": 100, "docker": 30}
IDLE_S = 10.0
WAITS = "import time; time.sleep(3600)"
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
COROUTINE_MARK = "async def"


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows of each isolation that this machine has. One Pack in four has coroutine handlers."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for isolation, most in COUNTS.items():
            count = most // 10 if quick else most
            idle = {
                f"idle{number:03}": BenchPack(
                    (PLAIN if number % 4 else COROUTINE).format(key=f"idle.{number:03}"),
                    provides=[f"idle.{number:03}"],
                    roomy=False,
                )
                for number in range(count)
            }
            try:
                runner.run(_one(report, isolation, idle, IDLE_S / 5 if quick else IDLE_S))
            except (RumiError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                report.missing[f"many idle Packs, {isolation}"] = str(error)


async def _one(report: Report, isolation: str, idle: dict[str, BenchPack], window_s: float) -> None:
    first = dict(list(idle.items())[:1])
    async with host_with_packs(isolation, first):
        before = proc_view.memory_bytes([os.getpid()])
    async with host_with_packs(isolation, idle) as host:
        for pack in idle.values():
            await host.bus.call(pack.provides[0], {"ready": 1})
        grown = proc_view.memory_bytes([os.getpid()]) - before
        pids = {one.pack_id: _processes(one.pid) for one in host.orchestrator.list()} if host.orchestrator else {}
        report.rows += await asyncio.to_thread(_memory, isolation, idle, pids, grown)
        report.rows.append(await _quiet(isolation, pids, window_s))
        peer = await _starts(report, host, isolation, idle)
        begun = time.perf_counter()
        await asyncio.gather(*(packs.stop(host, pack_id) for pack_id in idle))
        each = (time.perf_counter() - begun) * 1e6 / len(idle)
        name = f"stop all of {len(idle)} at once, {isolation}, for each"
        report.rows.append(Row(name, each, each, each, peer.name, each / peer.median))


def _memory(isolation: str, idle: dict[str, BenchPack], pids: dict[str, list[int]], grown: int) -> list[Row]:
    count = len(idle)
    bare = f"peer: bare Python, one of {count}, {isolation}"
    plain, coroutine = (f"memory of an idle Pack, one of {count}, {isolation}, {kind}" for kind in ("plain", "async"))
    host = f"memory that each of {count} Packs, {isolation}, costs the host"
    samples: dict[str, list[float]] = {bare: [], plain: [], coroutine: [], host: [grown / count]}
    with _bare(isolation, count) as peers:
        samples[bare] = [float(proc_view.memory_bytes(_processes(pid))) for pid in peers]
    for pack_id, own in pids.items():
        kind = coroutine if COROUTINE_MARK in idle[pack_id].setup else plain
        samples[kind].append(float(proc_view.memory_bytes(own)))
    must = {plain: "must ≤ 1.5, aim ≤ 1.25", coroutine: "must ≤ 3, aim ≤ 2.5"}
    return rows_of(samples, dict.fromkeys((plain, coroutine, host), (bare, 1.0)), must, unit="B")


@contextlib.contextmanager
def _bare(isolation: str, count: int) -> Iterator[list[int]]:
    """Pids of as many idle Pythons as there are Packs: by themselves, or each in a container."""
    if isolation == "embedded":
        own = [subprocess.Popen([PYTHON, "-I", "-S", "-c", WAITS]) for _ in range(count)]
        try:
            time.sleep(1)  # until the last one has started
            yield [one.pid for one in own]
        finally:
            for one in own:
                one.kill()
                one.wait()
        return
    command = docker_command(WAITS, "--detach")
    made = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() for _ in range(count)]
    try:
        shown = [command[0], "inspect", "--format", "{{.State.Pid}}", *made]
        yield [int(pid) for pid in subprocess.run(shown, check=True, capture_output=True, text=True).stdout.split()]
    finally:
        subprocess.run([command[0], "rm", "--force", *made], check=False, capture_output=True)


def _processes(pid: int) -> list[int]:
    """A process, those below it, and the engine's own for its container."""
    above = psutil.Process(pid).parent()
    shim = [above.pid] if above is not None and above.name().startswith("containerd-shim") else []
    return [*shim, pid, *proc_view.descendants(pid)]


async def _quiet(isolation: str, pids: dict[str, list[int]], window_s: float) -> Row:
    """Processor time of all Packs, and of the host that watches them, while nobody calls."""
    every = [os.getpid(), *(pid for own in pids.values() for pid in own)]
    began, first = time.monotonic(), _processor_s(every)
    await asyncio.sleep(window_s)
    used = (_processor_s(every) - first) / (time.monotonic() - began) * 1e6
    name = f"processor time of {len(pids)} idle Packs and the host, {isolation}, in a second"
    return Row(name, used, used, used, "one processor", used / 1e6, "aim ≤ 0.02")


def _processor_s(pids: list[int]) -> float:
    """By the scheduler's own clock: the usual counts go by hundredths, more than an idle Pack uses."""
    tasks = (path for pid in pids for path in (proc_view.PROC / str(pid) / "task").glob("*/schedstat"))
    return sum(int(path.read_text().split()[0]) for path in tasks) / 1e9


async def _starts(report: Report, host: Host, isolation: str, idle: dict[str, BenchPack]) -> Row:
    """Each plain Pack is stopped and started while all others run, in turn with the peer, whose row is given back."""
    command = bubblewrap_command("pass") if isolation == "embedded" else docker_command("pass")
    name = f"start to first answer, one of {len(idle)}, {isolation}"
    peer = f"peer: start of a bare Python, beside {len(idle)} Packs, {isolation}"
    samples: dict[str, list[float]] = {peer: [], name: []}
    for pack_id, pack in idle.items():
        if COROUTINE_MARK in pack.setup:
            continue
        samples[peer].append(await asyncio.to_thread(_timed, command))
        await packs.stop(host, pack_id)
        begun = time.perf_counter()
        await packs.start(host, pack_id)
        await host.bus.call(pack.provides[0], {"again": 1})
        samples[name].append((time.perf_counter() - begun) * 1e6)
    demand = "must ≤ 2.5, aim ≤ 1.5" if isolation == "embedded" else "must ≤ 1.5, aim ≤ 1.2"
    rows = rows_of(samples, {name: (peer, 1.0)}, {name: demand})
    worst = tail(f"{peer}: p99", samples[peer])
    report.rows += [*rows, worst, tail(f"{name}: p99", samples[name], base=worst)]
    return rows[0]


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return (time.perf_counter() - start) * 1e6
