"""Forgets a Pack whose folder is gone: its grant, its copy, what the host wrote about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Forget the decision"
TITLE_JA = "決定を忘れる"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    pack_id = str(args["pack_id"])
    await packs.remove(host, pack_id, actor=actor)
    return f"{pack_id} is forgotten"
