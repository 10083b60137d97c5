"""Several approved Packs provide one interface, and nobody chose between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import quote
from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.rules.approval import State

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Interfaces with several providers"
TITLE_JA = "提供元が複数あるインターフェイス"


def look(host: Host) -> Iterator[Found]:
    providers: dict[str, list[str]] = {}
    for found in statuses(host):
        if found.metadata is not None and found.state in {State.APPROVED, State.RUNNING}:
            for key in found.metadata.provides():
                providers.setdefault(key, []).append(found.pack_id)
    for key, packs in sorted(providers.items()):
        if len(packs) > 1 and key not in host.active.interface_overrides:
            yield Found(
                key,
                f"{len(packs)} Packs provide {quote(key, 100)}",
                f"{', '.join(sorted(packs))}; {host.registry.owner(key) or 'none of them'} answers.",
                "That may be as you want it. To choose: user_data/active_ecosystem.json, interface_overrides.",
                Severity.INFO,
            )
