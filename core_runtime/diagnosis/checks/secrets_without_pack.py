"""Secrets are kept for a Pack that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import folders_below, known_ids
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Secrets of Packs that are gone"
TITLE_JA = "なくなったPackの秘密"


def look(host: Host) -> Iterator[Found]:
    there = known_ids(host) | set(host.approvals.grants.pack_ids())
    for folder in folders_below(host.settings.user_data / "secrets"):
        if folder.name not in there and any(folder.iterdir()):
            yield Found(
                folder.name,
                f"Secrets are kept for {folder.name}, which is not there",
                "They were entered for a Pack that is neither installed nor decided about.",
                "Have them removed, or put the Pack back.",
                mend="drop_secrets",
                args={"pack_id": folder.name},
            )
