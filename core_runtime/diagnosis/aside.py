"""Moving files out of the way and removing old ones, for fixups. Nothing is ever replaced by it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from backend_core.errors import NotFoundError


def set_aside(path: Path) -> Path:
    """Rename it to ``<name>.broken-<time>`` beside itself, never over something else; the new path.

    ``NotFoundError`` when nothing is there.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for number in range(1000):
        target = path.with_name(f"{path.name}.broken-{stamp}" + (f"-{number}" if number else ""))
        if target.exists() or target.is_symlink():
            continue
        try:
            return path.rename(target)
        except FileNotFoundError:
            break
    raise NotFoundError("Nothing to set aside", code="file_missing", detail=f"{path.name} is not there any more.")


def remove_old(base: Path, folder: str, pattern: str, old_s: float) -> int:
    """Remove what matches directly in one folder of ``base`` and is older than ``old_s``; how many entries."""
    count = 0
    for path in sorted((base / folder).glob(pattern)):
        if time.time() - path.lstat().st_mtime > old_s:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            count += 1
    return count
