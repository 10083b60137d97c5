"""The interface registry: keys, the values behind them in order of registration, and who owns a key.

Invariants:
  * Reads take no lock and see one consistent snapshot of a key (each key's slot is replaced, never changed).
  * ``first`` and ``last`` answer from the owner's entries when a key has an owner, whatever was registered later; an
    owner that is down means *missing*, never the runner-up. ``all`` shows every entry.
  * An entry past its ttl is gone for every reader at that moment, and observers are told.
  * Observers run outside the lock; a failing one is recorded and disturbs nobody.

Not here: who may register, read or call what (the bus asks the rights), the wire (``bus``).
"""

from __future__ import annotations

import builtins
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct

from backend_core.errors import RequestError, quote
from core_runtime.diagnostics import Diagnostics, fail_soft
from core_runtime.rules.routing import matches
from core_runtime.rules.schemas import Checkers

Strategy = Literal["last", "first", "all"]
Observer = Callable[[str, Any, Any], None]
HOST = ""
MAX_KEY_CHARS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One registered value. ``pack`` is "" for the host; ``number`` is unique in this host's life."""

    number: int
    key: str
    value: Any
    ts: float
    meta: Mapping[str, Any] = field(default_factory=dict)
    pack: str = HOST
    generation: int = 0
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    source: str | None = None
    override: bool = False
    expires: float | None = None
    version: str = ""
    """What its Pack's approved manifest states of the key."""
    checkers: Checkers | None = field(default=None, repr=False)
    encoded: dict[str, Any] = field(default_factory=dict, repr=False)
    """What mirrors keep of it, so that it is encoded once; touched by the bus's thread only."""

    def as_dict(self) -> dict[str, Any]:
        """The documented entry: ``{key, value, meta, ts}``."""
        return {"key": self.key, "value": self.value, "meta": dict(self.meta), "ts": self.ts}


class _Notice(Struct, frozen=True):
    key: str
    old: Entry | None
    new: Entry | None


class Slot(Struct, frozen=True, eq=False):
    """Snapshot of one key: what each strategy answers."""

    entries: tuple[Entry, ...]
    visible: tuple[Entry, ...]
    first: Entry | None
    last: Entry | None
    expires: float | None


