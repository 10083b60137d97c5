"""Operations of the host that a Pack may have performed, each granted by itself, recorded and signed.

Invariants:
  * Executing needs all of: a known operation, a Pack whose approval is in force, its declaration (``host.<id>``) in the
    approved version, a grant made for this identity, and arguments that the operation's schema admits.
  * Grants live in one signed document with a counter (``drivers.counters``): an older copy of it counts for nothing.
  * Each execution is on record before its result is returned, each refusal as well.

Not here: the operations (``privileges/``, one file each).
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import jsonschema_rs
from msgspec import Struct
from msgspec.structs import replace

from backend_core.errors import DeniedError, HostError, NotFoundError, RequestError, RumiError, TrustError, quote
from core_runtime import privileges
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.counters import Entry, Ledger
from core_runtime.drivers.desktop import Desktop
from core_runtime.drivers.grants import identity_fingerprint
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.latest_time import LatestTime
from core_runtime.privileges.base import TABLE, Call, Effects, Privilege
from core_runtime.rules.grants import Grant, seconds, timestamp
from core_runtime.rules.rate import Bucket, Rate, take
from core_runtime.rules.seals import Fault

FILE: Final = "privileges.json"
PURPOSE: Final = "privileges"
SUBJECT: Final = "#privileges"
"""The line of the counters file; no pack id can look like it."""
PACK_RATE: Final = Rate(per_second=0.5, burst=20.0)
DISTURBING_RATE: Final = Rate(per_second=0.1, burst=5.0)
"""For what a person notices, beside the rate above and for each operation."""
REFUSAL_WINDOW_S: Final = 60.0
_NO_EFFECTS: Final[Mapping[str, str]] = {
    "en": "It acts through the running host, and no host runs here.",
    "ja": "動作中のホストを通じて行う操作ですが、ここではホストが動いていません。",
}


class Approvals(Protocol):
    """What this module needs of the permission manager."""

    def grant(self, pack_id: str) -> Grant | None:
        """The grant in force."""


class Held(Struct, frozen=True):
    """One granted privilege. ``identity`` is the fingerprint of the identity it was granted to; ``approved`` tells
    since when that was approved without a break: a Pack that was rejected meanwhile gets nothing back by itself.
    """

    pack_id: str
    privilege: str
    identity: str
    granted_at: float
    actor: str
    options: Mapping[str, Any]
    until: float | None = None
    approved: str = ""


Table: TypeAlias = dict[tuple[str, str], Held]
Listing: TypeAlias = list[dict[str, Any]]


class HostPrivilegeManager:
    """Grants, revokes and executes. Thread-safe."""

    def __init__(
        self,
        home: Path,
        permissions: Approvals,
        audit: AuditLog,
        *,
        effects: Effects | None = None,
        desktop: Desktop | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        latest: LatestTime | None = None,
    ) -> None:
        """``effects`` is how operations reach the running host; those that need it are not offered without.

        ``latest``: by what time-bound grants end, where others judge by it as well.
        """
        for module in pkgutil.iter_modules(privileges.__path__):
            importlib.import_module(f"{privileges.__name__}.{module.name}")
        self._path = home / "user_data" / "permissions" / FILE
        self._keyring = Keyring(self._path.parent)
        self._ledger = Ledger(self._keyring)
        self._permissions = permissions
        self._audit = audit
        self._effects = effects
        self._desktop = desktop or Desktop()
        self._clock = clock
        self._monotonic = monotonic
        self._time = latest or LatestTime(self._ledger, audit, clock=clock, monotonic=monotonic)
        self._rates: dict[str, Bucket] = {}
        self._refusals: dict[tuple[str, str], tuple[float, int]] = {}
        self._mutex = threading.Lock()
        self._schemas = {
            (item.id, part): jsonschema_rs.validator_for(dict(getattr(item, part)))
            for item in TABLE.values()
            for part in ("parameters", "options")
        }

    def connect(self, effects: Effects) -> None:
        """Offer the operations that need the running host."""
        self._effects = effects

    def list(self) -> Listing:
        """Every operation with its schema, to whom it is granted, and why it could not be performed now."""
        read, fault = self._read_or_fault()
        held = {key: found for key, found in read.items() if self._stands(found)}
        return [
            {
                "id": item.id,
                "title": dict(item.title),
                "risk": item.risk,
                "parameters": dict(item.parameters),
                "options": dict(item.options),
                "available": not self._lack(item),
                "unavailable": dict(self._lack(item)),
                "granted_to": sorted(pack for pack, privilege in held if privilege == item.id),
                "grants": [_shown(found) for _, found in sorted(held.items()) if found.privilege == item.id],
                "fault": fault,
            }
            for _, item in sorted(TABLE.items())
        ]

    def grant(
        self,
        pack_id: str,
        privilege: str,
        *,
        actor: str,
        options: Mapping[str, Any] | None = None,
        until: float | None = None,
    ) -> None:
        """Grant an operation to an approved Pack that declares it.

        Raises:
            NotFoundError: no such operation. DeniedError: not approved or not declared. RequestError: bad options.
        """
        item = self._known(privilege)
        approval = self._approved(pack_id, privilege)
        self._validate(item, "options", options or {})
        with self._mutex:
            held = self._read()
            held[pack_id, privilege] = Held(
                pack_id,
                privilege,
                identity_fingerprint(approval.pack_identity),
                self._clock(),
                actor,
                dict(options or {}),
                until,
                timestamp(approval.created_at),
            )
            self._write(held)
        self._audit.append(
            "privilege.granted", pack_id=pack_id, privilege=privilege, actor=actor, options=options or {}
        )

    def revoke(self, pack_id: str, privilege: str, *, actor: str) -> bool:
        """Take an operation away; False when it was not granted. Acts on the next execution."""
        self._known(privilege)
        with self._mutex:
            held = self._read()
            if held.pop((pack_id, privilege), None) is None:
                return False
            self._write_less(held)
        self._audit.append("privilege.revoked", pack_id=pack_id, privilege=privilege, actor=actor)
        return True

    def drop(self, pack_id: str, *, actor: str) -> None:
        """The Pack was removed: nothing is granted to it any more. What can't be believed grants nothing anyway."""
        with contextlib.suppress(TrustError), self._mutex:  # see above
            held = self._read()
            left = {key: found for key, found in held.items() if key[0] != pack_id}
            if left == held:
                return
            self._write_less(left)
            self._audit.append("privilege.dropped", pack_id=pack_id, actor=actor, count=len(held) - len(left))

    def execute(
        self, pack_id: str, privilege: str, args: Mapping[str, Any] | None = None, *, actor: str = ""
    ) -> Mapping[str, Any]:
        """Perform an operation. ``actor`` is ``""`` when the Pack itself asked.

        Raises:
            DeniedError: ungranted, undeclared, expired, unapproved or too often. RequestError: arguments.
            HostError: it failed.
        """
        item = self._known(privilege)
        try:
            if not actor:
                self._take(pack_id)
            held = self._granted(pack_id, privilege)
            self._validate(item, "parameters", args or {})
            if item.needs_effects and self._effects is None:
                raise HostError("Not available", code="privilege_unavailable", detail=_NO_EFFECTS["en"])
            if not actor and item.disturbs:
                self._take(f"{pack_id}/{item.id}", DISTURBING_RATE)
            result = item.execute(Call(pack_id, dict(args or {}), held.options, self._effects, self._desktop))
        except RumiError as error:
            self._note_refusal(pack_id, privilege, actor, error.code)
            raise
        self._audit.append("privilege.executed", pack_id=pack_id, privilege=privilege, actor=actor)
        return result

    # --- inside ------------------------------------------------------------------------------------------------------

    def _take(self, pack_id: str, rate: Rate = PACK_RATE) -> None:
        """A place in what a Pack may have done by itself; notices and restarts without end would be a nuisance."""
        with self._mutex:
            admitted, self._rates[pack_id] = take(self._rates.get(pack_id), rate, self._monotonic())
        if not admitted:
            raise DeniedError(
                "Too many operations of the host",
                code="too_often",
                detail=f"{pack_id} may have {rate.burst:g} at once, then {rate.per_second * 60:g} a minute.",
                hint="Ask again later.",
            )

    def _note_refusal(self, pack_id: str, privilege: str, actor: str, cause: str) -> None:
        """One record a minute for each Pack and privilege, with the number of those between."""
        now = self._monotonic()
        with self._mutex:
            since, count = self._refusals.get((pack_id, privilege), (now - REFUSAL_WINDOW_S, 0))
            due = now - since >= REFUSAL_WINDOW_S
            self._refusals[pack_id, privilege] = (now, 0) if due else (since, count + 1)
        if due:
            self._audit.happened(
                "privilege.refused", sync=False, pack_id=pack_id, privilege=privilege, actor=actor, cause=cause,
                unrecorded=count,
            )  # fmt: skip

    def _known(self, privilege: str) -> Privilege:
        item = TABLE.get(privilege)
        if item is None:
            raise NotFoundError(
                "No such privilege",
                code="privilege_unknown",
                detail=f"{quote(privilege)}; known are {', '.join(sorted(TABLE))}.",
                hint="List them: rumi privilege list.",
            )
        return item

    def _lack(self, item: Privilege) -> Mapping[str, str]:
        """Why it could not be performed now, a sentence for each language; empty where it could."""
        if item.needs_effects and self._effects is None:
            return _NO_EFFECTS
        return self._desktop.lack(item.programs) if item.programs else {}

    def _approved(self, pack_id: str, privilege: str) -> Grant:
        approval = self._permissions.grant(pack_id)
        if approval is None:
            raise _denied(pack_id, privilege, "The Pack is not approved, or no longer.", "Approve it first.")
        if not any(request.get("type") == f"host.{privilege}" for request in approval.requested):
            hint = f'Its author declares {{"type": "host.{privilege}"}} in permissions.json.'
            raise _denied(pack_id, privilege, "The approved version does not declare it.", hint)
        return approval

    def _granted(self, pack_id: str, privilege: str) -> Held:
        approval = self._approved(pack_id, privilege)
        with self._mutex:
            held = self._read().get((pack_id, privilege))
        hint = f"Grant it: rumi privilege grant {pack_id} {privilege}."
        if held is None or not _made_for(held, approval):
            raise _denied(pack_id, privilege, "It is not granted.", hint)
        if held.until is not None and self._time.now(held.until) >= held.until:
            raise _denied(pack_id, privilege, "The grant has ended.", hint)
        return held

    def _stands(self, held: Held) -> bool:
        """Whether it is one that the Pack has, or has again once its approval is in force again."""
        approval = self._permissions.grant(held.pack_id)
        return approval is None or _made_for(held, approval)

    def _validate(self, item: Privilege, part: str, value: Mapping[str, Any]) -> None:
        try:
            self._schemas[item.id, part].validate(dict(value))
        except (jsonschema_rs.ValidationError, ValueError, TypeError) as error:
            message = error.message if isinstance(error, jsonschema_rs.ValidationError) else str(error)
            raise RequestError(
                f"The {part} of {item.id} are not usable",
                code=f"{part}_invalid",
                detail=quote(message, 500),
                hint="See their schema: rumi privilege list.",
            ) from error

    def _read_or_fault(self) -> tuple[Table, str]:
        try:
            with self._mutex:
                return self._read(), ""
        except TrustError as error:
            return {}, error.code

    def _read(self) -> Table:
        """The table, or ``TrustError``: a document that can't be believed grants nothing and is not overwritten."""
        document = self._keyring.read(self._path, PURPOSE, PURPOSE)
        counter = self._ledger.trusted().of(SUBJECT).counter
        if document is None and counter == 0:
            return {}
        if document is None:
            document = Fault(f"{PURPOSE}_missing", "The document is gone, though privileges were granted.")
        elif not isinstance(document, Fault) and document.get("counter") not in {counter, counter + 1}:
            document = Fault(f"{PURPOSE}_rolled_back", "The document is older than the latest decision.")
        if isinstance(document, Fault):
            raise TrustError(
                "Granted privileges can't be believed",
                code=document.cause,
                detail=document.detail,
                hint="Reset them (rumi privilege reset), then grant again.",
            )
        return {(held.pack_id, held.privilege): held for held in map(_decode, document["grants"])}

    def reset(self, *, actor: str) -> None:
        """Start over with no privilege granted: the way out when the document can't be believed."""
        with self._mutex:
            self._ledger.change(SUBJECT, lambda e: Entry(e.counter + 2))
            self._write({})
        self._audit.append("privilege.reset", actor=actor)

    def _write_less(self, held: Table) -> None:
        try:
            self._write(held)
        except OSError as error:  # less is always possible: void all of them by the counter, which needs no room
            self._ledger.change(SUBJECT, lambda e: replace(e, counter=e.counter + 2))
            raise HostError(
                "Storage failed",
                code="storage",
                detail="The revocation could not be written, so no privilege is granted to anyone now.",
                hint="Make room on the disk, then grant the others again.",
            ) from error

    def _write(self, held: Table) -> None:
        number = self._ledger.trusted().of(SUBJECT).counter + 1
        document = {"counter": number, "grants": [_encode(item) for _, item in sorted(held.items())]}
        self._keyring.write(self._path, document, PURPOSE)
        self._ledger.change(SUBJECT, lambda _: Entry(number))


