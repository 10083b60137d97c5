"""What an engine left behind in a removed container's control group is ended, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core_runtime.drivers import orphans

OURS, OTHER = "4" * 64, "5" * 64


@pytest.fixture
def waiting() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def seen_in(proc: Path, process: subprocess.Popen[bytes], group: str) -> None:
    folder = proc / str(process.pid)
    folder.mkdir(parents=True)
    (folder / "cgroup").write_text(f"2:pids:{group}\n1:cpu:{group}\n0::{group}\n")


def test_only_what_is_in_the_group_of_that_container_is_ended(tmp_path, monkeypatch, waiting) -> None:
    monkeypatch.setattr(orphans, "PROC", tmp_path)
    ours, others, nobodys = waiting
    seen_in(tmp_path, ours, f"/engine/{OURS}")
    seen_in(tmp_path, others, f"/engine/{OTHER}")
    seen_in(tmp_path, nobodys, "/")
    (tmp_path / "self").mkdir()
    (tmp_path / "4194303").mkdir()
    assert orphans.end_orphans(OURS) == [ours.pid]
    assert ours.wait(10) == -signal.SIGKILL
    assert (others.poll(), nobodys.poll()) == (None, None)
    assert orphans.end_orphans(OURS) == [], "it is gone"


@pytest.mark.parametrize("named", ["", "4", "4" * 63, "4" * 65, "engine", "4" * 63 + "\n", "../" + "4" * 61])
def test_anything_but_a_whole_id_names_nobody(tmp_path, monkeypatch, waiting, named: str) -> None:
    monkeypatch.setattr(orphans, "PROC", tmp_path)
    for process in waiting:
        seen_in(tmp_path, process, f"/engine/{OURS}")
    assert orphans.end_orphans(named) == []
    assert [process.poll() for process in waiting] == [None] * 3
