"""Has the aliases in force that aliases.json says now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import aliases

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Read aliases.json again"
TITLE_JA = "aliases.jsonを読み直す"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args
    count = len(await aliases.adopt(host, actor=actor))
    return f"{count} aliases are in force"
