"""Removes the secrets of a Pack that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.errors import ConflictError
from core_runtime.diagnosis.facts import known_ids

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Remove them"
TITLE_JA = "秘密を削除する"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    pack_id = str(args["pack_id"])
    async with host.exclusively(pack_id):
        count = await asyncio.to_thread(_drop, host, pack_id, actor)
    return f"removed {count}"


def _drop(host: Host, pack_id: str, actor: str) -> int:
    if pack_id in known_ids(host):
        raise ConflictError("The Pack is there again", code="pack_known", detail=f"{pack_id} was installed meanwhile.")
    return host.secrets.drop(pack_id, actor=actor)
