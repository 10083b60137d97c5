"""Drops a switched-off component that no Pack has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.choices import change

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Drop the entry"
TITLE_JA = "この項目を取り除く"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    full_id = str(args["full_id"])
    await asyncio.to_thread(change, host, lambda active: active.with_component(full_id, enabled=True))
    return f"{full_id} is not switched off any more"
