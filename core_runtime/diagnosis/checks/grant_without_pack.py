"""A decision about a Pack whose folder is gone: it would hold again if the same bytes came back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import known_ids
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Decisions about Packs that are gone"
TITLE_JA = "なくなったPackについての決定"


def look(host: Host) -> Iterator[Found]:
    there = known_ids(host)
    for pack_id in host.approvals.grants.pack_ids():
        if pack_id not in there or not (host.settings.packs_dir / pack_id).is_dir():
            yield Found(
                pack_id,
                f"The folder of the decided Pack {pack_id} is gone",
                "Its grant is kept: if the same bytes come back, the decision holds.",
                f"Put it back, or forget the decision: rumi pack remove {pack_id}",
                Severity.INFO,
                mend="remove_pack",
                args={"pack_id": pack_id},
            )
