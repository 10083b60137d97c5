"""Acceptance, phase 7: the doctor of the set-up: its findings by id, its mending, and what it keeps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from rumi_setup.core import initializer, recovery


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "flow/core").mkdir(parents=True)
    (root / "flow/core/00_startup.flow.yaml").write_text("flow")
    return root


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    initializer.initialise(folder)
    return folder


def ids(home: Path, project: Path) -> dict[str, recovery.Issue]:
    return {issue.id: issue for issue in recovery.diagnose(home, project)}


def gone(name: str) -> Callable[[Path, Path], None]:
    return lambda home, _project: shutil.rmtree(home / name)


def broken(name: str) -> Callable[[Path, Path], None]:
    def act(home: Path, _project: Path) -> None:
        (home / name).write_text("{ no JSON")

    return act


BREAKS: dict[str, Callable[[Path, Path], None]] = {
    "user_data_missing": gone("user_data"),
    **{f"user_data_{name}_missing": gone(f"user_data/{name}") for name in ("permissions", "flows", "settings", "shared", "cache")},
    "ecosystem_missing": gone("ecosystem"),
    "flow_missing": lambda _home, project: shutil.rmtree(project / "flow/core"),
    "no_flow_files": lambda _home, project: (project / "flow/core/00_startup.flow.yaml").unlink(),
    "mounts_json_invalid": broken("user_data/mounts.json"),
    "active_ecosystem_json_invalid": broken("user_data/active_ecosystem.json"),
}  # fmt: skip


def test_after_init_the_doctor_is_healthy(home: Path, project: Path) -> None:
    found = ids(home, project)
    assert set(found) == {"no_packs"}
    assert found["no_packs"].severity == "info"
    assert recovery.healthy(list(found.values()))


@pytest.mark.parametrize("issue_id", BREAKS)
def test_each_finding_has_its_id_and_its_fields(home: Path, project: Path, issue_id: str) -> None:
    BREAKS[issue_id](home, project)
    found = ids(home, project)[issue_id]
    assert {field.name for field in fields(found)} == {
        "id", "severity", "message", "auto_fix", "fix_action", "fix_args",
    }  # fmt: skip
    assert found.severity in {"error", "warn", "info"}
    assert found.message
    assert not recovery.healthy([found])


@pytest.mark.parametrize("issue_id", [name for name in BREAKS if not name.endswith(("flow_missing", "flow_files"))])
def test_what_can_be_mended_is_and_the_doctor_is_healthy_again(home: Path, project: Path, issue_id: str) -> None:
    BREAKS[issue_id](home, project)
    assert all(done.success for done in recovery.fix(home, root=project))
    assert recovery.healthy(recovery.diagnose(home, project))


@pytest.mark.parametrize("name", ["mounts", "active_ecosystem"])
def test_a_broken_file_is_kept_before_it_is_replaced(home: Path, project: Path, name: str) -> None:
    BREAKS[f"{name}_json_invalid"](home, project)
    (done,) = recovery.fix(home, root=project)
    assert done.backup is not None
    assert (home / done.backup).read_text() == "{ no JSON"
    assert json.loads((home / f"user_data/{name}.json").read_bytes())
