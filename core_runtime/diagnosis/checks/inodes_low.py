"""The file system has no room for more files, whatever its free bytes say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Room for files"
TITLE_JA = "ファイル数の余裕"
ENOUGH = 10_000


def look(host: Host) -> Iterator[Found]:
    if not hasattr(os, "statvfs"):
        return
    seen = os.statvfs(host.settings.user_data)
    if seen.f_files > 0 and seen.f_favail < ENOUGH:  # file systems without a fixed number report 0 of 0
        yield Found(
            "disk",
            "The file system can hold few more files",
            f"{seen.f_favail} of {seen.f_files} are left where user_data lies.",
            "Remove files that nobody needs, or move user_data to another file system.",
            evidence={"free_files": seen.f_favail},
        )
