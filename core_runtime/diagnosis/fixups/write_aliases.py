"""Keeps an unusable aliases.json as a backup and writes the aliases that are in force."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.ecosystem.aliases import FILE, save_aliases
from core_runtime.diagnosis.aside import set_aside
from core_runtime.handlers.aliases import file_of

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Write aliases.json as it is in force, keeping the old one"
TITLE_JA = "古いものを残して、効いている内容でaliases.jsonを書き直す"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del args, actor
    async with host.exclusively(FILE):
        return await asyncio.to_thread(_write, host)


def _write(host: Host) -> str:
    kept = set_aside(file_of(host)).name
    save_aliases(file_of(host), host.aliases.list_all_mappings())
    return f"aliases.json says what is in force; the old one is {kept}"
