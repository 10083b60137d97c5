"""Files that were set aside a month ago and more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import folders_below
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Files that were set aside"
TITLE_JA = "退避したファイル"
OLD_S = 30 * 86_400.0
PATTERN = "*.broken-*"
KEPT = frozenset({"audit", "shared", "cache"})
"""Evidence stays until the operator removes it; in the others such a name may be anybody's."""


def look(host: Host) -> Iterator[Found]:
    base = host.settings.user_data
    for folder in (base, *folders_below(base)):
        old = [path for path in sorted(folder.glob(PATTERN)) if time.time() - path.lstat().st_mtime > OLD_S]
        if old and folder.name not in KEPT:
            yield Found(
                folder.relative_to(host.settings.home).as_posix(),
                f"{len(old)} files that were set aside are older than a month",
                ", ".join(path.name for path in old[:10]),
                "Have them removed if nobody needs them.",
                Severity.INFO,
                mend="remove_backups",
                args={"folder": folder.relative_to(base).as_posix()},
            )
