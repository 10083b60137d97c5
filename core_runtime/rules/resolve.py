"""In which order components start, and why some can't: interface keys decide, across Packs. Pure.

A *unit* is one component or one custom handler. It may start once each key that it requires exists, in the range of
versions that it states.

Invariants:
  * The order depends on the units only, never on the order in which they were found.
  * A unit never unlocks itself; one of several providers of a key is enough.
  * Every unit is either in exactly one batch or blocked with a sentence; libraries start before the rest.
  * The work grows with the units and their keys, not with their square: one Pack may bring hundreds of them.

Not here: whether a provider really registered what it declared (``component_lifecycle`` looks at the registry).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from msgspec import Struct

from core_runtime.rules.contracts import misfit, satisfies

NOTHING: Mapping[str, str] = MappingProxyType({})
Present = Mapping[str, Collection[str]]
"""Keys that exist → the versions that their providers state, "" for one that states none."""
TOLD_STEPS: Final = 8
"""Steps of a way to a root cause that are told; of a longer one the first and the last."""
MORE: Final = "…"
LOOKED_AT: Final = 64
"""Units looked at for the smallest circle that one is on; in a larger one a way into it is told."""
_TOLD: Final = 2 * TOLD_STEPS - 1


class Unit(Struct, frozen=True):
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


class Blocked(Struct, frozen=True):
    """A unit that can't start. ``path`` alternates unit, key, unit, … to the root cause; ``key`` is its first key.

    A way of more than ``TOLD_STEPS`` steps has ``MORE`` in the place of its middle, a circle at its end.
    ``misfit``: the last key is provided, by the waiting Pack ``provider`` or by what is there already, in a version out
    of ``wanted``, the range that the last unit needs.
    """

    unit: Unit
    key: str
    path: tuple[str, ...]
    cycle: bool
    reason: str
    misfit: bool = False
    wanted: str = ""
    provider: str = ""


class Resolution(Struct, frozen=True):
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
    batches = _batches(waiting, present)
    placed = {unit.full_id for batch in batches for unit in batch}
    left = [unit for unit in waiting if unit.full_id not in placed]
    causes = _Causes(left, present, elsewhere)
    return Resolution(batches, tuple(map(causes.of, left)))


def _batches(units: Iterable[Unit], present: dict[str, set[str]]) -> tuple[tuple[Unit, ...], ...]:
    """What starts together, in order. ``present`` has what those provide afterwards."""
    lacking = {unit: set(unit.unmet(present)) for unit in units}
    needing: dict[str, list[Unit]] = {}
    for unit, keys in lacking.items():
        for key in keys:
            needing.setdefault(key, []).append(unit)
    ready = [unit for unit, keys in lacking.items() if not keys]
    batches: list[tuple[Unit, ...]] = []
    while ready:
        batch = _first_of(ready)
        batches.append(batch)
        ready = [] if len(batch) == len(ready) else [unit for unit in ready if not unit.library]
        for key, version in _news(batch, present):
            present.setdefault(key, set()).add(version)
            for unit in needing.get(key, ()):
                if key in lacking[unit] and unit.suits(key, version):
                    lacking[unit].discard(key)
                    if not lacking[unit]:
                        ready.append(unit)
    return tuple(batches)


def _news(batch: Iterable[Unit], present: Present) -> set[tuple[str, str]]:
    """Keys that a batch adds, with versions."""
    found: set[tuple[str, str]] = set()
    for unit in batch:
        stated = dict(unit.versions)
        found.update((key, stated.get(key, "")) for key in unit.provides)
    return {(key, version) for key, version in found if version not in present.get(key, ())}


def _first_of(ready: Iterable[Unit]) -> tuple[Unit, ...]:
    """Libraries keep the rest back."""
    ordered = sorted(ready, key=lambda unit: unit.full_id)
    return tuple(unit for unit in ordered if unit.library) or tuple(ordered)


def present_keys(available: Present | Iterable[str]) -> Present:
    """Keys without versions as keys of which none is stated."""
    return available if isinstance(available, Mapping) else dict.fromkeys(available, ("",))


def runnable(waiting: Iterable[Unit], present: Present | Iterable[str]) -> tuple[Unit, ...]:
    """The waiting units that may start now: every required key exists and suits; libraries keep the rest back."""
    keys = present_keys(present)
    return _first_of(unit for unit in waiting if not unit.unmet(keys))


_Need: TypeAlias = tuple[str, str]
"""A key and the range in which it is needed, "" for any."""


class _Causes:
    """Why each of the units that are left can't start. What would provide a key is looked up once for all of them."""

    def __init__(self, left: Iterable[Unit], present: Present, elsewhere: Mapping[str, str]) -> None:
        self._present = present
        self._elsewhere = elsewhere
        self._units = {unit.full_id: unit for unit in left}
        self._versions: dict[str, dict[str, str]] = {}
        """Key → those that would provide it, in order, with the versions that they state."""
        for name, unit in self._units.items():
            stated = dict(unit.versions)
            for key in unit.provides:
                self._versions.setdefault(key, {})[name] = stated.get(key, "")
        self._needs: dict[str, list[_Need]] = {}
        self._suitable: dict[_Need, dict[str, None]] = {}
        for name, unit in self._units.items():
            ranges = dict(unit.ranges)
            self._needs[name] = [(key, ranges.get(key, "")) for key in unit.unmet(present)]
            for need in self._needs[name]:
                if need not in self._suitable:
                    self._suitable[need] = self._providers(*need)
        self._length: dict[str, int] = {}
        """Unit → how many keys its shortest way to one has that nobody provides as it is needed."""
        self._gap: dict[str, str] = {}
        """Unit → the last unit on that way."""
        self._measure()

    def of(self, unit: Unit) -> Blocked:
        """The one reason that is told of it."""
        name = unit.full_id
        cycle = name not in self._length
        path = (self._own_circle(name) or self._into_circle(name)) if cycle else self._to_gap(name)
        if cycle:
            return Blocked(unit, path[1], path, cycle, self._sentence(path, ""))
        last, key = path[-2:]
        unfit, provider = self._misfit(key)
        end = unfit or self._elsewhere.get(key, "which nothing that runs or is approved provides")
        wanted = self._units[last].wanted(key)
        return Blocked(unit, path[1], path, cycle, self._sentence(path, end), bool(unfit), wanted, provider)

    def _providers(self, key: str, wanted: str) -> dict[str, None]:
        stated = self._versions.get(key, {})
        return {name: None for name, version in stated.items() if not wanted or satisfies(version, wanted)}

    def _measure(self) -> None:
        """Backwards from the keys that nobody provides, one step at a time."""
        needing: dict[_Need, list[str]] = {}
        for name, needs in self._needs.items():
            for need in needs:
                needing.setdefault(need, []).append(name)
        providing: dict[str, list[_Need]] = {}
        for need, suitable in self._suitable.items():
            for name in suitable:
                providing.setdefault(name, []).append(need)
        reached = {need for need, suitable in self._suitable.items() if not suitable}
        step = {name for need in reached for name in needing[need]}
        self._gap = {name: name for name in step}
        length = 1
        while step:
            self._length.update(dict.fromkeys(step, length))
            news = {need for name in step for need in providing.get(name, ())} - reached
            reached |= news
            step = {name for need in news for name in needing[need]} - self._length.keys()
            length += 1
            for name in step:
                self._gap[name] = self._gap[self._nearer(name, length)[1]]

    def _nearer(self, name: str, length: int) -> tuple[str, str]:
        """The first key and the first of its providers from which it is one step less to a gap."""
        return next(
            (need[0], provider)
            for need in self._needs[name]
            for provider in self._suitable[need]
            if self._length.get(provider) == length - 1
        )

    def _to_gap(self, name: str) -> tuple[str, ...]:
        last = self._gap[name]
        path = [name]
        while name != last and len(path) < _TOLD:
            key, name = self._nearer(name, self._length[name])
            path += [key, name]
        path += [] if name == last else [MORE, last]
        return (*path, next(need[0] for need in self._needs[last] if not self._suitable[need]))

    def _own_circle(self, start: str) -> tuple[str, ...]:
        """The smallest circle that it is on; empty where it is on none, or on a large one only."""
        came: dict[str, tuple[str, str]] = {}
        looked: set[_Need] = set()
        queue = deque([start])
        while queue and len(came) < LOOKED_AT:
            name = queue.popleft()
            for need in self._needs[name]:
                if start in self._suitable[need]:
                    return _circle(start, name, need[0], came)
                if need not in looked:
                    looked.add(need)
                    news = [provider for provider in self._suitable[need] if provider not in came]
                    came.update(dict.fromkeys(news, (name, need[0])))
                    queue.extend(news)
        return ()

    def _into_circle(self, name: str) -> tuple[str, ...]:
        """The way from it into a circle: every unit on it waits, so following any of its keys comes back to one."""
        path = [name]
        while len(path) < _TOLD:
            need = self._needs[name][0]
            name = next(iter(self._suitable[need]))
            path += [need[0], name]
            if name in path[:-1:2]:
                return tuple(path)
        return (*path, MORE)

    def _misfit(self, key: str) -> tuple[str, str]:
        """Why what provides the last key of a way will not do, and which waiting Pack that is; "" for nothing."""
        if self._present.get(key):
            return misfit(key, max(self._present[key])), ""
        for name, version in self._versions.get(key, {}).items():
            pack_id = self._units[name].pack_id
            return misfit(key, version, pack_id), pack_id
        return "", ""

    def _sentence(self, path: tuple[str, ...], end: str) -> str:
        """``end`` is empty for a circle."""

        def key_at(index: int) -> str:
            wanted = self._units[path[index - 1]].wanted(path[index])
            return f"{path[index]} {wanted}" if wanted else path[index]

        if path[0] == path[-1] and len(path) == 3:
            return f"waiting for {key_at(1)}, which only it itself would provide"
        parts = [f"waiting for {key_at(1)}"]
        for index in range(2, len(path) - 1, 2):
            unit, key = path[index : index + 2]
            if path[index - 1] == MORE:
                parts.append(f"the last of which, {unit}, waits for {key_at(index + 1)}")
            else:
                parts.append(
                    f"which {unit} provides, itself waiting for {'others' if key == MORE else key_at(index + 1)}"
                )
        if not end:
            closed = "" if path[-1] == MORE else f", which {path[-1]} provides"
            return f"{', '.join(parts)}{closed}: they wait for each other, so none can start first"
        return ", ".join((*parts, end))


def _circle(start: str, name: str, key: str, came: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """The circle that ``key``, which ``name`` lacks, closes."""
    path = [start, key, name]
    while name != start:
        name, key = came[name]
        path += [key, name]
    path.reverse()
    return tuple(path) if len(path) <= _TOLD + 2 else (*path[:_TOLD], MORE)
