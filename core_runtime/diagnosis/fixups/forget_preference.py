"""Drops the preference of a component that no Pack has."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from core_runtime.diagnosis.choices import change

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Drop the entry"
TITLE_JA = "この項目を取り除く"
AUTOMATIC = False


async def perform(host: Host, args: Mapping[str, Any], actor: str) -> str:
    del actor
    kind = str(args["type"])
    await asyncio.to_thread(
        change,
        host,
        lambda active: replace(
            active, overrides=MappingProxyType({one: which for one, which in active.overrides.items() if one != kind})
        ),
    )
    return f"no component is preferred for {kind} any more"
