"""A Pack may use a secret that nobody has entered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Secrets that were not entered"
TITLE_JA = "入力されていない秘密"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        grant = host.approvals.grant(found.pack_id)
        if grant is None:
            continue
        granted = {name for permission in grant.of_type("secret") for name in permission.texts("names")}
        if not granted:
            continue
        entered = {str(one["name"]) for one in host.secrets.entries(found.pack_id, identity=grant.pack_identity)}
        for name in sorted(granted - entered):
            yield Found(
                f"{found.pack_id}/{name}",
                f"The Pack {found.pack_id} may use the secret {name}, and nobody has entered it",
                "Its handlers are told that the secret is not there.",
                f"Enter it: rumi secret set {found.pack_id} {name}",
                command=f"rumi secret set {found.pack_id} {name}",
            )
