"""An approved Pack waits: for what is absent, for another that waits for it, or for another version."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Packs that wait for another"
TITLE_JA = "ほかを待つPack"


def look(host: Host) -> Iterator[Found]:
    for pack_id, waiting in sorted(host.waiting.items()):
        yield Found(
            pack_id,
            f"The Pack {pack_id} waits",
            waiting.reason,
            waiting.next_step,
            Severity.INFO,
        )
