"""Use cases about single permissions: what a Pack holds and how much of it it uses, giving one more, taking one away.

Invariants:
  * Both act on the next use of a running Pack; nothing is restarted for them.
  * Giving needs the approved files in place, and can't go beyond what the approved version declares.
  * Taking away always works, also while the audit trail is in doubt.

Not here: deciding about a Pack (``packs``), host privileges (``host_privilege_manager``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec.structs import asdict

from backend_core.errors import DeniedError, NotFoundError, quote
from core_runtime.approval_manager import PackStatus
from core_runtime.handlers import operator_view, packs, starting
from core_runtime.handlers.host import Host
from core_runtime.permission_manager import Ask, Usage
from core_runtime.rules.grants import Grant, thaw
from core_runtime.rules.narrowing import as_choices, without, without_unused
from core_runtime.rules.permissions import Choice, describe, parse_choices, requests_of, resources_of

CHANGED = "pack.permissions"


async def view(host: Host, pack_id: str) -> dict[str, Any]:
    """What the Pack declared, what of it is granted, how much of that was used, and what it asked for meanwhile."""
    status = await packs.status(host, pack_id)
    return await asyncio.to_thread(_view, host, status)


async def grant(host: Host, pack_id: str, items: Sequence[Any], *, actor: str) -> dict[str, Any]:
    """Give more of what the approved version declares; ``items`` as in an approval."""
    host.require_evidence()
    added = parse_choices(items)
    async with host.exclusively(pack_id):
        held = await _held(host, pack_id)
        await asyncio.to_thread(host.approvals.widen, pack_id, permissions=added, actor=actor)
        await _tell(host, pack_id, "granted", [item.type for item in added])
    return await _changed(host, pack_id, held)


async def revoke(host: Host, pack_id: str, items: Sequence[Any], *, unused: bool = False, actor: str) -> dict[str, Any]:
    """Take permissions away: types whole, or only the paths, keys and topics that an item names.

    ``unused``: also everything that was not used since counting began.
    """
    removals = parse_choices(items)
    async with host.exclusively(pack_id):
        held = await _held(host, pack_id)
        left = without(held.permissions, removals)
        if removals and left == held.permissions:
            raise _not_held(pack_id, removals)
        if unused:
            used = _used_items(host, pack_id)
            left = without_unused(left, lambda kind, item: (kind, item) in used)
        if left != held.permissions:
            try:
                await asyncio.to_thread(host.approvals.narrow, pack_id, permissions=as_choices(left), actor=actor)
            finally:  # where the smaller grant found no room, the whole one is gone, and with it the right to run
                await packs.stop_without_grant(host, pack_id, "its smaller grant could not be written")
            taken = sorted({p.type for p in held.permissions if p not in left})
            await _tell(host, pack_id, "revoked", taken)
    return await _changed(host, pack_id, held)


# -- inside -----------------------------------------------------------------------------------------------------------


async def _held(host: Host, pack_id: str) -> Grant:
    status = await packs.status(host, pack_id)
    held = host.approvals.grant(pack_id)
    if held is None:
        raise DeniedError(
            f"The Pack {pack_id} is not approved",
            code="not_approved",
            detail=f"It holds no permissions; its state is {status.state.value}.",
            hint=f"Review it, then: rumi pack approve {pack_id}",
        )
    return held


async def _tell(host: Host, pack_id: str, change: str, types: Sequence[str]) -> None:
    """Show the Pack what it sees now, and everybody else that it changed."""
    host.show_rights(pack_id)
    starting.settle_owners(host)
    host.events.publish(CHANGED, {"pack_id": pack_id, "change": change, "types": list(types)})
    await asyncio.to_thread(operator_view.write, host, pack_id)


async def _changed(host: Host, pack_id: str, before: Grant) -> dict[str, Any]:
    """The new view; limits of the sandbox are the one thing that a running Pack keeps until its next start."""
    now = host.approvals.grant(pack_id)
    at = host.approvals.latest.now()
    limits = now is not None and dict(resources_of(now, now=at)) != dict(resources_of(before, now=at))
    return {**await view(host, pack_id), "restart_needed": limits}


def _used_items(host: Host, pack_id: str) -> set[tuple[str, str]]:
    usages = host.permissions.used_versus_granted(pack_id)
    return {(usage.permission["type"], item) for usage in usages for item, uses in usage.items.items() if uses.count}


def _view(host: Host, status: PackStatus) -> dict[str, Any]:
    usages = host.permissions.used_versus_granted(status.pack_id)
    requests = requests_of(status.metadata) if status.metadata else ()
    types = {usage.permission["type"] for usage in usages}
    return {
        "pack_id": status.pack_id,
        "status": status.state.value,
        "counted_since": host.permissions.counted_since,
        "granted": [_usage(usage) for usage in usages],
        "withheld": [describe(request) for request in requests if request.type not in types],
        "asked": [_ask(ask) for ask in host.permissions.asks() if ask.pack_id == status.pack_id],
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        **usage.permission,
        "uses": usage.uses,
        "last_used_at": usage.last_used_at,
        "items": {item: asdict(uses) for item, uses in usage.items.items()},
        "unused": [item for item, uses in usage.items.items() if not uses.count],
        "ended": usage.ended,
    }


def _ask(ask: Ask) -> dict[str, Any]:
    return {"type": ask.type, "params": thaw(ask.params), "reason": ask.reason, "at": ask.at}


def _not_held(pack_id: str, removals: Sequence[Choice]) -> NotFoundError:
    return NotFoundError(
        "The Pack does not hold that",
        code="permission_not_held",
        detail=f"Nothing of {', '.join(quote(item.type, 60) for item in removals[:5])} is granted to {pack_id}.",
        hint=f"See what it holds: rumi pack permissions {pack_id}",
    )
