"""Removes half-written files that nothing writes any more."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.files import TEMPORARY_PREFIX
from core_runtime.diagnosis.aside import remove_old
from core_runtime.diagnosis.checks.temporary_left import OLD_S

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Remove them"
TITLE_JA = "削除する"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    count = await asyncio.to_thread(
        remove_old, host.settings.user_data, str(args["folder"]), f"{TEMPORARY_PREFIX}*", OLD_S
    )
    return f"removed {count}"
