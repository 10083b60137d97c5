"""Routes about the host itself: health, diagnostics, issues, evidence, what happens now."""

from __future__ import annotations

import asyncio
from typing import Any

from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.live import events
from core_runtime.api.table import OBJECTS, Endpoint

AUDIT_LINES = 100
AUDIT_LINES_MOST = 5000


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


async def issues(api: Api, call: Call) -> Any:
    del call
    return [issue.as_dict() for issue in api.host.diagnostics.issues()]


async def audit(api: Api, call: Call) -> Any:
    count = call.count("lines", AUDIT_LINES, AUDIT_LINES_MOST)
    return await asyncio.to_thread(api.host.audit.tail, count)


ENDPOINTS = (
    Endpoint("GET", "/api/health", "health", "Whether the host serves, and how far its start has come", health),
    Endpoint("GET", "/api/diagnostics", "diagnostics", "The event log with its summary", diagnostics),
    Endpoint("GET", "/api/issues", "issues", "What is wrong, with what to do about it", issues, OBJECTS),
    Endpoint(
        "GET",
        "/api/audit",
        "audit",
        "The last records of the audit trail",
        audit,
        OBJECTS,
        query={"lines": AUDIT_LINES_MOST},
    ),
    Endpoint(
        "GET",
        "/api/events",
        "events",
        "What happens now, as server-sent events; Last-Event-ID replays",
        events,
        only_events=True,
    ),
)
