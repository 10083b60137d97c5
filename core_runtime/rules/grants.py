"""Grants: what an approval says, as a frozen value and as the signed document of the grant files. Pure.

Invariants:
  * ``weigh`` never raises and never guesses: a document is a ``Grant``, a ``Rejection``, ``Imported``, or a
    ``Fault`` with a named cause. Only a ``Grant`` allows anything.
  * A grant counts for one Pack, one digest, one epoch of the counters file and the counter that stands there (or the
    next one: the crash between writing the grant and raising the counter).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from core_runtime.rules.approval import State
from core_runtime.rules.dependencies import Dependencies, dependencies_document, read_dependencies
from core_runtime.rules.digest import PREFIX, Fingerprint, normal_digest
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from core_runtime.rules.seals import Fault

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class Mode(StrEnum):
    """How long a permission is granted."""

    ALWAYS = "always"
    ONCE = "once"
    RESTART = "restart"
    UNTIL = "until"


class Permission(Struct, frozen=True):
    """One granted permission. ``until`` is wall time in seconds, ``instance`` the host run that ``restart`` means."""

    type: str
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    mode: Mode = Mode.ALWAYS
    until: float | None = None
    instance: str = ""

    def texts(self, name: str) -> tuple[str, ...]:
        """A parameter that is a list of texts; empty when absent."""
        return tuple(str(item) for item in self.params.get(name, ()))


_FLOW = "flow "


def flow_claim(flow_id: str) -> str:
    """How ``Grant.since`` names a flow; no interface key has a space."""
    return _FLOW + flow_id


def is_flow_claim(name: str) -> bool:
    """Whether an entry of ``Grant.since`` is a flow's."""
    return name.startswith(_FLOW)


class Grant(Struct, frozen=True):
    """The operator's decision for one Pack.

    ``effects``: what its addons make of each component of another Pack that it may patch, as the digest of the result
    that was approved. ``since`` tells since when each interface key is approved, and each flow that it brings
    (``flow_claim``).
    """

    pack_id: str
    pack_identity: str
    version: str
    digest: str
    counter: int
    epoch: str
    isolation: Isolation
    created_at: float
    approved_at: float
    actor: str
    permissions: tuple[Permission, ...] = ()
    requested: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, Fingerprint] = field(default_factory=lambda: MappingProxyType({}))
    since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    base_runtime: str = ""
    restored_at: float | None = None
    dependencies: Dependencies | None = None
    effects: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def of_type(self, kind: str) -> tuple[Permission, ...]:
        """The granted permissions of one type."""
        return tuple(permission for permission in self.permissions if permission.type == kind)

    def excerpt(self) -> dict[str, Any]:
        """What the API shows of it: no signature, no key material, no list of files."""
        return {
            "approved_at": timestamp(self.approved_at),
            "created_at": timestamp(self.created_at),
            "actor": self.actor,
            "digest": self.digest,
            "version": self.version,
            "pack_identity": self.pack_identity,
            "permissions": [permission_document(permission) for permission in self.permissions],
            "isolation": _isolation_document(self.isolation),
            "base_runtime": self.base_runtime,
            "files": len(self.files),
            "packages": dependencies_document(self.dependencies),
            "effects": dict(self.effects),
        }


class Rejection(Struct, frozen=True):
    """The record of a rejection; the counters file, not this, is what blocks."""

    reason: str
    rejected_at: float


class Imported(Struct, frozen=True):
    """Signed by this key, but without a counter: made elsewhere, so the operator decides again here."""

    digest: str


def trees_of(grant: Grant) -> tuple[str, ...]:
    """Digests of everything in the store that a grant needs."""
    packages = grant.dependencies.tree if grant.dependencies else ""
    return (grant.digest, packages) if packages else (grant.digest,)


def timestamp(seconds: float) -> str:
    """Wall time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: Any) -> float:
    """The reverse of ``timestamp``; also accepts a number, as older documents may hold."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    return datetime.fromisoformat(str(text)).timestamp()


