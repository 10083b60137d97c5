"""Judging single uses of granted permissions while Packs run.

Invariants:
  * Each use is judged from the grant in force at that moment: what was revoked is denied at the next use.
  * A one-use permission is spent durably before it is allowed. Time-bound ones end by the latest time ever seen, so
    that moving the clock back extends nothing.
  * What only the operator may touch is denied here too, whatever a grant says.
  * A flood of denials costs one audit record a minute for each Pack and type, with their number.

Not here: what may be granted (``rules.permissions``), granting (``approval_manager``), doing what was allowed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import HostError, TrustError, quote
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.grants import GrantFiles
from core_runtime.rules.grants import Grant, Mode, Permission, permission_document
from core_runtime.rules.permissions import (
    Allow,
    Deny,
    Rights,
    covers_use,
    host_key_permission,
    in_force,
    protected_fault,
    rights_of,
)

CLOCK_PERSIST_S: Final = 30.0
DENIAL_WINDOW_S: Final = 60.0
MAX_ASKS: Final = 20
MAX_TRACKED_DENIALS: Final = 4096
PROTECTED: Final = "protected"
"""Code of a denial that no grant can change."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One granted permission and how much of it was used since the host started."""

    permission: Mapping[str, Any]
    uses: int
    last_used_at: float | None


@dataclass(frozen=True, slots=True)
class Ask:
    """What a running Pack asked the operator for. Its text is hostile; faces escape it."""

    pack_id: str
    type: str
    params: Mapping[str, Any]
    reason: str
    at: float


