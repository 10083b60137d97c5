"""What the host makes sure of before it starts: the folders and data files of the ecosystem exist and can be read.

Invariants:
  * Idempotent: what exists is never changed or replaced; only ``permissions/`` is made private again.
  * Atomic: a file is there whole or not at all; two hosts starting at once leave the same result.
  * A broken file is a finding with the doctor's id for it. Repair, which keeps a backup, is the operator's tool's work.

Not here: the environment, dependencies and templates (the setup system).
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from msgspec import Struct
from pathlib import Path
from typing import Final

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem, load_active_ecosystem
from backend_core.ecosystem.mounts import DEFAULT_MOUNTS, VERSION, load_mounts
from backend_core.errors import HostError
from backend_core.files import fsync_folder

ECOSYSTEM_FOLDERS: Final = ("packs", "flows", "docker")
USER_DATA_FOLDERS: Final = ("permissions", "flows", "settings", "shared", "cache", "packs")
PRIVATE_FOLDERS: Final = ("permissions",)


class Finding(Struct, frozen=True):
    """Something that needs the operator; ``id`` is the doctor's."""

    id: str
    detail: str
    hint: str


class InitReport(Struct, frozen=True):
    """Paths that were made, relative to the home folder, and what is not in order."""

    created: tuple[str, ...]
    findings: tuple[Finding, ...]


def initialise(home: Path) -> InitReport:
    """Make what is missing below ``home``. Raises ``HostError`` when a folder can't be made."""
    created: list[str] = []
    user_data = home / "user_data"
    for parent, names in (("ecosystem", ECOSYSTEM_FOLDERS), ("user_data", USER_DATA_FOLDERS)):
        for name in ("", *names):
            folder = home / parent / name
            if _make_folder(folder, private=name in PRIVATE_FOLDERS):
                created.append(folder.relative_to(home).as_posix())
    documents = {
        "mounts.json": {"version": VERSION, "mounts": dict(DEFAULT_MOUNTS)},
        "active_ecosystem.json": ActiveEcosystem().as_dict(),
    }
    for name, document in documents.items():
        if _make_file(user_data / name, json.dumps(document, indent=2, ensure_ascii=False) + "\n"):
            created.append(f"user_data/{name}")
    return InitReport(tuple(created), tuple(_findings(home)))


def _findings(home: Path) -> list[Finding]:
    found = []
    user_data = home / "user_data"
    for load in (
        lambda: load_mounts(user_data / "mounts.json", home),
        lambda: load_active_ecosystem(user_data / "active_ecosystem.json"),
    ):
        try:
            load()
        except HostError as exc:
            found.append(Finding(exc.code, exc.detail, exc.hint))
    return found


def _make_folder(folder: Path, *, private: bool) -> bool:
    """Whether the folder was made now. An existing private folder loses the rights of others."""
    try:
        folder.mkdir(mode=0o700 if private else 0o755, parents=True)
    except FileExistsError:
        _check_folder(folder, private=private)
        return False
    except OSError as exc:
        raise _cannot(folder, f"can't be made: {exc.strerror}") from exc
    return True


def _check_folder(folder: Path, *, private: bool) -> None:
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise _cannot(folder, "is no folder")
    if private and status.st_mode & 0o077 and os.name == "posix":
        try:
            folder.chmod(0o700)
        except OSError as exc:
            raise _cannot(folder, f"is open to other users and can't be closed: {exc.strerror}") from exc


def _make_file(file: Path, text: str) -> bool:
    """Whether the file was made now. ``link`` fails where a file exists, so a rival's file is never replaced."""
    if os.path.lexists(file):
        return False
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(text.encode("utf-8"))
            out.flush()
            os.fsync(out.fileno())
        _publish(temporary, file)
        fsync_folder(file.parent)
    except FileExistsError:
        return False
    except OSError as exc:
        raise _cannot(file, f"can't be written: {exc.strerror}") from exc
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _publish(temporary: Path, file: Path) -> None:
    try:
        os.link(temporary, file)
    except OSError as exc:
        if exc.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:
            raise
        temporary.replace(file)  # a file system without hard links; a rival would have written the same bytes


def _cannot(path: Path, problem: str) -> HostError:
    return HostError(
        "The data folders are not usable",
        code="initialise_failed",
        detail=f"{path} {problem}",
        hint=f"Make {path.parent} writable for the user that runs Rumi, then start again.",
    )
