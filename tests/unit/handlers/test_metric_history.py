"""Minutes of a Pack on a real bus, with a sandbox that tells what it uses."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from core_runtime.containers import ContainerInfo, ContainerState
from core_runtime.handlers.metric_history import Sampler
from core_runtime.rules.sandbox import Level
from core_runtime.rules.sketch import Sketch
from tests.support.hosts import bare_host, with_bus


class Sandboxes:
    """An orchestrator of one Pack; ``used`` is what its sandbox tells."""

    def __init__(self) -> None:
        self.generation = 1
        self.used: dict[str, float] = {"memory_bytes": 5e6, "cpu_s": 2.0}

    def list(self) -> list[ContainerInfo]:
        info = ContainerInfo("c", "a", self.generation, "embedded", Level.STANDARD, ContainerState.RUNNING, 1.0, 3, "", None, 42)
        return [info]

    async def usage(self, pack_id: str) -> dict[str, float]:
        assert pack_id == "a"
        return self.used


def test_each_minute_tells_what_came_since_the_last(tmp_path, monkeypatch: pytest.MonkeyPatch):
    async def main():
        host: Any = await with_bus(bare_host(tmp_path))
        sandboxes = host.orchestrator = Sandboxes()
        endpoint = await host.bus.open("a", 1, SimpleNamespace(), socket_path=str(tmp_path / "s"))
        host.bus.sessions["a"] = endpoint.session
        stats = endpoint.session.stats
        sampler = Sampler(host)
        for took in (100, 100, 100):
            stats.add(took, "")
        await sampler.sample()
        stats.add(50_000, "error/X")
        sandboxes.used = {"memory_bytes": 6e6, "cpu_s": 2.5}
        await sampler.sample()
        sandboxes.generation, sandboxes.used = 2, {}
        await sampler.sample()
        first, second, third = sampler.history.of("a", 0, 10)
        assert (first.calls, first.errors, first.restarts, first.memory_bytes, first.cpu_s) == (3, 0, 3, 5e6, 2.0)
        assert 90 < first.p50_us < 112
        assert (second.calls, second.errors, second.memory_bytes, second.cpu_s) == (1, 1, 6e6, 0.5)
        assert second.p50_us > 40_000
        assert (third.calls, third.errors, third.memory_bytes, third.cpu_s) == (4, 1, None, None)
        monkeypatch.setattr(sampler.history, "add", lambda _samples: (_ for _ in ()).throw(OSError(28, "No space left")))
        await sampler.sample()
        assert [issue.code for issue in host.diagnostics.issues()] == ["metrics_unwritable"]
        monkeypatch.undo()
        await sampler.sample()
        assert host.diagnostics.issues() == []
        host.orchestrator = None
        host.bus.sessions.clear()
        await host.close()

    asyncio.run(main())


def test_a_sketch_since_an_earlier_copy():
    sketch = Sketch()
    sketch.add(5)
    before = sketch.copy()
    sketch.add(7)
    assert (before.count, sketch.count, sketch.since(before).count, sketch.since(before).total_us) == (1, 2, 1, 7)
    assert sketch.since(before).quantile(0.5) == 7
