"""What of an archive is unpacked, and where: decided member by member, before a byte of it is written. Pure.

Invariants:
  * A target is a relative path of plain names; nothing leaves the folder, whatever a member is called.
  * Links, devices, twins, duplicates, a file where a folder is, invisible characters, and more than ``ArchiveLimits``
    refuse the archive whole. No list of exceptions: hidden files count as any other.
  * Sizes are those that were told; whoever writes counts again what really came.

Not here: reading archives (``drivers.archive``), what makes a folder a Pack (``backend_core.ecosystem``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from enum import Enum
from typing import Final, Protocol

from msgspec import Struct, field

from core_runtime.rules.digest import twin_key

MARKER: Final = "backend/ecosystem.json"
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


class NameLimits(Protocol):
    """How long paths may be."""

    @property
    def depth(self) -> int: ...
    @property
    def path_bytes(self) -> int: ...
    @property
    def name_bytes(self) -> int: ...


class ArchiveLimits(Struct, frozen=True):
    """How large an archive may become. ``folders`` counts those that only a path names, too.

    ``ratio`` counts once ``ratio_from_bytes`` are exceeded: text packs well.
    """

    members: int = 20_000
    folders: int = 20_000
    total_bytes: int = 2 * 1024**3
    archive_bytes: int = 1024**3
    ratio: int = 100
    ratio_from_bytes: int = 16 * 1024**2
    depth: int = 66
    path_bytes: int = 1024
    name_bytes: int = 255


LIMITS: Final = ArchiveLimits()


class Kind(Enum):
    """What a member is."""

    FILE = "file"
    FOLDER = "folder"
    OTHER = "other"


class Member(Struct, frozen=True):
    """One entry as the archive tells of it; ``size`` in bytes, unpacked."""

    path: str
    kind: Kind
    size: int = 0
    executable: bool = False


class Refused(Struct, frozen=True):
    """Why an archive is not unpacked; ``path`` is the member, ``""`` for the whole."""

    path: str
    reason: str


class Collisions:
    """Paths that can't stand beside each other on every system: twins, duplicates, a file where a folder is."""

    __slots__ = ("_files", "_folders", "_spelt")

    def __init__(self) -> None:
        self._spelt: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    @property
    def folders(self) -> int:
        """How many there are, those that only a path goes through among them."""
        return len(self._folders)

    def add(self, path: str, *, folder: bool = False) -> str:
        """Why ``path`` can't stand beside those before, or ``""``. Folders may come any number of times."""
        parts = path.split("/")
        keys = [twin_key(part) for part in parts]
        for depth in range(1, len(parts) + 1):
            part, key = "/".join(parts[:depth]), "/".join(keys[:depth])
            other = self._spelt.setdefault(key, part)
            if other != part:
                return f"and {other!r} are one name to some systems"
            if depth < len(parts) or folder:
                if key in self._files:
                    return f"needs a folder where {self._files[key]!r} is a file"
                self._folders[key] = part
        key = "/".join(keys)
        if not folder:
            if key in self._files:
                return "is there twice"
            if key in self._folders:
                return "is a file where a folder is"
            self._files[key] = path
        return ""


class Intake(Struct):
    """Decides about one member after the other of one archive of ``archive_bytes``."""

    archive_bytes: int
    limits: ArchiveLimits = LIMITS
    total: int = 0
    files: list[str] = field(default_factory=list)
    _members: int = 0
    _names: Collisions = field(default_factory=Collisions)

    def take(self, member: Member) -> Refused | None:
        """Whether it may be written to ``member.path``; ``None`` says yes."""
        self._members += 1
        path = member.path.removesuffix("/")
        fault = name_fault(path, self.limits)
        if fault:
            return Refused(member.path, fault)
        if member.kind is Kind.OTHER:
            return Refused(member.path, "is a link, a device or something else that is no file")
        if self._members > self.limits.members:
            return Refused("", f"holds more than {self.limits.members} files")
        fault = self._names.add(path, folder=member.kind is Kind.FOLDER)
        if fault:
            return Refused(member.path, fault)
        if self._names.folders > self.limits.folders:
            return Refused("", f"holds more than {self.limits.folders} folders")
        if member.kind is Kind.FILE:
            self.files.append(path)
            return self._count(member.size)
        return None

    def _count(self, size: int) -> Refused | None:
        self.total += size
        if self.total > self.limits.total_bytes:
            return Refused("", f"unpacks to more than {self.limits.total_bytes} bytes")
        if self.total > max(self.limits.ratio_from_bytes, self.archive_bytes * self.limits.ratio):
            return Refused("", f"unpacks to more than {self.limits.ratio} times its size")
        return None


def name_fault(path: str, limits: NameLimits) -> str:
    """Why a member's path (without the ``/`` that marks a folder) can't be a path of ours, or ``""``."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\\" in path or ":" in parts[0]:
        return "is absolute, empty, or written for another system"
    if any(part in {"", ".", ".."} for part in parts):
        return "leaves the folder or has an empty step"
    if any(unicodedata.category(character) in _HIDDEN for character in path):
        return "has a control, bidi or otherwise invisible character in its name"
    if unicodedata.normalize("NFC", path) != path:
        return "has a name that is not in the usual Unicode form"
    if len(parts) > limits.depth or len(path.encode()) > limits.path_bytes:
        return f"is deeper than {limits.depth} or longer than {limits.path_bytes} bytes"
    if any(len(part.encode()) > limits.name_bytes for part in parts):
        return f"has a name of more than {limits.name_bytes} bytes"
    return ""


def root_of(files: Iterable[str]) -> str | None:
    """The folder of the archive that is the Pack: ``""`` for the archive's own top, ``None`` when there is none.

    A Pack lies at the top, or everything lies in one folder that is it, as archives of repositories are made.
    """
    paths = list(files)
    if MARKER in paths:
        return ""
    tops = {path.partition("/")[0] for path in paths}
    if len(tops) == 1:
        [top] = tops
        if f"{top}/{MARKER}" in paths:
            return top
    return None
