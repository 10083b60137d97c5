"""Reading a whole tree once: hashed, and copied in the same pass when asked to.

Invariants:
  * What is copied is what was hashed: each buffer goes to the hash and to the copy before the next read.
  * A path is opened below the root's descriptor without passing a link or a mount (``open_beneath``); only regular
    files with one link are read; a file that changes while it is read refuses the tree.
  * Every refusal is a ``TrustError`` that names the path. Nothing is skipped.

Two threads share the files (hashing and reading release the interpreter lock), each with one reused buffer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend_core.errors import HostError, TrustError, quote
from backend_core.files import name_fault, open_beneath, openat2_works, write_all
from core_runtime.rules.digest import FileEntry, TreeLimits, normal_path, tree_digest, twins

THREADS = 2
BUFFER_BYTES = 256 * 1024
SMALL_TREE_BYTES = 256 * 1024  # below it a second thread costs more than it saves


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree that was read: its files sorted by path, and its digest."""

    entries: tuple[FileEntry, ...]
    digest: str
    total_bytes: int


def read_tree(root: Path, *, limits: TreeLimits | None = None, copy_to: Path | None = None) -> Tree:
    """Hash every file below ``root``; with ``copy_to`` (an empty folder of ours) write each there as it is read.

    Raises:
        TrustError: ``tree_refused`` with the path and the reason; the copy is incomplete then.
        HostError: the machine can't read or write (full disk, input/output error).
    """
    bounds = limits or TreeLimits()
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise refusal("", f"is no readable folder ({error.strerror})", code="folder_missing") from error
    try:
        files = list_files(descriptor, bounds, copy_to)
        entries = _read_files(descriptor, files, bounds, copy_to)
    except OSError as error:
        raise HostError(
            "A Pack's files can't be read or copied",
            code="storage",
            detail=f"{error.strerror or error} ({quote(error.filename or '')})",
            hint="Check the disk (space, permissions, errors), then scan again.",
        ) from error
    finally:
        os.close(descriptor)
    entries.sort(key=lambda entry: entry.path.encode())
    return Tree(tuple(entries), tree_digest(entries), sum(entry.size for entry in entries))


def refusal(path: str, reason: str, *, code: str = "tree_refused") -> TrustError:
    """The one way in which a tree is refused: with its path."""
    shown = quote(path) if path else "the Pack's folder"
    return TrustError(
        "The Pack's files are refused",
        code=code,
        detail=f"{shown} {reason}.",
        hint="Remove or replace it, then scan the Pack again.",
        fields={"path": quote(path)},
    )


Parts = tuple[str, ...]


def list_files(root: int, limits: TreeLimits, copy_to: Path | None = None) -> list[Parts]:
    """Every file below the descriptor ``root`` as path components; folders are made in ``copy_to`` on the way."""
    files: list[Parts] = []
    folders: list[Parts] = [()]
    seen_folders = 1
    while folders:
        where = folders.pop()
        names = _children(root, where)
        for name, is_folder in names:
            _check_name(where, name, limits)
            if is_folder:
                folders.append((*where, name))
                seen_folders += 1
            else:
                files.append((*where, name))
        if len(files) + seen_folders > limits.files:
            raise refusal("/".join(where), f"holds more than the {limits.files} files and folders allowed")
        if copy_to is not None and where:
            copy_to.joinpath(normal_path(where)).mkdir(0o700)
    return files


def _children(root: int, where: Parts) -> list[tuple[str, bool]]:
    try:
        folder = open_beneath(root, where, os.O_RDONLY | os.O_DIRECTORY, use_openat2=openat2_works())
    except OSError as error:
        raise _translate(error, where) from error
    try:
        with os.scandir(folder) as scan:
            found = [(entry.name, _is_folder(where, entry)) for entry in scan]
    finally:
        os.close(folder)
    pair = twins([name for name, _ in found])
    if pair:
        raise refusal("/".join((*where, pair[0])), f"and {quote(pair[1])} beside it are one name to some systems")
    return found


def _is_folder(where: Parts, entry: os.DirEntry[str]) -> bool:
    if entry.is_symlink():
        raise refusal("/".join((*where, entry.name)), "is a symbolic link")
    if entry.is_dir(follow_symlinks=False):
        return True
    if not entry.is_file(follow_symlinks=False):
        raise refusal("/".join((*where, entry.name)), "is a device, FIFO or socket")
    return False


