"""From "start" to the first answer of a Pack, beside bare bubblewrap and beside ``docker run`` of the same image; and
from "reload" to the first answer of what is new, beside a start.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from backend_core.errors import RumiError
from bench.harness import Report, Subject, rows_of, samples_of, tail
from bench.peers import bubblewrap_command, docker_command
from bench.stand import PACKS, PAYLOAD, host_with_packs
from core_runtime.handlers import components, packs, starting

BARE = "peer: bubblewrap + bare Python"
RUN = "peer: docker run, bare Python"
ROUNDS = {"embedded": 50, "docker": 15}
"""Enough for a 99th percentile to be the worst of many, where one start is a matter of milliseconds."""


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; what this machine lacks is named under ``missing``."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for isolation, peer_name, must in (
            ("embedded", BARE, "must ≤ 2.5, aim ≤ 1.5"),
            ("docker", RUN, "must ≤ 1.5, aim ≤ 1.2"),
        ):
            rounds = ROUNDS[isolation] // (5 if quick else 1)
            try:
                runner.run(_one(report, isolation, peer_name, must, rounds))
            except (RumiError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                report.missing[f"start, {isolation}"] = str(error)


async def _one(report: Report, isolation: str, peer_name: str, must: str, rounds: int) -> None:
    name = f"start to first answer, {isolation}"
    async with host_with_packs(isolation) as host:
        loop = asyncio.get_running_loop()
        peer = _bare_bubblewrap if isolation == "embedded" else _docker_run()

        async def start() -> float:
            for pack_id in reversed(PACKS):
                await packs.stop(host, pack_id)
            begun = time.perf_counter()
            await packs.start(host, "echo")
            await host.bus.call("bench.echo", PAYLOAD)
            return time.perf_counter() - begun

        async def again(component: str) -> float:
            if not starting.is_running(host, "echo"):
                await packs.start(host, "echo")
            begun = time.perf_counter()
            await components.reload(host, "echo", component, actor="bench")
            await host.bus.call("bench.echo", PAYLOAD)
            return time.perf_counter() - begun

        def timed(once: Callable[[], Coroutine[Any, Any, float]]) -> Subject:
            return lambda n: sum(asyncio.run_coroutine_threadsafe(once(), loop).result(120) for _ in range(n))

        whole, part = f"reload of a Pack, {isolation}", f"reload of one component, {isolation}"
        subjects: dict[str, Subject] = {
            peer_name: peer, name: timed(start), whole: timed(partial(again, "")), part: timed(partial(again, "main")),
        }  # fmt: skip
        await asyncio.to_thread(samples_of, subjects, n=1, rounds=2)  # warms up
        samples = await asyncio.to_thread(samples_of, subjects, n=1, rounds=rounds)
        reference = {name: (peer_name, 1.0), whole: (name, 1.0), part: (name, 1.0)}
        report.rows += rows_of(samples, reference, {name: must, whole: "must ≤ 1 s"})
        worst = tail(f"{peer_name}: p99", samples[peer_name])
        report.rows += [worst, tail(f"{name}: p99", samples[name], base=worst)]


def _timed(command: list[str], n: int) -> float:
    start = time.perf_counter()
    for _ in range(n):
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return time.perf_counter() - start


def _bare_bubblewrap(n: int) -> float:
    return _timed(bubblewrap_command("pass"), n)


def _docker_run() -> Subject:
    return lambda n: _timed(docker_command("pass"), n)
