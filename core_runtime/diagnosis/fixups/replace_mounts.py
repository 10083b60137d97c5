"""Keeps an unusable mounts.json as a backup and writes the default."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.ecosystem.mounts import default_mounts, save_mounts
from core_runtime.diagnosis.aside import set_aside

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Write a fresh mounts.json, keeping the old one"
TITLE_JA = "古いものを残してmounts.jsonを作り直す"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    return await asyncio.to_thread(_replace, host)


def _replace(host: Host) -> str:
    file = host.settings.user_data / "mounts.json"
    kept = set_aside(file).name
    save_mounts(file, default_mounts(host.settings.home))
    return f"mounts.json is the default; the old one is {kept}"
