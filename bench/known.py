"""A thousand Packs on the disk, none running: reading them the first time and again, states, order of starts, the list.

In one process, without HTTP: what the host itself does for each Pack that it knows. The floors read or look at just the
same files and decide nothing; the order of starts stands beside the standard library's ``graphlib``, which knows no
versions, no libraries and tells of a circle only that there is one.
"""

from __future__ import annotations

import functools
import graphlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from backend_core.ecosystem.registry import PackRegistry
from bench.harness import Report, Subject, measure
from bench.stand import BenchPack, write_pack
from core_runtime.api import views
from core_runtime.approval_manager import ApprovalManager
from core_runtime.drivers.audit import AuditLog
from core_runtime.rules.component_work import units_of
from core_runtime.rules.resolve import Unit, resolve

KNOWN = 1_000
OLD_S = 60.0
"""How long ago the files were written: what was written just now is read again, whatever its times say."""
SETUP = """
def run(context):
    context["interface_registry"].register("known.{number:04}", lambda args, ctx: args)
"""


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; each is the time for all Packs together."""
    known = KNOWN // (10 if quick else 1)
    with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder:
        home = Path(folder)
        _packs(home, known)
        _scans(report, home, known)
        _orders(report, home, known)


def _packs(home: Path, known: int) -> None:
    """Each requires what the one before provides, but for every tenth, so there are chains of ten."""
    for number in range(known):
        requires = [f"known.{number - 1:04}"] if number % 10 else []
        pack = BenchPack(SETUP.format(number=number), [f"known.{number:04}"], requires, roomy=False)
        write_pack(home, f"known{number:04}", pack)
    written = time.time() - OLD_S
    for path in home.rglob("*"):
        os.utime(path, (written, written))


def _scans(report: Report, home: Path, known: int) -> None:
    packs = home / "ecosystem" / "packs"
    files = [str(path) for path in sorted(packs.rglob("*")) if path.is_file() and path.suffix == ".json"]
    looked_at = [str(path) for path in sorted(packs.rglob("*"))]
    later = time.time() + OLD_S  # a change time can't be set back, so the clock is set on
    warm = PackRegistry(packs, clock=lambda: later)
    manager = ApprovalManager(home, warm, AuditLog(home))
    manager.scan()
    many = f"{known:,} Packs"
    read, look, written = (
        f"floor: open and read their {len(files):,} JSON files",
        f"floor: lstat of their {len(looked_at):,} files and folders",
        "floor: the same list, by msgspec alone",
    )
    cold, again, states, listed = (
        f"scan of {many}, cold",
        f"scan of {many}, unchanged",
        f"scan of {many} with states and grants, unchanged",
        f"list of {many} as JSON",
    )
    told = [views.pack(status) for status in manager.list()]
    subjects: dict[str, Subject] = {
        read: _timed(lambda: [Path(path).read_bytes() for path in files]),
        cold: _timed(lambda: PackRegistry(packs).scan()),
        look: _timed(lambda: [os.lstat(path) for path in looked_at]),
        again: _timed(warm.scan),
        states: _timed(manager.scan),
        written: _timed(lambda: msgspec.json.encode(told)),
        listed: _timed(lambda: msgspec.json.encode([views.pack(status) for status in manager.list()])),
    }
    report.rows += measure(
        subjects, n=1, reference={cold: (read, 1.0), again: (look, 1.0), states: (look, 1.0), listed: (written, 1.0)}
    )


def _orders(report: Report, home: Path, known: int) -> None:
    folders = PackRegistry(home / "ecosystem" / "packs").scan().values()
    units = [unit for folder in folders if folder.metadata for unit in units_of(folder.metadata)]
    row = [
        Unit(f"p{n:04}:s:m", f"p{n:04}", frozenset({f"k{n}"}), frozenset({f"k{n - 1}"} if n else ()))
        for n in range(known)
    ]
    circle = [*row[1:], Unit("p0000:s:m", "p0000", frozenset({"k0"}), frozenset({f"k{known - 1}"}))]
    shapes = {
        "in chains of ten": units,
        "in one row": row,
        "all waiting for one that is missing": row[1:],
        "all in one circle": circle,
    }
    subjects: dict[str, Subject] = {}
    reference: dict[str, tuple[str, float]] = {}
    for shape, chosen in shapes.items():
        ours, floor = f"order of starts, {known:,} Packs {shape}", f"floor: graphlib, {shape}"
        subjects[floor] = _timed(functools.partial(_sorted, chosen))
        subjects[ours] = _timed(functools.partial(resolve, chosen))
        reference[ours] = (floor, 1.0)
    report.rows += measure(subjects, n=1, reference=reference)


def _sorted(units: list[Unit]) -> list[str] | None:
    """Who goes before whom, by the standard library; None where there is a circle."""
    provider = {key: unit.full_id for unit in units for key in unit.provides}
    graph = {unit.full_id: [provider[key] for key in unit.requires if key in provider] for unit in units}
    try:
        return list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError:
        return None


def _timed(work: Callable[[], Any]) -> Subject:
    def measured(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            work()
        return time.perf_counter() - start

    return measured
