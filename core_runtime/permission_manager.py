"""Judging single uses of granted permissions while Packs run.

Invariants:
  * Each use is judged from the grant in force at that moment: what was revoked is denied at the next use. While two
    generations of a Pack exist, each is judged by its own (``generations``).
  * A one-use permission is spent durably before it is allowed. Time-bound ones end by the latest time ever seen, so
    that moving the clock back extends nothing.
  * What only the operator may touch is denied here too, whatever a grant says.
  * A flood of denials costs one audit record a minute for each Pack and type, with their number.

Not here: what may be granted (``rules.permissions``), granting (``approval_manager``), doing what was allowed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import TrustError, quote
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.counters import Counters
from core_runtime.drivers.grants import GrantFiles
from core_runtime.drivers.latest_time import LatestTime
from core_runtime.drivers.side_work import Mishap, Report, costs_only_itself, unheard
from core_runtime.drivers.usage_file import Counts, UsageFile
from core_runtime.generations import grant_of
from core_runtime.rules.grants import Grant, Mode, Permission, permission_document
from core_runtime.rules.permission_kinds import HOST_CALLS
from core_runtime.rules.permissions import (
    Allow,
    Deny,
    Rights,
    covering_item,
    covers_use,
    host_key_permission,
    in_force,
    items_of,
    protected_fault,
    resources_of,
    rights_of,
)

DENIAL_WINDOW_S: Final = 60.0
MAX_ASKS: Final = 20
MAX_TRACKED_DENIALS: Final = 4096
USES_UNKEPT: Final = Mishap(
    "uses_unwritable", "permissions", "How often permissions are used is not kept",
    "Make room on the disk that holds user_data; permissions work as before, a crash loses the newest counts.",
)  # fmt: skip
PROTECTED: Final = "protected"
"""Code of a denial that no grant can change."""


class Uses(Struct, frozen=True):
    """How often something was used since counting began."""

    count: int = 0
    last_used_at: float | None = None


class _Count:
    """``Uses`` while they are counted: once for each call."""

    __slots__ = ("last_at", "number")

    def __init__(self) -> None:
        self.number = 0
        self.last_at = 0.0


class _Lasting:
    """What one grant allows for as long as it is in force, and the counts of the edges that were used under it."""

    __slots__ = ("counts", "grant", "rights")

    def __init__(self, grant: Grant) -> None:
        self.grant = grant
        self.rights = rights_of(None, grant)
        self.counts: dict[str, _Count] = {}


class Usage(Struct, frozen=True):
    """One granted permission and how much of it was used since counting began.

    ``items``: its paths, keys or topics, each with its own uses. ``ended``: a one-use permission that was spent, or
    one whose time is over.
    """

    permission: Mapping[str, Any]
    uses: int
    last_used_at: float | None
    items: Mapping[str, Uses]
    ended: bool


class Ask(Struct, frozen=True):
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
        latest: LatestTime | None = None,
        report: Report = unheard,
    ) -> None:
        """``grants`` gives the grant in force (``ApprovalManager.grant``); ``files`` (``ApprovalManager.grants``) makes
        one-use permissions and the latest time survive a restart, without it they last as long as this object.
        ``latest``: by what time-bound ones end, where others judge by it as well.
        """
        self._in_force = grants
        self._audit = audit
        self._report = report
        self._clock = clock
        self._monotonic = monotonic
        self._files = files
        self._mutex = threading.Lock()
        self._time = latest or LatestTime(files.ledger if files else None, audit, clock=clock, monotonic=monotonic)
        self._spent: set[tuple[str, int, int]] = set()
        self._spent_known: set[tuple[str, int]] = set()
        self._uses: dict[tuple[str, str, str], _Count] = {}
        self._usage_file = None if files is None else UsageFile(files.keyring)
        self._stored: Counts = {}
        self.counted_since = self._clock()
        self._load_uses()
        self._denials: dict[tuple[str, str], tuple[float, int]] = {}
        self._asks: dict[str, deque[Ask]] = {}
        self._lasting: dict[str, _Lasting] = {}

    # --- single uses -------------------------------------------------------------------------------------------------

    def check(self, pack_id: str, kind: str, /, **params: Any) -> Allow | Deny:
        """Judge one use and count it: ``path=``, ``key=`` or ``topic=`` says of what."""
        grant = self._grant_of(pack_id)
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
            item = covering_item(permission, kind, params)
            if item and self._holds(grant, permission, index):
                self._count(pack_id, kind, item)
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

    def still(self, pack_id: str, kind: str, /, **params: Any) -> bool:
        """Whether something that ``check`` allowed may go on: one use, once begun, lasts as long as its grant does."""
        grant = self._grant_of(pack_id)
        return grant is not None and any(
            covers_use(permission, kind, params)
            and (permission.mode is Mode.ONCE or self._usable(grant, permission, index))
            for index, permission in enumerate(grant.permissions)
        )

    def grant(self, pack_id: str) -> Grant | None:
        """The grant in force, for those who need more of it than a judgement."""
        return self._grant_of(pack_id)

    def resources(self, pack_id: str) -> Mapping[str, Any]:
        """The ``resources`` that are granted now; nothing for a Pack that is not approved."""
        grant = self._grant_of(pack_id)
        return resources_of(grant, now=self._time.now()) if grant is not None else {}

    def may_call(self, caller: str, key: str) -> Allow | Deny:
        """One real call of ``key`` by ``caller`` (``""`` is the operator). A Pack may call what it provides."""
        if not caller or self.calls_freely(caller, key) or self._calls_host(caller, key):
            return Allow()
        return self.check(caller, "interface.call", key=key)

    def calls_freely(self, caller: str, key: str) -> bool:
        """``may_call`` where no permission has to be looked at, as for nearly every call; ``False`` decides nothing."""
        # of the very grant that is in force now, or made anew: a revocation acts on the next use
        grant = grant_of(caller, self._in_force)
        lasting = self._lasting.get(caller)
        if lasting is None or lasting.grant is not grant:
            if grant is None:
                return False
            lasting = self._lasting_of(grant)
        count = lasting.counts.get(key)
        if count is None:
            return self._first_call(lasting, key)
        now = self._clock()
        with self._mutex:
            count.number += 1
            count.last_at = now
        return True

    def may_register(self, pack_id: str, key: str) -> Allow | Deny:
        """Whether the Pack declared ``key`` and holds what the key means to the host."""
        rights = self._rights_now(pack_id)
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
            rights = self._rights_now(caller) if caller else None
            lasting = not caller or (rights is not None and rights.may_call(key))
            return lasting or self._timed_edge(caller, key) or self._calls_host(caller, key)

        return visible

    def rights_source(self, pack_id: str, metadata: PackMetadata | None = None) -> Callable[[], LiveRights]:
        """What the bus asks at each use. ``metadata`` (of the verified copy) can only narrow what is in the grant."""
        live = LiveRights(self, pack_id, None if metadata is None else metadata.provides())
        return lambda: live

    # --- for the operator --------------------------------------------------------------------------------------------

    def used_versus_granted(self, pack_id: str) -> list[Usage]:
        """Every granted permission with its uses since counting began: what was never used can be taken away."""
        grant = self._grant_of(pack_id)
        if grant is None:
            return []
        return [
            self._usage(pack_id, permission, ended=not self._usable(grant, permission, index))
            for index, permission in enumerate(grant.permissions)
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

    def forget(self, pack_id: str, *, uses: bool = False) -> None:
        """Drop what a newly decided Pack asked for; of a removed one also its ``uses``."""
        with self._mutex:
            self._asks.pop(pack_id, None)
            self._lasting.pop(pack_id, None)  # with the counts that it refers to
            if uses:
                self._uses = {key: found for key, found in self._uses.items() if key[0] != pack_id}

    def keep_uses(self) -> None:
        """Write down what was counted, if there is news; a full disk or an unusable key only costs the count."""
        with self._mutex:
            counts = {key: (found.number, found.last_at) for key, found in self._uses.items()}
        if self._usage_file is not None and counts != self._stored:
            with costs_only_itself(self._report, USES_UNKEPT):
                self._usage_file.store(self.counted_since, counts)
                self._stored = counts

    # --- inside ------------------------------------------------------------------------------------------------------

    def _grant_of(self, pack_id: str) -> Grant | None:
        return grant_of(pack_id, self._in_force)

    def _load_uses(self) -> None:
        if self._usage_file is None:
            return
        self.counted_since, self._stored = self._usage_file.load(self.counted_since)
        for key, (number, last_at) in self._stored.items():
            found = self._uses[key] = _Count()
            found.number, found.last_at = number, last_at

    def _lookup(self, pack_id: str, kind: str, params: Mapping[str, Any]) -> Allow | Deny:
        """Like ``check``, without spending, counting or recording."""
        grant = self._grant_of(pack_id)
        if grant is not None and _is_own_file(pack_id, kind, params):
            return Allow()
        for index, permission in enumerate(grant.permissions if grant else ()):
            if grant and covers_use(permission, kind, params) and self._usable(grant, permission, index):
                return Allow(index)
        return Deny("Not granted.")

    def _lasting_of(self, grant: Grant) -> _Lasting:
        found = self._lasting.get(grant.pack_id)
        if found is None or found.grant is not grant:
            found = self._lasting[grant.pack_id] = _Lasting(grant)
        return found

    def _rights_now(self, pack_id: str) -> Rights | None:
        grant = self._grant_of(pack_id)
        return None if grant is None else self._lasting_of(grant).rights

    def _first_call(self, lasting: _Lasting, key: str) -> bool:
        """As ``calls_freely``, for a key that was not called yet under this grant, or is not counted."""
        if key in lasting.rights.provides:
            return True
        if key not in lasting.rights.calls:
            return False
        lasting.counts[key] = self._count(lasting.grant.pack_id, "interface.call", key)
        return True

    def _calls_host(self, pack_id: str, key: str) -> bool:
        """Whether the Pack holds what calling the host's own key needs; what it may do there is judged there."""
        grant = self._grant_of(pack_id) if key in HOST_CALLS else None
        return grant is not None and any(
            permission.type == HOST_CALLS[key] and self._usable(grant, permission, index)
            for index, permission in enumerate(grant.permissions)
        )

    def _timed_edge(self, pack_id: str, key: str) -> bool:
        return isinstance(self._lookup(pack_id, "interface.call", {"key": key}), Allow)

    def _usage(self, pack_id: str, permission: Permission, *, ended: bool) -> Usage:
        with self._mutex:
            counts = {item: self._uses.get((pack_id, permission.type, item)) for item in items_of(permission)}
            items = {item: Uses(found.number, found.last_at) if found else Uses() for item, found in counts.items()}
        last = [found.last_used_at for found in items.values() if found.last_used_at is not None]
        uses = sum(found.count for found in items.values())
        return Usage(permission_document(permission), uses, max(last, default=None), items, ended)

    def _usable(self, grant: Grant, permission: Permission, index: int) -> bool:
        if permission.mode is Mode.ALWAYS:
            return True
        if permission.mode is Mode.ONCE:
            self._learn_spent(grant)
            if (grant.pack_id, grant.counter, index) in self._spent:
                return False
        return in_force(permission, now=self._time.now(permission.until))

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

    def _learn_spent(self, grant: Grant) -> None:
        """What an earlier run of the host recorded as spent; read once for each decision."""
        decision = (grant.pack_id, grant.counter)
        if decision in self._spent_known or self._files is None:
            return
        found = self._files.ledger.read()
        if not isinstance(found, Counters):
            return  # nothing can be spent while the counters can't be read, so nothing is allowed either
        entry = found.of(grant.pack_id)
        used = entry.used if entry.counter == grant.counter else frozenset()
        with self._mutex:
            self._spent |= {(*decision, index) for index in used}
            self._spent_known.add(decision)

    def _count(self, pack_id: str, kind: str, item: str) -> _Count:
        """By what was granted, not by what was reached: the number of counters is bounded by the grants."""
        key = (pack_id, kind, item)
        now = self._clock()
        with self._mutex:
            found = self._uses.get(key)
            if found is None:
                found = self._uses[key] = _Count()
            found.number += 1
            found.last_at = now
        return found

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
            self._audit.happened(
                "permission.denied", sync=False, pack_id=pack_id, type=kind, reason=reason, unrecorded=count
            )
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


class LiveRights(Struct, frozen=True):
    """One Pack's rights, judged at each question."""

    manager: PermissionManager
    pack_id: str
    provides: frozenset[str] | None = None

    def may_call(self, key: str) -> bool:
        """One real call of ``key``."""
        return isinstance(self.manager.may_call(self.pack_id, key), Allow)

    def may_see(self, key: str) -> bool:
        """Whether the edge to ``key`` is granted now; looking is no use."""
        return self.manager.visible_keys(self.pack_id)(key)

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

    def since_s(self) -> float:
        """When the decision was made that the rights stand on."""
        grant = self.manager.grant(self.pack_id)
        return float("inf") if grant is None else grant.approved_at
