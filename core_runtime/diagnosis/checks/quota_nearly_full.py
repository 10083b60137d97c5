"""A Pack will soon have no room for its data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import RumiError
from core_runtime.diagnosis.facts import mebibytes, statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Room for the data of Packs"
TITLE_JA = "Packのデータの空き"
SHARE = 0.9


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        try:
            used, quota = host.userdata.usage(found.pack_id)
        except RumiError:
            continue  # another check tells that
        if quota and used > SHARE * quota:
            yield Found(
                found.pack_id,
                f"The data of {found.pack_id} has nearly no room left",
                f"{mebibytes(used)} of {mebibytes(quota)} are used.",
                "Delete what it does not need, or grant it resources with more disk_mb if it declares that.",
                evidence={"used_bytes": used, "quota_bytes": quota},
            )
