"""A Pack's folder or its grant can't be used; the cause says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.rules.approval import State

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Packs that can't be used"
TITLE_JA = "使えないPack"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        if found.state is State.ERROR and found.pack_id not in host.failures:
            faulty = found.cause.startswith("grant_")
            yield Found(
                found.pack_id,
                f"The Pack {found.pack_id} can't be used",
                f"{found.cause}: {found.detail}" if found.detail else found.cause,
                f"Review and approve it anew: rumi pack review {found.pack_id}"
                if faulty
                else "Correct the cause in its folder; it is read again by itself.",
                Severity.ERROR,
                {"cause": found.cause},
                mend="set_grant_aside" if faulty else "scan_pack",
                args={"pack_id": found.pack_id},
            )
