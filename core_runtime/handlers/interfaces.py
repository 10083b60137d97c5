"""Use cases about interfaces: what can be called, and calling it on behalf of the operator or of a flow."""

from __future__ import annotations

from typing import Any

from core_runtime.handlers.host import Host
from core_runtime.interface_registry import Entry


async def interfaces(host: Host) -> list[dict[str, Any]]:
    """Every key with its owner and its entries, by key."""
    found = []
    for key in sorted(host.registry.keys()):
        slot = host.registry.slot(key)
        if slot is not None:
            found.append(host.redactions.hide_any_in(_described(host, key, slot.visible, slot.last)))
    return found


async def call(
    host: Host,
    key: str,
    args: Any = None,
    timeout_s: float | None = None,
    *,
    caller: str = "",
    idempotency_key: str | None = None,
) -> Any:
    """Call a key: its result, or an async iterator where the handler streams. ``caller`` "" is the operator."""
    return await host.bus.call(key, args, caller=caller, timeout_s=timeout_s, idempotency_key=idempotency_key)


def _described(host: Host, key: str, entries: tuple[Entry, ...], last: Entry | None) -> dict[str, Any]:
    return {
        "key": key,
        "owner": host.registry.owner(key) or (last.pack if last else None),
        "available": last is not None,
        "count": len(entries),
        "providers": sorted({entry.pack or "host" for entry in entries}),
        "callable": last is not None and callable(last.value),
        "meta": dict(last.meta) if last else {},
        "input": last.input_schema if last else None,
        "output": last.output_schema if last else None,
        "registered_at": last.ts if last else None,
    }
