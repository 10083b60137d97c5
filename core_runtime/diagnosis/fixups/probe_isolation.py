"""Asks the isolation drivers again where none answered, or the one in use no more; starts what was approved."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.errors import ConflictError
from core_runtime.handlers import isolation, starting

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Look for an isolation again"
TITLE_JA = "隔離の手段をもう一度探す"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    if host.lost_driver is not None:
        lost = host.lost_driver.kind.value
        return f"{lost} {'answers again' if await host.sandboxes.reattached() else 'still does not answer'}"
    if host.isolation is not None:
        raise ConflictError(
            "There is an isolation",
            code="isolation_there",
            detail=f"Packs run under {host.isolation.driver.value}.",
            hint="Another one is chosen when the host starts: rumi down, then rumi up",
        )
    orchestrator = host.sandboxes
    host.isolation = await orchestrator.choose()
    host.approvals.base_runtime = await isolation.base_runtime(host)
    if host.isolation is None:
        isolation.no_isolation_issue(host)
        return "no driver answered; the issue says what each of them said"
    host.diagnostics.resolve(isolation.DOCKER_REQUIRED, "isolation")
    await orchestrator.remove_leftovers()
    await starting.start_approved(host, await asyncio.to_thread(host.approvals.list))
    return f"Packs run under {host.isolation.driver.value} ({host.isolation.level.name.lower()}) now"
