"""``ecosystem/docker/<pack_id>/``: what a Pack was granted and how it is isolated, as files for the operator to read.

Output only: nothing reads these files back. What runs is made anew from the grant at every start. They are written
beside and swapped in, so that a reader never meets half of a view; writing them never decides anything.

Invariant: a link that somebody put where a view belongs is removed, never followed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import quote
from core_runtime.approval_manager import PackStatus
from core_runtime.drivers.side_work import Mishap, costs_only_itself
from core_runtime.handlers.host import Host
from core_runtime.rules.grants import Grant, is_flow_claim, permission_document

README = """# {pack_id}: what it was granted, and how it is isolated

Written by the host after each decision and start; for reading only. Editing changes nothing.

- `grants/effective.json`: the permissions and interface edges in force
- `scopes/`: each permission in words, with its limits
- `handlers/handlers.json`: each handler file with its SHA-256
- `sandbox/`: the rendered sandbox, and the isolation that was last measured
"""

_writing = threading.RLock()
"""A decision and the start that follows both write the view of their Pack: one after the other, the newer one last."""


def write(host: Host, pack_id: str) -> None:
    """Write the view of one Pack; blocks, call it in a thread. A full disk is an Issue, nothing else."""
    with _writing:
        _write(host, pack_id)


def _write(host: Host, pack_id: str) -> None:
    target = _folder(host, pack_id)
    fresh = target.with_name(f".{pack_id}.{secrets.token_hex(4)}")
    try:
        with costs_only_itself(host.diagnostics.mishap, _unwritten(pack_id)):
            _clear(target)
            files = _files(host, pack_id)
            for folder in ("handlers", "scopes", "grants", "sandbox"):
                (fresh / folder).mkdir(parents=True)
            for name, text in files.items():
                (fresh / name).write_text(text, encoding="utf-8")
            _swap(fresh, target)
    finally:
        _discard(fresh)


def remove(host: Host, pack_id: str) -> None:
    """The Pack was removed."""
    target = _folder(host, pack_id)
    with _writing, costs_only_itself(host.diagnostics.mishap, _unwritten(pack_id)):
        _clear(target)
        _discard(target)


def _unwritten(pack_id: str) -> Mishap:
    return Mishap(
        "operator_view", pack_id, "The operator's view of a Pack could not be written",
        "Make room below ecosystem/docker and let the host write there; what runs is not affected.", "info",
    )  # fmt: skip


def _folder(host: Host, pack_id: str) -> Path:
    return host.settings.home / "ecosystem" / "docker" / pack_id


def _swap(fresh: Path, target: Path) -> None:
    old = target.with_name(f"{fresh.name}.old")
    with _writing:
        if os.path.lexists(target):
            target.rename(old)  # a link is renamed itself
        fresh.rename(target)
    _discard(old)


def _clear(target: Path) -> None:
    """The parent is a folder of ours, without half-written views of this Pack from a crash. ``OSError`` if it can't."""
    if target.parent.is_symlink():
        raise NotADirectoryError(f"{target.parent} is a link; the host writes into its own folders only")
    if target.parent.is_dir():
        for path in target.parent.glob(f".{target.name}.*"):
            _discard(path)


def _discard(path: Path) -> None:
    """Remove a folder, or a link without looking where it leads."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _files(host: Host, pack_id: str) -> dict[str, str]:
    status = host.approvals.status(pack_id)
    grant = host.approvals.grant(pack_id)
    files = {"README.md": README.format(pack_id=pack_id), "grants/effective.json": _json(_effective(status, grant))}
    if grant is not None:
        files["handlers/handlers.json"] = _json(_handlers(status.metadata, grant))
        for index, permission in enumerate(grant.permissions):
            reason = next((str(r.get("reason", "")) for r in grant.requested if r.get("type") == permission.type), "")
            document = permission_document(permission)
            files[f"scopes/{index:02d}-{permission.type}.txt"] = _in_words(document, reason)
    if host.orchestrator is not None and host.orchestrator.get(pack_id) is not None:
        files |= host.orchestrator.operator_view(pack_id)
    return files


def _effective(status: PackStatus, grant: Grant | None) -> dict[str, Any]:
    document: dict[str, Any] = {"pack_id": status.pack_id, "status": status.state.value, "cause": status.cause or None}
    if grant is not None:
        document |= {
            **grant.excerpt(),
            "provides": sorted(name for name in grant.since if not is_flow_claim(name)),
            "calls": sorted({key for item in grant.of_type("interface.call") for key in item.texts("keys")}),
        }
    return document


def _handlers(metadata: PackMetadata | None, grant: Grant) -> list[dict[str, Any]]:
    """Setup files and custom handlers with the digests that the approval bound."""
    names = {handler.path: handler.name for handler in metadata.handlers} if metadata else {}
    folders = tuple(f"{component.directory}/" for component in metadata.components) if metadata else ()
    return [
        {"path": path, "sha256": print_.sha256, "handler": names.get(path)}
        for path, print_ in sorted(grant.files.items())
        if path in names or (folders and path.endswith(".py") and path.startswith(folders))
    ]


def _in_words(document: Mapping[str, Any], reason: str) -> str:
    """One permission as lines; the author's reason is quoted, since it is the author's."""
    lines = [f"permission: {document['type']}"]
    lines += [f"{name}: {json.dumps(value, ensure_ascii=True)}" for name, value in document.items() if name != "type"]
    lines.append(f"the author's reason: {quote(reason, 500) if reason else 'none given'}")
    return "\n".join(lines) + "\n"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True, default=str) + "\n"
