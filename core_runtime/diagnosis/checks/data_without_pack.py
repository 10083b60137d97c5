"""Data lies in the folder of a Pack that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import folders_below, known_ids
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Data of Packs that are gone"
TITLE_JA = "なくなったPackのデータ"


def look(host: Host) -> Iterator[Found]:
    there = known_ids(host) | set(host.approvals.grants.pack_ids())
    for folder in folders_below(host.settings.user_data / "packs"):
        if "." not in folder.name and folder.name not in there and any(folder.iterdir()):
            yield Found(
                folder.name,
                f"Data of {folder.name} is kept, and that Pack is not there",
                f"It lies in user_data/packs/{folder.name}. A Pack that is approved under this id would read it.",
                "Move or delete it if nobody needs it.",
                Severity.INFO,
                mend="set_data_aside",
                args={"pack_id": folder.name},
            )
