"""What isolates Packs answered at boot and answers no more: its Packs are gone until it does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Whether what isolates Packs answers"
TITLE_JA = "隔離の手段が応答するか"


def look(host: Host) -> Iterator[Found]:
    lost = host.lost_driver
    if lost is not None:
        yield Found(
            "isolation",
            f"What isolates Packs ({lost.kind.value}) does not answer any more",
            f"{lost.reason or 'It gave no reason.'} Calls of its Packs fail at once; nothing of them runs elsewhere.",
            f"{lost.hint or 'Start it again.'} The Packs then come back by themselves.",
            Severity.ERROR,
            {"driver": lost.kind.value, "reason": lost.reason},
            mend="probe_isolation",
        )
