"""Secrets that the operator entered for Packs: entering, listing, taking away, and handing each over once.

Invariants:
  * A value leaves only for a Pack that was granted ``secret`` with this name, at that moment; what is not granted and
    what is not there answer alike to whoever has no right to the name.
  * Each generation of a Pack receives a name at most once: code that is loaded later in the same sandbox can't ask
    again. The next generation may.
  * That it goes out is on record, durably, before it does. No record and no error holds a value.

Not here: encryption and files (``drivers.secret_store``), hiding what a Pack prints (``drivers.redactions``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from msgspec.structs import asdict

from backend_core.errors import DeniedError, NotFoundError, RumiError, quote
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.grants import identity_fingerprint
from core_runtime.drivers.secret_store import SecretStore
from core_runtime.rules.permissions import Allow, Deny
from core_runtime.rules.secret import name_fault

KIND: Final = "secret"
GENERATIONS_KEPT: Final = 4
"""Of one Pack: two may run side by side while one takes the other's place."""


class Judge(Protocol):
    """What this module needs of the permission manager."""

    def check(self, pack_id: str, kind: str, /, **params: Any) -> Allow | Deny:
        """Judge one use, count and spend it."""

    def has(self, pack_id: str, kind: str, /, **params: Any) -> bool:
        """Like ``check``, asked without doing anything."""


class SecretManager:
    """Thread-safe; every method raises ``RumiError`` only."""

    def __init__(self, store: SecretStore, permissions: Judge, audit: AuditLog) -> None:
        self.store = store
        self._permissions = permissions
        self._audit = audit
        self._mutex = threading.Lock()
        self._handed: dict[str, dict[int, set[str]]] = {}

    # --- the Pack ----------------------------------------------------------------------------------------------------

    def hand_over(self, pack_id: str, generation: int, name: str) -> str:
        """The value, for this generation for the first and last time.

        Raises:
            DeniedError: ``denied``: not granted. ``secret_taken``: this generation had it already.
            NotFoundError: ``secret_missing``: granted, but not entered yet; asking again later is fine.
            TrustError: what is stored can't be used, with its cause.
        """
        if name_fault(name) or not self._permissions.has(pack_id, KIND, name=name):
            self._permissions.check(pack_id, KIND, name=name)  # puts the refusal on record
            raise _denied(pack_id, name)
        with self._first_time(pack_id, generation, name):
            value = self.store.reveal(pack_id, name)
            if isinstance(self._permissions.check(pack_id, KIND, name=name), Deny):  # spends a right for one use
                raise _denied(pack_id, name)
            self._audit.append("secret.handed_over", pack_id=pack_id, name=name, generation=generation)
            self.store.note_handed_over(pack_id, name)
            return value

    # --- the operator ------------------------------------------------------------------------------------------------

    def set(self, pack_id: str, name: str, value: str, *, identity: str, actor: str) -> bool:
        """Store a value for the Pack of this identity; True when it replaced one."""
        replaced = self.store.put(pack_id, name, value, identity=identity_fingerprint(identity))
        self._audit.append("secret.set", pack_id=pack_id, name=name, actor=actor, replaced=replaced)
        return replaced

    def remove(self, pack_id: str, name: str, *, actor: str) -> None:
        """Delete a value; ``NotFoundError`` when there is none. A running Pack keeps what it received."""
        if not self.store.remove(pack_id, name):
            raise NotFoundError(
                "There is no such secret",
                code="secret_missing",
                detail=f"{pack_id} has no secret {quote(name, 80)}.",
                hint=f"See what there is: rumi secret list {pack_id}",
            )
        self._audit.append("secret.removed", pack_id=pack_id, name=name, actor=actor)

    def drop(self, pack_id: str, *, actor: str) -> int:
        """Delete all of a Pack's, whoever they were entered for; how many there were."""
        count = self.store.drop(pack_id)
        with self._mutex:
            self._handed.pop(pack_id, None)
        if count:
            self._audit.append("secret.dropped", pack_id=pack_id, actor=actor, count=count)
        return count

    def drop_others(self, pack_id: str, identity: str, *, actor: str) -> int:
        """Another identity was approved under this id: what was entered for the one before goes."""
        count = self.store.drop_others(pack_id, identity_fingerprint(identity))
        if count:
            self._audit.append("secret.dropped", pack_id=pack_id, actor=actor, count=count)
        return count

    def entries(self, pack_id: str, *, identity: str) -> list[Mapping[str, Any]]:
        """Names with times and, where one can't be used, the cause; never a value."""
        return [asdict(kept) for kept in self.store.entries(pack_id, identity_fingerprint(identity))]

    # --- inside ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _first_time(self, pack_id: str, generation: int, name: str) -> Iterator[None]:
        """Claim the name before anything is read, so that two requests at once get one value; undone on an error."""
        with self._mutex:
            generations = self._handed.setdefault(pack_id, {})
            taken = generations.setdefault(generation, set())
            for old in sorted(generations)[:-GENERATIONS_KEPT]:
                del generations[old]
            if name in taken:
                raise _taken(pack_id, name)
            taken.add(name)
        try:
            yield
        except RumiError:
            with self._mutex:
                taken.discard(name)
            raise


def _denied(pack_id: str, name: str) -> DeniedError:
    return DeniedError(
        "No such secret for this Pack",
        detail=f"{pack_id} was granted no secret {quote(name, 60)}.",
        hint="Declare it in permissions.json; the operator grants it and enters its value.",
    )


def _taken(pack_id: str, name: str) -> DeniedError:
    return DeniedError(
        "The secret was handed over already",
        code="secret_taken",
        detail=f"This generation of {pack_id} received {quote(name, 60)} before; each receives it once.",
        hint="Keep the value where it is needed; after a restart of the Pack it can be asked for again.",
    )
