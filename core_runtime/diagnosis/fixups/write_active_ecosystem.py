"""Keeps an unusable active_ecosystem.json as a backup and writes the choices that are in force."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.ecosystem.active_ecosystem import save_active_ecosystem
from core_runtime.diagnosis.aside import set_aside

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Write active_ecosystem.json as it is in force, keeping the old one"
TITLE_JA = "古いものを残して、効いている内容でactive_ecosystem.jsonを書き直す"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    return await asyncio.to_thread(_write, host)


def _write(host: Host) -> str:
    file = host.settings.user_data / "active_ecosystem.json"
    kept = set_aside(file).name
    save_active_ecosystem(file, host.active)
    return f"active_ecosystem.json says what is in force; the old one is {kept}"
