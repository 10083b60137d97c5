"""A host without a startup flow, in a home of its own: for tests of the kernel and of single handlers."""

from __future__ import annotations

from pathlib import Path

from core_runtime.bus.hub import Bus
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
