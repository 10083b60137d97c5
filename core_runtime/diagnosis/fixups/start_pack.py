"""Starts an approved Pack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Start it"
TITLE_JA = "起動する"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    found = await packs.start(host, str(args["pack_id"]))
    return f"{found.pack_id} is {found.state.value}"