class InterfaceRegistry:
    """Thread-safe; see the module docstring for the promises."""

    def __init__(
        self,
        diagnostics: Diagnostics | None = None,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._diagnostics = diagnostics or Diagnostics()
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.RLock()
        self._slots: dict[str, Slot] = {}
        self._owners: dict[str, str] = {}
        self._observers: dict[str, tuple[str, Observer]] = {}
        self._numbers = itertools.count(1)
        self._listeners: tuple[Callable[[str], None], ...] = ()

    # --- the documented interface

    def register(self, key: str, value: Any, meta: Mapping[str, Any] | None = None) -> int:
        """Add a value of the host's under ``key``; returns its number."""
        return self.add(key, value, meta=meta).number

    def register_if_absent(
        self, key: str, value: Any, meta: Mapping[str, Any] | None = None, ttl: float | None = None
    ) -> bool:
        """Add unless something is there; ``ttl`` in seconds."""
        with self._lock:
            self._drop_expired(key)
            if key in self._slots:
                return False
            entry = self._entry(key, value, meta=meta, ttl_s=ttl)
            notice = self._change(key, (*self._entries(key), entry))
        self._notify(notice)
        return True

    def register_handler(
        self,
        key: str,
        fn: Callable[..., Any],
        input_schema: Mapping[str, Any] | None = None,
        output_schema: Mapping[str, Any] | None = None,
        meta: Mapping[str, Any] | None = None,
        source_code: str | None = None,
    ) -> int:
        """Add a callable ``fn(args, ctx)`` with its schemas and source."""
        if not callable(fn):
            raise RequestError(
                "A handler must be callable",
                code="handler_not_callable",
                detail=f"For {quote(key)} came {quote(type(fn).__name__)}.",
                hint="Pass a function handler(args, ctx); register() takes data.",
            )
        return self.add(
            key, fn, meta=meta, input_schema=input_schema, output_schema=output_schema, source=source_code
        ).number

    def get(self, key: str, strategy: Strategy = "last") -> Any:
        """The value by strategy: None (``[]`` for ``all``) when there is none."""
        slot = self._slots.get(key)
        if slot is not None and slot.expires is not None:
            slot = self.slot(key)
        if strategy == "last":
            return slot.last.value if slot is not None and slot.last is not None else None
        if strategy == "first":
            return slot.first.value if slot is not None and slot.first is not None else None
        if strategy == "all":
            return [entry.value for entry in slot.visible] if slot is not None else []
        raise RequestError(
            "No such strategy",
            code="strategy_unknown",
            detail=f"Expected last, first or all; came {quote(strategy)}.",
            hint="Use one of the three.",
        )

    def get_schema(self, key: str) -> dict[str, Any] | None:
        """``{input, output}`` of what ``last`` answers; None without one."""
        entry = self.resolve(key)
        if entry is None or (entry.input_schema is None and entry.output_schema is None):
            return None
        return {"input": entry.input_schema, "output": entry.output_schema}

    def get_source(self, key: str) -> str | None:
        """Source text given at registration, of what ``last`` answers."""
        entry = self.resolve(key)
        return entry.source if entry is not None else None

    def observe(self, pattern: str, callback: Observer, immediate: bool = False) -> str:  # noqa: FBT001, FBT002
        """Call ``callback(key, old, new)`` when what ``last`` answers changes for a key that matches; returns an id."""
        observer = f"obs-{next(self._numbers)}"
        with self._lock:
            self._observers[observer] = (pattern, callback)
        if immediate:
            for key in self.keys():
                if matches(pattern, key):
                    self._tell(observer, callback, key, None, self.get(key))
        return observer

    def unobserve(self, observer_id: str) -> bool:
        """Stop one observer; False when unknown."""
        with self._lock:
            return self._observers.pop(observer_id, None) is not None

    def unobserve_all(self, pattern: str | None = None) -> int:
        """Stop every observer, or those registered with exactly this key or glob; returns how many."""
        with self._lock:
            gone = [o for o, (registered, _) in self._observers.items() if pattern is None or registered == pattern]
            for observer in gone:
                del self._observers[observer]
            return len(gone)

    @contextmanager
    def temporary_override(self, key: str, value: Any, meta: Mapping[str, Any] | None = None) -> Iterator[None]:
        """While the block runs, ``key`` answers ``value`` alone, to everybody."""
        entry = self.add(key, value, meta=meta, override=True)
        try:
            yield
        finally:
            self.remove({entry.number}, key)

    def list(self, prefix: str | None = None, include_meta: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """``{key: n}``, or ``{key: {count, last_ts, last_meta}}``, sorted by key."""
        found: dict[str, Any] = {}
        for key in sorted(self._slots.copy()):
            slot = self.slot(key)
            if slot is None or (prefix is not None and not key.startswith(prefix)):
                continue
            newest = slot.visible[-1] if slot.visible else slot.entries[-1]
            found[key] = (
                {"count": len(slot.visible), "last_ts": newest.ts, "last_meta": dict(newest.meta)}
                if include_meta
                else len(slot.visible)
            )
        return found

    def find(self, predicate: Callable[[str, Mapping[str, Any]], bool]) -> builtins.list[str]:
        """Keys with an entry for which ``predicate(key, entry)`` holds, sorted."""
        found = []
        for key in sorted(self._slots.copy()):
            slot = self.slot(key)
            if slot is not None and any(predicate(key, entry.as_dict()) for entry in slot.visible):
                found.append(key)
        return found

    def unregister(self, key: str, predicate: Callable[[Mapping[str, Any]], bool] | None = None) -> int:
        """Remove entries of ``key`` (those for which ``predicate(entry)`` holds); returns how many."""
        slot = self.slot(key)
        if slot is None:
            return 0
        gone = {e.number for e in slot.entries if predicate is None or predicate(e.as_dict())}
        return self.remove(gone, key)

    # --- for the bus and the kernel

    def add(
        self,
        key: str,
        value: Any,
        *,
        meta: Mapping[str, Any] | None = None,
        pack: str = HOST,
        generation: int = 0,
        input_schema: Mapping[str, Any] | None = None,
        output_schema: Mapping[str, Any] | None = None,
        source: str | None = None,
        override: bool = False,
        ttl_s: float | None = None,
        version: str = "",
        checkers: Checkers | None = None,
    ) -> Entry:
        """Add an entry for whoever it belongs to. ``checkers``: its schemas where they are compiled already.

        Raises ``SchemaRefused``.
        """
        entry = self._entry(
            key,
            value,
            meta=meta,
            ttl_s=ttl_s,
            pack=pack,
            generation=generation,
            input_schema=input_schema,
            output_schema=output_schema,
            source=source,
            override=override,
            version=version,
            checkers=checkers,
        )
        with self._lock:
            notice = self._change(key, (*self._entries(key), entry))
        self._notify(notice)
        return entry

    def remove(self, numbers: set[int] | frozenset[int], key: str | None = None) -> int:
        """Remove entries by number, from one key or from all; returns how many."""
        removed = 0
        notices: builtins.list[_Notice] = []
        with self._lock:
            for each in (key,) if key is not None else self.keys():
                entries = self._entries(each)
                kept = tuple(e for e in entries if e.number not in numbers)
                if len(kept) != len(entries):
                    removed += len(entries) - len(kept)
                    notices.append(self._change(each, kept))
        for notice in notices:
            self._notify(notice)
        return removed

    def exchange(self, gone: Collection[int], fresh: Iterable[Entry]) -> None:
        """Take entries away and put drafts in their place; each key changes once.

        Listeners and observers are told when every key has changed, so on their thread nobody sees half of it.
        """
        arriving: dict[str, builtins.list[Entry]] = {}
        for entry in fresh:
            arriving.setdefault(entry.key, []).append(entry)
        with self._lock:
            leaving = {key for key in self.keys() if any(entry.number in gone for entry in self._entries(key))}
            notices = [
                self._change(
                    key, (*(e for e in self._entries(key) if e.number not in gone), *arriving.get(key, ()))
                )
                for key in sorted(leaving | arriving.keys())
            ]
        for notice in notices:
            self._notify(notice)

    def set_owner(self, key: str, pack: str | None) -> None:
        """Fix (or, with None, free) who answers ``first`` and ``last`` for ``key``."""
        with self._lock:
            if pack is None:
                self._owners.pop(key, None)
            else:
                self._owners[key] = pack
            notice = self._change(key, self._entries(key))
        self._notify(notice)

    def owner(self, key: str) -> str | None:
        """The Pack that owns ``key``; None when nobody was appointed."""
        return self._owners.get(key)

    def is_owner_entry(self, entry: Entry) -> bool:
        """Whether ``first`` and ``last`` may answer with this entry."""
        owner = self._owners.get(entry.key)
        return owner is None or entry.pack == owner or (entry.override and entry.pack == HOST)

    def slot(self, key: str) -> Slot | None:
        """Snapshot of a key, expired entries gone; None when nothing is registered."""
        slot = self._slots.get(key)
        if slot is not None and slot.expires is not None and self._monotonic() >= slot.expires:
            self._drop_expired(key)
            slot = self._slots.get(key)
        return slot

    def resolve(self, key: str) -> Entry | None:
        """The entry that ``last`` answers with."""
        slot = self._slots.get(key)
        if slot is not None and slot.expires is not None:
            slot = self.slot(key)
        return slot.last if slot is not None else None

    def has_expired(self, entry: Entry) -> bool:
        """Whether an entry's ttl is over."""
        return entry.expires is not None and self._monotonic() >= entry.expires

    def keys(self) -> tuple[str, ...]:
        """Every key with an entry."""
        return tuple(self._slots.copy())

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call ``listener(key)`` after every change of a key, in the changing thread, before observers."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def expire_due(self) -> float | None:
        """Drop what has expired; returns seconds until the next expiry, None when nothing has a ttl."""
        now = self._monotonic()
        soonest: float | None = None
        for key, slot in self._slots.copy().items():
            if slot.expires is None:
                continue
            if now >= slot.expires:
                self._drop_expired(key)
            current = self._slots.get(key)
            if current is not None and current.expires is not None:
                soonest = current.expires if soonest is None else min(soonest, current.expires)
        return None if soonest is None else max(0.0, soonest - now)

    def draft(self, key: str, value: Any, **fields: Any) -> Entry:
        """An entry as ``add`` would make it, seen by nobody until ``exchange``. Raises ``SchemaRefused``."""
        return self._entry(key, value, meta=fields.pop("meta", None), ttl_s=fields.pop("ttl_s", None), **fields)

    def view(self, entries: tuple[Entry, ...]) -> Slot:
        """What each strategy would answer if a key had exactly these entries."""
        return self._snapshot(entries)

    # --- inside

    def _entry(
        self,
        key: Any,
        value: Any,
        *,
        meta: Mapping[str, Any] | None,
        ttl_s: float | None,
        checkers: Checkers | None = None,
        **rest: Any,
    ) -> Entry:
        if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_CHARS:
            raise RequestError(
                "Not an interface key",
                code="key_invalid",
                detail=f"A key is a text of 1 to {MAX_KEY_CHARS} characters; {quote(key)} is none.",
                hint="Use a dotted name such as service.hello.",
            )
        schemas = rest.get("input_schema"), rest.get("output_schema")
        return Entry(
            checkers=Checkers.of(*schemas) if checkers is None and schemas != (None, None) else checkers,
            number=next(self._numbers),
            key=key,
            value=value,
            ts=self._clock(),
            meta=MappingProxyType(dict(meta or {})),
            expires=None if ttl_s is None else self._monotonic() + max(0.0, ttl_s),
            **rest,
        )

    def _entries(self, key: str) -> tuple[Entry, ...]:
        slot = self._slots.get(key)
        return slot.entries if slot is not None else ()

    def _drop_expired(self, key: str) -> None:
        now = self._monotonic()
        with self._lock:
            entries = self._entries(key)
            kept = tuple(e for e in entries if e.expires is None or now < e.expires)
            if len(kept) == len(entries):
                return
            notice = self._change(key, kept)
        self._notify(notice)

    def _change(self, key: str, entries: tuple[Entry, ...]) -> _Notice:
        """Replace a key's slot (the lock is held); what to tell about it is returned, for after the lock."""
        old = self._slots.get(key)
        new = self._snapshot(entries) if entries else None
        if new is None:
            self._slots.pop(key, None)
        else:
            self._slots[key] = new
        return _Notice(key, old.last if old is not None else None, new.last if new is not None else None)

    def _notify(self, notice: _Notice) -> None:
        for listener in self._listeners:
            listener(notice.key)
        if notice.old is notice.new:
            return
        old = notice.old.value if notice.old is not None else None
        new = notice.new.value if notice.new is not None else None
        for observer, (pattern, callback) in tuple(self._observers.items()):
            if matches(pattern, notice.key):
                self._tell(observer, callback, notice.key, old, new)

    def _tell(self, observer: str, callback: Observer, key: str, old: Any, new: Any) -> None:
        with fail_soft(self._diagnostics, f"observer {observer}", "registry", step_id=key):
            callback(key, old, new)

    def _snapshot(self, entries: tuple[Entry, ...]) -> Slot:
        visible = _effective(entries)
        owned = [entry for entry in visible if self.is_owner_entry(entry)]
        expiries = [entry.expires for entry in entries if entry.expires is not None]
        return Slot(
            entries=entries,
            visible=visible,
            first=owned[0] if owned else None,
            last=owned[-1] if owned else None,
            expires=min(expiries) if expiries else None,
        )


def _effective(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Without what is overridden: the host's newest override hides all others, a Pack's hides that Pack's own."""
    if not any(entry.override for entry in entries):
        return entries
    newest: dict[str, int] = {entry.pack: entry.number for entry in entries if entry.override}
    if HOST in newest:
        return tuple(entry for entry in entries if entry.number == newest[HOST])
    return tuple(entry for entry in entries if newest.get(entry.pack, entry.number) == entry.number)
