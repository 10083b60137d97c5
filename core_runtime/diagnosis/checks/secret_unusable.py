"""A stored secret can't be opened for the Pack it lies with: entered for another identity, copied, damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Secrets that can't be opened"
TITLE_JA = "開けない秘密"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        grant = host.approvals.grant(found.pack_id)
        if grant is None:
            continue
        for one in host.secrets.entries(found.pack_id, identity=grant.pack_identity):
            if one["cause"]:
                yield Found(
                    f"{found.pack_id}/{one['name']}",
                    f"The secret {one['name']} of {found.pack_id} can't be used",
                    str(one["cause"]),
                    f"Enter it again: rumi secret set {found.pack_id} {one['name']}",
                    mend="remove_secret",
                    args={"pack_id": found.pack_id, "name": one["name"]},
                    command=f"rumi secret set {found.pack_id} {one['name']}",
                )
