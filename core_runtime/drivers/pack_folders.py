"""Moving whole folders of a Pack: putting approved files back, removing, setting data aside.

Invariants: a folder appears and disappears by one rename; what an operator may miss is set aside, not deleted; a
link in a Pack's place is unlinked, never followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from pathlib import Path
from typing import Final

from backend_core.errors import HostError
from backend_core.files import fsync_folder, private_folder
from core_runtime.drivers.faults import hit
from core_runtime.drivers.store import Stored, TreeStore

_OURS: Final = re.compile(r"\.[a-z][a-z0-9_-]{0,63}\.(?:restore|removed)-[0-9a-f]{8}")
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None
_RENAMEAT2: Final = getattr(_LIBC, "renameat2", None)


def put_back(store: TreeStore, stored: Stored, folder: Path, aside: Path) -> None:
    """Replace ``folder`` by the stored files; what lay there is moved below ``aside``."""
    try:
        fresh = lay_out(store, stored, folder)
        hit("restore.copied")
        swap_in(fresh, folder, aside, points="restore")
    except OSError as error:
        raise storage_error(error, "The approved files could not be put back.") from error


def lay_out(store: TreeStore, stored: Stored, folder: Path) -> Path:
    """The stored files in a new folder beside ``folder``, ready for ``swap_in``; everything that needs room."""
    fresh = name_beside(folder)
    try:
        store.copy_out(stored, fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return fresh


def name_beside(folder: Path) -> Path:
    """A name for something unfinished beside ``folder``; a crash's leftover under it is swept at the next opening."""
    return folder.with_name(f".{folder.name}.restore-{secrets.token_hex(4)}")


def swap_in(fresh: Path, folder: Path, aside: Path, *, points: str) -> None:
    """Put ``fresh`` in the place of ``folder`` in one step; what lay there is moved below ``aside``."""
    try:
        if not os.path.lexists(folder):
            fresh.rename(folder)
        elif exchange(fresh, folder):
            hit(f"{points}.swapped")
            _move_aside(fresh, folder.name, aside)
        else:
            _move_aside(folder, folder.name, aside)
            hit(f"{points}.swapped")
            fresh.rename(folder)
        fsync_folder(folder.parent)
    finally:
        delete(fresh)
    hit(f"{points}.moved_in")


def exchange(one: Path, other: Path) -> bool:
    """Give each the other's name in one step; False where system or file system can't (nothing happened then)."""
    if _RENAMEAT2 is None:
        return False
    if _RENAMEAT2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.EPERM}:
        return False
    raise OSError(code, os.strerror(code), str(other))


def sweep(packs_dir: Path) -> list[str]:
    """Remove what a crash left half done beside the Packs' folders; only names that this module makes."""
    with contextlib.suppress(OSError):  # an unreadable folder is what the scan tells
        left = [path for path in packs_dir.iterdir() if _OURS.fullmatch(path.name)]
        for path in left:
            delete(path)
        return sorted(path.name for path in left)
    return []


def _move_aside(path: Path, name: str, aside: Path) -> None:
    shutil.move(path, private_folder(aside) / f"{name}-{secrets.token_hex(4)}")


def delete(path: Path) -> None:
    """Remove whatever has this name, following no link."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a Pack's folder; none is fine."""
    try:
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            doomed = folder.with_name(f".{folder.name}.removed-{secrets.token_hex(4)}")
            folder.rename(doomed)
            shutil.rmtree(doomed)
    except OSError as error:
        raise storage_error(error, "The grant is void, but the Pack's folder could not be removed.") from error


def set_aside(data: Path) -> str:
    """Move a Pack's own data out of its name; the new name, or ``""`` where there was none."""
    if not data.exists():
        return ""
    target = data.with_name(f".{data.name}-{secrets.token_hex(4)}")
    data.rename(target)
    return target.name


def storage_error(error: OSError, detail: str) -> HostError:
    """A failing disk, in the operator's words."""
    return HostError(
        "Storage failed",
        code="storage",
        detail=f"{detail} ({error.strerror or error})",
        hint="Make room on the disk that holds user_data, then try again.",
    )
