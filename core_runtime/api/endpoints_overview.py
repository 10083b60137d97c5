"""Routes about the host itself: health, diagnostics, evidence, what happens now."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.envelope import HEADERS
from core_runtime.api.live import KEPT_MOST, events, kept
from core_runtime.api.table import OBJECTS, TEXT, Endpoint
from core_runtime.handlers import evidence
from core_runtime.handlers import metrics as numbers
from core_runtime.rules.exposition import CONTENT_TYPE

AUDIT_LINES = 100
AUDIT_LINES_MOST = 5000
HISTORY_COUNT = 50
HISTORY_MOST = 2000


async def health(api: Api, call: Call) -> Any:
    """Answers from the moment on at which the security phase is done."""
    del call
    issues = api.host.diagnostics.issues()
    return {
        **api.describe(),
        "home": str(api.settings.home),
        "issues": len(issues),
        "errors": sum(issue.severity.value == "error" for issue in issues),
    }


async def diagnostics(api: Api, call: Call) -> Any:
    del call
    return await asyncio.to_thread(api.host.diagnostics.as_dict)


async def metrics(api: Api, call: Call) -> Response:
    """For Prometheus. No envelope; the errors that every route may answer have one."""
    del call
    return Response(await numbers.exposition(api.host), headers={**HEADERS, "content-type": CONTENT_TYPE})


class Acknowledge(msgspec.Struct, forbid_unknown_fields=True):
    """Why the operator goes on, for the record."""

    reason: str = ""


async def audit(api: Api, call: Call) -> Any:
    """``pack`` and ``event`` choose among the last ``AUDIT_LINES_MOST`` records; an event's first words are enough."""
    count = call.count("lines", AUDIT_LINES, AUDIT_LINES_MOST)
    pack, event = call.text("pack"), call.text("event")
    if not pack and not event:
        return await asyncio.to_thread(api.host.audit.tail, count)
    found = await asyncio.to_thread(api.host.audit.tail, AUDIT_LINES_MOST)
    return [
        record
        for record in found
        if (not pack or record.get("pack_id") == pack) and str(record.get("event", "")).startswith(event)
    ][-count:]


async def verify(api: Api, call: Call) -> Any:
    del call
    return await asyncio.to_thread(evidence.describe, api.host)


async def acknowledge(api: Api, call: Call) -> Any:
    body = await call.body(Acknowledge)
    await asyncio.to_thread(evidence.acknowledge, api.host, actor=call.actor, reason=body.reason)
    return {"acknowledged": True}


async def rotate_key(api: Api, call: Call) -> Any:
    await asyncio.to_thread(api.host.approvals.rotate_key, actor=call.actor)
    return {"prepared": True, "takes_effect": "next_start"}


async def past_runs(api: Api, call: Call) -> Any:
    count = call.count("count", HISTORY_COUNT, HISTORY_MOST)
    found = await api.host.past_runs.newest(count, kind=call.text("kind"), subject=call.text("subject"))
    return [run.as_dict() for run in found]


ENDPOINTS = (
    Endpoint(
        "GET",
        "/metrics",
        "metrics",
        "What the host and its Packs do and use, in the text format of Prometheus",
        metrics,
        schema=TEXT,
        media="text/plain",
    ),
    Endpoint("GET", "/api/health", "health", "Whether the host serves, and how far its start has come", health),
    Endpoint("GET", "/api/diagnostics", "diagnostics", "The event log with its summary", diagnostics),
    Endpoint(
        "GET",
        "/api/history",
        "runHistory",
        "Runs of flows and of Packs' sandboxes, newest first, over restarts of the host",
        past_runs,
        OBJECTS,
        query={"count": HISTORY_MOST},
        texts=("kind", "subject"),
    ),
    Endpoint(
        "GET",
        "/api/audit",
        "audit",
        "The last records of the audit trail",
        audit,
        OBJECTS,
        query={"lines": AUDIT_LINES_MOST},
        texts=("pack", "event"),
    ),
    Endpoint(
        "GET",
        "/api/audit/verify",
        "verifyAudit",
        "Whether the audit trail and the journal are unchanged and complete",
        verify,
    ),
    Endpoint(
        "POST",
        "/api/audit/acknowledge",
        "acknowledgeAudit",
        "Go on although the audit trail was changed",
        acknowledge,
        body=Acknowledge,
        errors=(409,),
    ),
    Endpoint(
        "POST",
        "/api/trust/rotate-key",
        "rotateKey",
        "Prepare a new signing key; the next start signs everything again with it",
        rotate_key,
        errors=(403,),
    ),
    Endpoint(
        "GET",
        "/api/events",
        "events",
        "What happens now, as server-sent events; Last-Event-ID replays, kept=1 ends with what is kept",
        events,
        errors=(404,),
        query={"kept": 1},
        only_events=True,
    ),
    Endpoint(
        "GET",
        "/api/events/kept",
        "keptEvents",
        "The newest events of the journal, which outlives the host",
        kept,
        OBJECTS,
        query={"count": KEPT_MOST},
        texts=("pack",),
    ),
)
