"""History of runs: each run of a flow and of a Pack's sandbox, from the host's own events, kept over restarts.

Invariants:
  * Only what the host itself published counts: a Pack that may publish such a topic writes no history.
  * Publishing never waits for the disk; of one interval at most ``PENDING`` runs are kept, the newest word of each.
  * What can't be written costs those rows and an Issue, nothing else.

Not here: the file (``drivers.past_runs``), steps and answers (``flow_runs``), numbers by minutes (``metric_history``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.past_runs import RUNNING, PastRun, PastRuns
from core_runtime.drivers.side_work import Mishap, costs_only_itself
from core_runtime.event_bus import HOST_SOURCE, Event, EventBus

EVERY_S: Final = 1.0
PENDING: Final = 2_000
FOLDER: Final = "logs"
FLOWS: Final = "flow.run"
CONTAINERS: Final = "container.*"
DETAIL_CHARS: Final = 300
_ID: Final = "history of runs"
_UNKEPT: Final = Mishap(
    "runs_unwritable", "runs", "The history of runs is not kept",
    "Make room on the disk that holds user_data; what runs is not affected.",
)  # fmt: skip
_TOLD: Final = {"flow", "run_id", "status", "started_at", "duration_s", "error"}
_ENDS: Final = {f"container.{status}": status for status in ("stopped", "crashed", "gave_up", "weaker")}


class RunHistory:
    """Listens from ``open`` to ``close``. For the event loop's thread."""

    def __init__(
        self, user_data: Path, events: EventBus, diagnostics: Diagnostics, conceal: Callable[[str], str]
    ) -> None:
        self._kept = PastRuns(user_data / FOLDER)
        self._events = events
        self._diagnostics = diagnostics
        self._conceal = conceal
        self._pending: dict[tuple[str, str, str], PastRun] = {}
        self._open: dict[tuple[str, int], PastRun] = {}

    async def open(self) -> None:
        """What the host before left under way is marked as cut off; from now on everything is noted."""
        await self._written(self._kept.cut_off)
        self._events.subscribe_events(FLOWS, self._flow, _ID)
        self._events.subscribe_events(CONTAINERS, self._container, f"{_ID} of Packs")

    async def run(self) -> None:
        """Write what gathers, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self.write()

    async def close(self) -> None:
        """Everything has ended: the last words are written."""
        self._events.unsubscribe(FLOWS, _ID)
        self._events.unsubscribe(CONTAINERS, f"{_ID} of Packs")
        await self.write()

    async def write(self) -> None:
        """What gathered since the last time."""
        gathered, self._pending = list(self._pending.values()), {}
        if gathered:
            await self._written(lambda: self._kept.add(gathered))

    async def newest(self, count: int, *, kind: str = "", subject: str = "") -> list[PastRun]:
        """With what has not been written yet."""
        await self.write()
        return await asyncio.to_thread(self._kept.newest, count, kind=kind, subject=subject)

    async def _written(self, work: Callable[[], None]) -> None:
        with costs_only_itself(self._diagnostics.mishap, _UNKEPT):
            await asyncio.to_thread(work)

    def _flow(self, event: Event) -> None:
        told: Any = event.data
        if event.source != HOST_SOURCE or not told.keys() >= _TOLD:
            return
        status, begun = str(told["status"]), float(told["started_at"])
        ended = None if status == RUNNING else begun + float(told["duration_s"])
        self._note(
            PastRun("flow", str(told["flow"]), str(told["run_id"]), begun, ended, status, _failure(told["error"]))
        )

    def _container(self, event: Event) -> None:
        if event.source != HOST_SOURCE:
            return
        told: Any = event.data
        pack_id, generation, at = str(told["pack_id"]), int(told["generation"]), float(told["at"])
        if event.type == "container.started":
            begun = PastRun("pack", pack_id, f"{int(at * 1000):x}-{generation}", at, None, RUNNING)
            self._open[pack_id, generation] = begun
            self._note(begun)
        elif event.type in _ENDS and (found := self._open.pop((pack_id, generation), None)) is not None:
            ended = PastRun(
                "pack", pack_id, found.run, found.started_at, at, _ENDS[event.type], str(told["detail"])
            )  # fmt: skip
            self._note(ended)

    def _note(self, run: PastRun) -> None:
        concealed = PastRun(
            run.kind, self._conceal(run.subject), run.run, run.started_at, run.ended_at, run.status,
            self._conceal(run.detail)[:DETAIL_CHARS],
        )  # fmt: skip
        key = (run.kind, run.subject, run.run)
        if key in self._pending or len(self._pending) < PENDING:
            self._pending[key] = concealed


def _failure(error: Any) -> str:
    return str(error.get("title") or error.get("type") or "") if isinstance(error, dict) else ""
