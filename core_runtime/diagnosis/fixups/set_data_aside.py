"""Moves the data of a Pack that is not there out of reach of another that comes under its id."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.errors import ConflictError
from core_runtime.diagnosis.aside import set_aside
from core_runtime.diagnosis.facts import known_ids

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Set the data aside"
TITLE_JA = "データを退避する"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    pack_id = str(args["pack_id"])
    async with host.exclusively(pack_id):
        return await asyncio.to_thread(_aside, host, pack_id)


def _aside(host: Host, pack_id: str) -> str:
    if pack_id in known_ids(host):
        raise ConflictError("The Pack is there again", code="pack_known", detail=f"{pack_id} was installed meanwhile.")
    kept = set_aside(host.settings.user_data / "packs" / pack_id)
    host.userdata.forget(pack_id)
    return f"it is user_data/packs/{kept.name} now"
