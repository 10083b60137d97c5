"""Files as a version on trial sees and changes them: what is there, under what it wrote itself.

Invariants:
  * Nothing below the base changes before ``settle``; nothing of the trial stays when it is thrown away. After it, what
    is still under way goes straight to the base.
  * ``touched`` answers for every path that the trial has read, looked at, listed or written, and for everything once
    that can't be remembered any more: whoever changes such a path meanwhile has made the trial stale.
  * Every access passes ``Confined``, below and above.

Not here: who may access what, quotas (``userdata_manager``), when a trial settles (``handlers.takeover``).
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from backend_core.errors import NotFoundError, RequestError, TooLargeError, quote
from backend_core.files import Confined, FileInfo
from core_runtime.drivers.faults import hit
from core_runtime.drivers.store import discard

MAX_SEEN = 20_000
MAX_FILE_BYTES = 64 * 1024 * 1024


class Overlay:
    """The part of ``Confined`` that Packs' files need. Thread-safe."""

    def __init__(self, base: Confined, folder: Path) -> None:
        """``folder``: a new, empty one; it is removed by ``close``."""
        self._base = base
        self._folder = folder
        self._own = Confined(folder)
        self._lock = threading.RLock()
        self._written: set[str] = set()
        self._deleted: set[str] = set()
        self._seen: set[str] = set()
        self._everything = self._settled = False

    def read(self, path: str, limit_bytes: int) -> bytes:
        """As ``Confined.read``."""
        with self._lock:
            return self._layer(path).read(path, limit_bytes)

    def write(self, path: str, data: bytes) -> None:
        """As ``Confined.write``, beside what is there."""
        with self._lock:
            if self._settled:
                self._base.write(path, data)
                return
            if path not in self._written:
                self._replaceable(path)
            self._own.write(path, data)
            self._written.add(path)
            self._deleted.discard(path)

    def delete(self, path: str) -> bool:
        """As ``Confined.delete``, without touching what is there."""
        with self._lock:
            if self._settled:
                return self._base.delete(path)
            try:
                found = self._layer(path).stat(path).kind == "file"
            except NotFoundError:
                found = False
            if path in self._written:
                self._own.delete(path)
                self._written.discard(path)
            if found:
                self._deleted.add(path)
            return found

    def stat(self, path: str) -> FileInfo:
        """As ``Confined.stat``."""
        with self._lock:
            with contextlib.suppress(NotFoundError):
                if self._settled:
                    return self._base.stat(path)
                return self._own.stat(path)
            return self._layer(path).stat(path)

    def walk(self, prefix: str, limit_entries: int) -> list[tuple[str, FileInfo]]:
        """As ``Confined.walk``."""
        with self._lock:
            self._see(prefix)
            found: dict[str, FileInfo] = {}
            missing = 0
            for layer in (self._base,) if self._settled else (self._base, self._own):
                try:
                    found.update(layer.walk(prefix, limit_entries))
                except NotFoundError:
                    missing += 1
            if missing and not found:
                raise NotFoundError("No such folder", code="not_found")
            if len(found) > limit_entries:
                raise TooLargeError("Too many files", code="too_many_files", detail=f"More than {limit_entries}.")
            return sorted((path, info) for path, info in found.items() if path not in self._deleted)

    def touched(self, path: str) -> bool:
        """Whether what the trial did depends on ``path``, or on a folder that it lies in."""
        with self._lock:
            if self._everything:
                return True
            parts = path.split("/")
            return any("/".join(parts[:depth]) in self._seen for depth in range(1, len(parts) + 1))

    def settle(self) -> None:
        """Make what the trial wrote and deleted true below the base, file by file."""
        with self._lock:
            for path in sorted(self._deleted):
                self._base.delete(path)
            for path in sorted(self._written):
                hit("takeover.file")
                self._base.write(path, self._own.read(path, MAX_FILE_BYTES))
            self._written.clear()
            self._deleted.clear()
            self._settled = True

    def close(self) -> None:
        """Throw away what the trial wrote and has not been settled; idempotent."""
        with self._lock:
            self._own.close()
            discard(self._folder)

    def _layer(self, path: str) -> Confined:
        """Where ``path`` is looked up."""
        self._see(path)
        if path in self._written:
            return self._own
        if path in self._deleted:
            raise NotFoundError("No such file", code="not_found", detail="It was deleted.")
        return self._base

    def _replaceable(self, path: str) -> None:
        """What could not be written below can't be written here either."""
        with contextlib.suppress(NotFoundError):
            if self._layer(path).stat(path).kind == "folder":
                raise RequestError("Path refused", code="path_refused", detail=f"{quote(path)} is a folder.")

    def _see(self, path: str) -> None:
        if len(self._seen) >= MAX_SEEN:
            self._everything = True
        else:
            self._seen.add(path)
