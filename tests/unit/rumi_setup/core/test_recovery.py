import json
import shutil
import subprocess

import pytest

from rumi_setup.core import initializer, recovery


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "flow/core").mkdir(parents=True)
    (root / "flow/core/00_startup.flow.yaml").write_text("flow")
    return root


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    initializer.initialise(folder)
    return folder


def _ids(home, project):
    return {issue.id: issue for issue in recovery.diagnose(home, project)}


def test_an_empty_folder_lacks_everything(tmp_path, project) -> None:
    found = _ids(tmp_path / "nothing", project)
    assert set(found) == {"user_data_missing", "ecosystem_missing", "flow_missing"}
    assert all(issue.severity == "error" and issue.auto_fix for issue in found.values())


def test_having_no_pack_is_no_illness(home, project) -> None:
    assert [(i.id, i.severity) for i in recovery.diagnose(home, project)] == [("no_packs", "info")]


def test_a_pack_in_place_ends_the_hint(home, project) -> None:
    pack = home / "ecosystem/packs/one/backend"
    pack.mkdir(parents=True)
    (pack / "ecosystem.json").write_text("{}")
    assert recovery.diagnose(home, project) == []


@pytest.mark.parametrize("name", sorted(initializer.USER_DATA_FOLDERS))
def test_a_missing_folder_is_found_and_made_again(home, project, name) -> None:
    (home / "user_data" / name).rmdir()
    assert _ids(home, project)[f"user_data_{name}_missing"].severity == "warn"
    assert [m.success for m in recovery.fix(home, root=project)] == [True]
    assert recovery.healthy(recovery.diagnose(home, project))


BROKEN = {
    "no JSON": b"{",
    "no object": b"[]",
    "no text": b"\xff\xfe",
    "wrong type": b'{"mounts": 3, "overrides": []}',
    "nested": b"[" * 100_000,
    "huge": b" " * (2 << 20),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("name", ["mounts", "active_ecosystem"])
def test_a_broken_document_is_kept_and_replaced(home, project, name, content) -> None:
    path = home / "user_data" / f"{name}.json"
    path.write_bytes(content)
    assert _ids(home, project)[f"{name}_json_invalid"].auto_fix
    (mended,) = recovery.fix(home, root=project)
    assert mended.backup is not None
    assert (home / mended.backup).read_bytes() == content
    assert json.loads(path.read_text())
    assert recovery.healthy(recovery.diagnose(home, project))


def test_two_repairs_keep_two_backups(home, project) -> None:
    for content in ("{1", "{2"):
        (home / "user_data/mounts.json").write_text(content)
        recovery.fix(home, root=project)
    kept = sorted(p.read_text() for p in (home / "user_data").glob("mounts.json.broken-*"))
    assert kept == ["{1", "{2"]


def test_only_the_named_issues_are_mended(home, project) -> None:
    (home / "user_data/mounts.json").write_text("{")
    (home / "user_data/cache").rmdir()
    assert [m.id for m in recovery.fix(home, ("user_data_cache_missing",), project)] == ["user_data_cache_missing"]
    assert set(_ids(home, project)) == {"mounts_json_invalid", "no_packs"}


def test_a_project_without_flows_is_named_and_not_invented(home, project) -> None:
    (project / "flow/core/00_startup.flow.yaml").unlink()
    issue = _ids(home, project)["no_flow_files"]
    assert (issue.severity, issue.auto_fix) == ("error", False)


def test_official_files_come_back_from_git(home, project) -> None:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", "-C", project, *identity, *words], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "x")
    shutil.rmtree(project / "flow/core")
    assert [(m.id, m.success) for m in recovery.fix(home, root=project)] == [("flow_missing", True)]
    assert (project / "flow/core/00_startup.flow.yaml").read_text() == "flow"


def test_reset_keeps_the_old_data(home) -> None:
    (home / "user_data/shared/mine").write_text("precious")
    outcome = recovery.reset(home)
    assert outcome.backup is not None
    assert (home / outcome.backup / "shared/mine").read_text() == "precious"
    assert list((home / "user_data/shared").iterdir()) == []
