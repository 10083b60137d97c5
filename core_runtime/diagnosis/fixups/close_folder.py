"""Closes a private folder to other users."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.facts import PRIVATE

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Close the folder to other users"
TITLE_JA = "フォルダをほかの利用者から閉じる"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    name = next(name for name in PRIVATE if name == args["folder"])
    await asyncio.to_thread((host.settings.user_data / name).chmod, 0o700)
    return f"user_data/{name} is 0700 now"
