"""Reading a whole tree once: hashed, and copied in the same pass when asked to.

Invariants:
  * What is copied is what was hashed: each buffer goes to the hash and to the copy before the next read.
  * A path is opened below the root's descriptor without passing a link or a mount (``open_beneath``); only regular
    files with one link are read; a file that changes while it is read refuses the tree.
  * Every refusal is a ``TrustError`` that names the path. Nothing is skipped.

A second thread helps with large files, whose hashing releases the interpreter lock. It never helps with small ones: two
threads that make many short system calls mostly wait for each other's lock. Each thread reuses one buffer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from backend_core.errors import HostError, TrustError, quote
from backend_core.files import name_fault, open_beneath, openat2_works, write_all
from core_runtime.rules.digest import FileEntry, TreeLimits, normal_path, tree_digest, twins

BUFFER_BYTES = 256 * 1024
LARGE_BYTES = 16 * 1024
"""From here on two threads read files faster than one: hashing takes longer than the system calls around it."""
HELP_BYTES = 256 * 1024
"""What must have come in large files to be worth a thread."""
NO_COPY = -1


class Tree(Struct, frozen=True):
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
    copy = NO_COPY
    try:
        if copy_to is not None:
            copy = os.open(copy_to, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        entries = _Reader(descriptor, copy, bounds.total_bytes).read(list_files(descriptor, bounds, copy))
    except OSError as error:
        raise HostError(
            "A Pack's files can't be read or copied",
            code="storage",
            detail=f"{error.strerror or error} ({quote(error.filename or '')})",
            hint="Check the disk (space, permissions, errors), then scan again.",
        ) from error
    finally:
        os.close(descriptor)
        if copy != NO_COPY:
            os.close(copy)
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


def list_files(root: int, limits: TreeLimits, copy: int = NO_COPY) -> list[Parts]:
    """Every file below the descriptor ``root`` as path components; folders are made below ``copy`` on the way."""
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
        if copy != NO_COPY and where:
            os.mkdir(normal_path(where), 0o700, dir_fd=copy)
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


class _Reader:
    """Reads the files of one tree: the calling thread, and beside it a helper while there are large files."""

    def __init__(self, root: int, copy: int, limit_bytes: int) -> None:
        self._root = root
        self._copy = copy
        self._left = limit_bytes
        self._mutex = threading.Lock()
        self._entries: list[FileEntry] = []
        self._errors: list[BaseException] = []
        self._files: Iterator[Parts] = iter(())
        self._large_bytes = 0
        self._in_large = False
        self._helper: threading.Thread | None = None

    def read(self, files: Sequence[Parts]) -> list[FileEntry]:
        """The entries, in no order; the first refusal of either thread is raised."""
        self._files = iter(files)  # both threads take from it: ``next`` of a list's iterator is one step for Python
        self._work(helping=False)
        if self._helper is not None:
            self._helper.join()
        if self._errors:
            raise self._errors[0]
        return self._entries

    def _work(self, *, helping: bool) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        try:
            for parts in self._files:
                entry = self._file(parts, buffer, helping=helping)
                self._entries.append(entry)
                if self._errors or (helping and entry.size < LARGE_BYTES and not self._in_large):
                    return
        except BaseException as error:  # noqa: BLE001 - carried to the calling thread, where it is raised
            self._errors.append(error)

    def _file(self, parts: Parts, buffer: memoryview, *, helping: bool) -> FileEntry:
        try:
            fd = open_beneath(self._root, parts, os.O_RDONLY | os.O_NONBLOCK, use_openat2=openat2_works())
        except OSError as error:
            raise _translate(error, parts) from error
        try:
            before = os.fstat(fd)
            self._check(parts, before)
            if before.st_size >= LARGE_BYTES and not helping:
                self._get_help(before.st_size)
            entry = self._read(fd, normal_path(parts), before, buffer)
            after = os.fstat(fd)
        finally:
            if not helping:
                self._in_large = False
            os.close(fd)
        if entry is None or _moment(before) != _moment(after):
            raise refusal("/".join(parts), "changed while it was being read", code="changed_while_reading")
        return entry

    def _check(self, parts: Parts, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise refusal("/".join(parts), "is no regular file")
        if status.st_nlink != 1:
            raise refusal("/".join(parts), f"has {status.st_nlink} hard links")
        with self._mutex:
            self._left -= status.st_size
            if self._left < 0:
                raise refusal("/".join(parts), "makes the Pack larger than the bytes allowed")

    def _get_help(self, size: int) -> None:
        self._in_large = True
        self._large_bytes += size
        if self._large_bytes < HELP_BYTES or (self._helper is not None and self._helper.is_alive()):
            return
        self._large_bytes = 0
        helper = threading.Thread(target=self._work, kwargs={"helping": True}, name="tree")
        with contextlib.suppress(RuntimeError):  # the machine has no thread left: alone, then
            helper.start()
            self._helper = helper

    def _read(self, fd: int, path: str, status: os.stat_result, buffer: memoryview) -> FileEntry | None:
        """Hash the file, and copy it; None when it ends early."""
        executable = bool(status.st_mode & 0o111)
        if self._copy == NO_COPY:
            digest = _hash(fd, status.st_size, buffer, NO_COPY)
        else:
            out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._copy)
            try:
                digest = _hash(fd, status.st_size, buffer, out)
                os.fchmod(out, 0o555 if executable else 0o444)
            finally:
                os.close(out)
        return None if digest is None else FileEntry(path, executable, status.st_size, digest)


def _moment(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_nlink


def _hash(fd: int, size: int, buffer: memoryview, out: int) -> str | None:
    """SHA-256 of exactly ``size`` bytes, written to ``out`` on the way; None when the file ends earlier."""
    digest = hashlib.sha256()
    left = size
    while left:
        count = os.readv(fd, [buffer[: min(left, BUFFER_BYTES)]])
        if count == 0:
            return None
        digest.update(buffer[:count])
        if out != NO_COPY:
            write_all(out, buffer[:count])
        left -= count
    return digest.hexdigest()


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
