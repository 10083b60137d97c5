"""Makes the data folders that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.ecosystem.initializer import initialise

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Make the missing folders"
TITLE_JA = "足りないフォルダを作る"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    made = (await asyncio.to_thread(initialise, host.settings.home)).created
    return f"made: {', '.join(made) or 'nothing'}"
