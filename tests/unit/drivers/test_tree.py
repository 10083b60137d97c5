"""Reading trees with one thread and with two: the same digest, the same refusals, and nothing left behind."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from backend_core import files
from backend_core.errors import HostError, TrustError
from backend_core.files import sync_file_system
from core_runtime.drivers import tree
from core_runtime.drivers.tree import LARGE_BYTES, read_tree
from core_runtime.rules.digest import FileEntry, TreeLimits, tree_digest

SMALL, LARGE, HUGE = 700, LARGE_BYTES + 1, tree.BUFFER_BYTES * 2 + 17


def fill(root: Path, sizes: list[int]) -> None:
    chance = random.Random(len(sizes))
    for number, size in enumerate(sizes):
        path = root / f"folder-{number % 5}" / f"file-{number:03}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
        path.chmod(0o755 if number % 3 == 0 else 0o644)


def plainly(root: Path) -> str:
    """The digest by its definition, without anything of the reader."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return tree_digest(
        FileEntry(
            path.relative_to(root).as_posix(),
            bool(path.stat().st_mode & 0o111),
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
    )


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


MIXTURES = {
    "none": [],
    "empty files": [0, 0, 1],
    "small": [SMALL] * 40,
    "large": [LARGE] * 60,
    "huge": [HUGE] * 4,
    "one huge among small": [SMALL] * 30 + [HUGE * 3] + [SMALL] * 30,
    "by turns": [SMALL, HUGE, LARGE] * 20,
    "at the border": [LARGE_BYTES - 1, LARGE_BYTES, tree.BUFFER_BYTES, tree.BUFFER_BYTES + 1] * 5,
}


@pytest.mark.parametrize("sizes", MIXTURES.values(), ids=MIXTURES.keys())
@pytest.mark.parametrize("copied", [False, True], ids=["read", "copied"])
def test_every_mixture_of_sizes_has_the_digest_of_the_definition(tmp_path, sizes, copied):
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    copy.mkdir()
    fill(source, sizes)
    before = descriptors(), threading.active_count()
    found = read_tree(source, copy_to=copy if copied else None)
    assert found.digest == plainly(source)
    assert found.total_bytes == sum(sizes)
    assert [entry.path for entry in found.entries] == sorted(entry.path for entry in found.entries)
    assert (descriptors(), threading.active_count()) == before
    if copied:
        assert plainly(copy) == found.digest


def test_large_files_get_a_helper_and_small_ones_do_not(tmp_path, monkeypatch):
    names: set[str] = set()
    real = tree._hash

    def watched(*arguments):
        names.add(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(tree, "_hash", watched)
    fill(tmp_path, [SMALL] * 200)
    read_tree(tmp_path)
    assert "tree" not in names
    fill(tmp_path, [HUGE] * 12)
    read_tree(tmp_path)
    assert "tree" in names


def test_a_machine_without_threads_reads_alone(tmp_path, monkeypatch):
    fill(tmp_path, [HUGE] * 4)

    def start(_self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert read_tree(tmp_path).digest == plainly(tmp_path)


@pytest.mark.parametrize("victim", range(0, 24, 3))
@pytest.mark.parametrize("size", [SMALL, HUGE], ids=["small", "huge"])
def test_one_bad_file_refuses_the_tree_whichever_thread_meets_it(tmp_path, victim, size):
    fill(tmp_path / "tree", [size] * 24)
    path = tmp_path / "tree" / f"folder-{victim % 5}" / f"file-{victim:03}.bin"
    os.link(path, tmp_path / "elsewhere")
    before, running = descriptors(), set(threading.enumerate())
    with pytest.raises(TrustError, match="hard links") as refused:
        read_tree(tmp_path / "tree")
    assert path.name in refused.value.fields["path"]
    assert descriptors() == before
    assert set(threading.enumerate()) <= running, "a thread of its own is left"


@pytest.mark.parametrize("sizes", [[HUGE] * 12, [SMALL] * 12, [SMALL, HUGE] * 6], ids=["huge", "small", "mixed"])
def test_the_limit_of_bytes_holds_for_both_threads_together(tmp_path, sizes):
    fill(tmp_path, sizes)
    assert read_tree(tmp_path, limits=TreeLimits(total_bytes=sum(sizes))).total_bytes == sum(sizes)
    with pytest.raises(TrustError, match="larger than the bytes allowed"):
        read_tree(tmp_path, limits=TreeLimits(total_bytes=sum(sizes) - 1))


@pytest.mark.parametrize("change", ["grows", "shrinks", "same size"])
@pytest.mark.parametrize("size", [SMALL, HUGE], ids=["small", "huge"])
def test_a_file_that_changes_while_it_is_hashed_refuses_the_tree(tmp_path, monkeypatch, change, size):
    fill(tmp_path, [size])
    victim = next(path for path in tmp_path.rglob("*") if path.is_file())
    real = tree._hash

    def changed_first(fd, *arguments):
        data = victim.read_bytes()
        os.utime(victim, ns=(1, 1))
        victim.write_bytes({"grows": data + b"x", "shrinks": data[:-1], "same size": data[::-1]}[change])
        return real(fd, *arguments)

    monkeypatch.setattr(tree, "_hash", changed_first)
    with pytest.raises(TrustError) as refused:
        read_tree(tmp_path)
    assert refused.value.code == "changed_while_reading"


def test_a_failed_copy_is_the_hosts_error_and_names_the_file(tmp_path):
    fill(tmp_path / "tree", [SMALL])
    copy = tmp_path / "copy"
    (copy / "folder-0").mkdir(parents=True)
    with pytest.raises(HostError) as failed:
        read_tree(tmp_path / "tree", copy_to=copy)
    assert failed.value.code == "storage"
    assert "folder-0" in failed.value.detail


def test_syncing_a_file_system_takes_a_folder_and_reports_what_failed(tmp_path):
    sync_file_system(tmp_path)
    with pytest.raises(OSError) as failed:
        sync_file_system(tmp_path / "missing")
    assert failed.value.errno == errno.ENOENT


def test_syncing_where_the_system_has_no_such_call_syncs_everything(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files._Probe, "libc", None)
    monkeypatch.setattr(files.os, "sync", lambda: synced.append(True))
    sync_file_system(tmp_path)
    assert synced == [True]
