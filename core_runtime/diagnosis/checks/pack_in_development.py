"""What runs was approved by development mode: at a change of its source, not by a look at what changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.rules.approval import State
from core_runtime.rules.decisions import in_development

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Packs that development mode approved"
TITLE_JA = "開発モードが承認したPack"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        if found.state in {State.APPROVED, State.RUNNING} and in_development(str(found.approval.get("actor", ""))):
            yield Found(
                found.pack_id,
                f"{found.pack_id} was approved by development mode",
                "Its source decided what runs: nobody looked at the last change before it was approved.",
                f"Look at it, then decide about just these files: rumi pack approve {found.pack_id}",
                Severity.WARN,
                command=f"rumi pack approve {found.pack_id}",
            )
