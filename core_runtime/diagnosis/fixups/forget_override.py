"""Drops the operator's choice of a provider for one interface."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.choices import change
from core_runtime.handlers import starting

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Drop the choice"
TITLE_JA = "この選択を取り消す"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    key = str(args["key"])
    await asyncio.to_thread(change, host, lambda active: active.with_interface(key, None))
    starting.settle_owners(host)
    return f"{key} is answered by its owner again"
