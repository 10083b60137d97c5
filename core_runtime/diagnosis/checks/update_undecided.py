"""New versions of approved Packs wait for the operator's decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Updates that wait for a decision"
TITLE_JA = "決定を待つ更新"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        if found.pending_update:
            yield Found(
                found.pack_id,
                f"A new version of {found.pack_id} waits for your decision",
                f"Version {found.pending_update.get('version', '')}; the approved one goes on meanwhile.",
                f"See what would change: rumi pack diff {found.pack_id}",
                Severity.INFO,
                command=f"rumi pack diff {found.pack_id}",
            )
