"""Step "component discovery and load": declares the phases that the flow names, and loads what can be loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from core_runtime.component_lifecycle import PhaseSpec
from core_runtime.handlers import idle, starting
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


def _phase(item: Mapping[str, Any]) -> PhaseSpec:
    return PhaseSpec(str(item["name"]), str(item["file"]), parse_duration_s(item.get("timeout", "20s")))
