"""A component that no Pack has is switched off: a typing error leaves the right one on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import quote
from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Components that are switched off"
TITLE_JA = "無効にしたコンポーネント"


def look(host: Host) -> Iterator[Found]:
    there = {one.full_id for found in statuses(host) if found.metadata is not None for one in found.metadata.components}
    for full_id in sorted(host.active.disabled_components - there):
        yield Found(
            full_id,
            f"{quote(full_id, 150)} is switched off, and no Pack has such a component",
            "active_ecosystem.json, disabled_components: expected pack:type:id of a component that is there.",
            "Correct the name, or drop the entry.",
            mend="forget_disabled",
            args={"full_id": full_id},
        )
