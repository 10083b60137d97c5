"""The limits of one Pack, with what is used of them now and how often each was met.

Invariant: looking changes nothing, and what can't be counted is left out, never guessed.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from msgspec.structs import asdict

from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.rules.limits_shown import rows
from core_runtime.rules.sandbox import Limits, MachineLimits, limits_from_grant

ISSUE_PREFIX = "limit_"


async def limits(host: Host, pack_id: str) -> list[dict[str, Any]]:
    """Every limit of a Pack. ``NotFoundError`` for a Pack that is not there."""
    await packs.status(host, pack_id)
    disk_bytes, quota_bytes = await asyncio.to_thread(host.userdata.usage, pack_id)
    used = {"disk": float(disk_bytes), "log_kept": float(host.log.held_bytes(pack_id)), **await _used(host, pack_id)}
    hits = {
        issue.code.removeprefix(ISSUE_PREFIX): (issue.count, issue.last_ts)
        for issue in host.diagnostics.issues(pack_id)
        if issue.code.startswith(ISSUE_PREFIX)
    }
    found = rows(_limits(host, pack_id), host.bus.limits, quota_bytes=quota_bytes, used=used, hits=hits)
    return [asdict(row) for row in found]


def _limits(host: Host, pack_id: str) -> Limits:
    """What it runs under; else what its grant would give it; else the defaults."""
    running = host.orchestrator.running_as(pack_id) if host.orchestrator is not None else None
    if running is not None:
        return running.limits
    grant = host.approvals.grant(pack_id)
    if grant is None:
        return Limits()
    import psutil  # noqa: PLC0415  a tenth of what a start imports, and it needs none of it

    machine = MachineLimits(psutil.virtual_memory().total, os.cpu_count() or 1)
    try:
        return limits_from_grant(host.permissions.resources(pack_id), machine)
    except ValueError:  # such a grant starts nothing, and its start says why
        return Limits()


async def _used(host: Host, pack_id: str) -> dict[str, float]:
    info = host.orchestrator.get(pack_id) if host.orchestrator is not None else None
    if host.orchestrator is None or info is None:
        return {}
    counted = await host.orchestrator.usage(pack_id)
    names = {"memory_bytes": "memory", "pids": "processes", "tmp_bytes": "tmp", "files": "files"}
    found = {shown: counted[name] for name, shown in names.items() if name in counted}
    uptime_s = time.time() - info.started_at
    if "cpu_s" in counted and uptime_s > 0:
        found["cpu"] = counted["cpu_s"] / uptime_s  # on average since its start
    session = host.bus.sessions.get(pack_id)
    if session is not None:
        found |= {
            "calls": float(len(session.outgoing)),
            "busy": float(len(session.incoming)),
            "registrations": float(len(session.registrations)),
        }
    return found
