"""Keeps a damaged account of written files as a backup; the Pack's account begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.aside import set_aside

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Begin the account anew, keeping the damaged one"
TITLE_JA = "壊れた記録を残して新しく始める"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    pack_id = str(args["pack_id"])
    async with host.exclusively(pack_id):
        kept = await asyncio.to_thread(set_aside, host.userdata.account_file(pack_id))
        host.userdata.forget(pack_id)
    return f"what it wrote so far is not counted any more; the damaged account is {kept.name}"
