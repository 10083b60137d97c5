"""What the host and each Pack do and use, as numbers: for Prometheus.

Invariants:
  * The number of series is bounded, whatever Packs do: ``EDGES`` edges, ``FLOWS`` flows, the rest together; types of
    errors are bounded where they are counted. Names that Packs chose are concealed as everywhere.
  * Asking costs a bounded time: what a sandbox does not tell within ``USAGE_S`` is left out.

Not here: the text (``rules.exposition``), who may read it (``api.gate``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from backend_core.errors import RumiError
from core_runtime.bus.calls import EdgeStats
from core_runtime.containers import ContainerInfo, ContainerState
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.rules.exposition import QUANTILES, Family, Kind, render
from core_runtime.rules.sketch import Sketch

EDGES: Final = 1_000
FLOWS: Final = 200
USAGE_S: Final = 2.0
USAGE_AT_ONCE: Final = 8
LAG_EVERY_S: Final = 0.5
OTHERS: Final = "(others)"
_US: Final = 1e-6


class Meter:
    """What has to be watched as it happens: how late the loop is, and how runs of flows end."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.lag = Sketch()
        self.runs: Counter[tuple[str, str]] = Counter()

    def start(self) -> None:
        """From now on, until ``close``."""
        self._host.events.subscribe("flow.run", self._run_told, "metrics")
        self._arm()

    def close(self) -> None:
        """No more."""
        self._host.events.unsubscribe("flow.run", "metrics")
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._due = self._loop.time() + LAG_EVERY_S
        self._timer = self._loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        self.lag.add(max(0, int((self._loop.time() - self._due) * 1e6)))
        self._arm()

    def _run_told(self, summary: Mapping[str, Any]) -> None:
        status = str(summary["status"])
        if status != "running":
            flow = str(summary["flow"])
            known = len({name for name, _ in self.runs} - {flow}) < FLOWS
            self.runs[flow if known else OTHERS, status] += 1


async def exposition(host: Host) -> bytes:
    """Everything, in the text format."""
    containers = list(host.orchestrator.list()) if host.orchestrator is not None else []
    usage = await usages(host, containers)
    families = [
        *_of_host(host),
        await _states(host),
        *_of_containers(containers, usage),
        *_of_sessions(host),
        *_of_edges(host),
        *_of_egress(host),
    ]
    return await asyncio.to_thread(render, families)


