"""The operator wrote preferences of components, by which nothing is decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Preferred components"
TITLE_JA = "優先するコンポーネント"


def look(host: Host) -> Iterator[Found]:
    if host.active.overrides:
        yield Found(
            "overrides",
            "The preferences in active_ecosystem.json decide nothing",
            "overrides (type → component id) is kept as it was written. What is approved and not switched off runs; "
            "no component is active in the place of another.",
            "Write what decides: interface_overrides (key → Pack that answers it) or disabled_components "
            "(pack:type:id). Then drop overrides.",
            Severity.INFO,
            mend="forget_overrides",
        )
