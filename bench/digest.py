"""Reading trees of files beside ``sha256sum`` and bare loops over the same files, all of them in the page cache.

Four trees: many files of 100 KB (the row that is demanded), many small ones (a Pack with its libraries), few very large
ones, and one that is copied into the store, which is mostly the disk's work.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from bench.harness import Report, Subject, measure
from core_runtime.drivers.store import TreeStore
from core_runtime.drivers.tree import BUFFER_BYTES, list_files, read_tree
from core_runtime.rules.digest import TreeLimits

MB = 1024 * 1024
FILES = 5_000
TOTAL_BYTES = 512 * MB
OURS = "digest of a tree, 5,000 files, 512 MB"
VERIFY = "verify before a start, 5,000 files, 512 MB"
PEER = "peer: sha256sum by xargs -P2"
EVEN_PEER = "peer: sha256sum by xargs -P2 -n200"
FLOOR = "floor: open, read, hash, two threads"


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows. The second peer spreads its files evenly over both processes; ``xargs -P2`` alone does not."""
    if shutil.which("sha256sum") is None:
        report.missing[OURS] = "sha256sum is not installed"
        return
    share, rounds = (10, 3) if quick else (1, 7)
    with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder:
        base = Path(folder)
        _measure_usual(report, base / "usual", share, rounds)
        _measure_size(report, base / "small", "10,000 files of 3 KB", 10_000 // share, 3_000, rounds)
        _measure_size(report, base / "large", "4 files of 128 MB", 4, 128 * MB // share, rounds)
        _measure_copy(report, base / "copied", share, rounds)


def _measure_usual(report: Report, base: Path, share: int, rounds: int) -> None:
    root = base / "source"
    _fill(root, FILES // share, TOTAL_BYTES // FILES)
    store = TreeStore(base / "store")
    stored = store.ingest(root).digest
    subjects: dict[str, Subject] = {
        PEER: _times(lambda: _sha256sum(root, "")),
        EVEN_PEER: _times(lambda: _sha256sum(root, "-n200")),
        FLOOR: _times(lambda: _floor(root, 2)),
        OURS: _times(lambda: read_tree(root)),
        VERIFY: _times(lambda: store.verify(stored)),
    }
    report.rows += measure(
        subjects,
        n=1,
        rounds=rounds,
        reference=dict.fromkeys((OURS, VERIFY, FLOOR, EVEN_PEER), (PEER, 1.0)),
        must={OURS: "must ≤ 0.20 (5×)"},
    )
    shutil.rmtree(base, ignore_errors=True)


def _measure_size(report: Report, root: Path, what: str, files: int, size: int, rounds: int) -> None:
    _fill(root, files, size)
    peer, ours = f"{EVEN_PEER}, {what}", f"digest of a tree, {what}"
    alone, both = f"floor: open, read, hash, one thread, {what}", f"{FLOOR}, {what}"
    subjects: dict[str, Subject] = {
        peer: _times(lambda: _sha256sum(root, "-n200" if files > 200 else "-n1")),
        alone: _times(lambda: _floor(root, 1)),
        both: _times(lambda: _floor(root, 2)),
        ours: _times(lambda: read_tree(root)),
    }
    report.rows += measure(subjects, n=1, rounds=rounds, reference=dict.fromkeys((ours, alone, both), (peer, 1.0)))
    shutil.rmtree(root)


def _measure_copy(report: Report, base: Path, share: int, rounds: int) -> None:
    """Both leave a synced copy, and both remove it again outside of the time that is taken."""
    root, plain = base / "source", base / "plain"
    _fill(root, 1_000 // share, TOTAL_BYTES // FILES)
    store = TreeStore(base / "store")

    def ours(_: int) -> float:
        start = time.perf_counter()
        stored = store.ingest(root)
        taken = time.perf_counter() - start
        store.release(stored.digest)
        store.collect(tuple)
        return taken

    def floor(_: int) -> float:
        start = time.perf_counter()
        subprocess.run(["sh", "-c", 'cp -r "$0" "$1" && sync -f "$1"', root, plain], check=True, timeout=300)
        taken = time.perf_counter() - start
        shutil.rmtree(plain)
        return taken

    name, reference = "copy into the store, 1,000 files, 100 MB", "floor: cp -r, then sync -f, no digest"
    report.rows += measure({reference: floor, name: ours}, n=1, rounds=rounds, reference={name: (reference, 1.0)})


def _times(work: Callable[[], object]) -> Subject:
    def subject(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            work()
        return time.perf_counter() - start

    return subject


def _fill(root: Path, files: int, size: int) -> None:
    block = os.urandom(size + files)
    for number in range(files):
        folder = root / f"folder-{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{number}.bin").write_bytes(memoryview(block)[number : number + size])


def _sha256sum(root: Path, spread: str) -> None:
    command = f"find . -type f -print0 | xargs -0 -P2 {spread} sha256sum > /dev/null"
    subprocess.run(["sh", "-c", command], cwd=root, check=True, timeout=300)


def _floor(root: Path, threads: int) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    paths = ["/".join(parts) for parts in list_files(descriptor, TreeLimits())]

    def work(part: list[str]) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for path in part:
            fd = os.open(path, os.O_RDONLY, dir_fd=descriptor)
            digest = sha256()
            while count := os.readv(fd, [buffer]):
                digest.update(buffer[:count])
            digest.digest()
            os.close(fd)

    helpers = [threading.Thread(target=work, args=(paths[number::threads],)) for number in range(1, threads)]
    for helper in helpers:
        helper.start()
    work(paths[::threads])
    for helper in helpers:
        helper.join()
    os.close(descriptor)
