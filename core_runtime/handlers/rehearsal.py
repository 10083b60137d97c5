"""What a run of a flow needs, against what is so now: who provides each interface, and which rights are held."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from core_runtime.handlers.aliases import meant
from core_runtime.handlers.host import Host


def as_it_stands(host: Host, needs: Mapping[str, Any], owner_of: Callable[[str], str]) -> dict[str, Any]:
    """``needs`` as ``rules.flow.rehearse`` tells them, with ``provided_by`` and ``held``. Uses no right up. Blocks.

    An alias has what it ``means`` beside it; rights are those to the key that is meant. ``owner_of``: the Pack that a
    flow belongs to; a Pack may run its own.
    """
    wanted = [{**one, "key": meant(host, one["key"])} if "key" in one else one for one in needs["permissions"]]
    distinct = [one for number, one in enumerate(wanted) if one not in wanted[:number]]
    return {
        **needs,
        "interfaces": [_provided(host, name) for name in needs["interfaces"]],
        "permissions": [{**one, "held": _held(host, one, owner_of)} for one in distinct],
    }


def _provided(host: Host, name: str) -> dict[str, str | None]:
    key = meant(host, name)
    entry = host.registry.resolve(key)
    provider = None if entry is None else entry.pack or "host"
    return {"key": name, **({"means": key} if key != name else {}), "provided_by": provider}


def _held(host: Host, needed: Mapping[str, str], owner_of: Callable[[str], str]) -> bool:
    pack, kind = needed["pack"], needed["type"]
    if "key" in needed:
        return host.permissions.visible_keys(pack)(needed["key"])
    if "flow" in needed:
        return owner_of(needed["flow"]) == pack or host.permissions.has(pack, kind, flow=needed["flow"])
    return host.permissions.has(pack, kind, topic=needed["topic"])
