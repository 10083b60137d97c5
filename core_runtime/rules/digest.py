"""What the digest of a Pack is, and which trees have none. Pure.

Definition: every file below the Pack's folder, without exception, gives ``{executable, path, sha256, size}``;
``path`` is NFC, posix, relative. The list is sorted by the UTF-8 bytes of ``path``, written as canonical JSON (RFC
8785) and hashed with SHA-256: ``sha256:<64 hex>``. Folders count through their files only: an empty folder is
neither hashed nor copied.

Invariants:
  * No skip list: caches, dot files and version-control folders are part of what runs, so they are part of the digest.
  * Two names that some file system or reader would take for one (case fold, Unicode forms) refuse the whole tree.

Not here: reading files (``drivers.tree``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from json.encoder import encode_basestring

from msgspec import Struct

from backend_core.canonical import sha256_hex

PREFIX = "sha256:"


class FileEntry(Struct, frozen=True):
    """One file of a tree; ``sha256`` is 64 hex digits."""

    path: str
    executable: bool
    size: int
    sha256: str


class TreeLimits(Struct, frozen=True):
    """How large a Pack may be. Beyond them the Pack is refused, never partly hashed."""

    files: int = 20_000
    total_bytes: int = 2 * 1024**3
    depth: int = 64
    path_bytes: int = 1024


class TreeDifference(Struct, frozen=True):
    """How one tree differs from another; each path appears once, sorted."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Every path concerned, sorted."""
        return tuple(sorted((*self.added, *self.removed, *self.changed)))

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class Fingerprint(Struct, frozen=True):
    """What a grant remembers of one file: content and executable bit."""

    sha256: str
    executable: bool


def tree_digest(entries: Iterable[FileEntry]) -> str:
    """The digest of a tree; the order of ``entries`` does not matter."""
    # canonical JSON with its keys in order, spelt out: ten times faster than the general writer, which a test compares
    rows = ",".join(
        f'{{"executable":{"true" if e.executable else "false"},"path":{encode_basestring(e.path)},'
        f'"sha256":{encode_basestring(e.sha256)},"size":{e.size}}}'
        for e in sorted(entries, key=lambda entry: entry.path.encode())
    )
    return PREFIX + sha256_hex(f"[{rows}]".encode())


def normal_digest(text: str) -> str:
    """``text`` as ``sha256:<64 hex>`` (the prefix may be missing), or ``""`` when it is no digest."""
    hexadecimal = text.removeprefix(PREFIX).lower()
    well_formed = len(hexadecimal) == 64 and all(c in "0123456789abcdef" for c in hexadecimal)
    return PREFIX + hexadecimal if well_formed else ""


def fingerprints(entries: Iterable[FileEntry]) -> dict[str, Fingerprint]:
    """By path, for comparing trees."""
    return {e.path: Fingerprint(e.sha256, e.executable) for e in entries}


def difference(old: Mapping[str, Fingerprint], new: Mapping[str, Fingerprint]) -> TreeDifference:
    """What must be said to a reader who knows ``old`` and is shown ``new``."""
    return TreeDifference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
    )


def twin_key(name: str) -> str:
    """Equal for names that a case-insensitive or normalising file system, or a reader's eye, takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def twins(names: Sequence[str]) -> tuple[str, str] | None:
    """The first two names of one folder that are twins, or None."""
    seen: dict[str, str] = {}
    for name in sorted(names):
        other = seen.setdefault(twin_key(name), name)
        if other != name:
            return other, name
    return None


def normal_path(parts: Iterable[str]) -> str:
    """The path as the digest writes it."""
    return unicodedata.normalize("NFC", "/".join(parts))
