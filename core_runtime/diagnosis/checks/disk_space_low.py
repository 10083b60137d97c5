"""The disk that holds the data is nearly full: the next decision could not be written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import mebibytes
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Room on the disk"
TITLE_JA = "ディスクの空き"
ENOUGH_BYTES = 1 << 30
TOO_LITTLE_BYTES = 128 << 20


def look(host: Host) -> Iterator[Found]:
    free = shutil.disk_usage(host.settings.user_data).free
    if free < ENOUGH_BYTES:
        yield Found(
            "disk",
            "The disk is nearly full",
            f"{mebibytes(free)} are free where user_data lies; {mebibytes(ENOUGH_BYTES)} are enough to be safe.",
            "Free some room. Decisions and the audit trail are refused, never lost, when nothing more can be written.",
            Severity.ERROR if free < TOO_LITTLE_BYTES else Severity.WARN,
            {"free_bytes": free},
        )
