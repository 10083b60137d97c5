"""Which Packs lie in ``ecosystem/packs``, and what each says of itself. Metadata only: nothing is run or imported.

Invariants:
  * A fault of one Pack is data in its ``PackFolder.error``; it never stops the scan of the others.
  * Two folders that claim one ``pack_id`` are both in error: which one is meant is the operator's decision.
  * The cache saves work, never decides trust: approval and start re-read and re-hash every byte elsewhere.

Not here: states and approvals (trust), start order (rules), archives and staging.
"""

from __future__ import annotations

from msgspec import Struct
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from backend_core.document import located_error
from backend_core.ecosystem.folder import READ_LIMITS, FolderReader, ReadLimits, Witness, unchanged
from backend_core.ecosystem.metadata import PACK_ID, read_metadata
from backend_core.ecosystem.spec.models import ComponentManifest, PackFolder
from backend_core.errors import AuthorError, HostError, quote

MAX_FOLDERS: Final = 20_000
TOLD_RIVALS: Final = 20
"""Folders with one id that are named: each of them is told of the others."""
RACY_S: Final = 2.0
"""A file changed this recently may change again within the same timestamp, so its reading is not remembered (the rule
by which git treats its index; 2 s is the coarsest clock of a file system in use, FAT's)."""


def scan_folder(path: Path, limits: ReadLimits = READ_LIMITS) -> PackFolder:
    """Read the metadata of the Pack at ``path``. Never raises for what a Pack contains."""
    return _scan(path, limits)[0]


def _scan(path: Path, limits: ReadLimits) -> tuple[PackFolder, Mapping[str, Witness | None]]:
    reader = FolderReader(str(path), limits)
    # a name that is not UTF-8 could not be shown, stored or sent
    folder = os.fsencode(path.name).decode("utf-8", "backslashreplace")
    shown = str(path.parent / folder)
    try:
        _check_name(folder)
        metadata = read_metadata(reader, folder)
    except AuthorError as exc:
        return PackFolder(folder, shown, error=exc.as_dict()), reader.witnesses
    return PackFolder(folder, shown, metadata=metadata), reader.witnesses


def _check_name(folder: str) -> None:
    if not PACK_ID.fullmatch(folder):
        raise located_error(
            "Folder name is no Pack id", source=".", expected="a small letter, then small letters, digits, _ or -",
            found=quote(folder), hint="Rename the folder to the Pack's id, then scan again.", code="pack_id_invalid",
        )  # fmt: skip


class _Remembered(Struct, frozen=True):
    result: PackFolder
    witnesses: Mapping[str, Witness | None]


class PackRegistry:
    """The Packs of one installation. Thread-safe; a scan of unchanged folders costs a few ``lstat`` calls each."""

    def __init__(
        self, packs_dir: Path, *, limits: ReadLimits = READ_LIMITS, clock: Callable[[], float] = time.time
    ) -> None:
        self._dir = packs_dir
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[str, _Remembered] = {}
        self._read_last: dict[str, PackFolder] = {}
        self._folders: dict[str, PackFolder] | None = None

    @property
    def packs_dir(self) -> Path:
        """The folder that holds one folder for each Pack."""
        return self._dir

    def scan(self) -> dict[str, PackFolder]:
        """Folder name → what it holds, sorted by name. Raises ``HostError`` when the packs folder can't be listed."""
        with self._lock:
            names = self._names()
            self._cache = {name: kept for name, kept in self._cache.items() if name in names}
            self._read_last = {result.folder: result for result in map(self._read, names)}
            self._folders = _refuse_shared_ids(list(self._read_last.values()))
            return dict(self._folders)

    def get(self, pack_id: str) -> PackFolder | None:
        """The folder of this Pack as of the last scan; the first call scans."""
        folders = self._folders if self._folders is not None else self.scan()
        return folders.get(pack_id)

    def rescan(self, pack_id: str) -> PackFolder | None:
        """Read one folder again now, without the cache, and remember the result; ``None`` when it is gone."""
        self.get(pack_id)  # the others must be known: one of them may claim the same id
        with self._lock:
            self._cache.pop(pack_id, None)
            if pack_id in self._names():
                self._read_last[pack_id] = self._read(pack_id)
            else:
                self._read_last.pop(pack_id, None)
            self._folders = _refuse_shared_ids(list(self._read_last.values()))
            return self._folders.get(pack_id)

    def components(self) -> dict[str, ComponentManifest]:
        """Full id → component, of every readable Pack of the last scan."""
        folders = self._folders if self._folders is not None else self.scan()
        found = (folder.metadata.components for folder in folders.values() if folder.metadata)
        return {component.full_id: component for components in found for component in components}

    def _names(self) -> list[str]:
        """Names of Pack folders, hidden ones left out (staging). A link is listed, so that its refusal is seen."""
        try:
            with os.scandir(self._dir) as entries:
                names = [
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and (entry.is_symlink() or entry.is_dir(follow_symlinks=False))
                ]
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise HostError(
                "The folder of Packs can't be read",
                code="packs_unreadable",
                detail=f"{self._dir}: {exc.strerror}",
                hint=f"Make {self._dir} readable for the user that runs Rumi.",
            ) from exc
        if len(names) > MAX_FOLDERS:
            raise HostError(
                "Too many Pack folders",
                code="too_many_packs",
                detail=f"{self._dir}: expected at most {MAX_FOLDERS} folders, found {len(names)}",
                hint="Move the Packs that are not needed out of that folder.",
            )
        return sorted(names)

    def _read(self, name: str) -> PackFolder:
        path = self._dir / name
        kept = self._cache.get(name)
        if kept is not None and unchanged(str(path), kept.witnesses):
            return kept.result
        started = self._clock()
        result, witnesses = _scan(path, self._limits)
        self._cache.pop(name, None)
        if not _changed_since(witnesses, started - RACY_S):
            self._cache[name] = _Remembered(result, witnesses)
        return result


def _changed_since(witnesses: Mapping[str, Witness | None], since: float) -> bool:
    return any(seen is not None and max(seen[3], seen[4]) >= since * 1e9 for seen in witnesses.values())


def _refuse_shared_ids(results: list[PackFolder]) -> dict[str, PackFolder]:
    """Put every folder in error whose ``pack_id`` another folder claims as well."""
    claims: dict[str, list[str]] = {}
    for result in results:
        if claimed := _claimed_id(result):
            claims.setdefault(claimed, []).append(result.folder)
    out: dict[str, PackFolder] = {}
    for result in results:
        claimed = _claimed_id(result)
        if claimed and len(claims[claimed]) > 1:
            others = sorted(claims[claimed])
            more = f" and {len(others) - TOLD_RIVALS} more" if len(others) > TOLD_RIVALS else ""
            error = AuthorError(
                "Two folders claim one Pack id",
                code="pack_id_shared",
                detail=f"expected {quote(claimed)} in one folder, found {quote(', '.join(others[:TOLD_RIVALS]))}{more}.",
                hint="Remove or rename all but the one that you mean, then scan again.",
                fields={"source": "backend/ecosystem.json", "pack_id": claimed, "folders": others[:TOLD_RIVALS]},
            )
            out[result.folder] = PackFolder(result.folder, result.path, error=error.as_dict())
        else:
            out[result.folder] = result
    return out


def _claimed_id(result: PackFolder) -> str | None:
    if result.metadata is not None:
        return result.metadata.pack_id
    claimed = (result.error or {}).get("fields", {}).get("pack_id")
    return claimed if isinstance(claimed, str) else None
