import os

import pytest

from rumi_setup.core import checker
from rumi_setup.core.checker import Status


def test_every_check_has_its_own_id_and_a_bad_one_says_what_to_do(tmp_path) -> None:
    found = checker.run_checks(tmp_path)
    ids = [c.id for c in found]
    assert len(set(ids)) == len(ids)
    assert {"python", "disk", "git", "docker_engine", "bubblewrap", "locale", "isolation", "environment"} <= set(ids)
    assert [c.id for c in found if c.status is not Status.OK and not c.hint] == []


def test_a_missing_engine_is_a_finding(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    found = checker.check_docker()
    assert found.status is Status.WARN
    assert "does not answer" in found.detail


@pytest.mark.parametrize("mode", [0o757, 0o775])
def test_a_bubblewrap_that_others_can_write_is_not_taken(monkeypatch, tmp_path, mode) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(checker, "_BWRAP_FOLDERS", (str(tmp_path),))
    program.chmod(mode)
    assert checker.find_bubblewrap() is None


@pytest.mark.root
def test_bubblewrap_must_belong_to_root(monkeypatch, tmp_path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(checker, "_BWRAP_FOLDERS", (str(tmp_path),))
    assert checker.find_bubblewrap() == program
    os.chown(program, 65534, 65534)
    assert checker.find_bubblewrap() is None


def test_without_engine_and_bubblewrap_isolation_fails(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setattr(checker, "_BWRAP_FOLDERS", (str(tmp_path),))
    found = {c.id: c for c in checker.run_checks(tmp_path)}
    assert found["isolation"].status is Status.FAIL
    assert "Docker is required but not available" in found["isolation"].detail


@pytest.mark.embedded
def test_where_bubblewrap_works_the_check_says_so() -> None:
    assert checker.check_bubblewrap().status is Status.OK
