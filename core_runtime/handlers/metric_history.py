"""Each minute, what each running Pack did and used in it, kept for a week.

Invariant: a minute that can't be measured or written costs that minute and an Issue, nothing else.
Not here: the file (``drivers.metric_history``), the numbers of this moment (``metrics``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from core_runtime.containers import ContainerInfo, ContainerState
from core_runtime.drivers.metric_history import MetricHistory, Sample
from core_runtime.drivers.side_work import Mishap, costs_only_itself
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.handlers.metrics import usages
from core_runtime.rules.sketch import Sketch

EVERY_S: Final = 60.0
FOLDER: Final = "logs"
_UNKEPT: Final = Mishap(
    "metrics_unwritable", "metrics", "Measurements are not kept",
    "Make room on the disk that holds user_data; what runs is not affected.",
)  # fmt: skip


class _Before(Struct, frozen=True):
    generation: int
    calls: int
    errors: int
    latency: Sketch
    cpu_s: float


_NOTHING = _Before(0, 0, 0, Sketch(), 0.0)


class Sampler:
    """Remembers what it saw last, to tell what came since."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._before: dict[str, _Before] = {}
        self.history = MetricHistory(host.settings.user_data / FOLDER)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.sample()

    async def sample(self) -> None:
        """One minute."""
        host = self._host
        running = [] if host.orchestrator is None else list(host.orchestrator.list())
        running = [info for info in running if info.state is ContainerState.RUNNING]
        used = await usages(host, running)
        now = time.time()
        samples = [self._of(info, used.get(info.pack_id, {}), now) for info in running]
        for gone in self._before.keys() - {info.pack_id for info in running}:
            del self._before[gone]
        with costs_only_itself(host.diagnostics.mishap, _UNKEPT):
            await asyncio.to_thread(self.history.add, samples)

    def _of(self, info: ContainerInfo, used: Mapping[str, float], now: float) -> Sample:
        session = self._host.bus.sessions.get(info.pack_id)
        before = self._before.get(info.pack_id, _NOTHING)
        if before.generation != info.generation:
            before = _NOTHING
        stats = session.stats if session is not None else None
        calls, errors = (stats.calls, stats.errors) if stats is not None else (before.calls, before.errors)
        latency = stats.latency.copy() if stats is not None else before.latency
        minute = latency.since(before.latency)
        cpu_s = used.get("cpu_s")
        after = before.cpu_s if cpu_s is None else cpu_s
        self._before[info.pack_id] = _Before(info.generation, calls, errors, latency, after)
        return Sample(
            info.pack_id, round(now, 6), calls - before.calls, errors - before.errors, minute.quantile(0.5),
            minute.quantile(0.99), info.restarts, used.get("memory_bytes"),
            None if cpu_s is None else round(max(0.0, cpu_s - before.cpu_s), 6),
        )  # fmt: skip


async def forget(host: Host, pack_id: str) -> None:
    """The Pack was removed. What can't be deleted goes with its age."""
    with costs_only_itself(host.diagnostics.mishap, _UNKEPT):
        await asyncio.to_thread(MetricHistory(host.settings.user_data / FOLDER).forget, pack_id)


async def history(host: Host, pack_id: str, minutes: int) -> list[Sample]:
    """The last minutes of one Pack that were measured. ``NotFoundError`` for a Pack that is not there."""
    await packs.status(host, pack_id)
    since = time.time() - minutes * 60
    return await asyncio.to_thread(MetricHistory(host.settings.user_data / FOLDER).of, pack_id, since, minutes)
