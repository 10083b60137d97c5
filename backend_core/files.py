"""Files, done so that neither a crash nor a hostile name can make them lie.

Two things live here:
  * durable whole-file writes (``write_atomic``): a reader sees the old bytes or the new ones, never a mixture, and what
    was answered survives a power cut (temporary file, fsync, rename, fsync of the folder);
  * ``Confined``: access below one folder from which no path escapes, by the kernel's own check (``openat2`` with
    BENEATH, NO_SYMLINKS, NO_MAGICLINKS, NO_XDEV) or, where a kernel lacks it, a walk that opens one component at a time
    with ``O_NOFOLLOW``.

Invariants of ``Confined``: only regular files with one link are read or replaced (a hard link would reach another
file's bytes); opening never blocks (``O_NONBLOCK``: a FIFO can't hang a thread); names are checked before the kernel
sees them.

Not here: who may access what (``userdata_manager``), reading trees to hash them (``core_runtime.drivers.tree``).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import secrets
import stat
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from msgspec import Struct

from backend_core.errors import NotFoundError, RequestError, TooLargeError, quote

MAX_PATH_BYTES = 1024
MAX_NAME_BYTES = 200  # 255 is the usual limit of file systems; the rest is for the temporary name of an atomic write
MAX_DEPTH = 32
TEMPORARY_PREFIX = ".rumi-tmp-"

_SYS_OPENAT2 = 437
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


# --- whole files -----------------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``, durably. On any error the old file stays and no temporary file is left."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _replace(folder, path.name, data, mode)
    finally:
        os.close(folder)


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a regular file (no link is followed in the last component), at most ``limit_bytes``.

    Raises:
        TooLargeError: the file is longer.
        OSError: it can't be read or is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return read_fd(fd, limit_bytes, name=path.name)
    finally:
        os.close(fd)


def read_fd(fd: int, limit_bytes: int, *, name: str) -> bytes:
    """Read ``fd`` to its end; ``TooLargeError`` beyond ``limit_bytes``, whatever size the file claimed."""
    chunks: list[bytes] = []
    left = limit_bytes + 1
    while left > 0 and (chunk := os.read(fd, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    if left <= 0:
        raise TooLargeError(
            "File too large",
            code="file_too_large",
            detail=f"{quote(name)} has more than the {limit_bytes} bytes allowed here.",
            hint="Make the file smaller, or read it in parts.",
            fields={"limit_bytes": limit_bytes},
        )
    return b"".join(chunks)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """``os.write`` until everything is written (a single call may write less)."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def fsync_folder(path: Path) -> None:
    """Make renames and unlinks in ``path`` survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: Path) -> None:
    """Make all that was written on the file system of ``path`` survive a power cut; cheaper than many ``fsync``.

    Other disks are left alone (a slow one would be waited for); unlike ``os.sync``, a failed write is an ``OSError``.
    """
    if _Probe.libc is None:
        os.sync()
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _Probe.libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


def private_folder(path: Path, mode: int = 0o700) -> Path:
    """Make ``path`` a folder with exactly ``mode``, whatever the umask; parents are made with 0755."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)
    return path


def _replace(folder: int, name: str, data: bytes, mode: int) -> None:
    temporary = f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):  # what led here is raised
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


# --- names -----------------------------------------------------------------------------------------------------------


def name_fault(name: str) -> str:
    """Why ``name`` can't be one component of a path, or ``""``. Purely by its characters."""
    if name in {"", ".", ".."}:
        return "is empty, '.' or '..'"
    if "/" in name or "\\" in name:
        return "contains a path separator"
    if name.isprintable():  # Python's word for: none of these categories, nor an unassigned or private character
        return ""
    for character in name:
        if unicodedata.category(character) in _HIDDEN_CATEGORIES:
            return f"contains the control, bidi or otherwise invisible character U+{ord(character):04X}"
    return ""


