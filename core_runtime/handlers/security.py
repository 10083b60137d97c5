"""Step "security foundation": evidence, the bus, and the moment from which requests are served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from backend_core.ecosystem.active_ecosystem import load_active_ecosystem
from backend_core.errors import quote
from core_runtime.bus.hub import Bus
from core_runtime.drivers.keys import Keyring
from core_runtime.handlers import aliases, evidence, requests
from core_runtime.handlers.host import Host
from core_runtime.handlers.isolation import tell_limit
from core_runtime.handlers.metric_history import Sampler
from core_runtime.handlers.metrics import Meter
from core_runtime.handlers.past_runs import RunHistory
from core_runtime.handlers.table import handler
from core_runtime.tracing import Tracer


@handler("security.evidence")
async def evidence_step(host: Host, _args: Mapping[str, Any]) -> None:
    """Open the audit trail and the install journal; a trail that can't be written ends the start."""
    found = await asyncio.to_thread(
        evidence.open_evidence, host.settings.home, host.redactions.hide_any_in, host.diagnostics.mishap
    )
    host.audit, host.journal = found.audit, found.journal
    evidence.tell(host, found)


@handler("security.bus")
async def bus_step(host: Host, _args: Mapping[str, Any]) -> None:
    """Open the event journal, start the bus that connects all Packs, read the operator's choices and aliases."""
    keyring = Keyring(host.settings.user_data / "permissions")
    await asyncio.to_thread(host.history.open, host.settings.home, keyring.text)
    host.active = await asyncio.to_thread(load_active_ecosystem, host.settings.user_data / "active_ecosystem.json")
    await aliases.open_aliases(host)

    async def serve(session: Any, operation: str, args: Any) -> Any:
        return await requests.serve_session(host, session, operation, args)

    def denied(pack_id: str, operation: str, subject: str, count: int) -> None:
        record = asyncio.to_thread(
            host.audit.append,
            "pack.denied",
            pack_id=pack_id,
            operation=operation,
            subject=quote(subject, 200),
            count=count,
        )
        host.in_background(record, "audit of a denial")

    bus = Bus(
        host.registry,
        host.events,
        host.diagnostics,
        requests=serve,
        log_sink=host.log.write,
        on_denied=denied,
        on_limit=partial(tell_limit, host),
        redactions=host.redactions,
    )
    bus.router.calls.tracer = host.tracer = _tracer(host)
    await bus.start()
    host.bus = bus
    host.meter = Meter(host)
    host.meter.start()
    host.in_background(Sampler(host).run(), "measuring Packs")
    host.past_runs = RunHistory(host.settings.user_data, host.events, host.diagnostics, host.redactions.hide_any)
    await host.past_runs.open()
    host.in_background(host.past_runs.run(), "keeping the history of runs")


def _tracer(host: Host) -> Tracer | None:
    """Off, and free, unless an endpoint was configured. One that can't be used is an issue and means off."""
    config = host.settings.traces
    if isinstance(config, str):
        host.diagnostics.issue(
            "traces_unusable", "warn", "traces", "Traces are off: the OTEL_ variables can't be used", config,
            "Correct them or unset OTEL_EXPORTER_OTLP_ENDPOINT, then start the host again.",
        )  # fmt: skip
        return None
    return None if config is None else Tracer(config, host.diagnostics, host.redactions.hide_any)


@handler("security.serve")
def serve_step(host: Host, _args: Mapping[str, Any]) -> None:
    """From here on the management API answers; Packs start behind it."""
    host.ready_to_serve.set()
