"""An addon, its right or its target changed while the target runs: what comes of it counts from its next start on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.rules.approval import State

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Addons that count from the next start on"
TITLE_JA = "次の起動から効くアドオン"


def look(host: Host) -> Iterator[Found]:
    for status in host.approvals.list():
        if status.state is State.RUNNING and host.approvals.addons_due(status.pack_id):
            yield Found(
                status.pack_id,
                f"Addons of {status.pack_id} count from its next start on",
                "What runs was started with other addons than are allowed now.",
                f"Start it anew: rumi container stop {status.pack_id}, then rumi container start {status.pack_id}",
                Severity.INFO,
            )