def _check_name(where: Parts, name: str, limits: TreeLimits) -> None:
    fault = name_fault(name)
    if fault:
        raise refusal("/".join((*where, name)), f"has a name that {fault}")
    if len(where) + 1 > limits.depth or len(normal_path((*where, name)).encode()) > limits.path_bytes:
        raise refusal(
            "/".join((*where, name)), f"is deeper than {limits.depth} or longer than {limits.path_bytes} bytes"
        )


class _Budget:
    """Bytes that may still be read, shared by the threads; an index that hands out files."""

    def __init__(self, count: int, total_bytes: int) -> None:
        self._lock = threading.Lock()
        self._next = 0
        self._count = count
        self._left = total_bytes
        self.failed = False

    def jobs(self) -> Iterator[int]:
        while not self.failed:
            with self._lock:
                index = self._next
                self._next += 1
            if index >= self._count:
                return
            yield index

    def spend(self, size: int, parts: Parts) -> None:
        with self._lock:
            self._left -= size
            if self._left < 0:
                raise refusal("/".join(parts), "makes the Pack larger than the bytes allowed")


def _read_files(root: int, files: Sequence[Parts], limits: TreeLimits, copy_to: Path | None) -> list[FileEntry]:
    entries: list[FileEntry] = []
    errors: list[BaseException] = []
    budget = _Budget(len(files), limits.total_bytes)

    def work() -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            entries.extend([_read_file(root, files[index], buffer, budget, copy_to) for index in budget.jobs()])
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread, where it is raised
            budget.failed = True
            errors.append(error)

    helpers = [threading.Thread(target=work, name="tree") for _ in range(_helpers(root, files))]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
    return entries


def _helpers(root: int, files: Sequence[Parts]) -> int:
    """How many threads help the calling one: none when the first files show a small tree."""
    if len(files) >= 64:
        return THREADS - 1
    total = 0
    for parts in files:
        try:
            total += os.stat("/".join(parts), dir_fd=root, follow_symlinks=False).st_size
        except OSError:
            return 0  # vanished or forbidden: the reader will name it
        if total > SMALL_TREE_BYTES:
            return THREADS - 1
    return 0


def _read_file(root: int, parts: Parts, buffer: memoryview, budget: _Budget, copy_to: Path | None) -> FileEntry:
    try:
        fd = open_beneath(root, parts, os.O_RDONLY | os.O_NONBLOCK, use_openat2=openat2_works())
    except OSError as error:
        raise _translate(error, parts) from error
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise refusal("/".join(parts), "is no regular file")
        if before.st_nlink != 1:
            raise refusal("/".join(parts), f"has {before.st_nlink} hard links")
        budget.spend(before.st_size, parts)
        executable = bool(before.st_mode & 0o111)
        digest = _hash(fd, before.st_size, buffer, _copy_of(copy_to, parts), executable=executable)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if digest is None or _moment(before) != _moment(after):
        raise refusal("/".join(parts), "changed while it was being read", code="changed_while_reading")
    return FileEntry(normal_path(parts), executable, before.st_size, digest)


def _moment(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_nlink


def _copy_of(copy_to: Path | None, parts: Parts) -> Path | None:
    return None if copy_to is None else copy_to.joinpath(normal_path(parts))


def _hash(fd: int, size: int, buffer: memoryview, copy: Path | None, *, executable: bool) -> str | None:
    """SHA-256 of exactly ``size`` bytes, or None when the file ends earlier."""
    out = -1 if copy is None else os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        digest = hashlib.sha256()
        left = size
        while left:
            count = os.readv(fd, [buffer[: min(left, BUFFER_BYTES)]])
            if count == 0:
                return None
            digest.update(buffer[:count])
            if out >= 0:
                write_all(out, buffer[:count])
            left -= count
        if out >= 0:
            os.fchmod(out, 0o555 if executable else 0o444)
        return digest.hexdigest()
    finally:
        if out >= 0:
            os.close(out)


def _translate(error: OSError, parts: Parts) -> TrustError | OSError:
    path = "/".join(parts)
    if error.errno == errno.ELOOP:
        return refusal(path, "is or passes a symbolic link")
    if error.errno == errno.EXDEV:
        return refusal(path, "lies on another file system (a mount)")
    if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV}:
        return refusal(path, "changed while it was being read", code="changed_while_reading")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return refusal(path, "can't be read by the host")
    return error
