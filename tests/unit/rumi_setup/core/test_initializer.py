import json
import os
import stat

import pytest

from rumi_setup.core import files, initializer, recovery
from rumi_setup.core.problem import SetupError


def test_creates_everything_once_and_then_nothing(tmp_path) -> None:
    first = initializer.initialise(tmp_path)
    assert "user_data/permissions" in first.created
    assert initializer.initialise(tmp_path).created == ()


def test_documents_have_the_specified_content(tmp_path) -> None:
    initializer.initialise(tmp_path)
    mounts = json.loads((tmp_path / "user_data/mounts.json").read_text())
    active = json.loads((tmp_path / "user_data/active_ecosystem.json").read_text())
    assert mounts == {"version": "1.0", "mounts": {"data.user": "./user_data", "data.cache": "./user_data/cache"}}
    assert active["active_pack_identity"] is None
    assert active["disabled_components"] == []


def test_modes_keep_the_key_private_and_the_store_reachable(tmp_path) -> None:
    old = os.umask(0)
    try:
        initializer.initialise(tmp_path)
    finally:
        os.umask(old)
    modes = {n: stat.S_IMODE((tmp_path / "user_data" / n).stat().st_mode) for n in ("permissions", "store", "shared")}
    assert modes == {"permissions": 0o700, "store": 0o711, "shared": 0o700}
    assert stat.S_IMODE((tmp_path / "user_data").stat().st_mode) == 0o711


def test_closes_a_permissions_folder_that_a_copy_left_open(tmp_path) -> None:
    initializer.initialise(tmp_path)
    (tmp_path / "user_data/permissions").chmod(0o755)
    initializer.initialise(tmp_path)
    assert stat.S_IMODE((tmp_path / "user_data/permissions").stat().st_mode) == 0o700


def test_never_touches_what_is_there(tmp_path) -> None:
    (tmp_path / "user_data").mkdir()
    (tmp_path / "user_data/mounts.json").write_text("mine")
    initializer.initialise(tmp_path)
    assert (tmp_path / "user_data/mounts.json").read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path) -> None:
    (tmp_path / "user_data").write_text("a file")
    with pytest.raises(SetupError, match="could not be created") as caught:
        initializer.initialise(tmp_path)
    assert caught.value.next_steps


def test_the_doctor_is_content_afterwards(tmp_path) -> None:
    initializer.initialise(tmp_path)
    root = tmp_path / "project"
    (root / "flow/core").mkdir(parents=True)
    (root / "flow/core/00_startup.flow.yaml").write_text("x")
    assert recovery.healthy(recovery.diagnose(tmp_path, root))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")

    def refuse(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        files.write_json(target, {"new": True})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_the_readme_of_user_data_is_short(tmp_path) -> None:
    initializer.initialise(tmp_path)
    assert len((tmp_path / "user_data/README.md").read_text(encoding="utf-8").splitlines()) <= 12