class PermissionManager:
    """Answers ``may this Pack do that now``. Thread-safe."""

    def __init__(
        self,
        grants: Callable[[str], Grant | None],
        audit: AuditLog,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        files: GrantFiles | None = None,
    ) -> None:
        """``grants`` gives the grant in force (``ApprovalManager.grant``); ``files`` (``ApprovalManager.grants``) makes
        one-use permissions and the latest time survive a restart, without it they last as long as this object.
        """
        self._grants = grants
        self._audit = audit
        self._clock = clock
        self._monotonic = monotonic
        self._files = files
        self._mutex = threading.Lock()
        self._latest = self._first_time()
        self._latest_mono = monotonic()
        self._persisted = self._latest
        self._spent: set[tuple[str, int, int]] = set()
        self._uses: Counter[tuple[str, int, int]] = Counter()
        self._last_used: dict[tuple[str, int, int], float] = {}
        self._denials: dict[tuple[str, str], tuple[float, int]] = {}
        self._asks: dict[str, deque[Ask]] = {}
        self._rights: dict[str, tuple[Grant, Rights]] = {}

    # --- single uses -------------------------------------------------------------------------------------------------

    def check(self, pack_id: str, kind: str, /, **params: Any) -> Allow | Deny:
        """Judge one use and count it: ``path=``, ``key=`` or ``topic=`` says of what."""
        grant = self._grants(pack_id)
        if grant is None:
            return self._deny(pack_id, kind, "The Pack is not approved, or no longer.", "Approve it: rumi pack review.")
        fault = _path_fault(str(params["path"]), pack_id) if "path" in params else ""
        if fault:
            return self._deny(
                pack_id, kind, f"{quote(params['path'])} {fault}.", "No permission can cover it.", PROTECTED
            )
        if _is_own_file(pack_id, kind, params):
            return Allow()
        for index, permission in enumerate(grant.permissions):
            if covers_use(permission, kind, params) and self._holds(grant, permission, index):
                self._count(grant, index)
                return Allow(index)
        shown = ", ".join(f"{name} {quote(value)}" for name, value in params.items())
        return self._deny(
            pack_id, kind, f"{quote(kind)} for {shown} is not granted.", f"See: rumi pack permissions {pack_id}."
        )

    def has(self, pack_id: str, kind: str, /, **params: Any) -> bool:
        """Whether ``check`` would allow it now; asking spends, counts and records nothing."""
        if "path" in params and _path_fault(str(params["path"]), pack_id):
            return False
        return isinstance(self._lookup(pack_id, kind, params), Allow)

    def grant(self, pack_id: str) -> Grant | None:
        """The grant in force, for those who need more of it than a judgement."""
        return self._grants(pack_id)

    def may_call(self, caller: str, key: str) -> Allow | Deny:
        """Whether ``caller`` (``""`` is the operator) may call ``key``. A Pack may call what it provides."""
        rights = self._lasting(caller) if caller else None
        if not caller or (rights is not None and key in rights.provides):
            return Allow()
        return self.check(caller, "interface.call", key=key)

    def may_register(self, pack_id: str, key: str) -> Allow | Deny:
        """Whether the Pack declared ``key`` and holds what the key means to the host."""
        rights = self._lasting(pack_id)
        if rights is not None and key in rights.provides:
            return Allow()
        needed = host_key_permission(key)
        reason = f"{quote(key)} has a meaning to the host and needs {needed}." if needed else (
            f"{quote(key)} is not in connectivity.provides of the approved version."
        )  # fmt: skip
        return self._deny(pack_id, "interface.provide", reason, "Declare it, then approve the Pack again.")

    def visible_keys(self, caller: str) -> Callable[[str], bool]:
        """Which keys ``caller`` may see; asked anew for each key, so that it follows later decisions."""

        def visible(key: str) -> bool:
            rights = self._lasting(caller) if caller else None
            return not caller or (rights is not None and rights.may_call(key)) or self._timed_edge(caller, key)

        return visible

    def rights_source(self, pack_id: str, metadata: PackMetadata | None = None) -> Callable[[], LiveRights]:
        """What the bus asks at each use. ``metadata`` (of the verified copy) can only narrow what is in the grant."""
        live = LiveRights(self, pack_id, None if metadata is None else metadata.provides())
        return lambda: live

    # --- for the operator --------------------------------------------------------------------------------------------

    def used_versus_granted(self, pack_id: str) -> list[Usage]:
        """Every granted permission with its uses since the host started: what was never used can be taken away."""
        grant = self._grants(pack_id)
        if grant is None:
            return []
        with self._mutex:
            keys = [(pack_id, grant.counter, index) for index in range(len(grant.permissions))]
            return [
                Usage(permission_document(permission), self._uses[key], self._last_used.get(key))
                for key, permission in zip(keys, grant.permissions, strict=True)
            ]

    def ask(self, pack_id: str, kind: str, params: Mapping[str, Any], reason: str) -> str:
        """A Pack asks the operator for more. Never waits: ``granted`` or ``asked``; of too many the oldest goes."""
        if isinstance(self._lookup(pack_id, kind, params), Allow):
            return "granted"
        ask = Ask(pack_id, kind[:100], dict(params), reason[:500], self._clock())
        with self._mutex:
            waiting = self._asks.setdefault(pack_id, deque(maxlen=MAX_ASKS))
            if all((a.type, a.params) != (ask.type, ask.params) for a in waiting):
                waiting.append(ask)
        return "asked"

    def asks(self) -> list[Ask]:
        """What waits for the operator, oldest first."""
        with self._mutex:
            return sorted((ask for waiting in self._asks.values() for ask in waiting), key=lambda ask: ask.at)

    def forget(self, pack_id: str) -> None:
        """Drop what a removed or newly decided Pack asked for."""
        with self._mutex:
            self._asks.pop(pack_id, None)
            self._rights.pop(pack_id, None)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _lookup(self, pack_id: str, kind: str, params: Mapping[str, Any]) -> Allow | Deny:
        """Like ``check``, without spending, counting or recording."""
        grant = self._grants(pack_id)
        if grant is not None and _is_own_file(pack_id, kind, params):
            return Allow()
        for index, permission in enumerate(grant.permissions if grant else ()):
            if grant and covers_use(permission, kind, params) and self._usable(grant, permission, index):
                return Allow(index)
        return Deny("Not granted.")

    def _lasting(self, pack_id: str) -> Rights | None:
        grant = self._grants(pack_id)
        if grant is None:
            return None
        cached = self._rights.get(pack_id)
        if cached is None or cached[0] is not grant:
            cached = (grant, rights_of(None, grant))
            self._rights[pack_id] = cached
        return cached[1]

    def _timed_edge(self, pack_id: str, key: str) -> bool:
        return isinstance(self._lookup(pack_id, "interface.call", {"key": key}), Allow)

    def _usable(self, grant: Grant, permission: Permission, index: int) -> bool:
        if permission.mode is Mode.ONCE:
            return (grant.pack_id, grant.counter, index) not in self._spent
        return permission.mode is not Mode.UNTIL or in_force(permission, now=self._now())

    def _holds(self, grant: Grant, permission: Permission, index: int) -> bool:
        """Whether the permission covers this use now; a one-use one is spent by asking."""
        if not self._usable(grant, permission, index):
            return False
        return permission.mode is not Mode.ONCE or self._spend(grant, index)

    def _spend(self, grant: Grant, index: int) -> bool:
        key = (grant.pack_id, grant.counter, index)
        with self._mutex:
            if key in self._spent:
                return False
            self._spent.add(key)
        if self._files is None:
            return True
        try:
            return self._files.spend(grant.pack_id, index, grant.counter)
        except (OSError, TrustError):
            return False  # what can't be recorded as spent could be used again after a restart

    def _count(self, grant: Grant, index: int) -> None:
        key = (grant.pack_id, grant.counter, index)
        with self._mutex:
            self._uses[key] += 1
            self._last_used[key] = self._clock()

    def _first_time(self) -> float:
        now = self._clock()
        if self._files is None:
            return now
        try:
            return max(now, self._files.ledger.trusted().clock)
        except TrustError:
            return now  # no grant counts either while the counters can't be read

    def _now(self) -> float:
        """The latest time that was ever seen: by the wall clock, or by what has passed since."""
        with self._mutex:
            passed = self._monotonic() - self._latest_mono
            self._latest = max(self._latest + max(0.0, passed), self._clock())
            self._latest_mono = self._monotonic()
            now, due = self._latest, self._latest - self._persisted >= CLOCK_PERSIST_S
            if due:
                self._persisted = now
        if due and self._files is not None:
            try:
                self._files.ledger.advance_clock(now)
            except (OSError, TrustError) as error:
                self._audit.append("clock.unpersisted", cause=str(error))
        return now

    def _deny(self, pack_id: str, kind: str, reason: str, hint: str, code: str = "denied") -> Deny:
        kind = kind[:100]
        now = self._monotonic()
        with self._mutex:
            since, count = self._denials.get((pack_id, kind), (now - DENIAL_WINDOW_S, 0))
            due = now - since >= DENIAL_WINDOW_S
            if len(self._denials) > MAX_TRACKED_DENIALS:
                self._denials.clear()
            self._denials[pack_id, kind] = (now, 0) if due else (since, count + 1)
        if due:
            try:
                self._audit.note("permission.denied", pack_id=pack_id, type=kind, reason=reason, unrecorded=count)
            except HostError:
                return Deny(reason, hint, code)  # a full disk must not turn a denial into another error
        return Deny(reason, hint, code)


