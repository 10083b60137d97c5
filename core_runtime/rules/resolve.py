"""In which order components start, and why some can't: interface keys decide, across Packs. Pure.

A *unit* is one component or one custom handler. It may start once each key that it requires exists.

Invariants:
  * The order depends on the units only, never on the order in which they were found.
  * A unit never unlocks itself; one of several providers of a key is enough.
  * Every unit is either in exactly one batch or blocked with a sentence; libraries start before the rest.

Not here: whether a provider really registered what it declared (``component_lifecycle`` looks at the registry).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Unit:
    """What takes part in the order of starts."""

    full_id: str
    pack_id: str
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    library: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """A unit that can't start. ``path`` alternates unit, key, unit, … to the root cause; ``key`` is its first key."""

    unit: Unit
    key: str
    path: tuple[str, ...]
    cycle: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """Batches in order; the units of one batch don't need each other."""

    batches: tuple[tuple[Unit, ...], ...]
    blocked: tuple[Blocked, ...] = ()

    def order(self) -> tuple[Unit, ...]:
        """All units that can start, in order."""
        return tuple(unit for batch in self.batches for unit in batch)


def resolve(
    units: Iterable[Unit], *, available: Iterable[str] = (), elsewhere: Mapping[str, str] = NOTHING
) -> Resolution:
    """Order ``units``. ``available`` keys exist already; ``elsewhere`` tells what else could provide a key.

    ``elsewhere`` maps a key to the end of a sentence, such as ``the Pack 'store', which is pending, would provide it``.
    """
    waiting = sorted(set(units), key=lambda unit: unit.full_id)
    present = set(available)
    batches: list[tuple[Unit, ...]] = []
    while batch := runnable(waiting, present):
        batches.append(batch)
        present.update(key for unit in batch for key in unit.provides)
        waiting = [unit for unit in waiting if unit not in batch]
    return Resolution(tuple(batches), tuple(_blocked(unit, waiting, present, elsewhere) for unit in waiting))


def runnable(waiting: Iterable[Unit], present: Iterable[str]) -> tuple[Unit, ...]:
    """The waiting units that may start now: every required key exists; libraries keep the rest back."""
    keys = frozenset(present)
    ready = sorted((unit for unit in waiting if unit.requires <= keys), key=lambda unit: unit.full_id)
    libraries = tuple(unit for unit in ready if unit.library)
    return libraries or tuple(ready)


def _blocked(unit: Unit, waiting: list[Unit], present: set[str], elsewhere: Mapping[str, str]) -> Blocked:
    path, cycle = _root_cause(unit, waiting, present)
    return Blocked(unit, path[1], path, cycle, _sentence(path, cycle, elsewhere))


def _root_cause(unit: Unit, waiting: list[Unit], present: set[str]) -> tuple[tuple[str, ...], bool]:
    """The shortest way to a key that nobody provides, else the way into a circle."""
    providers: dict[str, list[Unit]] = {}
    for other in waiting:
        for key in sorted(other.provides):
            providers.setdefault(key, []).append(other)
    queue: deque[tuple[Unit, tuple[str, ...]]] = deque([(unit, (unit.full_id,))])
    seen = {unit.full_id}
    while queue:
        current, path = queue.popleft()
        for key in sorted(current.requires - present):
            if key not in providers:
                return (*path, key), False
            for provider in providers[key]:
                if provider.full_id not in seen:
                    seen.add(provider.full_id)
                    queue.append((provider, (*path, key, provider.full_id)))
    return _circle(unit, providers, present), True


def _circle(unit: Unit, providers: dict[str, list[Unit]], present: set[str]) -> tuple[str, ...]:
    """The way from ``unit`` into a circle: every unit on it waits, so following any of its keys comes back to one."""
    path: tuple[str, ...] = (unit.full_id,)
    visited = {unit.full_id}
    while True:
        key = min(unit.requires - present)
        unit = providers[key][0]
        path = (*path, key, unit.full_id)
        if unit.full_id in visited:
            return path
        visited.add(unit.full_id)


def _sentence(path: tuple[str, ...], cycle: bool, elsewhere: Mapping[str, str]) -> str:  # noqa: FBT001
    keys = path[1::2]
    later = path[2::2]
    parts = [f"waiting for {keys[0]}"]
    if path[0] == path[-1] and len(path) == 3:
        return f"{parts[0]}, which only it itself would provide"
    for index, provider in enumerate(later):
        if index + 1 < len(keys):
            parts.append(f"which {provider} provides, itself waiting for {keys[index + 1]}")
    if cycle:
        parts.append(f"which {path[-1]} provides: they wait for each other, so none can start first")
    else:
        parts.append(elsewhere.get(keys[-1], "which nothing that runs or is approved provides"))
    return ", ".join(parts)
