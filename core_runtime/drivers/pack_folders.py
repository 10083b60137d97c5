"""Moving whole folders of a Pack: putting approved files back, removing, setting data aside.

Invariants: a folder appears and disappears by one rename; what an operator may miss is set aside, not deleted; a
link in a Pack's place is unlinked, never followed.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from backend_core.errors import HostError
from backend_core.files import fsync_folder, private_folder
from core_runtime.drivers.faults import hit
from core_runtime.drivers.store import Stored, TreeStore


def put_back(store: TreeStore, stored: Stored, folder: Path, aside: Path) -> None:
    """Replace ``folder`` by the stored files; what lay there is moved below ``aside``."""
    fresh = folder.with_name(f".{folder.name}.restore-{secrets.token_hex(4)}")
    try:
        store.copy_out(stored, fresh)
        hit("restore.copied")
        if os.path.lexists(folder):
            shutil.move(folder, private_folder(aside) / f"{folder.name}-{secrets.token_hex(4)}")
        hit("restore.moved_away")
        fresh.rename(folder)
        fsync_folder(folder.parent)
        hit("restore.moved_in")
    except OSError as error:
        raise storage_error(error, "The approved files could not be put back.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


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
