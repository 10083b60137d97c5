"""Flow documents that approved Packs bring: files of theirs, and what they register while they run.

A Pack's files are those directly in ``backend/flows`` of its approved version; the grant says since when it brings
each flow. What it registers are maps under ``flow.<id>`` (a flow of that id) and ``flow.modifier`` (changes to
flows).

Invariants:
  * Each file is read from the approved copy and compared with the grant's own fingerprint: another byte, no flow.
  * What is registered is its Pack's for as long as it is there. It may be another one later, as everything a running
    Pack says; it has the rights of its Pack in either case, and a run keeps the flow that it began with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from backend_core.files import read_bounded
from core_runtime.drivers.side_work import Mishap, costs_only_itself
from core_runtime.flow_composer import MAX_FLOW_BYTES, PackDocument, is_flow_path
from core_runtime.handlers.host import Host
from core_runtime.interface_registry import Entry
from core_runtime.rules.grants import flow_claim, is_flow_claim
from core_runtime.rules.permissions import host_key_permission

PREFIX: Final = "flow."
MODIFIERS: Final = "flow.modifier"
MAX_REGISTERED_BYTES: Final = 256 * 1024
"""Of what one Pack registers, written out: it may change at any time, and then everybody's next run reads it anew."""
TOO_MUCH: Final = f"what a Pack registers as flows has at most {MAX_REGISTERED_BYTES} bytes together"


def documents(host: Host) -> list[PackDocument]:
    """The files of every Pack that is approved now. Blocks."""
    if not host.built("approvals"):
        return []
    return [document for status in host.approvals.list() for document in _of(host, status.pack_id)]


class Registered:
    """What Packs registered as flows and modifiers; each value is written out once. For one caller at a time."""

    __slots__ = ("_host", "_known")

    def __init__(self, host: Host) -> None:
        self._host = host
        self._known: dict[tuple[int, str], PackDocument] = {}

    def documents(self) -> list[PackDocument]:
        """As it is now, by key."""
        found: list[PackDocument] = []
        spent: dict[str, int] = {}
        known: dict[tuple[int, str], PackDocument] = {}
        for entry, name in _entries(self._host):
            place = entry.number, name
            document = known[place] = self._known.get(place) or _document(entry, name)
            spent[entry.pack] = spent.get(entry.pack, 0) + len(document.data)
            fits = spent[entry.pack] <= MAX_REGISTERED_BYTES
            shown = document if fits else PackDocument(entry.pack, name, b"", entry.key, f"{name}: {TOO_MUCH}")
            found.append(replace(shown, since=_claim(self._host, entry)))
        self._known = known
        return found


def _entries(host: Host) -> Iterator[tuple[Entry, str]]:
    """The entries that say something about flows, with their names; of a flow the one that its owner's key answers."""
    for key in sorted(host.registry.keys()):
        slot = host.registry.slot(key) if key.startswith(PREFIX) else None
        if slot is None:
            continue
        if key == MODIFIERS:
            entries = slot.visible
        else:
            entries = () if slot.last is None or host_key_permission(key) else (slot.last,)
        for number, entry in enumerate(entries, 1):
            if entry.pack and isinstance(entry.value, Mapping):
                yield entry, f"{entry.pack}:{key}" + (f"#{number}" if len(entries) > 1 else "")


def _claim(host: Host, entry: Entry) -> dict[str, float]:
    """Since when the Pack is approved with the key, which is the flow."""
    grant = host.approvals.grant(entry.pack) if host.built("approvals") else None
    since = grant.since.get(entry.key) if grant is not None else None
    return {} if since is None else {entry.key.removeprefix(PREFIX): since}


def _document(entry: Entry, name: str) -> PackDocument:
    """Written out, as far as it may be long, so that it is read within the bounds of a file."""
    pieces: list[str] = []
    length = 0
    try:
        for piece in json.JSONEncoder(ensure_ascii=False, allow_nan=False).iterencode(entry.value):
            pieces.append(piece)
            length += len(piece)
            if length > MAX_REGISTERED_BYTES:
                return PackDocument(entry.pack, name, b"", entry.key, f"{name}: {TOO_MUCH}")
    except (TypeError, ValueError, RecursionError) as error:
        fault = f"{name}: a registered flow holds texts, numbers, lists and maps only ({str(error)[:200]})"
        return PackDocument(entry.pack, name, b"", entry.key, fault)
    return PackDocument(entry.pack, name, "".join(pieces).encode("utf-8", "replace"), entry.key)


def _unreadable(subject: str) -> Mishap:
    return Mishap(
        "flow_copy_unreadable", subject, "A flow in the approved copy of a Pack can't be read",
        "The flow is not there until it can. Approve the Pack again (rumi pack review); a new copy is made then.",
    )  # fmt: skip


def _of(host: Host, pack_id: str) -> list[PackDocument]:
    grant = host.approvals.grant(pack_id)
    if grant is None:
        return []
    root = host.approvals.copy_path(grant.digest)
    claims = {name.removeprefix(flow_claim("")): at for name, at in grant.since.items() if is_flow_claim(name)}
    since = MappingProxyType(claims)
    found = []
    for path, fingerprint in sorted(grant.files.items()):
        if not is_flow_path(path):
            continue
        with costs_only_itself(host.diagnostics.mishap, _unreadable(f"{pack_id}:{path}")):
            data = read_bounded(root / path, MAX_FLOW_BYTES)
            if hashlib.sha256(data).hexdigest() == fingerprint.sha256:
                found.append(PackDocument(pack_id, f"{pack_id}:{path}", data, since=since))
    return found
