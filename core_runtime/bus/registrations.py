"""What one Pack registered: REGISTER and UNREGISTER, what it may cost, and the end of all of it.

Invariants:
  * Only what the rights allow at that moment is registered; whatever a session registered ends with it.
  * What a session's registrations take together is at most ``limits.registry_bytes``: each is charged its encoded
    bytes, what its values take decoded (``rules.values.footprint``) and what its schemas take compiled.
  * What registering costs the host is bounded in time: each costs one unit and another for each ``UNIT_BYTES``
    that it is charged, of ``limits.register_burst``, refilled by ``limits.register_per_s``.

Not here: the registry, and what other Packs see of it (``mirrors``).
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Any

from backend_core.errors import RequestError, quote
from core_runtime.bus.calls import Failure
from core_runtime.bus.refusals import Refused, refused
from core_runtime.interface_registry import Entry
from core_runtime.rules import frames
from core_runtime.rules.contracts import ContractBroken
from core_runtime.rules.frames import FrameError
from core_runtime.rules.permission_kinds import host_key_permission
from core_runtime.rules.schemas import Checkers, SchemaRefused
from core_runtime.rules.values import ValueProblem, footprint, unpack

if TYPE_CHECKING:
    from msgspec import Raw

    from core_runtime.bus.sessions import Session

META_NODES = 4_096
UNIT_BYTES = 4_096


class Registrations:
    """The registrations of one session, by number."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.entries: dict[int, Entry] = {}
        self.held_bytes = 0
        self._charged: dict[int, int] = {}
        self._expiring: list[tuple[float, int]] = []
        self._units = float(session.limits.register_burst)
        self._refilled = time.monotonic()

    def register(self, frame: frames.RegisterFrame) -> None:
        """REGISTER."""
        try:
            answer = self._add(frame)
        except Refused as exc:
            self._session.send_error(frame.id, exc.failure)
        except ValueProblem as exc:
            self._session.send_error(frame.id, Failure(exc.type, str(exc)))
        except SchemaRefused as exc:
            self._session.send_error(
                frame.id, Failure("schema", f"the schema of {quote(frame.key)} is refused", str(exc))
            )
        else:
            self._session.reply(frame.id, answer)

    def _add(self, frame: frames.RegisterFrame) -> int | bool:
        key = frame.key
        session = self._session
        limits = session.limits
        if not session.rights().may_register(key):
            session.denied("interface.register", key)
            needed = host_key_permission(key)
            why = f"has a meaning to the host and needs {needed}, granted" if needed else "is not granted"
            raise ValueProblem("denied", f"{quote(key)} is not declared in provides, or {why}")
        if session.retired:
            raise refused("superseded", "a newer generation of this Pack has taken over")
        self._drop_expired()
        if len(self.entries) >= limits.registrations:
            session.limited("registrations", f"{limits.registrations} registrations of it exist.")
            raise ValueProblem("limit", f"{limits.registrations} registrations exist already")
        size_bytes = sum(len(memoryview(raw)) for raw in (frame.options, frame.meta, frame.schemas, frame.body))
        self._pay(1 + size_bytes / UNIT_BYTES)
        self._check_room(size_bytes)
        options = as_map(unpack_bounded(frame.options))
        registry = session.world
        if options.get("if_absent") is True and registry.slot(key) is not None:
            return False
        meta = unpack_bounded(frame.meta)
        schemas = as_map(unpack_bounded(frame.schemas))
        ttl_ms = options.get("ttl_ms")
        if ttl_ms is not None and (not isinstance(ttl_ms, int | float) or not 0 <= ttl_ms <= 10**12):
            raise ValueProblem("value.unsupported", "ttl_ms is a number of milliseconds", "$.options.ttl_ms")
        source = options.get("source")
        resolver = session.references.resolver(frame.refs, key, lasting=True)
        value = unpack(frame.body, resolver, max_nodes=limits.decode_nodes)
        size_bytes += footprint([meta, schemas, value], limits.registry_bytes - self.held_bytes)
        self._check_room(size_bytes)
        given = self._pinned(key, schemas, value)
        checkers = Checkers.of(*given) if given != (None, None) else None
        if checkers is not None:
            size_bytes += checkers.compiled_bytes
            self._units -= checkers.compiled_bytes / UNIT_BYTES
            self._check_room(size_bytes)
        try:
            entry = registry.add(
                key,
                value,
                meta=meta if isinstance(meta, dict) else None,
                pack=session.pack_id,
                generation=session.generation,
                input_schema=given[0],
                output_schema=given[1],
                source=source if isinstance(source, str) else None,
                override=options.get("override") is True,
                ttl_s=None if ttl_ms is None else ttl_ms / 1000,
                version=session.terms.version(key),
                checkers=checkers,
            )
        except RequestError as exc:
            raise ValueProblem("value.unsupported", exc.title) from exc
        self.entries[entry.number] = entry
        self._charged[entry.number] = size_bytes
        self.held_bytes += size_bytes
        if entry.expires is not None:
            heapq.heappush(self._expiring, (entry.expires, entry.number))
        return entry.number

    def _pinned(self, key: str, schemas: dict[str, Any], value: Any) -> tuple[Any, Any]:
        """The schemas that count: those of the approved manifest, which what came must not differ from."""
        session = self._session
        try:
            return session.terms.pinned(key, schemas, callable_=callable(value))
        except ContractBroken as exc:
            session.complaints.broke_contract(key, str(exc))
            raise refused(
                "contract",
                f"{quote(key)} is not what was approved",
                f"{exc}. Register it as declared, or declare the change and have the Pack approved again.",
            ) from exc

    def unregister(self, frame: frames.UnregisterFrame) -> None:
        """UNREGISTER. What is under the key still is told before the answer, so that it never seems to be gone."""
        removed = 0
        keys: set[str] = set()
        # a frame may name tens of thousands: unknown ones cost no step of ours each
        for number in sorted(self.entries.keys() & frame.registrations):
            entry = self._forget(number)
            if entry is not None:
                removed += self._session.world.remove({number}, entry.key)
                keys.add(entry.key)
        for key in keys:
            self._session.mirror.push_early(key)
        self._session.reply(frame.id, removed)

    def clear(self) -> None:
        """The session is over."""
        for number, entry in list(self.entries.items()):
            self._session.world.remove({number}, entry.key)
            self._forget(number)
        self._expiring.clear()

    def withdrawn(self) -> None:
        """The registry has let go of everything already."""
        for number in tuple(self.entries):
            self._forget(number)
        self._expiring.clear()

    def _forget(self, number: int) -> Entry | None:
        entry = self.entries.pop(number, None)
        if entry is not None:
            self.held_bytes -= self._charged.pop(number)
        return entry

    def _drop_expired(self) -> None:
        """What the registry let go when its ttl was over counts no longer."""
        expiring = self._expiring
        while expiring:
            entry = self.entries.get(expiring[0][1])
            if entry is not None and not self._session.world.has_expired(entry):
                return
            self._forget(heapq.heappop(expiring)[1])

    def _check_room(self, more_bytes: int) -> None:
        limit = self._session.limits.registry_bytes
        if self.held_bytes + more_bytes > limit:
            self._session.limited("registrations", f"They take {limit} bytes.")
            raise refused(
                "limit",
                f"the registrations of a Pack take at most {limit} bytes",
                f"{self.held_bytes} are taken, this one needs {more_bytes} or more. Each value inside counts "
                "as well, and each pattern of a schema. Unregister what is replaced, or register a callable "
                "that returns the data.",
            )

    def _pay(self, units: float) -> None:
        """Take units of work; more than there are is refused until they have come back."""
        limits = self._session.limits
        now = time.monotonic()
        self._units = min(float(limits.register_burst), self._units + (now - self._refilled) * limits.register_per_s)
        self._refilled = now
        if self._units < min(units, limits.register_burst):
            self._session.limited("registrations", "It registers too much in a short time.")
            wait_s = (min(units, limits.register_burst) - self._units) / limits.register_per_s
            raise refused(
                "limit",
                "too many or too large registrations in a short time",
                f"Try again in {wait_s:.1f} s. A registration costs 1 and 1 more for each {UNIT_BYTES} bytes; "
                f"{limits.register_burst} are there at the start and {limits.register_per_s} come back each second.",
                retryable=True,
            )
        self._units -= units


def unpack_bounded(raw: Raw) -> Any:
    """A small loose map of a frame. What it can't hold ends the connection."""
    try:
        return unpack(raw, max_nodes=META_NODES)
    except ValueProblem as exc:
        raise FrameError(str(exc)) from exc


def as_map(value: Any) -> dict[str, Any]:
    """A loose map; what is none is empty."""
    return value if isinstance(value, dict) else {}
