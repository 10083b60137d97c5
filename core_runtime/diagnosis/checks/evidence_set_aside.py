"""A part of the audit trail was found changed and set aside; somebody should look at it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Audit trails that were set aside"
TITLE_JA = "退避した監査記録"


def look(host: Host) -> Iterator[Found]:
    names = sorted(path.name for path in (host.settings.user_data / "audit").glob("*.broken-*"))
    if names:
        yield Found(
            "audit",
            f"{len(names)} changed audit trails were set aside",
            f"user_data/audit: {', '.join(names[:5])}",
            "Look at them, then move them away: rumi audit verify names them until then.",
            Severity.INFO,
        )
