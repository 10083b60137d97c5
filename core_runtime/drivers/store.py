"""The content-addressed store: ``user_data/store/trees/<digest hex>/`` holds the bytes that run.

Invariants:
  * A tree appears under its digest only complete and synced (``.incoming-*`` beside it, then one rename); its files are
    0444 or 0555 and its folders 0555, and a sandbox user can pass the folders above (0711) without listing them.
  * ``verify`` reads every byte again; what does not match its name is never handed out.
  * A tree is removed only when ``collect`` is told what must stay, and never while it is pinned (being approved).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from backend_core.errors import HostError, TrustError
from backend_core.files import fsync_folder, private_folder, sync_file_system
from core_runtime.drivers.faults import hit
from core_runtime.drivers.tree import Tree, read_tree, refusal
from core_runtime.rules.digest import PREFIX, TreeLimits

INCOMING = ".incoming-"
FEW_FILES = 64
"""Up to here each file is synced by itself; beyond, one sync of the file system costs less."""


class Stored(Struct, frozen=True):
    """A tree in the store."""

    path: Path
    tree: Tree

    @property
    def digest(self) -> str:
        """``sha256:<64 hex>``."""
        return self.tree.digest


class TreeStore:
    """The trees below one folder. Thread-safe."""

    def __init__(self, root: Path, *, limits: TreeLimits | None = None) -> None:
        self._trees = root / "trees"
        self._limits = limits or TreeLimits()
        self._mutex = threading.Lock()
        self._pinned: Counter[str] = Counter()
        private_folder(root, 0o711)
        private_folder(self._trees, 0o711)
        self._remove_incoming()

    def path(self, digest: str) -> Path:
        """Where the tree of ``digest`` is or would be."""
        return self._trees / digest.removeprefix(PREFIX)

    def ingest(self, source: Path) -> Stored:
        """Copy ``source`` while hashing it, and publish the copy. The tree stays pinned until ``release``.

        Raises:
            TrustError: the tree is refused, with the path named.
            HostError: the disk is full or fails; nothing is left behind.
        """
        incoming = self._trees / f"{INCOMING}{secrets.token_hex(8)}"
        incoming.mkdir(0o700)
        try:
            tree = read_tree(source, limits=self._limits, copy_to=incoming)
            with _storage():
                _settle(incoming, len(tree.entries))
                hit("store.copied")
                with self._mutex:
                    self._pinned[tree.digest] += 1
                try:
                    self._publish(incoming, tree)
                except BaseException:
                    self.release(tree.digest)
                    raise
        finally:
            discard(incoming)
        hit("store.published")
        return Stored(self.path(tree.digest), tree)

    def verify(self, digest: str) -> Stored:
        """Read the tree of ``digest`` again, completely. ``TrustError`` ``store_missing`` or ``store_corrupt``."""
        path = self.path(digest)
        if not path.is_dir():
            raise _unverified("store_missing", digest, "The approved copy is not in the store.")
        try:
            tree = read_tree(path, limits=self._limits)
        except TrustError as error:
            raise _unverified("store_corrupt", digest, str(error)) from error
        if tree.digest != digest:
            raise _unverified("store_corrupt", digest, f"The copy's bytes have the digest {tree.digest}.")
        return Stored(path, tree)

    def release(self, digest: str) -> None:
        """Undo one pin of ``ingest``."""
        with self._mutex:
            self._pinned[digest] -= 1
            if self._pinned[digest] <= 0:
                del self._pinned[digest]

    @contextlib.contextmanager
    def pinned(self, digests: Iterable[str]) -> Iterator[None]:
        """Keep these trees, as far as they are there, for as long as the block lasts."""
        held = tuple(digests)
        with self._mutex:
            self._pinned.update(held)
        try:
            yield
        finally:
            for digest in held:
                self.release(digest)

    def collect(self, keep: Callable[[], Iterable[str] | None]) -> list[str]:
        """Remove every tree that is neither in ``keep()`` nor pinned; the digests removed. ``None``: it can't be told.

        Nothing is pinned or released while this runs: what a decision under way needs is pinned, or known to ``keep``.
        """
        removed: list[str] = []
        with self._mutex:
            needed = keep()
            if needed is None:
                return removed
            kept = {digest.removeprefix(PREFIX) for digest in (*needed, *self._pinned)}
            for path in sorted(self._trees.iterdir()):
                if not path.name.startswith(INCOMING) and path.name not in kept:
                    discard(path)
                    removed.append(PREFIX + path.name)
        return removed

    def overlay(self, stored: Stored, files: Mapping[str, bytes]) -> Stored:
        """A tree like ``stored`` with ``files`` (by path) in place of its own or beside them; pinned until ``release``.

        Raises:
            TrustError: the copy does not verify, or the tree that would come of it is refused, with the path named.
            HostError: the disk is full or fails; nothing is left behind.
        """
        with tempfile.TemporaryDirectory(prefix=INCOMING, dir=self._trees) as scratch, _storage():
            folder = Path(scratch, "tree")
            self.copy_out(stored, folder)
            for path, data in files.items():
                _put(folder, path, data)
            return self.ingest(folder)

    def copy_out(self, stored: Stored, target: Path) -> None:
        """Write a verified tree to ``target`` (a new folder), with ordinary modes; verified again on the way."""
        target.mkdir(0o755)
        with _storage():
            tree = read_tree(stored.path, limits=self._limits, copy_to=target)
            if tree.digest != stored.digest:
                raise _unverified("store_corrupt", stored.digest, f"The copy's bytes have the digest {tree.digest}.")
            ordinary_modes(target)
            sync_file_system(target)

    def _publish(self, incoming: Path, tree: Tree) -> None:
        final = self.path(tree.digest)
        with self._mutex:
            if final.exists():
                if self._intact(final, tree.digest):
                    return
                discard(final)
            incoming.rename(final)
            fsync_folder(self._trees)

    def _intact(self, path: Path, digest: str) -> bool:
        try:
            return read_tree(path, limits=self._limits).digest == digest
        except (TrustError, HostError):  # damaged is an answer: the caller makes it anew
            return False

    def _remove_incoming(self) -> None:
        for path in self._trees.glob(f"{INCOMING}*"):
            discard(path)


def _settle(folder: Path, files: int) -> None:
    """Make a finished copy durable and read-only, folders last."""
    if files > FEW_FILES:
        sync_file_system(folder)
    for where, _, names in os.walk(folder, topdown=False):
        if files <= FEW_FILES:
            for name in names:
                _sync_file(Path(where, name))
        if files <= FEW_FILES:
            fsync_folder(Path(where))
        Path(where).chmod(0o555)


def _put(folder: Path, path: str, data: bytes) -> None:
    """Write one file of a copy of ours; folders that are missing are made, the executable bit stays as it is."""
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise refusal(path, "is a file where there is a folder, or a folder where there is a file") from error


def ordinary_modes(folder: Path) -> None:
    """A copied tree as its owner may edit it; executable bits stay."""
    for where, _, names in os.walk(folder):
        Path(where).chmod(0o755)
        for name in names:
            path = Path(where, name)
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def discard(path: Path) -> None:
    """Remove a tree with read-only folders. It leaves its name first, so that no half tree has a digest."""
    if not path.exists():
        return
    doomed = path
    if not path.name.startswith(INCOMING):
        doomed = path.with_name(f"{INCOMING}{secrets.token_hex(8)}")
        path.rename(doomed)
    for where, folders, _ in os.walk(doomed):
        for name in folders:
            with contextlib.suppress(OSError):  # the next start tries again
                Path(where, name).chmod(0o700)
    with contextlib.suppress(OSError):  # the next start tries again
        doomed.chmod(0o700)
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def _storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(
            "The store can't be written",
            code="storage",
            detail=f"{error.strerror or error}",
            hint="Make room on the disk that holds user_data, then try again.",
        ) from error


def _unverified(code: str, digest: str, detail: str) -> TrustError:
    return TrustError(
        "The approved copy does not verify",
        code=code,
        detail=detail,
        hint="Approve the Pack again: its files are then copied anew.",
        fields={"digest": digest},
    )
