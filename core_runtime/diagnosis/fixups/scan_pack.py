"""Reads a Pack's folder again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Read its folder again"
TITLE_JA = "フォルダを読み直す"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    pack_id = str(args["pack_id"])
    await packs.scan(host, pack_id if packs.is_pack_id(pack_id) else None)
    return "its folder was read again"
