"""The bench itself: each group runs to its end, and what it could not measure it names with a reason."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.__main__ import GROUPS, main
from bench.harness import Report, Row
from tests.support import machine
from tests.support.documents import ROOT

LIMIT_S = 200
ROWS = {
    "calls": "Pack → Pack call, embedded, one core",
    "streams": "1 KiB item, Pack → Pack, embedded",
    "inside": "publish to 10 subscribers",
    "known": "scan of 100 Packs, unchanged",
    "served": "HTTP → Pack handler → JSON, embedded, 16 clients",
    "develop": "saved file to its new answer, embedded",
    "starts": "start to first answer, embedded",
    "scale": "memory of an idle Pack, one of 10, embedded, plain",
    "digest": "digest of a tree, 5,000 files, 512 MB",
}
"""A row of each group that has one on every machine that runs Packs at all."""


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 30)
@pytest.mark.parametrize("group", sorted(GROUPS))
def test_group_runs_to_its_end(group: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", group, "--quick", "--json", str(figures)],
        cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), (done.returncode, done.stderr[-8000:])
    assert figures.exists(), (done.returncode, done.stderr[-8000:])
    report = json.loads(figures.read_text())
    assert done.returncode == (1 if report["missing"] else 0)
    rows = {row["name"]: row for row in report["rows"]}
    assert ROWS.get(group, next(iter(rows))) in rows, (report["missing"], list(rows))
    for name, row in rows.items():
        assert row["low"] <= row["high"], row
        assert row["low"] > 0 or name.startswith("what "), row  # a difference may be lost in the machine's noise
        assert row["ratio"] is None or (row["ratio"] > 0 and math.isfinite(row["ratio"])), row
        assert name in done.stdout
        beside = row["reference"].split(" × ")[-1]
        assert not beside or beside == "its p50" or beside in rows or beside == "one processor", row
    for name, why in report["missing"].items():
        # a lack of this machine; a group that measures nothing at all would have failed above
        engine = not machine.docker_obstacle() and shutil.which("docker")
        assert name.startswith("peer: ") or ("docker" in name and not engine), (name, why, done.stderr[-8000:])
        assert why
    assert ET.parse(figures.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_a_group_that_breaks_off_loses_no_row_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(report: Report, *, quick: bool) -> None:
        report.rows.append(Row("its first", 1.0, 1.0, 1.0))
        raise OSError(f"no room, quick: {quick}")

    def works(report: Report, *, quick: bool) -> None:
        report.rows.append(Row("the other's", 2.0, 2.0, 2.0))

    monkeypatch.setattr("bench.__main__.GROUPS", {"breaks": breaks, "works": works})
    figures = tmp_path / "figures.json"
    assert main(["--json", str(figures), "breaks", "works"]) == 1
    report = json.loads(figures.read_text())
    assert [row["name"] for row in report["rows"]] == ["its first", "the other's"]
    assert report["missing"] == {"the rest of breaks": "OSError: no room, quick: False"}
    told = capsys.readouterr()
    assert "not measured: OSError: no room" in told.out
    assert "in breaks" in told.err, "where it broke off"
    assert figures.with_suffix(".svg").exists()


def test_a_run_without_any_row_has_its_figures_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_report: Report, *, quick: bool) -> None:
        raise RuntimeError("nothing at all")

    monkeypatch.setattr("bench.__main__.GROUPS", {"breaks": breaks})
    figures = tmp_path / "figures.json"
    assert main(["--json", str(figures)]) == 1
    assert json.loads(figures.read_text())["rows"] == []
    assert figures.with_suffix(".svg").exists()
