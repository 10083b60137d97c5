"""Takes from a Pack the permissions that it has not used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import permissions

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Take the unused permissions away"
TITLE_JA = "使われていない権限を取り上げる"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    pack_id = str(args["pack_id"])
    left = await permissions.revoke(host, pack_id, [], unused=True, actor=actor)
    return f"{pack_id} holds {len(left['granted'])} permissions now"
