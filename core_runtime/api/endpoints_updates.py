"""Routes about updates: bring a version in, look at it, decide about it, go back."""

from __future__ import annotations

from typing import Any

import msgspec

from backend_core.errors import RequestError
from core_runtime.api import views
from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import Endpoint
from core_runtime.handlers import packs, updates
from core_runtime.rules.decisions import deciding
from core_runtime.rules.oci import reference
from core_runtime.rules.sources import git_source


class AddPack(msgspec.Struct, forbid_unknown_fields=True):
    """One of three. ``path``: an absolute path on the host's machine, of the folder that holds
    ``backend/ecosystem.json``, or of a zip or tar archive of it. ``git``: the address of a repository, of which ``ref``
    (a branch, a tag, a commit; else its head) is fetched. ``oci``: ``oci://HOST/NAME:TAG`` or ``…@sha256:…``; the
    answer's ``pinned`` names just what was fetched. ``publisher``: ``ed25519:…``, the key that it must be signed with.
    """

    path: str = ""
    git: str = ""
    ref: str = ""
    oci: str = ""
    publisher: str = ""


class ApproveUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """As for an approval; without a digest, what is staged now is read, bound and approved."""

    digest: str | None = None
    permissions: list[Any] | None = None
    replace: list[str] = msgspec.field(default_factory=list)
    until: float | None = None
    accept_weaker: bool = False
    development: bool = False


async def add(api: Api, call: Call) -> Any:
    body = await call.body(AddPack)
    named = [one for one in (body.path, body.git, body.oci) if one]
    if len(named) != 1 or (body.ref and not body.git):
        raise RequestError(
            "Where is the Pack?",
            code="source_unclear",
            detail="Expected path, git with an optional ref, or oci.",
            hint='{"path": "/absolute/folder-or-archive"}, {"git": "https://…", "ref": "v1.0"} or {"oci": "oci://…"}',
        )
    options = {"actor": call.actor, "publisher": body.publisher}
    if body.oci:
        found, pinned = await updates.add_from_registry(api.host, reference(body.oci), **options)
        return {**views.pack_status(found), "pinned": pinned}
    if body.git:
        source = git_source(body.git, body.ref)
        return views.pack_status(await updates.add_from_git(api.host, source, **options))
    return views.pack_status(await updates.add(api.host, body.path, **options))


async def show(api: Api, call: Call) -> Any:
    found = await updates.review(api.host, call.pack_id)
    return {**found.as_dict(), "isolation": views.isolation(api.host.isolation)}


async def bill(api: Api, call: Call) -> Any:
    return await packs.bill(api.host, call.pack_id, update=True)


async def approve(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    body = await call.body(ApproveUpdate)
    done = await updates.approve(
        api.host,
        pack_id,
        digest=body.digest,
        permissions=body.permissions,
        replaces=body.replace,
        actor=deciding(call.actor, development=body.development),
        until=body.until,
        accept_weaker=body.accept_weaker,
    )
    return views.pack_status(done)


async def reject(api: Api, call: Call) -> Any:
    return views.pack_status(await updates.reject(api.host, call.pack_id, actor=call.actor))


async def rollback(api: Api, call: Call) -> Any:
    return views.pack_status(await updates.rollback(api.host, call.pack_id, actor=call.actor))


ENDPOINTS = (
    Endpoint(
        "POST",
        "/api/packs/add",
        "addPack",
        "Bring a folder, an archive, or what a repository or registry has: a new Pack, or a version beside another",
        add,
        body=AddPack,
        body_required=True,
        errors=(404, 409, 422),
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/update",
        "reviewUpdate",
        "Everything that the decision about the staged version needs",
        show,
        errors=(404, 409, 422),
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/update/sbom",
        "updateBill",
        "Bill of materials of the staged version, as CycloneDX 1.6",
        bill,
        errors=(404, 409, 422),
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/update/approve",
        "approveUpdate",
        "Put the staged version in the old one's place; one that does not start is taken back",
        approve,
        body=ApproveUpdate,
        errors=(404, 409, 422, 502, 504),
    ),
    Endpoint(
        "POST", "/api/packs/{id}/update/reject", "rejectUpdate", "Throw the staged version away", reject, errors=(404,)
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/rollback",
        "rollbackPack",
        "Return to the version before the last update, with the Pack's data",
        rollback,
        errors=(404, 409, 502, 504),
    ),
)