def split_path(path: str) -> tuple[str, ...]:
    """The components of a relative posix path, each checked.

    Raises:
        RequestError: the path is empty, absolute, too long or too deep, or a component is not a plain name.
    """
    fault = ""
    parts = tuple(path.split("/"))
    if not path or path.startswith("/"):
        fault = "is empty or absolute"
    elif len(path) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH:
        fault = f"is longer than {MAX_PATH_BYTES} bytes or deeper than {MAX_DEPTH} folders"
    else:
        fault = next((f"has a component that {reason}" for part in parts if (reason := name_fault(part))), "")
    if not fault and (
        len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_NAME_BYTES for part in parts)
    ):
        fault = f"is longer than {MAX_PATH_BYTES} bytes, or a name in it is longer than {MAX_NAME_BYTES}"
    if not fault and any(part.startswith(TEMPORARY_PREFIX) for part in parts):
        fault = f"uses the reserved prefix {TEMPORARY_PREFIX}"
    if fault:
        raise RequestError(
            "Not a usable path",
            code="path_invalid",
            detail=f"{quote(path)} {fault}.",
            hint="Use a relative path with '/' between plain names, such as packs/my_pack/data.json.",
        )
    return parts


# --- confined access -------------------------------------------------------------------------------------------------


class FileInfo(Struct, frozen=True):
    """What a Pack may know of a file: kind ``file`` or ``folder``, size and time of change."""

    kind: str
    size_bytes: int
    modified_at: float


class Confined:
    """Access below one folder. Paths are relative to it; every method raises ``RequestError`` for a refused one."""

    def __init__(self, root: Path, *, use_openat2: bool | None = None) -> None:
        """Open ``root``, which must exist. ``use_openat2=False`` takes the portable walk; None asks the kernel."""
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._device = os.fstat(self._root).st_dev
        self._openat2 = openat2_works() if use_openat2 is None else use_openat2

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder's descriptor back; idempotent."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def read(self, path: str, limit_bytes: int) -> bytes:
        """The bytes of one regular, singly linked file."""
        with self._regular(path) as fd:
            return read_fd(fd, limit_bytes, name=path)

    def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Replace or create one file atomically; missing folders are made (0700)."""
        parts = split_path(path)
        with self._folder(parts[:-1], create=True) as folder:
            self._replaceable(folder, parts[-1], path)
            with _translated(path):
                _replace(folder, parts[-1], data, mode)

    def delete(self, path: str) -> bool:
        """Remove one regular file; False when there was none. A link is refused, not removed."""
        parts = split_path(path)
        try:
            with self._folder(parts[:-1]) as folder, _translated(path):
                if not self._replaceable(folder, parts[-1], path):
                    return False
                os.unlink(parts[-1], dir_fd=folder)
                os.fsync(folder)
                return True
        except NotFoundError:
            return False

    def stat(self, path: str) -> FileInfo:
        """Kind, size and time of a file or folder."""
        parts = split_path(path)
        with self._open(parts, os.O_RDONLY | os.O_NONBLOCK, path) as fd:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                return FileInfo("folder", 0, status.st_mtime)
            _check_regular(status, path)
            return FileInfo("file", status.st_size, status.st_mtime)

    def walk(self, prefix: str, limit_entries: int) -> list[tuple[str, FileInfo]]:
        """Every regular, singly linked file below the folder ``prefix`` (``""`` = the root), sorted by path.

        Links, devices and other file systems are passed over. Raises ``TooLargeError`` beyond ``limit_entries``.
        """
        parts = split_path(prefix) if prefix else ()
        found: list[tuple[str, FileInfo]] = []
        pending = [parts]
        while pending:
            where = pending.pop()
            with self._folder(where) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    if name_fault(entry.name) or entry.name.startswith(TEMPORARY_PREFIX):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and status.st_dev == self._device and len(where) < MAX_DEPTH - 1:
                        pending.append((*where, entry.name))
                    elif stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
                        info = FileInfo("file", status.st_size, status.st_mtime)
                        found.append(("/".join((*where, entry.name)), info))
                    if len(found) + len(pending) > limit_entries:
                        raise TooLargeError(
                            "Too many files", code="too_many_files", detail=f"More than {limit_entries}."
                        )
        return sorted(found)

    @contextlib.contextmanager
    def _regular(self, path: str) -> Iterator[int]:
        with self._open(split_path(path), os.O_RDONLY | os.O_NONBLOCK, path) as fd:
            _check_regular(os.fstat(fd), path)
            yield fd

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...], *, create: bool = False) -> Iterator[int]:
        if create:
            for depth in range(1, len(parts) + 1):
                with self._folder(parts[: depth - 1]) as parent, contextlib.suppress(FileExistsError):
                    os.mkdir(parts[depth - 1], 0o700, dir_fd=parent)
        with self._open(parts, os.O_RDONLY | os.O_DIRECTORY, "/".join(parts)) as fd:
            yield fd

    @contextlib.contextmanager
    def _open(self, parts: tuple[str, ...], flags: int, path: str) -> Iterator[int]:
        with _translated(path):
            fd = open_beneath(self._root, parts, flags, use_openat2=self._openat2)
        try:
            yield fd
        finally:
            os.close(fd)

    def _replaceable(self, folder: int, name: str, path: str) -> bool:
        """Whether the file exists; anything else than a regular, singly linked one is refused."""
        try:
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        _check_regular(status, path)
        return True


def open_beneath(root: int, parts: tuple[str, ...], flags: int, *, use_openat2: bool) -> int:
    """Open ``parts`` below the descriptor ``root``, passing no link and no mount; the caller closes the result."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    if not parts:
        return os.open(".", flags | os.O_DIRECTORY, dir_fd=root)
    if use_openat2:
        return _openat2("/".join(parts), flags, root)
    device = os.fstat(root).st_dev
    fd = os.dup(root)
    try:
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            step = flags if last else os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            following = os.open(part, step, dir_fd=fd)
            os.close(fd)
            fd = following
            if os.fstat(fd).st_dev != device:
                raise OSError(errno.EXDEV, "another file system", "/".join(parts))  # noqa: TRY301 - closed below
    except BaseException:
        os.close(fd)
        raise
    return fd


