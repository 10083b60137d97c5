"""The swap race, many thousand times: files change their bytes while the host reads, copies, verifies and starts them.

Whatever the racer does, what is stored is what its digest says, and what runs is what was approved.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from backend_core.errors import ConflictError, RumiError, TrustError
from core_runtime.drivers import store as store_module
from core_runtime.drivers.store import TreeStore
from tests.support.trust_home import SETUP, STANDARD, TrustHome

GOOD = b"# approved\n" * 40
EVIL = b"# attacker\n" * 40
assert len(GOOD) == len(EVIL)
NAME = "swapped.py"


@pytest.fixture
def fast_folder():
    """In memory where the machine has such a folder: the race is about bytes, not about a disk."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="rumi-swaps-", dir=where))
    yield folder
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False)
    shutil.rmtree(folder)


class Swapper:
    """Swaps a file between two contents as fast as it can: in place, by rename, by link."""

    def __init__(self, path: Path, *, pause_s: float = 0.0) -> None:
        self.path, self._pause_s, self.swaps = path, pause_s, 0
        self._aside = path.parent.parent / "swapper-aside"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="swapper")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        chance = random.Random(7)
        for content in itertools.cycle((EVIL, GOOD)):
            if self._stop.wait(self._pause_s * chance.random()):
                break
            way = chance.random()
            if way < 0.6:
                with self.path.open("r+b") as file:
                    file.write(content)
            elif way < 0.9:
                self._aside.write_bytes(content)
                self._aside.replace(self.path)
            else:  # a link for a moment, then a file again
                self._aside.unlink(missing_ok=True)
                self._aside.symlink_to("/etc/hostname")
                self._aside.replace(self.path)
                self._aside.write_bytes(content)
                self._aside.replace(self.path)
            self.swaps += 1


@pytest.mark.slow
def test_ten_thousand_copies_of_a_file_that_is_being_swapped(fast_folder, monkeypatch):
    monkeypatch.setattr(store_module, "_sync_file", lambda _path: None)  # not about the disk: ten times the rounds
    source = fast_folder / "source"
    source.mkdir()
    (source / "still.py").write_bytes(b"pass\n")
    (source / NAME).write_bytes(GOOD)
    digests = {}
    for content in (GOOD, EVIL):
        (source / NAME).write_bytes(content)
        digests[TreeStore(fast_folder / "measure").ingest(source).digest] = hashlib.sha256(content).hexdigest()
    store = TreeStore(fast_folder / "store")
    rounds = copies = refused = 0
    seen: set[str] = set()
    causes: set[str] = set()
    with Swapper(source / NAME, pause_s=0.0002) as swapper:
        deadline = time.monotonic() + 100
        while rounds < 10_000:
            assert time.monotonic() < deadline, f"only {rounds} rounds in time"
            rounds += 1
            try:
                stored = store.ingest(source)
            except TrustError as error:
                causes.add(error.code)
                refused += 1
                continue
            copies += 1
            kept = hashlib.sha256((stored.path / NAME).read_bytes()).hexdigest()
            said = {entry.path: entry.sha256 for entry in stored.tree.entries}[NAME]
            assert kept == said, "the stored bytes are not the ones that were hashed"
            assert digests.get(stored.digest, kept) == kept
            seen.add(kept)
            if rounds % 50 == 0:
                assert store.verify(stored.digest).digest == stored.digest
            store.release(stored.digest)
            if rounds % 500 == 0:
                store.collect(tuple)
    print(f"{rounds} rounds, {copies} copies, {refused} refused, {swapper.swaps} swaps")
    assert copies > 1_000, "the race was refused nearly always: it proves nothing"
    assert swapper.swaps > 5_000
    assert causes <= {"tree_refused", "changed_while_reading"}
    assert set(digests.values()) <= seen, "one of the two contents never came through: no race happened"
    assert not list((fast_folder / "store/trees").glob(".incoming-*"))


def starts_while_swapped(home: TrustHome, rounds: int, run, limit_s: float) -> tuple[int, int, int]:
    """``rounds`` times: put the approved bytes back, approve exactly them, open for a start while a racer swaps; run.

    ``run(path)`` gives the bytes that a sandbox really sees below ``path``.
    """
    started = refused = stale = 0
    deadline = time.monotonic() + limit_s
    path = home.packs_dir / "alpha" / NAME
    home.add(files={NAME: GOOD.decode()})
    approved = home.approve().digest
    with Swapper(path, pause_s=0.002):
        for number in range(rounds):
            assert time.monotonic() < deadline, f"only {number} rounds in time"
            try:
                copy = home.approvals.open_for_start("alpha", isolation=STANDARD)
            except RumiError:
                refused += 1
                # the operator decides again, for exactly the files once shown: others are stale, whenever they come
                try:
                    home.approve(digest=approved)
                except (ConflictError, TrustError):
                    stale += 1
                    continue
                try:
                    copy = home.approvals.open_for_start("alpha", isolation=STANDARD)
                except RumiError:
                    stored = home.approvals._store.verify(approved)
                    assert run(stored.path / NAME) == GOOD
                    started += 1
                    continue
            assert copy.digest == approved
            assert run(copy.path / NAME) == GOOD, "a foreign byte was about to run"
            started += 1
    return started, refused, stale


@pytest.mark.slow
@pytest.mark.embedded
def test_five_hundred_embedded_starts_of_a_pack_that_is_being_swapped(fast_folder):
    bwrap = shutil.which("bwrap")
    assert bwrap
    fast_folder.chmod(0o755)

    def run(path: Path) -> bytes:
        binds = [
            word for lib in ("/usr", "/lib", "/lib64", "/bin") if Path(lib).exists() for word in ("--ro-bind", lib, lib)
        ]
        command = [bwrap, "--unshare-all", *binds, "--ro-bind", str(path.parent), "/pack", "cat", f"/pack/{path.name}"]
        return subprocess.run(command, check=True, capture_output=True, timeout=20).stdout

    home = TrustHome(fast_folder / "home")
    started, refused, stale = starts_while_swapped(home, 500, run, 100)
    print(f"{started} started, {refused} starts refused, {stale} stale approvals")
    assert started > 50
    assert refused > 50
    assert (home.packs_dir / "alpha" / SETUP).exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.docker
def test_hundred_docker_starts_of_a_pack_that_is_being_swapped(tmp_path):
    docker = shutil.which("docker")
    if docker is None:
        pytest.skip("no docker command to run a plain container with")
    image = os.environ.get("RUMI_BASE_IMAGE", "rumi-pack-base:1")

    def run(path: Path) -> bytes:
        command = [docker, "run", "--rm", "--network", "none", "--read-only", "--entrypoint", "cat",
                   "-v", f"{path.parent}:/pack:ro", image, f"/pack/{path.name}"]  # fmt: skip
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    started, refused, stale = starts_while_swapped(TrustHome(tmp_path / "home"), 100, run, 240)
    print(f"{started} started, {refused} starts refused, {stale} stale approvals")
    assert started > 10
    assert refused > 10
