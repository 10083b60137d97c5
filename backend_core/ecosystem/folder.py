"""Reading files of a folder that a stranger filled: bounded, never through a link, never a device, never executed.

Invariants:
  * Each step of a path is opened below the one before with NOFOLLOW; what is read is what was opened.
  * Only regular files with one name are read (a hard link may name a file of the operator's), never blocking.
  * Files, entries and bytes of one reading are bounded together.
  * Everything looked at is witnessed: an unchanged set of witnesses means that reading again would give the same.

Not here: digests and the verified copy (that is trust; it re-reads every byte), writing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from msgspec import Struct
from typing import Final

from backend_core.document import located_error
from backend_core.errors import AuthorError, quote

# Windows has neither; there the opened file is compared with what lstat saw before (`_open_checked`).
_NOFOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
_FLAGS: Final = (
    os.O_RDONLY | _NOFOLLOW | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
)


class ReadLimits(Struct, frozen=True):
    """Bounds of reading the metadata of one folder."""

    files: int = 600
    entries: int = 5_000
    limit_bytes: int = 8 * 1024 * 1024
    file_bytes: int = 1024 * 1024


READ_LIMITS: Final = ReadLimits()

Witness = tuple[int, int, int, int, int]
"""``(device, inode, size, mtime_ns, ctime_ns)``. The change time can't be set back by whoever writes the file."""


def witness(status: os.stat_result) -> Witness:
    """What identifies a state of a file or folder without reading it."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class FolderReader:
    """One reading of one folder. ``witnesses`` maps each path looked at to its witness, absent ones to ``None``."""

    def __init__(self, root: str, limits: ReadLimits) -> None:
        self._root = root
        self._limits = limits
        self._files = self._entries = self._bytes = 0
        self.witnesses: dict[str, Witness | None] = {}

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at ``path``. A link is refused."""
        return self._look(path) is not None

    def read(self, path: str) -> bytes | None:
        """The bytes of the regular file ``path`` (posix, relative), or ``None`` where there is none."""
        status = self._look(path)
        if status is None:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise _refused(path, "a regular file", _kind(status.st_mode))
        if status.st_nlink > 1:
            raise _refused(path, "a file with one name", f"a hard link with {status.st_nlink} names")
        self._files += 1
        if self._files > self._limits.files:
            raise _refused(path, f"at most {self._limits.files} metadata files", "more")
        if status.st_size > self._limits.file_bytes:
            raise _refused(path, f"at most {self._limits.file_bytes} bytes", f"{status.st_size} bytes")
        with self._open_checked(path, status) as handle:
            data = _read_all(handle, self._limits.file_bytes + 1)
        self._bytes += len(data)
        if len(data) > self._limits.file_bytes or self._bytes > self._limits.limit_bytes:
            raise _refused(path, f"at most {self._limits.limit_bytes} bytes of metadata", "more")
        return data

    def names(self, path: str) -> list[str]:
        """Sorted names in the folder ``path``; none where it does not exist."""
        status = self._look(path)
        if status is None:
            return []
        if not stat.S_ISDIR(status.st_mode):
            raise _refused(path, "a folder", _kind(status.st_mode))
        out: list[str] = []
        with self._open_checked(path, status) as handle, os.scandir(_listable(handle, self._full(path))) as entries:
            for entry in entries:
                self._entries += 1
                if self._entries > self._limits.entries:
                    raise _refused(path, f"at most {self._limits.entries} entries", "more")
                out.append(entry.name)
        return sorted(out)

    def is_folder(self, path: str) -> bool:
        """Whether ``path`` is a folder. A link is refused, whatever it points to."""
        status = self._look(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def _full(self, path: str) -> str:
        return os.path.join(self._root, *path.split("/")) if path else self._root  # noqa: PTH118 - names may be bytes-like

    def _look(self, path: str) -> os.stat_result | None:
        """``lstat`` of ``path`` after each of its parents was found to be a real folder."""
        parent = path.rpartition("/")[0]
        if path and parent not in self.witnesses and self._look(parent) is None:
            self.witnesses[path] = None
            return None
        try:
            status = os.lstat(self._full(path))
        except (FileNotFoundError, NotADirectoryError):
            self.witnesses[path] = None
            return None
        except OSError as exc:
            raise _refused(
                path, "a readable file or folder", f"the system's answer {quote(exc.strerror or '')}"
            ) from exc
        if stat.S_ISLNK(status.st_mode):
            raise _refused(path, "a file or folder of the Pack's own", "a symbolic link")
        self.witnesses[path] = witness(status)
        return status

    @contextlib.contextmanager
    def _open_checked(self, path: str, expected: os.stat_result) -> Iterator[int]:
        """An open descriptor of exactly what ``_look`` saw: a swap in between is refused."""
        handle = -1
        try:
            handle = self._descend(path)
            now = os.fstat(handle)
            if (now.st_dev, now.st_ino, stat.S_IFMT(now.st_mode)) != (
                expected.st_dev,
                expected.st_ino,
                stat.S_IFMT(expected.st_mode),
            ):
                raise _refused(path, "files that stay in place while they are read", "another file")
            yield handle
        except OSError as exc:
            raise _refused(
                path, "a readable file or folder", f"the system's answer {quote(exc.strerror or '')}"
            ) from exc
        finally:
            if handle >= 0:
                os.close(handle)

    def _descend(self, path: str) -> int:
        """Open ``path`` one step at a time, so that no parent can be swapped for a link either."""
        if os.open not in os.supports_dir_fd:
            return os.open(self._full(path), _FLAGS)
        handle = os.open(self._root, _FLAGS)
        for step in path.split("/") if path else ():
            try:
                below = os.open(step, _FLAGS, dir_fd=handle)
            finally:
                os.close(handle)
            handle = below
        return handle


def unchanged(root: str, witnesses: Mapping[str, Witness | None]) -> bool:
    """Whether everything that an earlier reading looked at is still what it was."""
    for path, before in witnesses.items():
        try:
            now = witness(os.lstat(f"{root}/{path}"))  # every system takes this separator
        except OSError:
            now = None
        if now != before:
            return False
    return True


def _listable(handle: int, full: str) -> int | str:
    return handle if os.scandir in os.supports_fd else full


def _read_all(handle: int, limit_bytes: int) -> bytes:
    chunks: list[bytes] = []
    left = limit_bytes
    while left > 0 and (chunk := os.read(handle, min(left, 256 * 1024))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _kind(mode: int) -> str:
    table = (
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a FIFO"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in table if test(mode)), "something else")


def _refused(path: str, expected: str, found: str) -> AuthorError:
    shown = path.encode("utf-8", "backslashreplace").decode("utf-8") or "."
    return located_error(
        "File of the Pack refused", source=quote(shown).strip("'"), expected=expected, found=found,
        hint=f"Replace {quote(shown)} by {expected}, then scan again.", code="file_refused",
    )  # fmt: skip
