"""Packs wait for the operator's decision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.rules.approval import State

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Packs that wait for a decision"
TITLE_JA = "決定を待つPack"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        if found.cause != "folder_missing" and found.state in {State.INSTALLED, State.PENDING}:
            yield Found(
                found.pack_id,
                f"The Pack {found.pack_id} waits for your decision",
                "Nothing of it has run." + (f" Cause: {found.cause}." if found.cause else ""),
                f"Look at what it wants: rumi pack review {found.pack_id}",
                Severity.INFO,
                command=f"rumi pack review {found.pack_id}",
            )
