"""Moves a grant that can't be believed out of the way, so that the Pack can be decided about anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.errors import ConflictError
from core_runtime.diagnosis.aside import set_aside
from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Set the unusable grant aside"
TITLE_JA = "使えない承認を退避する"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    pack_id = str(args["pack_id"])
    async with host.exclusively(pack_id):
        kept = await asyncio.to_thread(_aside, host, pack_id)
    await packs.scan(host, pack_id)
    return f"the grant is kept as {kept}; review the Pack: rumi pack review {pack_id}"


def _aside(host: Host, pack_id: str) -> str:
    if host.approvals.grant(pack_id) is not None:
        raise ConflictError(
            "Its grant counts again", code="grant_valid", detail=f"{pack_id} is in order now."
        )
    return set_aside(host.approvals.grants.path(pack_id)).name