def thaw(value: Any) -> Any:
    """Frozen JSON and records (``Struct``) as plain dicts and lists, for writing."""
    if isinstance(value, Struct):
        return {name: thaw(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(name): thaw(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [thaw(item) for item in value]
    return value


def freeze(value: Any) -> Any:
    """JSON values as read-only mappings and tuples."""
    if isinstance(value, Mapping):
        return MappingProxyType({str(name): freeze(item) for name, item in value.items()})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(freeze(item) for item in value)
    return value


def permission_document(permission: Permission) -> dict[str, Any]:
    """One permission as it stands in the grant file and in the API."""
    document: dict[str, Any] = {"type": permission.type, **thaw(permission.params), "mode": permission.mode.value}
    if permission.until is not None:
        document["until"] = permission.until
    if permission.instance:
        document["instance"] = permission.instance
    return document


def _isolation_document(isolation: Isolation) -> dict[str, str]:
    """What a start must reach; and whether the host could only be told so, when it approved."""
    document = {"driver": isolation.driver.value, "level": isolation.level.name.lower()}
    return document | {"source": isolation.source} if isolation.source == "reported" else document


def grant_document(grant: Grant) -> dict[str, Any]:
    """The document to sign; the first keys are those that this ecosystem's grant files have always had."""
    return {
        "pack_id": grant.pack_id,
        "status": State.APPROVED.value,
        "created_at": timestamp(grant.created_at),
        "approved_at": timestamp(grant.approved_at),
        "file_hashes": {path: PREFIX + item.sha256 for path, item in sorted(grant.files.items())},
        "permissions_requested": [thaw(item) for item in grant.requested],
        "rejection_reason": None,
        "pack_identity": grant.pack_identity,
        "version": grant.version,
        "digest": grant.digest,
        "executables": sorted(path for path, item in grant.files.items() if item.executable),
        "permissions": [permission_document(permission) for permission in grant.permissions],
        "edges": sorted({key for p in grant.of_type("interface.call") for key in p.texts("keys")}),
        "isolation": _isolation_document(grant.isolation),
        "counter": grant.counter,
        "epoch": grant.epoch,
        "actor": grant.actor,
        "since": dict(sorted(grant.since.items())),
        "base_runtime": grant.base_runtime,
        "restored_at": None if grant.restored_at is None else timestamp(grant.restored_at),
        "dependencies": dependencies_document(grant.dependencies),
        "effects": dict(sorted(grant.effects.items())),
    }


def rejection_document(pack_id: str, reason: str, at: float) -> dict[str, Any]:
    """The record that a rejection leaves in the grant file's place. It has no counter: it never allows anything."""
    return {
        "pack_id": pack_id,
        "status": State.BLOCKED.value,
        "created_at": timestamp(at),
        "approved_at": None,
        "file_hashes": {},
        "permissions_requested": [],
        "rejection_reason": reason,
        "rejected_at": timestamp(at),
    }


def weigh(
    document: Mapping[str, Any], *, pack_id: str, epoch: str, counter: int
) -> Grant | Rejection | Imported | Fault:
    """What a document whose signature verified is worth for ``pack_id`` under the counters file's epoch and counter."""
    if document.get("pack_id") != pack_id:
        return Fault("grant_copied", "The grant was made for another Pack.")
    try:
        if document.get("status") == State.BLOCKED:
            reason = str(document.get("rejection_reason") or "")
            return Rejection(reason, seconds(document.get("rejected_at") or document["created_at"]))
        if "counter" not in document:
            return Imported(normal_digest(str(document.get("digest", ""))))
        grant = read_grant(document)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return Fault("grant_malformed", f"The grant is signed, but not of a form this version reads: {error}")
    if grant.epoch != epoch:
        return Fault("grant_foreign_epoch", "The counters file was replaced after this grant was made.")
    if grant.counter < counter:
        return Fault("grant_rolled_back", f"The grant has counter {grant.counter}; {counter} is the latest decision.")
    if grant.counter > counter + 1:
        return Fault("counters_rolled_back", f"The grant has counter {grant.counter}; the file knows only {counter}.")
    return grant


def common(first: Sequence[Permission], second: Sequence[Permission]) -> tuple[Permission, ...]:
    """The permissions of ``first`` that ``second`` holds exactly as well: what nobody has taken away since."""
    held = [permission_document(permission) for permission in second]
    return tuple(permission for permission in first if permission_document(permission) in held)


def read_grant(document: Mapping[str, Any]) -> Grant:
    """The reverse of ``grant_document``; any of ``KeyError``, ``TypeError``, ``ValueError`` for another shape."""
    if document.get("status") not in {State.APPROVED, State.RUNNING}:
        raise ValueError(f"status {document.get('status')!r}")
    digest = normal_digest(str(document["digest"]))
    if not digest:
        raise ValueError("digest")
    executables = frozenset(document["executables"])
    restored = document.get("restored_at")
    return Grant(
        pack_id=document["pack_id"],
        pack_identity=str(document["pack_identity"]),
        version=str(document["version"]),
        digest=digest,
        counter=_whole(document["counter"]),
        epoch=str(document["epoch"]),
        isolation=Isolation(
            DriverKind(document["isolation"]["driver"]),
            Level[str(document["isolation"]["level"]).upper()],
            source=str(document["isolation"].get("source", "granted")),
        ),
        created_at=seconds(document["created_at"]),
        approved_at=seconds(document["approved_at"]),
        actor=str(document["actor"]),
        permissions=tuple(_permission(item) for item in document["permissions"]),
        requested=tuple(freeze(item) for item in document["permissions_requested"]),
        files=MappingProxyType(
            {
                path: Fingerprint(value.removeprefix(PREFIX), path in executables)
                for path, value in document["file_hashes"].items()
            }
        ),
        since=MappingProxyType({str(key): float(at) for key, at in document["since"].items()}),
        base_runtime=str(document.get("base_runtime", "")),
        restored_at=None if restored is None else seconds(restored),
        dependencies=read_dependencies(document.get("dependencies")),
        effects=MappingProxyType({str(name): str(one) for name, one in document.get("effects", {}).items()}),
    )


def _permission(item: Mapping[str, Any]) -> Permission:
    params = {name: value for name, value in item.items() if name not in {"type", "mode", "until", "instance"}}
    until = item.get("until")
    return Permission(
        type=str(item["type"]),
        params=freeze(params),
        mode=Mode(item["mode"]),
        until=None if until is None else float(until),
        instance=str(item.get("instance", "")),
    )


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("counter")
    return value
