"""The registry as a generation sees it that was opened beside the one that serves: as it would be after the take-over.

Invariants:
  * What a shadow registers is seen by itself alone. It sees its own entries instead of those of its Pack's serving
    generation, and everybody else's as they are.
  * ``entries`` are drafts with numbers of the real registry: after the take-over they are the very same entries.

Not here: the take-over itself (``takeover``), what is charged for a registration (``registrations``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from core_runtime.interface_registry import Entry, InterfaceRegistry, Observer, Slot


class Shadow:
    """Answers like an ``InterfaceRegistry``, for one session. Belongs to the event loop's thread."""

    def __init__(self, registry: InterfaceRegistry, pack_id: str, changed: Callable[[str], None]) -> None:
        """``changed`` is told of each key that this shadow changed."""
        self._registry = registry
        self._pack_id = pack_id
        self._changed = changed
        self._own: dict[str, tuple[Entry, ...]] = {}
        self._observers: dict[str, Observer] = {}

    def entries(self) -> tuple[Entry, ...]:
        """What the shadow has registered and not taken back, in order."""
        found = (e for own in self._own.values() for e in own if not self._registry.has_expired(e))
        return tuple(sorted(found, key=lambda entry: entry.number))

    def slot(self, key: str) -> Slot | None:
        """As ``InterfaceRegistry.slot``."""
        base = self._registry.slot(key)
        others = tuple(e for e in base.entries if e.pack != self._pack_id) if base is not None else ()
        own = tuple(e for e in self._own.get(key, ()) if not self._registry.has_expired(e))
        return self._registry.view((*others, *own)) if others or own else None

    def resolve(self, key: str) -> Entry | None:
        """As ``InterfaceRegistry.resolve``."""
        slot = self.slot(key)
        return slot.last if slot is not None else None

    def keys(self) -> tuple[str, ...]:
        """Every key with an entry, and those that only the serving generation has."""
        return (*self._registry.keys(), *(key for key in self._own if self._registry.slot(key) is None))

    def is_owner_entry(self, entry: Entry) -> bool:
        """As ``InterfaceRegistry.is_owner_entry``."""
        return self._registry.is_owner_entry(entry)

    def has_expired(self, entry: Entry) -> bool:
        """As ``InterfaceRegistry.has_expired``."""
        return self._registry.has_expired(entry)

    def add(self, key: str, value: Any, **fields: Any) -> Entry:
        """A draft under ``key``."""
        entry = self._registry.draft(key, value, **fields)
        self._own[key] = (*self._own.get(key, ()), entry)
        self._tell(key)
        return entry

    def remove(self, numbers: set[int] | frozenset[int], key: str | None = None) -> int:
        """Take drafts back; returns how many."""
        removed = 0
        for each in (key,) if key is not None else tuple(self._own):
            own = self._own.get(each, ())
            kept = tuple(entry for entry in own if entry.number not in numbers)
            if len(kept) == len(own):
                continue
            removed += len(own) - len(kept)
            if kept:
                self._own[each] = kept
            else:
                del self._own[each]
            self._tell(each)
        return removed

    def observe(self, pattern: str, callback: Observer) -> str:
        """Call ``callback(key, None, None)`` when any key changes, in the real registry (by pattern) or here."""
        observer = self._registry.observe(pattern, callback)
        self._observers[observer] = callback
        return observer

    def unobserve(self, observer: str) -> bool:
        """Stop one observer; False when unknown."""
        self._observers.pop(observer, None)
        return self._registry.unobserve(observer)

    def _tell(self, key: str) -> None:
        self._changed(key)
        for callback in tuple(self._observers.values()):
            callback(key, None, None)


World: TypeAlias = InterfaceRegistry | Shadow
