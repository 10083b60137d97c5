"""What installing and running made on disk: an append-only, hash-chained journal, and removing what it lists.

Invariants of ``uninstall``:
  * Only files that the journal says were *created* are removed, only below the allowed roots, never a root itself,
    never anything protected, never through a link or a mount; a folder only when it is empty.
  * A Pack records only what lies in its own data folder: otherwise it could have others' files removed with it.
  * The default is a dry run, and both runs take the same decisions.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from msgspec import Struct

from backend_core.errors import DeniedError, RumiError, quote
from backend_core.files import open_beneath, openat2_works, split_path
from core_runtime.drivers.audit import ChainedLog
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.side_work import Report, unheard
from core_runtime.rules.chain import AuditReport

ALLOWED_ROOTS: Final = (
    "ecosystem/docker",
    "ecosystem/flows",
    "ecosystem/packs",
    "user_data/cache",
    "user_data/packs",
    "user_data/settings",
    "user_data/shared",
)
"""Relative to the installation. Everything else is protected: permissions, store, evidence, flows, the code itself."""
MAX_PATHS: Final = 200


class _Planned(Struct, frozen=True):
    path: str
    refusal: str = ""
    missing: bool = False


class InstallJournal:
    """The journal of one installation (``user_data/journal/install.jsonl``). Thread-safe."""

    def __init__(
        self, home: Path, *, clock: Callable[[], float] = time.time, report: Report = unheard
    ) -> None:
        self._home = home
        keyring = Keyring(home / "user_data" / "permissions")
        path = home / "user_data" / "journal" / "install.jsonl"
        self._log = ChainedLog(path, ".journal_head", keyring, clock=clock, report=report)

    def append(
        self,
        event: str,
        *,
        scope: str,
        ref: str,
        result: str = "success",
        created: Sequence[str] = (),
        modified: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> None:
        """Record what the host did. Paths are posix, relative to the installation; ``ref`` is a pack id, mostly."""
        record: dict[str, Any] = {
            "event": event,
            "scope": scope,
            "ref": ref,
            "result": result,
            "paths": {"created": list(created)[:MAX_PATHS], "modified": list(modified)[:MAX_PATHS]},
            "meta": dict(meta or {}),
        }
        self._log.append(record if error is None else {**record, "error": error})

    def record(self, pack_id: str, *, created: Sequence[str] = (), modified: Sequence[str] = ()) -> None:
        """What a Pack says it made, with paths relative to ``user_data``. Only its own folder is believed."""
        for path in (*created, *modified):
            parts = split_path(path)
            if parts[:2] != ("packs", pack_id) or len(parts) < 3:
                raise DeniedError(
                    "Not the Pack's own file",
                    code="journal_foreign",
                    detail=f"{quote(path)} is not below packs/{pack_id}/.",
                    hint="Record only files of the Pack's own data folder.",
                )
        self.append(
            "pack.files",
            scope="pack",
            ref=pack_id,
            created=[f"user_data/{path}" for path in created],
            modified=[f"user_data/{path}" for path in modified],
        )

    def entries(self, ref: str | None = None) -> Iterator[dict[str, Any]]:
        """Every readable record, oldest first; of one ``ref`` when given."""
        with contextlib.suppress(FileNotFoundError), self._log.path.open("rb") as file:
            for line in file:
                record = _loads(line)
                if record and (ref is None or record.get("ref") == ref):
                    yield record

    def tail(self, count: int) -> list[dict[str, Any]]:
        """The last records."""
        return self._log.tail(count)

    def verify(self) -> AuditReport:
        """Whether the journal is unchanged and complete."""
        return self._log.verify()

    def uninstall(self, ref: str | None = None, *, dry_run: bool = True) -> dict[str, Any]:
        """Remove what was created (for ``ref``, or for all), newest first; ``dry_run`` only says what would happen."""
        deleted: list[str] = []
        errors: list[dict[str, str]] = []
        plan = [self._plan(path) for path in self._created(ref)]
        for item in plan:
            if dry_run or item.refusal or item.missing:
                continue
            try:
                self._remove(item.path)
                deleted.append(item.path)
            except (OSError, RumiError) as error:
                errors.append({"path": quote(item.path), "reason": str(error)})
        if not dry_run:
            self.append("uninstall", scope="pack" if ref else "host", ref=ref or "", meta={"deleted": len(deleted)})
        return {
            "success": not errors,
            "dry_run": dry_run,
            "planned_delete": [item.path for item in plan if not item.refusal and not item.missing],
            "deleted": deleted,
            "skipped": [
                {"path": quote(item.path), "reason": item.refusal or "It does not exist any more."}
                for item in plan
                if item.refusal or item.missing
            ],
            "errors": errors,
            "policy": {"allowed_roots": list(ALLOWED_ROOTS), "follow_links": False, "folders": "empty ones only"},
        }

    # --- inside ------------------------------------------------------------------------------------------------------

    def _created(self, ref: str | None) -> list[str]:
        """Paths, deepest and newest first, each once; only records of a chain that verifies up to there count."""
        report = self.verify()
        believed = report.records if report.ok else report.bad_record - 1
        paths: dict[str, None] = {}
        for record in self.entries(ref):
            if isinstance(record.get("seq"), int) and record["seq"] <= believed:
                for path in _texts(record.get("paths", {}).get("created", ())):
                    paths[path] = None
        newest_first = list(paths)[::-1]
        return sorted(newest_first, key=lambda path: -path.count("/"))

    def _plan(self, path: str) -> _Planned:
        try:
            parts = split_path(path)
        except RumiError as error:
            return _Planned(path, error.detail)
        root = next((r for r in ALLOWED_ROOTS if PurePosixPath(path).is_relative_to(r)), None)
        if root is None:
            return _Planned(path, "It lies outside of the folders that may be cleaned.")
        if path == root:
            return _Planned(path, "It is a protected root.")
        try:
            with self._parent(parts) as folder:
                status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return _Planned(path, missing=True)
        except OSError as error:
            return _Planned(path, f"It passes a link or can't be reached ({error.strerror}).")
        if stat.S_ISLNK(status.st_mode):
            return _Planned(path, "It is a link.")
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            return _Planned(path, "It has several hard links.")
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            return _Planned(path, "It is no plain file or folder.")
        return _Planned(path)

    def _remove(self, path: str) -> None:
        parts = split_path(path)
        with self._parent(parts) as folder:
            status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.rmdir(parts[-1], dir_fd=folder)
            else:
                os.unlink(parts[-1], dir_fd=folder)

    @contextlib.contextmanager
    def _parent(self, parts: Sequence[str]) -> Iterator[int]:
        root = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_beneath(root, tuple(parts[:-1]), os.O_RDONLY | os.O_DIRECTORY, use_openat2=openat2_works())
        finally:
            os.close(root)
        try:
            yield fd
        finally:
            os.close(fd)


def _texts(value: Any) -> Iterable[str]:
    return (item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _loads(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
