"""Names for folders: a Pack says ``data.user``, the operator decides where that is.

Invariants:
  * ``mounts.json`` is the operator's: checked for shape, then obeyed. A Pack only ever sees names and prefixes.
  * A mount reaches a Pack as a prefix below ``user_data``; one that lies elsewhere is for the host alone.

Not here: access checks and file operations (``userdata_manager``). Nothing of ``user_data`` is mounted into a sandbox.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from msgspec import Struct
from pathlib import Path
from types import MappingProxyType
from typing import Final

from backend_core.ecosystem.operator_file import load_operator_file
from backend_core.ecosystem.spec.validate import Kind
from backend_core.errors import NotFoundError, quote
from backend_core.files import write_atomic

VERSION: Final = "1.0"
DEFAULT_MOUNTS: Final[Mapping[str, str]] = MappingProxyType(
    {"data.user": "./user_data", "data.cache": "./user_data/cache"}
)


class Mounts(Struct, frozen=True):
    """The mounts of one installation. ``root`` is the folder to which ``entries`` are relative."""

    root: Path
    entries: Mapping[str, str]

    def names(self) -> tuple[str, ...]:
        """Every mount's name, sorted."""
        return tuple(sorted(self.entries))

    def path(self, name: str) -> Path:
        """The absolute folder of a mount; it need not exist. Raises ``NotFoundError``."""
        if name not in self.entries:
            raise NotFoundError(
                "Unknown mount",
                code="mount_unknown",
                detail=f"expected one of {', '.join(self.names()) or 'none'}, found {quote(name)}",
                hint="Add it to user_data/mounts.json.",
            )
        return Path(os.path.normpath(self.root / self.entries[name]))

    def prefixes(self, user_data: Path) -> Mapping[str, str]:
        """Mount → posix prefix below ``user_data`` (``""`` is all of it), for mounts that lie there."""
        found = {}
        base = Path(os.path.normpath(user_data))
        for name in self.names():
            path = self.path(name)
            if path.is_relative_to(base):
                relative = path.relative_to(base).as_posix()
                found[name] = "" if relative == "." else relative
        return MappingProxyType(found)


def default_mounts(root: Path) -> Mounts:
    """What holds where no ``mounts.json`` exists."""
    return Mounts(root, DEFAULT_MOUNTS)


def load_mounts(file: Path, root: Path) -> Mounts:
    """The mounts in ``file``, the defaults where it does not exist. Raises ``HostError`` when it can't be read."""
    document = load_operator_file(file, Kind.MOUNTS)
    if document is None:
        return default_mounts(root)
    return Mounts(root, MappingProxyType(dict(document.value["mounts"])))


def save_mounts(file: Path, mounts: Mounts) -> None:
    """Write ``mounts`` atomically."""
    document = {"version": VERSION, "mounts": dict(mounts.entries)}
    write_atomic(file, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
