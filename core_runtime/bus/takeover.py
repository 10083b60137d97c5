"""The moment in which a generation that was opened beside takes the place of the one that serves.

Everything happens in one turn of the loop, so that nobody finds both or neither: its registrations become the Pack's,
the references that others hold lead to it, events reach it and no longer the older one, and what it published
beforehand goes out. Mirrors of others are told once, in the turns that follow, as of any change.

Invariants:
  * A call that is in flight to the older generation stays there and is answered from there.
  * A number that another Pack holds of a registered callable goes on standing for the same key's callable. Other
    callables of the older generation die with it.

Not here: when it happens and whether (``container_orchestrator``), draining the older one (``sessions``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from backend_core.errors import ConflictError
from core_runtime.bus.shadow import Shadow
from core_runtime.interface_registry import Entry

if TYPE_CHECKING:
    from core_runtime.bus.hub import Bus
    from core_runtime.bus.sessions import Session


def take_over(bus: Bus, session: Session) -> None:
    """Perform it. ``PackError`` when the session has ended in the meantime."""
    if session.dead:
        raise session.gone()
    shadow = session.world
    if not isinstance(shadow, Shadow):
        raise ConflictError(
            "This generation serves already",
            code="already_serving",
            detail=f"{session.pack_id}, generation {session.generation}.",
            hint="Only one that was opened beside another can take over.",
        )
    older = bus.sessions.get(session.pack_id)
    fresh = shadow.entries()
    pairs = pairs_of(older.registrations.values() if older is not None else (), fresh)
    for other in bus.router.sessions:
        for key, matching in pairs.items():
            other.mirror.succeed(key, matching)
    bus.registry.exchange(older.registrations.keys() if older is not None else (), fresh)
    session.world = bus.registry
    bus.sessions[session.pack_id] = session
    if older is not None:
        older.retire()
    session.events.go_live()


def pairs_of(before: Iterable[Entry], after: Iterable[Entry]) -> dict[str, list[tuple[Entry, Entry]]]:
    """By key, the older entries and what comes in their place, in the order of registration."""
    old: dict[str, list[Entry]] = defaultdict(list)
    for entry in before:
        old[entry.key].append(entry)
    pairs: dict[str, list[tuple[Entry, Entry]]] = defaultdict(list)
    for entry in after:
        if len(old[entry.key]) > len(pairs[entry.key]):
            pairs[entry.key].append((old[entry.key][len(pairs[entry.key])], entry))
    return {key: found for key, found in pairs.items() if found}
