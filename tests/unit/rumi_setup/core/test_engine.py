"""The engine of our own goes away with the run that made it, also when that run is killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rumi_setup.core import engine, places
from rumi_setup.core.progress import Silent

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(bool(engine.possible()), reason=f"[docker] an engine of our own: {engine.possible()}"),
]

RUN = """
import sys
sys.path.insert(0, {root!r})
from rumi_setup.core import engine
from rumi_setup.core.progress import Silent
with engine.private_engine(Silent()) as own:
    print(own.address, flush=True)
    sys.stdin.read()
"""


def _left_of(folder: Path) -> list[str]:
    place = engine._Place(folder)
    processes = [f"process {pid}" for pid in engine._processes_of(place)]
    groups = [str(group) for group in engine._cgroups_of(place)]
    return processes + groups + engine._mounts_under(folder) + ([str(folder)] if folder.exists() else [])


def test_leaves_nothing_behind() -> None:
    with engine.private_engine(Silent()) as own:
        folder = Path(own.address.removeprefix("unix://")).parent
        assert own.version(timeout_s=5)
        assert _left_of(folder)
    assert _left_of(folder) == []


def test_the_next_run_removes_what_a_killed_one_left() -> None:
    code = RUN.format(root=str(places.ROOT))
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
        folder = Path(killed.stdout.readline().strip().removeprefix("unix://")).parent
        killed.send_signal(signal.SIGKILL)
    assert folder.exists()
    engine.sweep(Silent())
    assert _left_of(folder) == []


def test_a_living_run_is_left_alone() -> None:
    with engine.private_engine(Silent()) as own:
        engine.sweep(Silent())
        assert own.version(timeout_s=5)
