"""The operator prefers a component for a type, and there is no such component."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import quote
from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Preferred components"
TITLE_JA = "優先するコンポーネント"


def look(host: Host) -> Iterator[Found]:
    known = [found.metadata for found in statuses(host) if found.metadata is not None]
    there = {(one.type, one.id) for metadata in known for one in metadata.components}
    for kind, chosen in sorted(host.active.overrides.items()):
        if (kind, chosen) not in there:
            yield Found(
                kind,
                f"No Pack has the preferred component {quote(chosen, 80)} of type {quote(kind, 80)}",
                "active_ecosystem.json, overrides: type → id of a component that is there.",
                "Correct the name, or drop the entry.",
                mend="forget_preference",
                args={"type": kind},
            )
