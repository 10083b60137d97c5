"""A new signing key was prepared and is not in use yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.drivers.keys import NEXT_FILE

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "A new signing key that waits"
TITLE_JA = "切り替えを待つ新しい署名鍵"


def look(host: Host) -> Iterator[Found]:
    if (host.settings.permissions_dir / NEXT_FILE).exists():
        yield Found(
            NEXT_FILE,
            "A new signing key waits for the next start",
            "Until then everything is signed with the old one.",
            "Start the host again: rumi down, then rumi up",
            Severity.INFO,
        )
