"""The operator chose a Pack for an interface, and that Pack is not there or does not provide it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import quote
from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Chosen providers of interfaces"
TITLE_JA = "インターフェイスの提供元の選択"


def look(host: Host) -> Iterator[Found]:
    provided = {found.pack_id: found.metadata.provides() for found in statuses(host) if found.metadata is not None}
    for key, pack_id in sorted(host.active.interface_overrides.items()):
        if key not in provided.get(pack_id, ()):
            yield Found(
                key,
                f"The Pack chosen for {quote(key, 100)} does not provide it",
                f"active_ecosystem.json gives it to {quote(pack_id, 70)}, which "
                + ("does not declare it." if pack_id in provided else "is not installed.")
                + " Until it does, the interface is missing for everybody.",
                "Install that Pack, or drop the choice.",
                mend="forget_override",
                args={"key": key},
            )
