"""The history of runs: what is noted of the host's own events, what is kept, and for how long."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.past_runs import FILE, PastRun, PastRuns
from core_runtime.event_bus import EventBus
from core_runtime.handlers.past_runs import PENDING, RunHistory


def history(tmp_path: Path) -> tuple[RunHistory, EventBus, Diagnostics]:
    diagnostics = Diagnostics()
    events = EventBus(diagnostics)
    return RunHistory(tmp_path, events, diagnostics, lambda text: text.replace("secret", "***")), events, diagnostics


def flow(run_id: str, status: str, **words: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "flow": "f",
        "status": status,
        "started_at": 100.0,
        "duration_s": 2.0,
        "error": None,
        **words,
    }


def container(at: float, generation: int = 1, detail: str = "") -> dict[str, Any]:
    return {"pack_id": "p", "generation": generation, "detail": detail, "at": at}


def told(runs: list[PastRun]) -> list[tuple[Any, ...]]:
    return [(run.kind, run.subject, run.started_at, run.ended_at, run.status, run.detail) for run in runs]


def test_runs_of_flows_and_packs_are_kept_over_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        found, events, _ = history(tmp_path)
        await found.open()
        events.publish("flow.run", flow("a", "running"))
        assert told(await found.newest(9)) == [("flow", "f", 100.0, None, "running", "")]
        events.publish("flow.run", flow("a", "failed", error={"title": "no secret"}))
        events.publish("container.started", container(200.0))
        events.publish("container.crashed", container(210.0, detail="it died"))
        events.publish("container.crashed", container(211.0, detail="told twice"))
        events.publish("container.started", container(220.0, 2))
        await found.close()
        events.publish("container.stopped", container(230.0, 2))

        later, events, _ = history(tmp_path)
        await later.open()
        assert told(await later.newest(9)) == [
            ("pack", "p", 220.0, None, "cut", ""),
            ("pack", "p", 200.0, 210.0, "crashed", "it died"),
            ("flow", "f", 100.0, 102.0, "failed", "no ***"),
        ]
        assert told(await later.newest(1, kind="flow")) == told(await later.newest(9, subject="f"))
        assert stat.S_IMODE((tmp_path / "logs" / FILE).stat().st_mode) == 0o600
        await later.close()

    asyncio.run(main())


def test_a_pack_writes_no_history(tmp_path: Path) -> None:
    async def main() -> None:
        found, events, _ = history(tmp_path)
        await found.open()
        events.publish("flow.run", flow("a", "ok"), source="rumi:pack/p")
        events.publish("container.started", container(1.0), source="rumi:pack/p")
        events.publish("flow.run", {"run_id": "short of words"})
        assert await found.newest(9) == []
        await found.close()

    asyncio.run(main())


def test_more_runs_than_can_be_written_cost_themselves_and_no_others(tmp_path: Path) -> None:
    async def main() -> None:
        found, events, _ = history(tmp_path)
        await found.open()
        for number in range(PENDING + 10):
            events.publish("flow.run", flow(f"r{number}", "ok"))
        events.publish("flow.run", flow("r0", "failed"))
        kept = await found.newest(2 * PENDING)
        assert len(kept) == PENDING
        assert {run.run: run.status for run in kept}["r0"] == "failed"
        await found.close()

    asyncio.run(main())


def test_what_is_old_or_too_much_goes_and_who_runs_often_pushes_out_its_own(tmp_path: Path) -> None:
    kept = PastRuns(tmp_path, rows=20, of_one=5, kept_s=1_000)
    kept.add([PastRun("flow", "rare", "x", 500.0, 501.0, "ok")])
    for number in range(30):
        kept.add([PastRun("flow", "busy", f"{number:02}", 600.0 + number, None, "ok")])
    assert [run.run for run in kept.newest(99)] == ["29", "28", "27", "26", "25", "x"]
    for number in range(30):
        kept.add([PastRun("flow", f"f{number}", "y", 700.0 + number, None, "ok")])
    assert len(kept.newest(99)) <= 20
    kept.add([PastRun("pack", "p", "z", 5_000.0, None, "running")])
    assert [run.run for run in kept.newest(99)] == ["z"]


def test_a_disk_that_is_full_is_an_issue_and_a_broken_file_is_set_aside(tmp_path: Path, monkeypatch) -> None:
    async def main() -> None:
        found, events, diagnostics = history(tmp_path)
        await found.open()
        (tmp_path / "logs").mkdir(exist_ok=True)
        (tmp_path / "logs" / FILE).write_bytes(b"no database at all" * 100)
        events.publish("flow.run", flow("a", "ok"))
        assert [run.run for run in await found.newest(9)] == ["a"]
        assert [path.name for path in (tmp_path / "logs").glob(f"{FILE}.broken-*")]
        monkeypatch.setattr(PastRuns, "add", lambda _self, _runs: (_ for _ in ()).throw(OSError(28, "No space left")))
        events.publish("flow.run", flow("b", "ok"))
        await found.write()
        assert [issue.code for issue in diagnostics.issues()] == ["runs_unwritable"]
        monkeypatch.undo()
        events.publish("flow.run", flow("c", "ok"))
        await found.write()
        assert not diagnostics.issues()
        await found.close()

    asyncio.run(main())
