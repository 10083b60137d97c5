"""Use cases about interfaces: what can be called, and calling it on behalf of the operator or of a flow.

Whoever calls resolves aliases himself, once, where a name comes in (``aliases.meant``): from there on it is a key,
which rights and counts are about.
"""

from __future__ import annotations

from typing import Any

from core_runtime.bus.calls import CallContext
from core_runtime.handlers.aliases import meant
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


async def interface(host: Host, key: str) -> dict[str, Any] | None:
    """What a name means, with who needs it and why some can't use it; None when neither exists."""
    key = meant(host, key)
    slot = host.registry.slot(key)
    needed = _needed(host, key)
    if slot is None and not needed:
        return None
    entries, last = (slot.visible, slot.last) if slot is not None else ((), None)
    found: dict[str, Any] = host.redactions.hide_any_in(_described(host, key, entries, last))
    return {**found, "needed_by": needed}


def _needed(host: Host, key: str) -> list[dict[str, Any]]:
    """Packs that run or wait and name a range for the key, or wait for it: ``{pack_id, wanted, why_not}``."""
    last = host.registry.resolve(key)
    found: dict[str, dict[str, Any]] = {}
    for session in host.bus.router.sessions if host.built("bus") else ():
        wanted = session.terms.ranges.get(key)
        if wanted is not None:
            why = "Nothing provides it now."
            if last is not None:
                fits = session.terms.admits(key, last.version)
                why = "" if fits else session.terms.why_not(key, last.version, last.pack)
            found[session.pack_id] = {"pack_id": session.pack_id, "wanted": wanted, "why_not": why}
    for pack_id, waiting in host.waiting.items():
        wants = [unit.wanted(key) for unit in waiting.units if key in unit.requires]
        if wants:
            found[pack_id] = {"pack_id": pack_id, "wanted": wants[0], "why_not": waiting.reason}
    return [found[name] for name in sorted(found)]


async def call(
    host: Host,
    key: str,
    args: Any = None,
    timeout_s: float | None = None,
    *,
    caller: str = "",
    idempotency_key: str | None = None,
    context: CallContext | None = None,
    ahead: int | None = None,
) -> Any:
    """Call a key: its result, or an async iterator where the handler streams. ``caller`` "" is the operator.

    ``context``: the call that it is part of. ``ahead``: see ``Bus.call``.
    """
    return await host.bus.call(
        key, args, caller=caller, timeout_s=timeout_s, context=context, idempotency_key=idempotency_key, ahead=ahead
    )


def data(host: Host, key: str) -> Any:
    """What a name means where that is no function, as it was registered; None for a function or nothing."""
    entry = host.registry.resolve(meant(host, key))
    return None if entry is None or callable(entry.value) else entry.value


def edges(host: Host, pack_id: str = "") -> list[dict[str, Any]]:
    """Who called what since the host started, how often, how it ended and how long it took; busiest first.

    ``pack_id`` chooses the edges that lead from or to one Pack.
    """
    found = []
    for (caller, key), stats in tuple(host.bus.router.edges.items()):
        provider = host.registry.owner(key) or ""
        if not pack_id or pack_id in {caller, provider}:
            told = {"caller": caller or "operator", "key": key, "provider": provider or None, **stats.as_dict()}
            found.append(host.redactions.hide_any_in(told))
    return sorted(found, key=lambda edge: -edge["calls"])


def _described(host: Host, key: str, entries: tuple[Entry, ...], last: Entry | None) -> dict[str, Any]:
    return {
        "key": key,
        "aliases": [name for name in host.aliases.find_all(key) if name != key] if meant(host, key) == key else [],
        "alias_of": meant(host, key) if meant(host, key) != key else None,
        "owner": host.registry.owner(key) or (last.pack if last else None),
        "available": last is not None,
        "count": len(entries),
        "providers": sorted({entry.pack or "host" for entry in entries}),
        "callable": last is not None and callable(last.value),
        "version": last.version if last else "",
        "meta": dict(last.meta) if last else {},
        "input": last.input_schema if last else None,
        "output": last.output_schema if last else None,
        "registered_at": last.ts if last else None,
    }
