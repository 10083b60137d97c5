"""Routes about Packs: what there is, what waits for a decision, the decisions, what a Pack wrote."""

from __future__ import annotations

from typing import Any

import msgspec

from core_runtime.api import views
from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import OBJECTS, TEXTS, Endpoint
from core_runtime.handlers import packs
from core_runtime.handlers.components import components as components_of
from core_runtime.handlers.components import reload as reload_pack
from core_runtime.handlers.limits import limits as limits_of
from core_runtime.handlers.metric_history import forget, history
from core_runtime.rules.approval import UNDECIDED
from core_runtime.rules.decisions import deciding

METRICS_MINUTES = 60
METRICS_MOST = 7 * 24 * 60
LOG_LINES = 200
LOG_LINES_MOST = 5000


class Approve(msgspec.Struct, forbid_unknown_fields=True):
    """All optional: without a digest, what lies on the disk now is read, bound and approved.

    ``until`` in seconds since 1970; ``replace`` names keys of other Packs that it may take over; ``isolation``
    (``docker/standard``) agrees to just that one, ``accept_weaker`` to one weaker than was approved before;
    ``development`` marks a decision that ``rumi pack dev`` makes at each change.
    """

    digest: str | None = None
    permissions: list[Any] | None = None
    replace: list[str] = msgspec.field(default_factory=list)
    isolation: str | None = None
    until: float | None = None
    accept_weaker: bool = False
    development: bool = False


class Reject(msgspec.Struct, forbid_unknown_fields=True):
    """Why, for the record."""

    reason: str = ""


class Reload(msgspec.Struct, forbid_unknown_fields=True):
    """One component, by its id or full id; without it the whole Pack."""

    component: str = ""


async def list_packs(api: Api, call: Call) -> Any:
    del call
    return [views.pack(status) for status in await packs.list_packs(api.host)]


async def pending(api: Api, call: Call) -> Any:
    """The specification's plain ``curl``: it reads the folder first, so that a Pack just put there is listed."""
    del call
    return sorted(status.pack_id for status in await packs.scan(api.host) if status.state in UNDECIDED)


async def status(api: Api, call: Call) -> Any:
    return views.pack_status(await packs.status(api.host, call.pack_id))


async def scan(api: Api, call: Call) -> Any:
    del call
    found = await packs.scan(api.host)
    return {"scanned": len(found), "packs": [views.pack(status) for status in found]}


async def review(api: Api, call: Call) -> Any:
    """What is being decided, and what this machine would isolate it with."""
    found = await packs.review(api.host, call.pack_id)
    return {**found.as_dict(), "isolation": views.isolation(api.host.isolation)}


async def bill(api: Api, call: Call) -> Any:
    return await packs.bill(api.host, call.pack_id)


async def approve(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    body = await call.body(Approve)
    done = await packs.approve(
        api.host,
        pack_id,
        digest=body.digest,
        permissions=body.permissions,
        actor=deciding(call.actor, development=body.development),
        until=body.until,
        accept_weaker=body.accept_weaker,
        replaces=body.replace,
        isolation=body.isolation,
    )
    return views.pack_status(done)


async def reject(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    body = await call.body(Reject)
    return views.pack_status(await packs.reject(api.host, pack_id, reason=body.reason, actor=call.actor))


async def components(api: Api, call: Call) -> Any:
    return await components_of(api.host, call.pack_id)


async def reload(api: Api, call: Call) -> Any:
    body = await call.body(Reload)
    return views.pack_status(await reload_pack(api.host, call.pack_id, body.component, actor=call.actor))


async def restore(api: Api, call: Call) -> Any:
    return views.pack_status(await packs.restore(api.host, call.pack_id, actor=call.actor))


async def metrics(api: Api, call: Call) -> Any:
    minutes = call.count("minutes", METRICS_MINUTES, METRICS_MOST)
    return [sample.as_dict() for sample in await history(api.host, call.pack_id, minutes)]


async def limits(api: Api, call: Call) -> Any:
    return await limits_of(api.host, call.pack_id)


async def fetch(api: Api, call: Call) -> Any:
    return views.pack_status(await packs.fetch(api.host, call.pack_id, actor=call.actor))


async def remove(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    await packs.remove(api.host, pack_id, actor=call.actor)
    await forget(api.host, pack_id)
    return {"pack_id": pack_id, "removed": True}


async def logs(api: Api, call: Call) -> Any:
    pack_id = call.pack_id
    lines = call.count("lines", LOG_LINES, LOG_LINES_MOST)
    await packs.status(api.host, pack_id)
    return {"pack_id": pack_id, "lines": packs.logs(api.host, pack_id, lines)}


ENDPOINTS = (
    Endpoint("GET", "/api/packs", "listPacks", "All Packs", list_packs, OBJECTS),
    Endpoint("GET", "/api/packs/pending", "listPending", "Packs that wait for a decision", pending, TEXTS),
    Endpoint("POST", "/api/packs/scan", "scanPacks", "Look at the folder of Packs again", scan),
    Endpoint(
        "GET", "/api/packs/{id}/status", "packStatus", "State of one Pack, and what was approved", status, errors=(404,)
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/metrics",
        "packMetrics",
        "What it did and used in each of the last minutes: calls, errors, latency, memory, processor time",
        metrics,
        OBJECTS,
        query={"minutes": METRICS_MOST},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/limits",
        "packLimits",
        "Its limits: what each is, what is used, how often it was met",
        limits,
        OBJECTS,
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/review",
        "reviewPack",
        "Everything that the decision needs",
        review,
        errors=(404, 409, 422),
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/sbom",
        "packBill",
        "Bill of materials of its folder, as CycloneDX 1.6: files and locked packages with their hashes",
        bill,
        errors=(404, 409, 422),
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/approve",
        "approvePack",
        "Approve what lies on the disk, or the given digest",
        approve,
        body=Approve,
        errors=(404, 409, 422, 502, 504),
    ),
    Endpoint(
        "POST", "/api/packs/{id}/reject", "rejectPack", "Reject, and stop", reject, body=Reject, errors=(404, 409)
    ),
    Endpoint(
        "GET",
        "/api/packs/{id}/components",
        "packComponents",
        "The components of its sandbox: state, cause, keys they wait for, keys they registered",
        components,
        OBJECTS,
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/reload",
        "reloadPack",
        "Run its approved code afresh: all of it beside what serves, or one component",
        reload,
        body=Reload,
        errors=(404, 409, 502, 504),
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/restore",
        "restorePack",
        "Put the approved bytes back, and start",
        restore,
        errors=(404, 409, 502, 504),
    ),
    Endpoint(
        "POST",
        "/api/packs/{id}/fetch",
        "fetchPackages",
        "Fetch and unpack the Python packages that the approved version's lock names",
        fetch,
        errors=(404, 409, 422, 502, 504),
    ),
    Endpoint("DELETE", "/api/packs/{id}", "removePack", "Uninstall: folder, grant and copy", remove, errors=(404, 409)),
    Endpoint(
        "GET",
        "/api/packs/{id}/logs",
        "packLogs",
        "What the Pack printed and logged last",
        logs,
        errors=(404,),
        query={"lines": LOG_LINES_MOST},
    ),
)
