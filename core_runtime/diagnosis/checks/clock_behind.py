"""The clock stands before a moment that was already recorded: times until which something is granted mean little."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import known_ids
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "The machine's clock"
TITLE_JA = "コンピュータの時計"
TOLERATED_S = 300.0


def look(host: Host) -> Iterator[Found]:
    grants = [host.approvals.grant(pack_id) for pack_id in sorted(known_ids(host))]
    newest = max((grant.approved_at for grant in grants if grant is not None), default=0.0)
    behind = newest - time.time()
    if behind > TOLERATED_S:
        last = datetime.fromtimestamp(newest, UTC)
        yield Found(
            "clock",
            "The machine's clock was set back",
            f"It stands {behind:.0f} s before the last approval ({last:%Y-%m-%d %H:%M} UTC).",
            "Set the clock. Permissions until a time have not become longer by this.",
            evidence={"behind_s": behind},
        )
