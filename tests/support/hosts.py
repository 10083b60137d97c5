"""A host without a startup flow, in a home of its own: for tests of the kernel and of single handlers."""

from __future__ import annotations

from pathlib import Path

from backend_core.ecosystem.initializer import initialise
from core_runtime.bus.hub import Bus
from core_runtime.component_lifecycle import ComponentLifecycle
from core_runtime.drivers.token import TokenFile
from core_runtime.handlers import security, trust
from core_runtime.handlers.host import Host
from core_runtime.rules.settings import Settings


def bare_host(root: Path, project_root: Path | None = None) -> Host:
    """Nothing built yet. Call it inside a running loop."""
    (root / "ecosystem" / "packs").mkdir(parents=True, exist_ok=True)
    return Host(Settings(project_root or root, root, root / "run"))


async def with_bus(host: Host) -> Host:
    """The host with a started bus."""
    host.bus = Bus(host.registry, host.events, host.diagnostics)
    await host.bus.start()
    return host


async def opened_host(home: Path) -> Host:
    """A host as after the startup flow's security and trust steps, over real files; nothing isolates Packs there."""
    initialise(home)
    host = bare_host(home)
    TokenFile(host.settings.token_file).ensure()
    await security.evidence_step(host, {})
    await security.bus_step(host, {})
    await trust.open_step(host, {})
    host.lifecycle = ComponentLifecycle(host.registry, host.diagnostics)
    return host
