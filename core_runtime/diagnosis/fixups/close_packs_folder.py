"""Takes from other users the right to write where Packs are put."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.facts import mode_of

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Let nobody else write into ecosystem/packs"
TITLE_JA = "ecosystem/packsに他人が書けないようにする"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    folder = host.settings.packs_dir
    mode = (mode_of(folder) or 0o755) & ~0o022
    await asyncio.to_thread(folder.chmod, mode)
    return f"ecosystem/packs is {mode:04o} now"
