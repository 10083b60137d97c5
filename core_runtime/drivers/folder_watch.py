"""Which folders below one folder look different from the last time somebody asked. Stat only: no file is opened.

Invariants:
  * A look may be wrong only towards "changed": names, modes, sizes, inodes and both times count, and the change time
    can't be set back. It is a reason to hash again, never evidence that nothing changed: trust re-hashes by itself.
  * Bounded: a folder of more than ``ENTRIES`` entries is reported as changed every time, and read no further.

Not here: hashing, states, what is done about a change.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ENTRIES = 50_000


class FolderWatch:
    """Remembers a look at every folder below ``root``. Not thread-safe: one asker."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen = self._look()

    def changed(self) -> set[str]:
        """Names of folders that came, went or look different since the last call."""
        before, self._seen = self._seen, self._look()
        return {name for name in before.keys() | self._seen.keys() if before.get(name) != self._seen.get(name)}

    def _look(self) -> dict[str, object]:
        try:
            with os.scandir(self._root) as entries:
                return {entry.name: _print_of(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)}
        except OSError:  # gone for now: everything in it is news later
            return {}


def _print_of(folder: str) -> object:
    whole = hashlib.blake2b(digest_size=16)
    waiting, left = [folder], ENTRIES
    while waiting:
        where = waiting.pop()
        try:
            with os.scandir(where) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            whole.update(f"{where}\0{error.errno}\0".encode("utf-8", "surrogateescape"))
            continue
        left -= len(found)
        if left < 0:
            return object()  # equal to nothing: looked at again each time
        for entry in found:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError as error:
                whole.update(f"{entry.path}\0{error.errno}\0".encode("utf-8", "surrogateescape"))
                continue
            facts = (
                status.st_mode,
                status.st_size,
                status.st_ino,
                status.st_nlink,
                status.st_mtime_ns,
                status.st_ctime_ns,
            )
            whole.update(f"{entry.path}\0{facts}\0".encode("utf-8", "surrogateescape"))
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
    return whole.digest()
