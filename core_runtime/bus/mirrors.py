"""What one Pack sees of the registry: MIRROR frames, and the numbers of the callables in them.

Invariants:
  * A Pack is told of a key while it may reach it, and that the key is gone as soon as it may not.
  * A callable keeps its number as long as its registration stands, whatever the agent releases, so that a handle taken
    from ``get(key, "all")`` survives unrelated changes of the key; with the registration the number dies.
  * An entry is encoded once, not once for each Pack that sees it: what differs between them is put around that.
  * A Pack that does not read is not written to: it gets the newest state of what changed when it reads again.

Not here: when to push (``bus`` coalesces changes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from backend_core.errors import quote
from core_runtime.bus.references import Handle, RemoteCallable
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.interface_registry import Entry, Slot
from core_runtime.rules import frames
from core_runtime.rules.frames import HELD, OWN, FrameError
from core_runtime.rules.values import ValueProblem, pack

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

_EMPTY_ARRAY = Raw(b"\x90")
_HEAD = b"\x89\xa5owner"
_MINE = b"\xa4mine"
_BOOL = (b"\xc2", b"\xc3")


class Mirror:
    """The mirrors of one session."""

    def __init__(self, session: Session, diagnostics: Diagnostics) -> None:
        self._session = session
        self._diagnostics = diagnostics
        self._numbers: dict[str, dict[tuple[int, int], int]] = {}
        self._late: set[str] = set()
        self._early: dict[str, Slot] = {}
        self.shown: set[str] = set()

    def push_early(self, key: str) -> None:
        """Tell of a change that is about to be pushed, before anything else is sent; not that nothing is left."""
        slot = self._session.world.slot(key)
        if slot is not None:
            self.push(key)
            self._early[key] = slot

    def push(self, key: str) -> None:
        """Tell the agent what it may know of ``key`` now."""
        session = self._session
        if not session.ready or session.dead:
            return
        early = self._early.pop(key, None)
        if early is not None and early is session.world.slot(key):
            return
        if session.congested:
            self._late.add(key)
            return
        self._late.discard(key)
        slot = session.world.slot(key) if session.may_reach(key) else None
        entries = self._suited(key, slot)
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

    def _suited(self, key: str, slot: Slot | None) -> tuple[Entry, ...]:
        """The entries in the range of versions that the Pack needs; its operator is told where the owner's is not."""
        session, terms = self._session, self._session.terms
        if key not in terms.ranges:
            return slot.visible if slot is not None else ()
        last = slot.last if slot is not None else None
        fits = last is None or last.pack == session.pack_id or terms.admits(key, last.version)
        why = "" if fits or last is None else terms.why_not(key, last.version, last.pack)
        session.complaints.note_unsuited(key, why)
        if slot is None:
            return ()
        mine = session.pack_id
        return tuple(one for one in slot.visible if one.pack == mine or terms.admits(key, one.version))

    def resume(self) -> None:
        """The Pack reads again."""
        while self._late and not self._session.congested:
            self.push(self._late.pop())

    def succeed(self, key: str, pairs: Sequence[tuple[Entry, Entry]]) -> None:
        """Numbers that the agent holds of an entry stand for the entry that takes its place from now on."""
        known = self._numbers.get(key, {})
        for before, after in pairs:
            for place in [place for place in known if place[0] == before.number]:
                callables = _encoded(after, 0)[2]
                found = callables[place[1] - 1] if place[1] <= len(callables) else None
                if found is not None and not (isinstance(found, RemoteCallable) and found.session is self._session):
                    number = known[after.number, place[1]] = known.pop(place)
                    self._session.references.repoint(number, found, after)

    def _send(self, key: str, entries: tuple[Entry, ...]) -> None:
        refs: list[tuple[int, int]] = []
        values: list[bytes] = []
        described: list[bytes] = []
        left = self._session.limits.frame_bytes
        for entry in entries:
            about, value, callables = _encoded(entry, len(refs))
            left -= len(about) + len(value)
            # before anything is handed out for a frame that can't be sent
            if left < 0:
                raise FrameError(f"its entries take more than {self._session.limits.frame_bytes} bytes together")
            values.append(value)
            described.append(self._around(entry, about))
            for position, found in enumerate(callables, 1):
                if isinstance(found, RemoteCallable) and found.session is self._session:
                    refs.append((HELD, found.number))
                else:
                    refs.append((OWN, self._number(entry, position, found)))
        self._session.send((frames.MIRROR, 0, key, Raw(_array_of(described)), refs, Raw(_array_of(values))))

    def _around(self, entry: Entry, about: bytes) -> bytes:
        """An entry's map: what is the same for every Pack, and what is not."""
        session = self._session
        owner = session.world.is_owner_entry(entry)
        mine = entry.pack == session.pack_id and entry.number in session.registrations
        return b"".join((_HEAD, _BOOL[owner], about, _MINE, _BOOL[mine]))

    def _number(self, entry: Entry, position: int, value: Any) -> int:
        known = self._numbers.setdefault(entry.key, {})
        number = known.get((entry.number, position))
        if number is None:
            edge = (self._session, entry.key)
            if isinstance(value, RemoteCallable):
                handle = Handle(value.session, value.number, edge=edge, key=entry.key, pinned=True, entry=entry)
            else:
                handle = Handle(None, 0, fn=value, edge=edge, key=entry.key, pinned=True, entry=entry)
            number = known[entry.number, position] = self._session.references.hand_out(handle)
        return number

    def _forget(self, key: str, alive: set[int]) -> None:
        known = self._numbers.get(key, {})
        for place in [place for place in known if place[0] not in alive]:
            self._session.references.take_back(known.pop(place))
        if not known:
            self._numbers.pop(key, None)


def _encoded(entry: Entry, offset: int) -> tuple[bytes, bytes, tuple[Any, ...]]:
    """``(what is said of the entry, its value, the callables in that)``; their indices start at ``offset``."""
    kept = entry.encoded
    about = kept.get("about")
    if about is None:
        fields = {
            "pack": entry.pack,
            "ts": entry.ts,
            "meta": _plain(entry.meta),
            "callable": callable(entry.value),
            "input": entry.input_schema,
            "output": entry.output_schema,
            "registration": entry.number,
        }
        about = kept["about"] = pack(fields)[1:]
    known = kept.get("value")
    # without callables the place in the frame does not matter
    if known is None or (known[2] and known[0] != offset):
        callables: list[Any] = []

        def export(value: Any) -> int:
            callables.append(value)
            return offset + len(callables) - 1

        known = kept["value"] = (offset, pack(entry.value, export), tuple(callables))
    return about, known[1], known[2]


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
