"""Closes the signing key to other users. Whether one of them has read it, only the operator can judge."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.drivers.keys import KEY_FILE
from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Close the signing key to other users"
TITLE_JA = "署名鍵をほかの利用者から閉じる"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    await asyncio.to_thread((host.settings.permissions_dir / KEY_FILE).chmod, 0o600)
    await packs.scan(host)
    return "the key is 0600 now and counts again; if somebody may have read it: rumi trust rotate-key"