async def usages(host: Host, containers: Iterable[ContainerInfo]) -> dict[str, Mapping[str, float]]:
    """Pack → what its sandbox uses now, of those that can tell in time."""
    places = asyncio.Semaphore(USAGE_AT_ONCE)
    found: dict[str, Mapping[str, float]] = {}

    async def ask(pack_id: str) -> None:
        async with places:
            try:
                found[pack_id] = await host.sandboxes.usage(pack_id)
            except (RumiError, OSError):
                return  # it has just ended

    running = [info.pack_id for info in containers if info.state is ContainerState.RUNNING]
    asking = [asyncio.create_task(ask(pack_id)) for pack_id in running]
    if asking:
        _, late = await asyncio.wait(asking, timeout=USAGE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    return found


def _of_host(host: Host) -> Iterable[Family]:
    import psutil  # noqa: PLC0415  a tenth of what a start imports, and it needs none of it

    process = psutil.Process()
    with process.oneshot():
        times, memory = process.cpu_times(), process.memory_info()
    yield _one("rumi_host_start_time_seconds", Kind.GAUGE, "When the host started.", process.create_time())
    yield _one("rumi_host_memory_bytes", Kind.GAUGE, "Resident memory of the host.", memory.rss)
    yield _one("rumi_host_cpu_seconds_total", Kind.COUNTER, "Processor time of the host.", times.user + times.system)
    lag = Family("rumi_host_loop_lag_seconds", Kind.SUMMARY, "How late the event loop came to its timers.")
    runs = Family("rumi_flow_runs_total", Kind.COUNTER, "Runs of flows that ended, by outcome.")
    if host.built("meter"):
        _summary(lag, host.meter.lag)
        for (flow, status), count in tuple(host.meter.runs.items()):
            runs.add(count, flow=_concealed(host, flow), status=status)
    yield lag
    yield runs
    events, history = host.events, host.history
    kept, size = history.totals()
    yield _one("rumi_events_published_total", Kind.COUNTER, "Events that were published.", events.published)
    yield _one("rumi_events_dropped_total", Kind.COUNTER, "Events lost by full queues inside the host.", events.lost)
    yield _one("rumi_events_unkept_total", Kind.COUNTER, "Events that came too fast to be kept.", history.unkept)
    yield _one("rumi_events_kept", Kind.GAUGE, "Events in the journal.", kept)
    yield _one("rumi_events_kept_bytes", Kind.GAUGE, "Size of the events in the journal.", size)
    if host.tracer is not None:
        yield _one("rumi_spans_sent_total", Kind.COUNTER, "Spans that a receiver took.", host.tracer.sent)
        yield _one("rumi_spans_dropped_total", Kind.COUNTER, "Spans that found no room.", host.tracer.dropped)
    issues = Family("rumi_issues", Kind.GAUGE, "Known issues, by severity.")
    for severity, count in Counter(issue.severity.value for issue in host.diagnostics.issues()).items():
        issues.add(count, severity=severity)
    yield issues


async def _states(host: Host) -> Family:
    family = Family("rumi_packs", Kind.GAUGE, "Packs, by state.")
    if host.built("approvals"):
        for state, count in Counter(found.state.value for found in await packs.list_packs(host)).items():
            family.add(count, state=state)
    return family


def _of_containers(containers: Iterable[ContainerInfo], usage: Mapping[str, Mapping[str, float]]) -> Iterable[Family]:
    up = Family("rumi_pack_up", Kind.GAUGE, "1 while the Pack's sandbox serves.")
    restarts = Family("rumi_pack_restarts_total", Kind.COUNTER, "How often its sandbox was started again.")
    started = Family("rumi_pack_start_time_seconds", Kind.GAUGE, "When its sandbox started.")
    memory = Family("rumi_pack_memory_bytes", Kind.GAUGE, "Memory of its sandbox.")
    cpu = Family("rumi_pack_cpu_seconds_total", Kind.COUNTER, "Processor time of its sandbox.")
    pids = Family("rumi_pack_processes", Kind.GAUGE, "Processes and threads of its sandbox.")
    for info in containers:
        pack = info.pack_id
        up.add(float(info.state is ContainerState.RUNNING), pack=pack)
        restarts.add(info.restarts, pack=pack)
        started.add(info.started_at, pack=pack)
        used = usage.get(pack, {})
        for family, name in ((memory, "memory_bytes"), (cpu, "cpu_s"), (pids, "pids")):
            if name in used:
                family.add(used[name], pack=pack)
    return (up, restarts, started, memory, cpu, pids)


def _of_sessions(host: Host) -> Iterable[Family]:
    """What each Pack answered since its generation connected: counters begin anew with the next one."""
    calls = Family("rumi_pack_calls_total", Kind.COUNTER, "Calls that the Pack answered.")
    errors = Family("rumi_pack_errors_total", Kind.COUNTER, "Those that failed, by type.")
    took = Family("rumi_pack_call_duration_seconds", Kind.SUMMARY, "How long they took.")
    flying = Family("rumi_pack_calls_in_flight", Kind.GAUGE, "Calls that wait for the Pack.")
    asking = Family("rumi_pack_calls_made_in_flight", Kind.GAUGE, "Calls that the Pack waits for.")
    abandoned = Family("rumi_pack_calls_abandoned", Kind.GAUGE, "Cancelled or late calls that it still runs.")
    waiting = Family("rumi_pack_events_waiting", Kind.GAUGE, "Events that wait for the Pack to read.")
    dropped = Family("rumi_pack_events_dropped_total", Kind.COUNTER, "Events that its full queues lost.")
    for pack, session in host.bus.sessions.items() if host.built("bus") else ():
        calls.add(session.stats.calls, pack=pack)
        for kind, count in session.stats.failures.items():
            errors.add(count, pack=pack, type=_concealed(host, kind))
        _summary(took, session.stats.latency, pack=pack)
        flying.add(len(session.incoming) - session.abandoned, pack=pack)
        asking.add(len(session.outgoing), pack=pack)
        abandoned.add(session.abandoned, pack=pack)
        waiting.add(session.events.waiting, pack=pack)
        dropped.add(session.events.lost, pack=pack)
    return (calls, errors, took, flying, asking, abandoned, waiting, dropped)


def _of_edges(host: Host) -> Iterable[Family]:
    """The first ``EDGES`` that were used stay apart, so that no series comes and goes; what came later is one."""
    calls = Family("rumi_edge_calls_total", Kind.COUNTER, "Calls on an edge: who called which interface.")
    errors = Family("rumi_edge_errors_total", Kind.COUNTER, "Those that failed, by type.")
    took = Family("rumi_edge_call_duration_seconds", Kind.SUMMARY, "How long they took.")
    edges = tuple(host.bus.router.edges.items()) if host.built("bus") else ()
    for number, ((caller, key), stats) in enumerate(edges):
        if number < EDGES:
            labels = {"caller": caller or "operator", "key": _concealed(host, key)}
            _summary(took, stats.latency, **labels)
        else:
            labels = {"caller": OTHERS, "key": OTHERS}
        calls.add(stats.calls, **labels)
        _failures(host, errors, stats, labels, apart=number < EDGES)
    return (calls, errors, took)


def _failures(host: Host, family: Family, stats: EdgeStats, labels: Mapping[str, str], *, apart: bool) -> None:
    for kind, count in stats.failures.items():
        family.add(count, **labels, type=_concealed(host, kind) if apart else OTHERS)


def _of_egress(host: Host) -> Iterable[Family]:
    moved = Family("rumi_pack_egress_bytes_total", Kind.COUNTER, "Bytes through the broker of ways out.")
    for pack, (up, down) in host.egress.totals().items() if host.built("egress") else ():
        moved.add(up, pack=pack, direction="up")
        moved.add(down, pack=pack, direction="down")
    return (moved,)


def _one(name: str, kind: Kind, about: str, value: float) -> Family:
    family = Family(name, kind, about)
    family.add(value)
    return family


def _summary(family: Family, sketch: Sketch, **labels: str) -> None:
    quantiles = {q: sketch.quantile(q) * _US for q in QUANTILES}
    family.summary(quantiles, sketch.total_us * _US, sketch.count, **labels)


def _concealed(host: Host, text: str) -> str:
    return host.redactions.hide_any(text)
