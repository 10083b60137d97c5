"""In which order components start, and why some can't: interface keys decide, across Packs. Pure.

A *unit* is one component or one custom handler. It may start once each key that it requires exists, in the range of
versions that it states.

Invariants:
  * The order depends on the units only, never on the order in which they were found.
  * A unit never unlocks itself; one of several providers of a key is enough.
  * Every unit is either in exactly one batch or blocked with a sentence; libraries start before the rest.

Not here: whether a provider really registered what it declared (``component_lifecycle`` looks at the registry).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core_runtime.rules.contracts import misfit, satisfies

NOTHING: Mapping[str, str] = MappingProxyType({})
Present = Mapping[str, Collection[str]]
"""Keys that exist → the versions that their providers state, "" for one that states none."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What takes part in the order of starts.

    ``versions``: of provided keys whose version is stated; ``ranges``: of required keys that need one.
    """

    full_id: str
    pack_id: str
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    library: bool = False
    versions: frozenset[tuple[str, str]] = frozenset()
    ranges: frozenset[tuple[str, str]] = frozenset()

    def version(self, key: str) -> str:
        """What it states of a key that it provides."""
        return next((version for name, version in self.versions if name == key), "")

    def wanted(self, key: str) -> str:
        """The range that it needs of a key; "" for any."""
        return next((wanted for name, wanted in self.ranges if name == key), "")

    def suits(self, key: str, version: str) -> bool:
        """Whether a provider of that version will do for it."""
        wanted = self.wanted(key)
        return not wanted or satisfies(version, wanted)

    def unmet(self, present: Present) -> list[str]:
        """Required keys that don't exist, or in no version that will do, in order."""
        return sorted(
            key for key in self.requires if not any(self.suits(key, version) for version in present.get(key, ()))
        )


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
    units: Iterable[Unit], *, available: Present | Iterable[str] = (), elsewhere: Mapping[str, str] = NOTHING
) -> Resolution:
    """Order ``units``. ``available`` keys exist already; ``elsewhere`` tells what else could provide a key.

    ``elsewhere`` maps a key to the end of a sentence, such as ``the Pack 'store', which is pending, would provide it``.
    """
    waiting = sorted(set(units), key=lambda unit: unit.full_id)
    present = {key: set(versions) for key, versions in present_keys(available).items()}
    batches: list[tuple[Unit, ...]] = []
    while batch := runnable(waiting, present):
        batches.append(batch)
        for unit in batch:
            for key in unit.provides:
                present.setdefault(key, set()).add(unit.version(key))
        waiting = [unit for unit in waiting if unit not in batch]
    return Resolution(tuple(batches), tuple(_blocked(unit, waiting, present, elsewhere) for unit in waiting))


def present_keys(available: Present | Iterable[str]) -> Present:
    """Keys without versions as keys of which none is stated."""
    return available if isinstance(available, Mapping) else dict.fromkeys(available, ("",))


def runnable(waiting: Iterable[Unit], present: Present | Iterable[str]) -> tuple[Unit, ...]:
    """The waiting units that may start now: every required key exists and suits; libraries keep the rest back."""
    keys = present_keys(present)
    ready = sorted((unit for unit in waiting if not unit.unmet(keys)), key=lambda unit: unit.full_id)
    libraries = tuple(unit for unit in ready if unit.library)
    return libraries or tuple(ready)


def _blocked(unit: Unit, waiting: list[Unit], present: Present, elsewhere: Mapping[str, str]) -> Blocked:
    providers: dict[str, list[Unit]] = {}
    for other in waiting:
        for key in sorted(other.provides):
            providers.setdefault(key, []).append(other)
    path, cycle = _root_cause(unit, providers, present)
    end = "" if cycle else _end(path[-1], providers, present, elsewhere)
    return Blocked(unit, path[1], path, cycle, _sentence(path, {other.full_id: other for other in waiting}, end))


def _root_cause(
    unit: Unit, providers: Mapping[str, list[Unit]], present: Present
) -> tuple[tuple[str, ...], bool]:
    """The shortest way to a key that nobody provides as it is needed, else the way into a circle."""
    queue: deque[tuple[Unit, tuple[str, ...]]] = deque([(unit, (unit.full_id,))])
    seen = {unit.full_id}
    while queue:
        current, path = queue.popleft()
        for key in current.unmet(present):
            suitable = _suitable(current, key, providers)
            if not suitable:
                return (*path, key), False
            for provider in suitable:
                if provider.full_id not in seen:
                    seen.add(provider.full_id)
                    queue.append((provider, (*path, key, provider.full_id)))
    return _circle(unit, providers, present), True


def _suitable(unit: Unit, key: str, providers: Mapping[str, list[Unit]]) -> list[Unit]:
    return [other for other in providers.get(key, ()) if unit.suits(key, other.version(key))]


def _circle(unit: Unit, providers: Mapping[str, list[Unit]], present: Present) -> tuple[str, ...]:
    """The way from ``unit`` into a circle: every unit on it waits, so following any of its keys comes back to one."""
    path: tuple[str, ...] = (unit.full_id,)
    visited = {unit.full_id}
    while True:
        key = unit.unmet(present)[0]
        unit = _suitable(unit, key, providers)[0]
        path = (*path, key, unit.full_id)
        if unit.full_id in visited:
            return path
        visited.add(unit.full_id)


def _end(
    key: str, providers: Mapping[str, list[Unit]], present: Present, elsewhere: Mapping[str, str]
) -> str:
    """Why the last key of a way is not there: what provides it has another version, or nothing does."""
    if present.get(key):
        return misfit(key, max(present[key]))
    if providers.get(key):
        other = providers[key][0]
        return misfit(key, other.version(key), other.pack_id)
    return elsewhere.get(key, "which nothing that runs or is approved provides")


def _sentence(path: tuple[str, ...], units: Mapping[str, Unit], end: str) -> str:
    """``end`` is empty for a circle."""

    def key_at(index: int) -> str:
        key = path[index]
        wanted = units[path[index - 1]].wanted(key)
        return f"{key} {wanted}" if wanted else key

    parts = [f"waiting for {key_at(1)}"]
    if path[0] == path[-1] and len(path) == 3:
        return f"{parts[0]}, which only it itself would provide"
    parts += [
        f"which {path[index]} provides, itself waiting for {key_at(index + 1)}" for index in range(2, len(path) - 1, 2)
    ]
    if not end:
        end = f"which {path[-1]} provides: they wait for each other, so none can start first"
    return ", ".join((*parts, end))
