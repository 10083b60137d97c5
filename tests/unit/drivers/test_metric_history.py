from __future__ import annotations

import stat
from pathlib import Path

from core_runtime.drivers.metric_history import FILE, MetricHistory, Sample


def sample(pack_id: str, ts: float) -> Sample:
    return Sample(pack_id, ts, 5, 1, 10.0, 20.0, 0, 1e6, None)


def test_samples_come_back_over_restarts(tmp_path: Path) -> None:
    history = MetricHistory(tmp_path / "logs")
    assert history.of("a", 0, 10) == []
    history.add([])
    assert not (tmp_path / "logs").exists()
    history.add([sample("a", 60.0), sample("b", 60.0)])
    history.add([sample("a", 120.0)])
    again = MetricHistory(tmp_path / "logs")
    assert again.of("a", 0, 10) == [sample("a", 60.0), sample("a", 120.0)]
    assert again.of("a", 100, 10) == again.of("a", 0, 1) == [sample("a", 120.0)]
    again.forget("a")
    assert again.of("a", 0, 10) == []
    assert again.of("b", 0, 10) == [sample("b", 60.0)]
    assert stat.S_IMODE((tmp_path / "logs" / FILE).stat().st_mode) == 0o600


def test_age_and_number_are_bounded(tmp_path: Path) -> None:
    history = MetricHistory(tmp_path, rows=100, kept_s=1e6)
    for minute in range(200):
        history.add([sample("a", minute * 60.0), sample("b", minute * 60.0)])
    kept = history.of("a", 0, 1000)
    assert 40 <= len(kept) <= 50
    assert kept[-1].ts == 199 * 60.0
    history.add([sample("a", 199 * 60.0 + 1e6)])
    assert [found.ts for found in history.of("a", 0, 1000)] == [199 * 60.0, 199 * 60.0 + 1e6]


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 500)
    history = MetricHistory(tmp_path)
    history.add([sample("a", 1.0)])
    assert history.of("a", 0, 10) == [sample("a", 1.0)]
    assert len(list(tmp_path.glob(f"{FILE}.broken-*"))) == 1
