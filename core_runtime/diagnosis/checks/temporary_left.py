"""Half-written files that a crash left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.files import TEMPORARY_PREFIX
from core_runtime.diagnosis.facts import folders_below
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Half-written files"
TITLE_JA = "書きかけのファイル"
OLD_S = 3600.0


def look(host: Host) -> Iterator[Found]:
    base = host.settings.user_data
    for folder in (base, *folders_below(base)):
        left = [p for p in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")) if time.time() - p.lstat().st_mtime > OLD_S]
        if left:
            yield Found(
                folder.relative_to(host.settings.home).as_posix(),
                f"{len(left)} half-written files were left behind",
                "A crash left them; what they were to replace is whole.",
                "Have them removed: rumi doctor --fix",
                Severity.INFO,
                mend="remove_temporaries",
                args={"folder": folder.relative_to(base).as_posix()},
            )
