"""Flow documents that approved Packs bring.

A Pack's documents are the files directly in ``backend/flows`` of its approved version.

Invariants:
  * Each document is read from the approved copy and compared with the grant's own fingerprint: another byte, no flow.
"""

from __future__ import annotations

import contextlib
import hashlib

from backend_core.errors import RumiError
from backend_core.files import read_bounded
from core_runtime.flow_composer import MAX_FLOW_BYTES, SUFFIXES, PackDocument
from core_runtime.handlers.host import Host

FOLDER = "backend/flows/"


def documents(host: Host) -> list[PackDocument]:
    """Those of every Pack that is approved now. Blocks."""
    if not host.built("approvals"):
        return []
    return [document for status in host.approvals.list() for document in _of(host, status.pack_id)]


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
