"""The digest of a large tree beside ``sha256sum`` over the same files, all of them in the page cache."""

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
from core_runtime.drivers.tree import BUFFER_BYTES, list_files, read_tree
from core_runtime.rules.digest import TreeLimits

FILES = 5_000
TOTAL_BYTES = 512 * 1024 * 1024
OURS = "digest of a tree, 5,000 files, 512 MB"
PEER = "peer: sha256sum by xargs -P2"
EVEN_PEER = "peer: sha256sum by xargs -P2 -n200"
FLOOR = "floor: open, read, hash, two threads"


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows. The second peer spreads its files evenly over both processes; ``xargs -P2`` alone does not."""
    if shutil.which("sha256sum") is None:
        report.missing[OURS] = "sha256sum is not installed"
        return
    share = 10 if quick else 1
    with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder:
        root = Path(folder)
        _fill(root, FILES // share, TOTAL_BYTES // share)
        subjects: dict[str, Subject] = {
            PEER: _times(lambda: _sha256sum(root, "")),
            EVEN_PEER: _times(lambda: _sha256sum(root, "-n200")),
            FLOOR: _times(lambda: _floor(root)),
            OURS: _times(lambda: read_tree(root)),
        }
        report.rows += measure(
            subjects,
            n=1,
            rounds=3 if quick else 7,
            reference=dict.fromkeys((OURS, FLOOR, EVEN_PEER), (PEER, 1.0)),
            must={OURS: "must ≤ 0.20 (5×)"},
        )


def _times(work: Callable[[], object]) -> Subject:
    def subject(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            work()
        return time.perf_counter() - start

    return subject


def _fill(root: Path, files: int, total_bytes: int) -> None:
    size = total_bytes // files
    block = os.urandom(size + files)
    for number in range(files):
        folder = root / f"folder-{number // 100}"
        folder.mkdir(exist_ok=True)
        (folder / f"file-{number}.bin").write_bytes(block[number : number + size])


def _sha256sum(root: Path, spread: str) -> None:
    command = f"find . -type f -print0 | xargs -0 -P2 {spread} sha256sum > /dev/null"
    subprocess.run(["sh", "-c", command], cwd=root, check=True, timeout=300)


def _floor(root: Path) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    paths = ["/".join(parts) for parts in list_files(descriptor, TreeLimits())]

    def work(part: list[str]) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for path in part:
            fd = os.open(path, os.O_RDONLY, dir_fd=descriptor)
            sha256(buffer[: os.readv(fd, [buffer])]).digest()
            os.close(fd)

    helper = threading.Thread(target=work, args=(paths[::2],))
    helper.start()
    work(paths[1::2])
    helper.join()
    os.close(descriptor)
