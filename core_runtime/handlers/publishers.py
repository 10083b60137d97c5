"""Use cases about publishers: whose signature each Pack was first approved with, and taking that back.

Not here: signing (``author_tools``), what a signature is worth (``rules.signing``).
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from core_runtime.handlers.host import Host
from core_runtime.rules.grants import timestamp
from core_runtime.rules.signing import Pin

OPERATOR = "operator"


async def listed(host: Host) -> list[dict[str, Any]]:
    """Every known publisher's key, by Pack."""
    found = await asyncio.to_thread(host.approvals.publishers)
    return [_shown(pack_id, pin) for pack_id, pin in sorted(found.items())]


async def forget(host: Host, pack_id: str, *, actor: str = OPERATOR) -> dict[str, Any]:
    """Take one back; what is approved stays approved. Gives a right to the next version, so it needs evidence."""
    host.require_evidence()
    async with host.exclusively(pack_id):
        held = await asyncio.to_thread(partial(host.approvals.forget_publisher, pack_id, actor=actor))
    return _shown(pack_id, held)


async def reset(host: Host, *, actor: str = OPERATOR) -> None:
    """Begin anew with none."""
    host.require_evidence()
    await asyncio.to_thread(partial(host.approvals.reset_publishers, actor=actor))


def _shown(pack_id: str, pin: Pin) -> dict[str, Any]:
    return {
        "pack_id": pack_id,
        "key": pin.key,
        "publisher": pin.publisher,
        "version": pin.version,
        "since": timestamp(pin.since),
    }
