"""Use cases about the secrets of a Pack: entering a value, seeing which there are, taking one away.

Invariants:
  * A value goes in and is never shown again, in no answer, event or record.
  * A value is entered for the identity that is approved now; before an approval, for the one that lies on the disk, so
    that a Pack can have it at its first start.

Not here: storing and handing over (``secret_manager``), granting (``permissions``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from backend_core.errors import ConflictError
from core_runtime.approval_manager import PackStatus
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.rules.fetch import injections
from core_runtime.rules.grants import Grant, permission_document

CHANGED = "pack.secrets"


async def view(host: Host, pack_id: str) -> dict[str, Any]:
    """Which secrets were entered, which of them the Pack asked for and may have; no values."""
    status = await packs.status(host, pack_id)
    return await asyncio.to_thread(_view, host, status)


async def put(host: Host, pack_id: str, name: str, value: str, *, actor: str) -> dict[str, Any]:
    """Store or replace a value. A running Pack receives it when it asks in its next generation."""
    host.require_evidence()
    async with host.exclusively(pack_id):
        status = await packs.status(host, pack_id)
        identity = _identity(status, host.approvals.grant(pack_id))
        await asyncio.to_thread(host.secrets.set, pack_id, name, value, identity=identity, actor=actor)
    host.events.publish(CHANGED, {"pack_id": pack_id, "name": name, "change": "set"})
    return await view(host, pack_id)


async def remove(host: Host, pack_id: str, name: str, *, actor: str) -> dict[str, Any]:
    """Delete a value; ``NotFoundError`` when there is none."""
    async with host.exclusively(pack_id):
        await packs.status(host, pack_id)
        await asyncio.to_thread(host.secrets.remove, pack_id, name, actor=actor)
    host.events.publish(CHANGED, {"pack_id": pack_id, "name": name, "change": "removed"})
    return await view(host, pack_id)


# -- inside -----------------------------------------------------------------------------------------------------------


def _view(host: Host, status: PackStatus) -> dict[str, Any]:
    grant = host.approvals.grant(status.pack_id)
    declared = _declared(status, grant)
    found = host.secrets.entries(status.pack_id, identity=_identity(status, grant))
    injected = _injected(permission_document(item) for item in (grant.of_type("http.fetch") if grant else ()))
    names = [str(item["name"]) for item in found]
    return {
        "pack_id": status.pack_id,
        "secrets": [
            {
                **item,
                "declared": item["name"] in declared,
                "granted": host.permissions.has(status.pack_id, "secret", name=item["name"])
                or item["name"] in injected,
            }
            for item in found
        ],
        "not_entered": sorted(declared - set(names)),
    }


def _declared(status: PackStatus, grant: Grant | None) -> set[str]:
    """Names that the approved version, or the one on the disk, asks for."""
    asked = [dict(item) for item in grant.requested] if grant is not None else []
    if status.metadata is not None:
        asked += [{"type": request.type, **request.params} for request in status.metadata.permissions]
    named = {str(name) for item in asked if item.get("type") == "secret" for name in item.get("names") or ()}
    return named | _injected(item for item in asked if item.get("type") == "http.fetch")


def _injected(documents: Iterable[Mapping[str, Any]]) -> set[str]:
    """Secrets that the host puts into requests itself."""
    texts = [str(text) for document in documents for text in document.get("secrets") or ()]
    return {item.secret for item in injections(texts)}


def _identity(status: PackStatus, grant: Grant | None) -> str:
    if grant is not None:
        return grant.pack_identity
    if status.metadata is not None:
        return status.metadata.pack_identity
    raise ConflictError(
        "Nobody knows whose secret that would be",
        code="pack_unreadable",
        detail=f"The metadata of {status.pack_id} can't be read, and no version of it is approved.",
        hint=f"See why: rumi pack show {status.pack_id}",
    )
