"""What the API shows of the host's objects: plain JSON, stable names. A Pack's text was bounded by its parser.

Not here: asking for those objects (``endpoints_*``), HTTP (``envelope``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core_runtime.approval_manager import PackStatus
from core_runtime.containers import ContainerInfo
from core_runtime.ports import DriverStatus
from core_runtime.rules.approval import State
from core_runtime.rules.decisions import in_development
from core_runtime.rules.sandbox import Isolation


def pack(status: PackStatus) -> dict[str, Any]:
    """One entry of ``GET /api/packs``."""
    metadata = status.metadata
    return {
        "pack_id": status.pack_id,
        "status": status.state.value,
        "cause": status.cause or None,
        "detail": status.detail or None,
        "kept_running": status.state is State.MODIFIED and status.cause == "kept_running",
        "version": metadata.version if metadata else None,
        "pack_identity": metadata.pack_identity if metadata else None,
        "display_name": (metadata.display_name if metadata else "") or status.pack_id,
        "description": metadata.description if metadata else "",
        "changed_paths": list(status.changed_paths),
        "pending_update": dict(status.pending_update) or None,
        "in_development": in_development(str(status.approval.get("actor", ""))),
    }


def pack_status(status: PackStatus) -> dict[str, Any]:
    """``GET /api/packs/{id}/status``: the entry, and what was approved."""
    return {
        **pack(status),
        "digest": status.digest_on_disk,
        "approval": dict(status.approval),
        "effective_digest": status.patched.digest or None,
        "addons": status.patched.documents(),
    }


def container(info: ContainerInfo, large_values: Mapping[str, Any] | None) -> dict[str, Any]:
    """One running instance. ``large_values``: which way they go on its bus, None while it has no connection."""
    return {
        "id": info.id,
        "pack_id": info.pack_id,
        "generation": info.generation,
        "driver": info.driver,
        "level": info.level.name.lower(),
        "state": info.state.value,
        "started_at": info.started_at,
        "restarts": info.restarts,
        "last_error": info.last_error or None,
        "pid": info.pid,
        "findings": list(info.isolation.findings) if info.isolation is not None else [],
        "large_values": large_values,
    }


def driver(status: DriverStatus) -> dict[str, Any]:
    """One isolation driver's probe."""
    return {
        "driver": status.kind.value,
        "available": status.available,
        "level": status.level.name.lower(),
        "version": status.version or None,
        "reason": status.reason or None,
        "hint": status.hint or None,
        "transport": status.transport or None,
    }


def isolation(found: Isolation | None) -> dict[str, Any] | None:
    """The isolation in use, or None when nothing of any Pack may run."""
    if found is None:
        return None
    return {
        "driver": found.driver.value,
        "level": found.level.name.lower(),
        "source": found.source,
        "findings": list(found.findings),
    }
