"""Removes files that were set aside more than a month ago."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.aside import remove_old
from core_runtime.diagnosis.checks.backup_old import OLD_S, PATTERN

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Remove them"
TITLE_JA = "削除する"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    count = await asyncio.to_thread(remove_old, host.settings.user_data, str(args["folder"]), PATTERN, OLD_S)
    return f"removed {count}"