def openat2_works() -> bool:
    """Whether this kernel (and this process's own seccomp filter, if any) answers ``openat2``. Asked once."""
    if _Probe.answer is None:
        _Probe.answer = _probe_openat2()
    return _Probe.answer


class _Probe:
    """Keeps the kernel's answer; ``LIBC`` is loaded once because loading costs more than the call."""

    answer: bool | None = None
    libc: Final = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None


def _probe_openat2() -> bool:
    if _Probe.libc is None:
        return False
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_openat2(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, root))
    except OSError:  # an older kernel
        return False
    finally:
        os.close(root)
    return True


@functools.cache
def _how(flags: int) -> Any:
    """The kernel's argument for ``flags``, which it only reads: making one takes as long as the call."""
    return ctypes.byref(_OpenHow(flags, 0, _RESOLVE))


def _openat2(path: str, flags: int, root: int) -> int:
    if _Probe.libc is None:
        raise OSError(errno.ENOSYS, "openat2 is Linux's own", path)
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")  # C would cut the name there: what os.open raises
    how = _how(flags)
    for _ in range(16):
        fd = int(_Probe.libc.syscall(_SYS_OPENAT2, root, encoded, how, ctypes.sizeof(_OpenHow)))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:  # EAGAIN: a rename raced with the kernel's BENEATH check
            raise OSError(code, os.strerror(code), path)
    raise OSError(errno.EAGAIN, "the folder is being renamed again and again", path)


def _check_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(path, "is no regular file")
    if status.st_nlink > 1:  # none: somebody replaced it after it was opened, and it is no other file either
        raise _refused(path, f"has {status.st_nlink} hard links, so it may be another file too")


def _refused(path: str, reason: str) -> RequestError:
    return RequestError(
        "Path refused",
        code="path_refused",
        detail=f"{quote(path)} {reason}.",
        hint="Replace it by a plain file or folder below user_data.",
    )


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turn the kernel's refusals into the error tree; what the machine can't do (full disk) stays an ``OSError``."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError("No such file", detail=f"{quote(path)} does not exist.", code="file_missing") from error
    except (IsADirectoryError, FileExistsError) as error:
        raise _refused(path, "is a folder") from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EXDEV}:
            raise _refused(path, "passes a link or leaves this file system") from error
        if error.errno in {errno.ENXIO, errno.ENODEV}:
            raise _refused(path, "is no regular file") from error
        if error.errno == errno.ENAMETOOLONG:
            raise _refused(path, "is too long") from error
        raise
