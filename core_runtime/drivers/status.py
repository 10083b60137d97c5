"""What every face shows of one Pack, made from what an inspection found."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from backend_core.ecosystem.metadata import PACK_ID
from backend_core.ecosystem.spec.models import PackFolder, PackMetadata
from backend_core.errors import NotFoundError, RequestError, quote
from core_runtime.drivers.inspection import Inspection
from core_runtime.rules.addons import UNPATCHED, Patched
from core_runtime.rules.approval import Facts, State, judge
from core_runtime.rules.permissions import forbidden

EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})


class PackStatus(Struct, frozen=True):
    """One Pack for every face. ``approval`` is a safe excerpt of the grant, or of the rejection."""

    pack_id: str
    state: State
    cause: str = ""
    metadata: PackMetadata | None = None
    digest_on_disk: str | None = None
    approval: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    changed_paths: tuple[str, ...] = ()
    detail: str = ""
    pending_update: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    """``{version, digest}`` of a staged version that waits for a decision; empty without one."""
    patched: Patched = UNPATCHED
    """What addons made of it at its last start."""


def status_of(pack_id: str, inspection: Inspection, facts: Facts) -> PackStatus:
    state, cause = judge(facts)
    loaded, folder, tree = inspection.loaded, inspection.folder, inspection.tree
    approval: Mapping[str, Any] = EMPTY
    if loaded.grant is not None:
        approval = MappingProxyType(loaded.grant.excerpt())
    elif state is State.BLOCKED:
        approval = MappingProxyType({"rejection_reason": loaded.reason})
    detail = loaded.detail
    if folder is not None and folder.error is not None and state is State.ERROR:
        detail = str(folder.error.get("detail", ""))
    elif facts.folder_fault == "permission_forbidden" and folder is not None and folder.metadata is not None:
        detail = "; ".join(forbidden(folder.metadata)[:5])
    if folder is None and state is State.INSTALLED:
        cause = "folder_missing"
    return PackStatus(
        pack_id=pack_id,
        state=state,
        cause=cause,
        metadata=folder.metadata if folder else None,
        digest_on_disk=tree.digest if tree else None,
        approval=approval,
        changed_paths=inspection.changed,
        detail=detail,
    )


def checked_id(pack_id: str) -> str:
    if not PACK_ID.fullmatch(pack_id):
        raise RequestError(
            "Not a Pack id",
            code="pack_id_invalid",
            detail=f"{quote(pack_id)} does not match ^[a-z][a-z0-9_-]{{0,63}}$.",
            hint="Use the pack_id of backend/ecosystem.json.",
        )
    return pack_id


def must_exist(status: PackStatus) -> None:
    if status.cause == "folder_missing" and status.state is State.INSTALLED:
        raise NotFoundError(
            "No such Pack",
            code="pack_unknown",
            detail=f"{quote(status.pack_id)} is neither in ecosystem/packs nor decided about.",
            hint="List the known ones: rumi pack list.",
        )


def unusable(folder: PackFolder) -> PackStatus:
    error = folder.error or {}
    cause, detail = str(error.get("code", "pack_invalid")), str(error.get("detail", ""))
    return PackStatus(folder.folder, State.ERROR, cause, detail=detail)
