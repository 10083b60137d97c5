"""Fetches the Python packages that a Pack lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from core_runtime.handlers import packs

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Fetch its Python packages"
TITLE_JA = "Pythonパッケージを取得する"
AUTOMATIC = True


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    found = await packs.fetch(host, str(args["pack_id"]), actor=actor)
    return f"{found.pack_id} is {found.state.value}"
