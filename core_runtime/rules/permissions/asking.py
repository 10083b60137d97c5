"""What a Pack asks for: every request with its faults, why a plain approval leaves one out, how it is described. Pure.

Invariant: a declaration that overlaps what the operator alone may write is a fault of the Pack, whoever would grant it.

Not here: the table of types (``permission_kinds``), granting (``choosing``).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from backend_core.ecosystem.spec.models import PackMetadata, PermissionRequest
from backend_core.errors import quote
from core_runtime.rules.egress import private_addresses
from core_runtime.rules.grants import thaw
from core_runtime.rules.permission_kinds import KINDS, Fault, is_privilege


def requests_of(metadata: PackMetadata) -> tuple[PermissionRequest, ...]:
    """Every permission that the Pack asks for: the declared ones, and its edges from ``requires`` and ``uses``."""
    asked = [request for request in metadata.permissions if request.type != "interface.call"]
    named = {
        key
        for request in metadata.permissions
        if request.type == "interface.call"
        for key in request.params.get("keys", ())
        if isinstance(key, str)
    }
    reason = next((r.reason for r in metadata.permissions if r.type == "interface.call"), "")
    keys = tuple(sorted((named | metadata.requires() | metadata.uses()) - metadata.provides()))
    if keys:
        asked.append(PermissionRequest("interface.call", reason, MappingProxyType({"keys": keys})))
    return tuple(asked)


def request_fault(request: PermissionRequest, pack_id: str) -> Fault:
    """Why a declaration can never be granted (unknown type, bad or forbidden parameter), or ``""``."""
    if is_privilege(request.type):
        return ""
    kind = KINDS.get(request.type)
    if kind is None:
        return f"permission type {quote(request.type)} is unknown"
    for name, value in request.params.items():
        check = kind.params.get(name)
        fault = check(value, pack_id) if check else "is not a parameter of this type"
        if fault:
            return f"{request.type}: {quote(name)} {fault}"
    if kind.required and kind.required not in request.params:
        return f"{request.type}: {quote(kind.required)} is missing"
    if kind.either and not any(name in request.params for name in kind.either):
        return f"{request.type}: one of {', '.join(kind.either)} is missing"
    return ""


def forbidden(metadata: PackMetadata) -> tuple[Fault, ...]:
    """Every fault of the Pack's declarations; one of them is enough to refuse the Pack at scan."""
    found = (request_fault(request, metadata.pack_id) for request in requests_of(metadata))
    return tuple(fault for fault in found if fault)


def withheld_reason(request: PermissionRequest) -> str:
    """Why a plain approval does not grant this declaration, or ``""``."""
    if is_privilege(request.type):
        return "Operations of the host are granted one by one: rumi privilege grant."
    kind = KINDS.get(request.type)
    if kind is None:
        return "This type of permission is unknown."
    if kind.missing:
        return kind.missing
    if kind.sensitive:
        return "A plain approval leaves it out; name it when approving."
    return ""


def describe(request: PermissionRequest) -> dict[str, Any]:
    """One declaration for the decision: type, parameters, reason (hostile text: escaped by each face), risk, words."""
    kind = KINDS.get(request.type)
    words = (
        kind.words if kind else {"en": "has the host act on the machine", "ja": "ホストにこのマシン上の操作をさせます"}
    )
    private = private_addresses([str(item) for item in request.params.get("addresses", ())])
    return {
        "type": request.type,
        **thaw(request.params),
        **({"private_addresses": list(private)} if private else {}),
        "reason": request.reason,
        "risk": kind.risk if kind else "high",
        "words": dict(words),
        "grantable": bool(kind and not kind.missing),
        "plain": not withheld_reason(request),
        "note": withheld_reason(request),
    }
