"""What several checks look at, read once in each of them and nowhere else."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.drivers.status import PackStatus

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

PRIVATE = ("permissions", "secrets", "audit", "run", "logs")
"""Folders of ``user_data`` that nobody but their owner has a reason to read."""


def statuses(host: Host) -> Sequence[PackStatus]:
    """Every Pack as of the last scan; none while the approval manager is not there."""
    return host.approvals.list() if host.built("approvals") else ()


def known_ids(host: Host) -> set[str]:
    """Packs with a folder. The others may have left something behind."""
    return {found.pack_id for found in statuses(host) if found.cause != "folder_missing"}


def folders_below(folder: Path) -> Iterator[Path]:
    """Real folders directly below ``folder``, by name; nothing where it is not there."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def mode_of(path: Path) -> int | None:
    """Permission bits, without following a link; ``None`` where nothing is."""
    try:
        return stat.S_IMODE(path.lstat().st_mode)
    except OSError:  # nothing there that could be looked at
        return None


def mebibytes(count: float) -> str:
    """A size for people."""
    return f"{count / (1 << 20):,.0f} MiB"
