"""Routes about single permissions and about what a Pack left on the disk."""

from __future__ import annotations

from typing import Any

import msgspec

from backend_core.errors import RequestError
from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import Endpoint
from core_runtime.handlers import egress, packs, permissions


class Give(msgspec.Struct, forbid_unknown_fields=True):
    """Each is a type's name, or ``{type, paths|keys|topics…, mode: always|once|restart|until, until}``."""

    permissions: list[Any]


class Take(msgspec.Struct, forbid_unknown_fields=True):
    """A type's name takes all of it, ``{type, paths|keys|topics}`` just those; ``unused`` what was never used."""

    permissions: list[Any] = msgspec.field(default_factory=list)
    unused: bool = False


class Uninstall(msgspec.Struct, forbid_unknown_fields=True):
    """Without ``dry_run: false`` it only says what would be removed."""

    dry_run: bool = True


async def show(api: Api, call: Call) -> Any:
    return await permissions.view(api.host, call.pack_id)


async def give(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    await packs.status(api.host, pack_id)
    body = await call.body(Give)
    if not body.permissions:
        raise _nothing("permissions")
    return await permissions.grant(api.host, pack_id, body.permissions, actor=call.actor)


async def take(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    await packs.status(api.host, pack_id)
    body = await call.body(Take)
    if not body.permissions and not body.unused:
        raise _nothing("permissions, or unused: true")
    return await permissions.revoke(api.host, pack_id, body.permissions, unused=body.unused, actor=call.actor)


async def connections(api: Api, call: Call) -> Any:
    return await egress.view(api.host, call.pack_id)


async def uninstall(api: Api, call: Call) -> Any:
    """Also for a Pack that is gone already: the journal outlives it."""
    pack_id = call.pack_id
    body = await call.body(Uninstall)
    return await packs.clean(api.host, pack_id, dry_run=body.dry_run, actor=call.actor)


def _nothing(expected: str) -> RequestError:
    return RequestError(
        "Nothing was named",
        code="permissions_invalid",
        detail=f"expected {expected}",
        hint="GET /api/packs/{id}/permissions lists what there is.",
    )


_PATH = "/api/packs/{id}/permissions"

ENDPOINTS = (
    Endpoint("GET", _PATH, "packPermissions", "What is granted, and how much of it was used", show, errors=(404,)),
    Endpoint(
        "POST",
        _PATH,
        "grantPermissions",
        "Grant more of what was declared; acts on the next call",
        give,
        body=Give,
        body_required=True,
        errors=(404, 409, 422),
    ),
    Endpoint(
        "DELETE",
        _PATH,
        "revokePermissions",
        "Take permissions away; acts on the next call",
        take,
        body=Take,
        body_required=True,
        errors=(404, 409),
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/egress",
        "packEgress",
        "Connections of a Pack, bytes against budgets, what was refused lately",
        connections,
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/journal/uninstall",
        "uninstallJournal",
        "Remove the files that the journal says the Pack made; a dry run unless told otherwise",
        uninstall,
        body=Uninstall,
        errors=(409,),
    ),
)
