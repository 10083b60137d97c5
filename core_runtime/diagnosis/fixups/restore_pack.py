"""Puts the approved bytes of a Pack back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Put the approved files back"
TITLE_JA = "承認済みのファイルに戻す"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    found = await packs.restore(host, str(args["pack_id"]), actor=actor)
    return f"{found.pack_id} is {found.state.value}"