def _path_fault(path: str, pack_id: str) -> str:
    parts = path.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        return "is no plain relative path"
    return protected_fault(parts, pack_id)


def _is_own_file(pack_id: str, kind: str, params: Mapping[str, Any]) -> bool:
    """Each approved Pack may use ``packs/<pack_id>/`` without asking."""
    own = kind in {"userdata.read", "userdata.write"} and "path" in params
    return own and str(params["path"]).startswith(f"packs/{pack_id}/")


@dataclass(frozen=True, slots=True)
class LiveRights:
    """One Pack's rights, judged at each question."""

    manager: PermissionManager
    pack_id: str
    provides: frozenset[str] | None = None

    def may_call(self, key: str) -> bool:
        """Whether the edge to ``key`` is granted now."""
        return isinstance(self.manager.may_call(self.pack_id, key), Allow)

    def may_register(self, key: str) -> bool:
        """Whether the Pack may register ``key``."""
        declared = self.provides is None or key in self.provides
        return declared and isinstance(self.manager.may_register(self.pack_id, key), Allow)

    def may_publish(self, topic: str) -> bool:
        """Whether the Pack may publish ``topic`` now."""
        return isinstance(self.manager.check(self.pack_id, "event.publish", topic=topic), Allow)

    def may_subscribe(self, topic: str) -> bool:
        """Whether the Pack may receive ``topic`` now; also asked with the pattern itself."""
        return isinstance(self.manager.check(self.pack_id, "event.subscribe", topic=topic), Allow)
