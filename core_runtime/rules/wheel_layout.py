"""What of a wheel is unpacked, and where: decided from its list of members alone, before a byte is written. Pure.

Invariants:
  * A target is a relative path of plain names; nothing leaves the folder, whatever a member is called.
  * Links, devices, encrypted members, unknown compressions, twins, duplicates, a file where a folder is, and more than
    ``WheelLimits`` refuse the wheel whole.
  * Left out are what Python or a shell would run by itself: ``.pth`` files, ``sitecustomize``, ``usercustomize``, and
    compiled bytecode; and what is of no use inside: scripts, headers and data files. What is left out is named.

Not here: reading the archive (``drivers.wheel_archive``), hashes.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from core_runtime.rules.archive import Collisions, name_fault
from core_runtime.rules.findings import NATIVE_SUFFIXES, STARTUP_NAMES

STORED, DEFLATED = 0, 8
_ENCRYPTED: Final = 0x1
_ROOTS: Final = frozenset({"purelib", "platlib"})
_LEFT: Final = frozenset({"scripts", "headers", "data"})
_STARTUP_STEMS: Final = frozenset(name.rpartition(".")[0] for name in STARTUP_NAMES)
RECORD: Final = "RECORD"


class WheelLimits(Struct, frozen=True):
    """How large a wheel may become. ``ratio`` counts once ``ratio_from_bytes`` are exceeded: text packs well."""

    members: int = 20_000
    total_bytes: int = 1024 * 1024 * 1024
    archive_bytes: int = 512 * 1024 * 1024
    ratio: int = 100
    ratio_from_bytes: int = 16 * 1024 * 1024
    depth: int = 40
    path_bytes: int = 900
    name_bytes: int = 200


LIMITS: Final = WheelLimits()


class Member(Struct, frozen=True):
    """One entry of the archive, as its central directory tells."""

    path: str
    size: int
    packed: int
    mode: int
    flags: int = 0
    compression: int = STORED


class Layout(Struct, frozen=True):
    """``files``: member path → path below the folder. ``left_out``: member paths that are not unpacked."""

    files: dict[str, str]
    left_out: tuple[str, ...]
    record: str
    native: tuple[str, ...]
    total_bytes: int


class Refused(Struct, frozen=True):
    """Why a wheel is not unpacked; ``path`` is the member, ``""`` for the whole."""

    path: str
    reason: str


def lay_out(members: Sequence[Member], archive_bytes: int, stem: str, limits: WheelLimits = LIMITS) -> Layout | Refused:
    """Decide about a whole wheel.

    Args:
        members: every entry, folders (``…/``) among them.
        archive_bytes: size of the file that they are packed in.
        stem: ``name-version`` of the file's own name; it also names ``….dist-info`` and ``….data`` (any spelling).
        limits: bounds.
    """
    total = sum(one.size for one in members)
    fault = _too_large(members, archive_bytes, total, limits)
    if fault:
        return Refused("", fault)
    info, data = _own_folder(members, stem, ".dist-info"), _own_folder(members, stem, ".data")
    files: dict[str, str] = {}
    left: list[str] = []
    for one in members:
        target = None if (fault := _fault(one, limits)) else _target(one.path, data)
        if target is None or one.path in files:
            unknown = "lies in a part of a wheel that is unknown" if target is None else "is there twice"
            return Refused(one.path, fault or unknown)
        if target and not one.path.endswith("/") and not _runs_by_itself(target):
            files[one.path] = target
        elif not one.path.endswith("/"):
            left.append(one.path)
    clash = collision(files.values())
    if clash:
        return Refused(*clash)
    record = f"{info}/{RECORD}"
    if record not in files:
        return Refused(record, "is missing, so that nothing says what belongs to it")
    native = tuple(sorted(path for path in files.values() if is_native(path)))
    return Layout(files, tuple(sorted(left)), record, native, total)


def collision(paths: Iterable[str]) -> tuple[str, str] | None:
    """The first path that can't stand beside the others, and why; also for several wheels in one folder."""
    names = Collisions()
    for path in paths:
        fault = names.add(path)
        if fault:
            return path, fault
    return None


def is_native(path: str) -> bool:
    """Whether a path is named as machine code is (``x.so``, ``libx.so.1``)."""
    name = path.rpartition("/")[2].lower()
    return any(name.endswith(suffix) or f"{suffix}." in name for suffix in NATIVE_SUFFIXES)


def _too_large(members: Sequence[Member], archive_bytes: int, total: int, limits: WheelLimits) -> str:
    packed = sum(one.packed for one in members)
    if len(members) > limits.members:
        return f"holds more than {limits.members} files"
    if packed > archive_bytes:
        return "holds members that overlap"
    if total > limits.total_bytes:
        return f"unpacks to {total} bytes; {limits.total_bytes} are allowed"
    if total > limits.ratio_from_bytes and total > packed * limits.ratio:
        return f"unpacks to {total} bytes from {packed}: more than {limits.ratio} times as much"
    return ""


def _own_folder(members: Sequence[Member], stem: str, ending: str) -> str:
    """The top folder that belongs to the wheel: tools differ in case and in ``-``, ``_``, ``.`` of the name."""
    wanted = re.sub(r"[-_.]+", "_", stem).lower()
    tops = {one.path.partition("/")[0] for one in members}
    ours = (top for top in sorted(tops) if top.endswith(ending))
    return next(
        (top for top in ours if re.sub(r"[-_.]+", "_", top.removesuffix(ending)).lower() == wanted), stem + ending
    )


def _fault(one: Member, limits: WheelLimits) -> str:
    fault = name_fault(one.path.removesuffix("/"), limits)
    if fault:
        return fault
    kind = stat.S_IFMT(one.mode)
    if kind not in {0, stat.S_IFDIR if one.path.endswith("/") else stat.S_IFREG}:
        return "is a link, a device or something else that is no file"
    if one.flags & _ENCRYPTED:
        return "is encrypted"
    if one.compression not in {STORED, DEFLATED}:
        return f"is compressed in a way ({one.compression}) that is not read here"
    return ""


def _target(path: str, data: str) -> str | None:
    """Where a member goes; ``""`` = left out, None = unknown."""
    head, _, rest = path.partition("/")
    if head != data:
        return path
    part, _, inner = rest.partition("/")
    if part in _ROOTS and inner:
        return inner
    return "" if not inner or part in _LEFT else None  # the entries of these folders themselves hold nothing


def _runs_by_itself(path: str) -> bool:
    name = path.rpartition("/")[2].lower()
    stem = name.partition(".")[0]
    return (
        name.endswith((".pth", ".pyc", ".pyo"))
        or name in STARTUP_NAMES
        or path.partition("/")[0].partition(".")[0].lower() in _STARTUP_STEMS
        or (stem in _STARTUP_STEMS and is_native(path))
    )
