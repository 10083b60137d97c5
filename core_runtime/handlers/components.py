"""Step "component discovery and load": declares the phases that the flow names, and loads what can be loaded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

from backend_core.errors import ConflictError, NotFoundError, quote
from core_runtime.approval_manager import PackStatus
from core_runtime.component_phases import PhaseSpec
from core_runtime.handlers import idle, packs, starting, takeover
from core_runtime.handlers.host import Host
from core_runtime.handlers.table import handler
from core_runtime.rules.flow.values import parse_duration_s


@handler("components.load")
async def load_step(host: Host, args: Mapping[str, Any]) -> dict[str, int]:
    """Declare phases for now and for every later start; then wait until nothing can go on any more."""
    host.policy.routes_key = str(args.get("routes_key", ""))
    phases = [_phase(item) for item in args["phases"]]
    handlers = args.get("handlers")
    host.lifecycle.declare(
        phases, _phase({"file": "", **handlers}) if handlers else None, parallel=int(args.get("parallel", 8))
    )
    await host.lifecycle.settled()
    for pack_id in sorted(host.lifecycle.attached()):
        async with host.exclusively(pack_id):
            await starting.park_idle(host, pack_id)
    starting.watch_keys(host)
    idle.watch(host)
    return dict(Counter(record.state.value for record in host.lifecycle.records()))


async def components(host: Host, pack_id: str) -> list[dict[str, Any]]:
    """The components of a Pack in its sandbox, as JSON; none where it does not run."""
    found = await packs.status(host, pack_id)
    return [
        {
            "id": record.full_id, "state": record.state.value, "cause": record.cause or None,
            "waits_for": list(record.waits_for), "registered": list(record.registered), "duration_s": record.duration_s,
        }
        for record in host.lifecycle.records(found.pack_id)
    ]  # fmt: skip


async def reload(host: Host, pack_id: str, component: str = "", *, actor: str) -> PackStatus:
    """Run a Pack's approved code afresh; nobody else's is touched and no call is lost.

    Without ``component`` the whole Pack, in a sandbox beside the one that serves; else just that (by its id or full id)
    in the sandbox that runs. Raises ``NotFoundError``, ``ConflictError`` where it does not run, ``PackError`` where the
    component fails: what it offered before goes on.
    """
    await packs.scan(host, pack_id)  # its files are hashed again; what was changed in place is stopped
    async with host.exclusively(pack_id):
        if not starting.is_running(host, pack_id):
            raise ConflictError(
                "It does not run", code="not_running", detail=f"{pack_id} has no sandbox in which anything was loaded.",
                hint=f"See why: rumi pack show {pack_id}",
            )  # fmt: skip
        await asyncio.to_thread(host.approvals.check_running, pack_id)
        full_id = _one(host, pack_id, component) if component else ""
        await asyncio.to_thread(host.audit.append, "pack.reloading", pack_id=pack_id, actor=actor, component=full_id)
        if full_id:
            await host.lifecycle.reload(pack_id, full_id)
    if not component:
        await takeover.restart(host, pack_id)
    return await packs.status(host, pack_id)


def _one(host: Host, pack_id: str, component: str) -> str:
    found = [one.full_id for one in host.lifecycle.records(pack_id)]
    matching = [one for one in found if component in {one, one.rpartition(":")[2]}]
    if len(matching) == 1:
        return matching[0]
    raise NotFoundError(
        "No such component" if not matching else "Several components have that id",
        code="component_unknown",
        detail=f"{pack_id} has {', '.join(matching or found) or 'none'}; asked for {quote(component, 200)}.",
        hint=f"Name one as it stands there: rumi pack show {pack_id}",
    )


def _phase(item: Mapping[str, Any]) -> PhaseSpec:
    return PhaseSpec(str(item["name"]), str(item["file"]), parse_duration_s(item.get("timeout", "20s")))
