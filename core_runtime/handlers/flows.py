"""Flow documents that approved Packs bring: files of theirs, and what they register while they run.

A Pack's files are those directly in ``backend/flows`` of its approved version. What it registers are maps under
``flow.<id>`` (a flow of that id) and ``flow.modifier`` (changes to flows).

Invariants:
  * Each file is read from the approved copy and compared with the grant's own fingerprint: another byte, no flow.
  * What is registered is its Pack's for as long as it is there. It may be another one later, as everything a running
    Pack says; it has the rights of its Pack in either case, and a run keeps the flow that it began with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Final

from backend_core.errors import RumiError
from backend_core.files import read_bounded
from core_runtime.flow_composer import MAX_FLOW_BYTES, SUFFIXES, PackDocument
from core_runtime.handlers.host import Host
from core_runtime.interface_registry import Entry
from core_runtime.rules.permissions import host_key_permission

FOLDER: Final = "backend/flows/"
PREFIX: Final = "flow."
MODIFIERS: Final = "flow.modifier"


def documents(host: Host) -> list[PackDocument]:
    """The files of every Pack that is approved now. Blocks."""
    if not host.built("approvals"):
        return []
    return [document for status in host.approvals.list() for document in _of(host, status.pack_id)]


def registered(host: Host) -> Iterator[PackDocument]:
    """What Packs registered as flows and modifiers, by key."""
    for key in sorted(host.registry.keys()):
        if not key.startswith(PREFIX):
            continue
        slot = host.registry.slot(key)
        entries: tuple[Entry, ...] = ()
        if slot is not None and key == MODIFIERS:
            entries = slot.visible
        elif slot is not None and slot.last is not None and not host_key_permission(key):
            entries = (slot.last,)
        for number, entry in enumerate(entries):
            if entry.pack and isinstance(entry.value, Mapping):
                yield _document(entry, f"{entry.pack}:{key}" + (f"#{number + 1}" if len(entries) > 1 else ""))


def _document(entry: Entry, name: str) -> PackDocument:
    """Written out, so that it is read within the bounds of a file."""
    try:
        text = json.dumps(entry.value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        fault = f"{name}: a registered flow holds texts, numbers, lists and maps only ({str(error)[:200]})"
        return PackDocument(entry.pack, name, b"", entry.key, fault)
    return PackDocument(entry.pack, name, text.encode("utf-8", "replace"), entry.key)


def _of(host: Host, pack_id: str) -> list[PackDocument]:
    grant = host.approvals.grant(pack_id)
    if grant is None:
        return []
    root = host.approvals.copy_path(grant.digest)
    found = []
    for path, fingerprint in sorted(grant.files.items()):
        name = path.removeprefix(FOLDER)
        if name == path or "/" in name or not name.endswith(SUFFIXES):
            continue
        with contextlib.suppress(OSError, RumiError):
            data = read_bounded(root / path, MAX_FLOW_BYTES)
            if hashlib.sha256(data).hexdigest() == fingerprint.sha256:
                found.append(PackDocument(pack_id, f"{pack_id}:{path}", data))
    return found
