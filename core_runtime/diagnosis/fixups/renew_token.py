"""Sets an unusable API token aside and makes a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.diagnosis.aside import set_aside
from core_runtime.drivers.token import TokenFile

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Make a new token"
TITLE_JA = "新しいトークンを作る"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    return await asyncio.to_thread(_renew, host)


def _renew(host: Host) -> str:
    set_aside(host.settings.token_file).unlink(missing_ok=True)  # it was never usable: nothing is lost with it
    TokenFile(host.settings.token_file).ensure()
    return "there is a new token: rumi token"
