"""Calls through the bus, with all checks: one after the other beside the floor and beside other ways to call a process,
and 64 at a time beside an echo that checks nothing. Host → Pack and Pack → Pack, for each isolation.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Protocol

import uvloop

from backend_core.errors import RumiError
from bench.floors import ANSWER_LINES, IN_FLIGHT, JsonLines, PingPong, UvloopEcho
from bench.harness import Report, Row, Subject, measure, tail
from bench.peers import DockerExec, bubblewrap_command, docker_command, sparse
from bench.rpc_peers import PEERS
from bench.stand import PAYLOAD, host_with_packs
from core_runtime.drivers import proc_view
from core_runtime.handlers.host import Host

FLOOR = "floor: ping-pong"
ECHO = "floor: uvloop echo, 64 in flight"
SERIAL = 2_000
CROWDED = 6_400
EXEC_ONE_IN = 500
ISOLATIONS = ("embedded", "docker")
Timed = Callable[[int], Awaitable[float]]


class Peer(Protocol):
    """A subject that holds a process."""

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""

    def close(self) -> None:
        """End it."""


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; an isolation or a peer that this machine lacks is named under ``missing``.

    Calls one by one are measured twice: with every process on one core, and wherever the scheduler puts them. The
    second depends on whether a wake-up crosses cores, which alone may triple a figure from one round to the next.
    """
    share = 10 if quick else 1
    with _on_one_core(), _stand(report) as (runner, floor, _, hosts, _):
        _keep_together(hosts)
        _one_by_one(report, runner, floor, hosts, SERIAL // share, "one core")
    with _stand(report) as (runner, floor, echo, hosts, opened):
        _one_by_one(report, runner, floor, hosts, SERIAL // share, "any core")
        _many(report, runner, echo, hosts, CROWDED // share)
        _peers(report, runner, hosts, opened, SERIAL // share)


@contextlib.contextmanager
def _on_one_core() -> Iterator[None]:
    """Keeps this process, and what it starts, on one core where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(everywhere)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


def _keep_together(hosts: dict[str, Host]) -> None:
    """Sandboxes as well: what an engine starts inherits nothing from us."""
    if not hasattr(os, "sched_setaffinity"):
        return
    ours = os.sched_getaffinity(0)
    roots = [one.pid for host in hosts.values() if host.orchestrator for one in host.orchestrator.list()]
    for pid in [found for root in roots for found in (root, *proc_view.descendants(root))]:
        for task in (proc_view.PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):  # it has ended
                os.sched_setaffinity(int(task.name), ours)


@contextlib.contextmanager
def _stand(report: Report) -> Iterator[tuple[asyncio.Runner, PingPong, UvloopEcho, dict[str, Host], ExitStack]]:
    with ExitStack() as opened:
        floor, echo = PingPong(), UvloopEcho()  # before any thread or loop exists: they fork
        opened.callback(floor.close)
        opened.callback(echo.close)
        runner = opened.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        hosts: dict[str, Host] = {}
        stack = contextlib.AsyncExitStack()
        opened.callback(lambda: runner.run(stack.aclose()))
        for isolation in ISOLATIONS:
            try:
                hosts[isolation] = runner.run(stack.enter_async_context(host_with_packs(isolation)))
            except (RumiError, RuntimeError) as error:
                report.missing[f"calls, {isolation}"] = str(error)
        yield runner, floor, echo, hosts, opened


def _one_by_one(
    report: Report, runner: asyncio.Runner, floor: PingPong, hosts: dict[str, Host], n: int, where: str
) -> None:
    base = f"{FLOOR}, {where}"
    subjects: dict[str, Subject] = {base: floor}
    reference: dict[str, tuple[str, float]] = {}
    must: dict[str, str] = {}
    for isolation, host in hosts.items():
        one, two = f"host → Pack call, {isolation}, {where}", f"Pack → Pack call, {isolation}, {where}"
        subjects |= {one: on_runner(runner, _from_host(host)), two: on_runner(runner, _between_packs(host))}
        reference |= {one: (base, 1.0), two: (base, 2.0)}
        must |= {one: "must ≤ 3, aim ≤ 2", two: "must ≤ 2.5, aim ≤ 1.7"}
    report.rows += measure(subjects, n=n, reference=reference, must=must)
    for isolation, host in hosts.items():
        report.rows.append(_tail(runner, host, f"{isolation}, {where}", n))


def _many(report: Report, runner: asyncio.Runner, echo: UvloopEcho, hosts: dict[str, Host], n: int) -> None:
    subjects: dict[str, Subject] = {ECHO: on_runner(runner, echo.rounds)}
    must: dict[str, str] = {}
    for isolation, host in hosts.items():
        names = [f"64 in flight: {way}, {isolation}" for way in ("host → Pack", "Pack → Pack", "64 blocked handlers")]
        measured = (_crowd(host, "bench.echo"), _crowd_between_packs(host), _crowd(host, "bench.relay"))
        subjects |= {name: on_runner(runner, timed) for name, timed in zip(names, measured, strict=True)}
        must |= dict(zip(names, ("must ≤ 3, aim ≤ 2", "must ≤ 5, aim ≤ 3", "must ≤ 40, aim ≤ 15"), strict=True))
    report.rows += measure(subjects, n=n, reference=dict.fromkeys(must, (ECHO, 1.0)), must=must)


def _peers(report: Report, runner: asyncio.Runner, hosts: dict[str, Host], opened: ExitStack, n: int) -> None:
    """Each peer beside the isolation that it would replace; their ratio says how much faster Rumi is."""
    for isolation, host in hosts.items():
        ours = f"host → Pack call, {isolation} (beside its peers)"
        subjects: dict[str, Subject] = {ours: on_runner(runner, _from_host(host))}
        demand = {}
        for name, opener, wanted in _peers_of(isolation):
            try:
                subjects[name] = opener(opened)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                report.missing[name] = str(error)
            else:
                demand[name] = wanted
        report.rows += measure(subjects, n=n, reference=dict.fromkeys(demand, (ours, 1.0)), must=demand)


def _peers_of(isolation: str) -> list[tuple[str, Callable[[ExitStack], Subject], str]]:
    """With Docker the peers run in its containers; else in plain processes, which nothing keeps apart."""
    place = "in the container" if isolation == "docker" else "plain process"
    others = [
        (f"peer: {name}, {place}", partial(_opened, partial(opener, isolation)), wanted)
        for name, (opener, wanted) in PEERS.items()
    ]
    if isolation == "embedded":
        lines = bubblewrap_command(ANSWER_LINES)
        return [("peer: JSON lines over stdio, bubblewrap", partial(_opened, partial(JsonLines, lines)), ""), *others]

    def execute(stack: ExitStack) -> Subject:
        peer = DockerExec()
        stack.callback(peer.close)
        return sparse(peer, EXEC_ONE_IN)

    lines = docker_command(ANSWER_LINES, "-i")
    return [
        ("peer: JSON lines over `docker run -i`", partial(_opened, partial(JsonLines, lines)), "must > 1, aim ≥ 5"),
        *others,
        ("peer: `docker exec` a call", execute, "must > 1, aim ≥ 1,000"),
    ]


def _opened(opener: Callable[[], Peer], stack: ExitStack) -> Subject:
    peer = opener()
    stack.callback(peer.close)
    return peer


def on_runner(runner: asyncio.Runner, timed: Timed) -> Subject:
    async def measured(n: int) -> float:
        return await timed(n)

    return lambda n: runner.run(measured(n))


def _from_host(host: Host) -> Timed:
    async def calls(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            await host.bus.call("bench.echo", PAYLOAD)
        return time.perf_counter() - start

    return calls


def _between_packs(host: Host) -> Timed:
    async def calls(n: int) -> float:
        return float(await host.bus.call("bench.calls", {"n": n, "payload": PAYLOAD}))

    return calls


def _crowd(host: Host, key: str) -> Timed:
    async def calls(n: int) -> float:
        async def one() -> None:
            for _ in range(n // IN_FLIGHT):
                await host.bus.call(key, PAYLOAD)

        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        return time.perf_counter() - start

    return calls


def _crowd_between_packs(host: Host) -> Timed:
    async def calls(n: int) -> float:
        args = {"n": n, "in_flight": IN_FLIGHT, "payload": PAYLOAD}
        return float(await host.bus.call("bench.crowd", args))

    return calls


def _tail(runner: asyncio.Runner, host: Host, place: str, n: int) -> Row:
    async def calls() -> list[float]:
        took = []
        for _ in range(n):
            start = time.perf_counter()
            await host.bus.call("bench.echo", PAYLOAD)
            took.append((time.perf_counter() - start) * 1e6)
        return took

    took = runner.run(calls())
    return tail(f"host → Pack call, {place}: p99", took, "aim ≤ 4")
