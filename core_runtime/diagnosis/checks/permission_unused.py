"""A Pack holds permissions that it has not used for weeks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Permissions that are not used"
TITLE_JA = "使われていない権限"
LONG_S = 14 * 86_400.0


def look(host: Host) -> Iterator[Found]:
    now = time.time()
    if now - host.permissions.counted_since < LONG_S:
        return
    for found in statuses(host):
        grant = host.approvals.grant(found.pack_id)
        if grant is None or now - grant.approved_at < LONG_S:
            continue
        idle = sorted(
            f"{usage.permission['type']} {item}"
            for usage in host.permissions.used_versus_granted(found.pack_id)
            for item, uses in usage.items.items()
            if not uses.count
        )
        if idle:
            yield Found(
                found.pack_id,
                f"The Pack {found.pack_id} holds {len(idle)} permissions that it does not use",
                "; ".join(idle[:10]),
                f"Take them away: rumi pack revoke {found.pack_id} --unused",
                Severity.INFO,
                {"unused": idle[:100]},
                mend="revoke_unused",
                args={"pack_id": found.pack_id},
                command=f"rumi pack revoke {found.pack_id} --unused",
            )
