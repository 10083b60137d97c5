"""Makes the folder of a mount below user_data."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backend_core.ecosystem.mounts import load_mounts
from backend_core.errors import ConflictError

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Make the folder"
TITLE_JA = "フォルダを作る"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    return await asyncio.to_thread(_make, host, str(args["name"]))


def _make(host: Host, name: str) -> str:
    base = host.settings.user_data
    path = load_mounts(base / "mounts.json", host.settings.home).path(name)
    if not path.is_relative_to(base):
        raise ConflictError(
            "The mount was changed", code="mount_outside", detail=f"{path} is not in user_data."
        )
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return f"made {path.relative_to(host.settings.home)}"
