"""Routes about the machine: isolation drivers, running containers, host privileges."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from backend_core.errors import NotFoundError
from core_runtime.api import views
from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import OBJECTS, Endpoint
from core_runtime.handlers import packs
from core_runtime.rules.sandbox import DriverKind

DOCKER_MISSING = "Docker is required but not available"
ENGINE_LOST = "What isolates Packs does not answer any more"


class Grant(msgspec.Struct, forbid_unknown_fields=True):
    """``options`` as the privilege defines them (its folder, its domains); ``until`` in seconds since 1970."""

    options: dict[str, Any] = msgspec.field(default_factory=dict)
    until: float | None = None


class Execute(msgspec.Struct, forbid_unknown_fields=True):
    """Parameters of the privilege, as its schema says."""

    params: dict[str, Any] = msgspec.field(default_factory=dict)


async def docker_status(api: Api, call: Call) -> Any:
    """``required`` means: without Docker nothing of any Pack runs on this machine."""
    del call
    return isolation_view(api)


def isolation_view(api: Api) -> dict[str, Any]:
    """Also what the console shows."""
    statuses = {status.kind: status for status in api.host.statuses}
    chosen = api.host.isolation
    docker = statuses.get(DriverKind.DOCKER)
    return {
        "available": docker is not None and docker.available,
        "required": chosen is None or chosen.driver is DriverKind.DOCKER,
        "preference": api.settings.isolation,
        "isolation": views.isolation(chosen),
        "drivers": [views.driver(status) for status in statuses.values()],
        "problem": ENGINE_LOST if api.host.lost_driver else DOCKER_MISSING if statuses and chosen is None else None,
    }


async def containers(api: Api, call: Call) -> Any:
    del call
    host = api.host
    if host.orchestrator is None:
        return []
    return [views.container(info, host.bus.large_values(info.pack_id)) for info in host.orchestrator.list()]


async def start(api: Api, call: Call) -> Any:
    """``{id}`` is a Pack's id: its container is made anew, under the grant."""
    return views.pack_status(await packs.start(api.host, call.pack_id))


async def stop(api: Api, call: Call) -> Any:
    return views.pack_status(await packs.stop(api.host, call.pack_id))


async def remove(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    running = (
        []
        if api.host.orchestrator is None
        else [info.id for info in api.host.orchestrator.list() if info.pack_id == pack_id]
    )
    if not running:
        await packs.status(api.host, pack_id)
        raise NotFoundError("No container runs", detail=f"nothing of {pack_id} is running", hint="rumi container list")
    await packs.stop(api.host, pack_id)
    return {"pack_id": pack_id, "removed": running}


async def privileges(api: Api, call: Call) -> Any:
    del call
    return await asyncio.to_thread(api.host.privileges.list)


async def grant(api: Api, call: Call) -> Any:
    pack_id, privilege = call.pack_id, call.name("priv")
    body = await call.body(Grant)
    await packs.status(api.host, pack_id)
    api.host.require_evidence()
    await asyncio.to_thread(
        api.host.privileges.grant, pack_id, privilege, actor=call.actor, options=body.options, until=body.until
    )
    return {"pack_id": pack_id, "privilege": privilege, "granted": True}


async def revoke(api: Api, call: Call) -> Any:
    pack_id, privilege = call.pack_id, call.name("priv")
    await packs.status(api.host, pack_id)
    was = await asyncio.to_thread(api.host.privileges.revoke, pack_id, privilege, actor=call.actor)
    return {"pack_id": pack_id, "privilege": privilege, "granted": False, "was_granted": was}


async def execute(api: Api, call: Call) -> Any:
    pack_id, privilege = call.pack_id, call.name("priv")
    body = await call.body(Execute)
    await packs.status(api.host, pack_id)
    result = await asyncio.to_thread(api.host.privileges.execute, pack_id, privilege, body.params, actor=call.actor)
    return {"pack_id": pack_id, "privilege": privilege, "result": result}


async def reset_privileges(api: Api, call: Call) -> Any:
    await asyncio.to_thread(api.host.privileges.reset, actor=call.actor)
    return {"granted": []}


ENDPOINTS = (
    Endpoint(
        "GET", "/api/docker/status", "dockerStatus", "Docker, and what isolates Packs on this machine", docker_status
    ),
    Endpoint("GET", "/api/isolation", "isolation", "The same under the name of what it tells", docker_status),
    Endpoint("GET", "/api/containers", "listContainers", "Running containers", containers, OBJECTS),
    Endpoint(
        "POST",
        "/api/containers/{id}/start",
        "startContainer",
        "Start an approved Pack",
        start,
        errors=(404, 409, 502, 504),
    ),
    Endpoint("POST", "/api/containers/{id}/stop", "stopContainer", "Stop a Pack", stop, errors=(404, 409)),
    Endpoint(
        "DELETE",
        "/api/containers/{id}",
        "removeContainer",
        "Stop a Pack and remove its container",
        remove,
        errors=(404, 409),
    ),
    Endpoint("GET", "/api/privileges", "listPrivileges", "Operations that the host performs for Packs", privileges, {}),
    Endpoint(
        "POST",
        "/api/privileges/reset",
        "resetPrivileges",
        "Take every one from every Pack: the way out when what is granted can't be believed",
        reset_privileges,
    ),
    Endpoint(
        "POST",
        "/api/privileges/{pack}/grant/{priv}",
        "grantPrivilege",
        "Grant one",
        grant,
        body=Grant,
        errors=(404, 409),
    ),
    Endpoint(
        "DELETE", "/api/privileges/{pack}/grant/{priv}", "revokePrivilege", "Take it back", revoke, errors=(404, 409)
    ),
    Endpoint(
        "POST",
        "/api/privileges/{pack}/execute/{priv}",
        "executePrivilege",
        "Perform one in the Pack's name",
        execute,
        body=Execute,
        errors=(404, 409, 422),
    ),
)
