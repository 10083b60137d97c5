"""What one Pack sees of the registry: MIRROR frames, and the numbers of the callables in them.

Invariants:
  * A Pack is told of a key while it may reach it, and that the key is gone as soon as it may not.
  * A callable keeps its number as long as its registration stands, whatever the agent releases, so that a handle taken
    from ``get(key, "all")`` survives unrelated changes of the key; with the registration the number dies.

Not here: when to push (``bus`` coalesces changes, once a turn).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.interface_registry import Entry
from core_runtime.references import Handle, RemoteCallable
from core_runtime.rules import frames
from core_runtime.rules.frames import HELD, OWN, FrameError
from core_runtime.rules.values import ValueProblem, pack

if TYPE_CHECKING:
    from core_runtime.sessions import Session

_EMPTY_ARRAY = Raw(b"\x90")


class Mirror:
    """The mirrors of one session."""

    def __init__(self, session: Session, diagnostics: Diagnostics) -> None:
        self._session = session
        self._diagnostics = diagnostics
        self._numbers: dict[str, dict[tuple[int, int], int]] = {}
        self.shown: set[str] = set()

    def push(self, key: str) -> None:
        """Tell the agent what it may know of ``key`` now."""
        session = self._session
        if not session.ready or session.dead:
            return
        slot = session.router.registry.slot(key) if session.may_reach(key) else None
        entries = slot.visible if slot is not None else ()
        if not entries and key not in self.shown:
            return
        self._forget(key, {entry.number for entry in entries})
        try:
            self._send(key, entries)
        except (ValueProblem, FrameError) as exc:
            self._diagnostics.issue(
                "mirror_failed",
                Severity.WARN,
                session.pack_id,
                "A registered value can't be shown to a Pack",
                f"{quote(key)}: {exc}",
                "Register smaller values, or a callable that returns them.",
                {"key": key},
            )
            session.send((frames.MIRROR, 0, key, (), (), _EMPTY_ARRAY))
        if entries:
            self.shown.add(key)
        else:
            self.shown.discard(key)

    def _send(self, key: str, entries: tuple[Entry, ...]) -> None:
        refs: list[tuple[int, int]] = []
        values = [pack(entry.value, self._exporter(refs, entry)) for entry in entries]
        described = [self._describe(entry) for entry in entries]
        self._session.send((frames.MIRROR, 0, key, described, refs, Raw(_array_of(values))))

    def _describe(self, entry: Entry) -> dict[str, Any]:
        session = self._session
        return {
            "owner": session.router.registry.is_owner_entry(entry),
            "pack": entry.pack,
            "ts": entry.ts,
            "meta": _plain(entry.meta),
            "callable": callable(entry.value),
            "input": entry.input_schema,
            "output": entry.output_schema,
            "mine": entry.pack == session.pack_id and entry.number in session.registrations,
            "registration": entry.number,
        }

    def _exporter(self, refs: list[tuple[int, int]], entry: Entry) -> Callable[[Any], int]:
        position = 0

        def export(value: Any) -> int:
            nonlocal position
            position += 1
            if isinstance(value, RemoteCallable) and value.session is self._session:
                refs.append((HELD, value.number))
            else:
                refs.append((OWN, self._number(entry, position, value)))
            return len(refs) - 1

        return export

    def _number(self, entry: Entry, position: int, value: Any) -> int:
        known = self._numbers.setdefault(entry.key, {})
        number = known.get((entry.number, position))
        if number is None:
            edge = (self._session, entry.key)
            if isinstance(value, RemoteCallable):
                handle = Handle(value.session, value.number, edge=edge, key=entry.key, pinned=True)
            else:
                handle = Handle(None, 0, fn=value, edge=edge, key=entry.key, pinned=True)
            number = known[entry.number, position] = self._session.references.hand_out(handle)
        return number

    def _forget(self, key: str, alive: set[int]) -> None:
        known = self._numbers.get(key, {})
        for place in [place for place in known if place[0] not in alive]:
            self._session.references.take_back(known.pop(place))
        if not known:
            self._numbers.pop(key, None)


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as far as it can travel: a host's may hold anything."""
    plain: dict[str, Any] = {}
    for name, value in meta.items():
        try:
            pack(value)
        except ValueProblem:
            continue
        plain[name] = value
    return plain


def _array_of(values: list[bytes]) -> bytes:
    """A MessagePack array of values that are encoded already."""
    count = len(values)
    if count >= 65_536:
        raise FrameError(f"{count} entries of one key")
    head = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(values)
