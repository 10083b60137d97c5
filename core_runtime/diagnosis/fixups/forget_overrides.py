"""Drops the preferences of components, which decide nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from backend_core.ecosystem.spec.models import EMPTY
from core_runtime.diagnosis.choices import change

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Drop the entry"
TITLE_JA = "この項目を取り除く"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    await asyncio.to_thread(change, host, lambda active: replace(active, overrides=EMPTY))
    return "active_ecosystem.json has no overrides any more"
