"""``ecosystem/docker/<pack_id>/``: what a Pack was granted and how it is isolated, as files for the operator to read.

Output only: nothing reads these files back. What runs is made anew from the grant at every start. They are written
beside and swapped in, so that a reader never meets half of a view; writing them never decides anything.

Invariants:
  * A link that somebody put where a view belongs is removed, never followed.
  * A view says what runs, not only what was approved: where addons patched a Pack, its digests are those of the copy
    with them, beside the approved ones. It is written anew after each decision and each start, restarts included.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from backend_core.canonical import sha256_hex
from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.metadata import PACK_ID, read_metadata
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import RumiError, quote
from core_runtime.approval_manager import PackStatus
from core_runtime.drivers.side_work import Mishap, costs_only_itself
from core_runtime.handlers.host import Host
from core_runtime.rules.grants import Grant, is_flow_claim, permission_document

README = """# {pack_id}: what it was granted, and how it is isolated

Written by the host after each decision and start; for reading only. Editing changes nothing.

- `grants/effective.json`: the permissions and interface edges in force
- `scopes/`: each permission in words, with its limits
- `handlers/handlers.json`: each handler file with its SHA-256, as it runs
- `handlers/addons.json`: where addons patched it, what they did: the digest of what runs and each file that differs
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


def refresh(host: Host, pack_ids: Iterable[str]) -> None:
    """Write anew what an earlier run of the host left of these Packs; blocks."""
    for pack_id in pack_ids:
        if PACK_ID.fullmatch(pack_id) and os.path.lexists(_folder(host, pack_id)):
            write(host, pack_id)


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
        files["handlers/handlers.json"] = _json(_handlers(_metadata(host, status, grant), _prints(status, grant)))
        if status.patched.results:
            files["handlers/addons.json"] = _json(_addons(status, grant))
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
            "effective_digest": status.patched.digest or grant.digest,
            "provides": sorted(name for name in grant.since if not is_flow_claim(name)),
            "calls": sorted({key for item in grant.of_type("interface.call") for key in item.texts("keys")}),
        }
    return document


def _metadata(host: Host, status: PackStatus, grant: Grant) -> PackMetadata | None:
    """Of the copy that runs; the folder beside it may have been edited since."""
    copy = host.approvals.copy_path(status.patched.digest or grant.digest)
    try:
        return read_metadata(FolderReader(str(copy), READ_LIMITS), status.pack_id)
    except (OSError, RumiError):  # damaged: its start tells
        return None


def _prints(status: PackStatus, grant: Grant) -> dict[str, str]:
    """Path → SHA-256 of what runs: what the approval bound, and what addons made of it."""
    return {path: found.sha256 for path, found in grant.files.items()} | {
        path: sha256_hex(data) for path, data in _patched_files(status).items()
    }


def _patched_files(status: PackStatus) -> dict[str, bytes]:
    if not status.patched.digest:
        return {}
    return {path: data for one in status.patched.components.values() for path, data in one.files.items()}


def _addons(status: PackStatus, grant: Grant) -> dict[str, Any]:
    """What addons did to the Pack at its last start, refused ones included."""
    return {
        "digest": grant.digest,
        "effective_digest": status.patched.digest or grant.digest,
        "files": [
            {
                "path": path,
                "sha256": sha256_hex(data),
                "approved_sha256": grant.files[path].sha256 if path in grant.files else None,
            }
            for path, data in sorted(_patched_files(status).items())
        ],
        "addons": status.patched.documents(),
    }


def _handlers(metadata: PackMetadata | None, prints: Mapping[str, str]) -> list[dict[str, Any]]:
    """Setup files and custom handlers with the digests of what runs."""
    names = {handler.path: handler.name for handler in metadata.handlers} if metadata else {}
    folders = tuple(f"{component.directory}/" for component in metadata.components) if metadata else ()
    return [
        {"path": path, "sha256": sha256, "handler": names.get(path)}
        for path, sha256 in sorted(prints.items())
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
