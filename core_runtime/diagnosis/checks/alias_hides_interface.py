"""A Pack provides an interface whose name the operator gave to another one: calls over the host mean that other one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import quote
from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Aliases that hide an interface"
TITLE_JA = "インターフェイスを隠す別名"


def look(host: Host) -> Iterator[Found]:
    aliases = host.aliases
    hidden: dict[str, str] = {}
    for status in statuses(host):
        for key in status.metadata.provides() if status.metadata is not None else ():
            if aliases.resolve(key) != key:
                hidden.setdefault(key, status.pack_id)
    for alias, pack_id in sorted(hidden.items()):
        meant = quote(aliases.resolve(alias), 100)
        yield Found(
            alias,
            f"The alias {quote(alias, 100)} hides an interface of that name",
            f"{quote(pack_id, 70)} provides it. You said that the name means {meant}, so that is what calls over HTTP, "
            "the command line and flows reach; other Packs reach what the Pack provides.",
            f"If that is not as you want it: rumi interface alias remove {alias}",
        )