def _made_for(held: Held, approval: Grant) -> bool:
    same = held.identity == identity_fingerprint(approval.pack_identity)
    return same and held.approved == timestamp(approval.created_at)


def _shown(held: Held) -> dict[str, Any]:
    """One grant for the faces."""
    return {
        "pack_id": held.pack_id,
        "options": dict(held.options),
        "until": held.until,
        "granted_at": timestamp(held.granted_at),
        "actor": held.actor,
    }


def _encode(held: Held) -> dict[str, Any]:
    return {
        "pack_id": held.pack_id,
        "privilege": held.privilege,
        "identity": held.identity,
        "granted_at": timestamp(held.granted_at),
        "actor": held.actor,
        "options": dict(held.options),
        "until": held.until,
        "approved": held.approved,
    }


def _decode(item: Mapping[str, Any]) -> Held:
    return Held(
        str(item["pack_id"]),
        str(item["privilege"]),
        str(item["identity"]),
        seconds(item["granted_at"]),
        str(item["actor"]),
        dict(item["options"]),
        None if item["until"] is None else float(item["until"]),
        str(item.get("approved", "")),
    )


def _denied(pack_id: str, privilege: str, detail: str, hint: str) -> DeniedError:
    return DeniedError(
        "The privilege is not granted",
        code="privilege_denied",
        detail=f"{quote(pack_id)}, {quote(privilege)}: {detail}",
        hint=hint,
    )
