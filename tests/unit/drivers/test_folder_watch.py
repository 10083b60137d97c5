import os

from core_runtime.drivers import folder_watch
from core_runtime.drivers.folder_watch import FolderWatch


def test_what_came_went_or_was_edited_is_named_once(tmp_path) -> None:
    for name in ("kept", "edited", "gone"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("1")
    watch = FolderWatch(tmp_path)
    assert watch.changed() == set()

    (tmp_path / "edited/deep/file").write_text("2")
    (tmp_path / "gone/deep/file").unlink()
    (tmp_path / "new").mkdir()
    (tmp_path / "loose file").write_text("not a folder")
    assert watch.changed() == {"edited", "gone", "new"}
    assert watch.changed() == set()


def test_times_that_are_set_back_hide_nothing(tmp_path) -> None:
    file = tmp_path / "pack" / "file"
    file.parent.mkdir()
    file.write_text("1")
    before = file.stat()
    watch = FolderWatch(tmp_path)
    file.write_text("2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert watch.changed() == {"pack"}


def test_links_are_not_followed_and_a_huge_folder_is_never_called_unchanged(tmp_path, monkeypatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    (root / "pack").mkdir(parents=True)
    (root / "pack" / "link").symlink_to(outside)
    watch = FolderWatch(root)
    (outside / "file").write_text("x")
    assert watch.changed() == set()

    monkeypatch.setattr(folder_watch, "ENTRIES", 0)
    assert watch.changed() == {"pack"}
    assert watch.changed() == {"pack"}


def test_a_missing_root_is_an_empty_one(tmp_path) -> None:
    watch = FolderWatch(tmp_path / "absent")
    assert watch.changed() == set()
