"""Removes a stored secret that can't be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import secrets

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Remove it"
TITLE_JA = "削除する"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    await secrets.remove(host, str(args["pack_id"]), str(args["name"]), actor=actor)
    return f"removed {args['name']}"
