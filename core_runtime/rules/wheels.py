"""Wheels by their names: what a file name promises, and whether that fits a sandbox's Python. Pure.

Source of names and tags: the packaging specifications "binary distribution format" and "platform compatibility tags".

Not here: what is inside of a wheel (``wheel_layout``), which wheels a Pack gets (``dependencies``).
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from backend_core.ecosystem.requirements import normal_name

MAX_NAME_CHARS: Final = 250
_NAME: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._]{0,98}[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9._+!]{1,100})"
    r"(?:-(?P<build>[0-9][A-Za-z0-9._]{0,40}))?"
    r"-(?P<python>[A-Za-z0-9._]{1,80})-(?P<abi>[A-Za-z0-9._]{1,80})-(?P<platform>[A-Za-z0-9._]{1,120})\.whl"
)
_SUFFIX: Final = re.compile(r"\.cpython-[0-9]+[a-z]*-(?P<machine>[a-z0-9_]+)-linux-(?P<libc>gnu|musl)[a-z0-9]*\.so")
_LIBC: Final = re.compile(r"glibc-(?P<major>[0-9]{1,3})\.(?P<minor>[0-9]{1,3})")
_MANYLINUX: Final = re.compile(r"manylinux_(?P<major>[0-9]{1,3})_(?P<minor>[0-9]{1,3})_(?P<machine>[a-z0-9_]+)")
_OLD_MANYLINUX: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
_MUSLLINUX: Final = re.compile(r"musllinux_1_(?P<minor>[0-9]{1,2})_(?P<machine>[a-z0-9_]+)")
OLDEST_GLIBC: Final = 5
"""``manylinux_2_5``, the oldest that wheels are made for."""
NEWEST_MUSL: Final = 2
"""musl does not tell its version here; ``musllinux_1_2`` runs on everything that is still supported."""


class Target(Struct, frozen=True):
    """A sandbox's Python, for which packages are chosen. ``libc`` is ``(major, minor)`` of glibc, ``()`` for musl."""

    python: tuple[int, int, int]
    machine: str
    libc: tuple[int, ...]

    @property
    def words(self) -> str:
        """``cpython-3.11 linux x86_64 glibc-2.36``; the micro version chooses no wheel."""
        libc = f"glibc-{self.libc[0]}.{self.libc[1]}" if self.libc else "musl"
        return f"cpython-{self.python[0]}.{self.python[1]} linux {self.machine} {libc}"

    @property
    def abi(self) -> str:
        """``cp311``."""
        return f"cp{self.python[0]}{self.python[1]}"

    def environment(self) -> dict[str, str]:
        """The values of environment markers."""
        full = ".".join(map(str, self.python))
        return {
            "python_version": f"{self.python[0]}.{self.python[1]}",
            "python_full_version": full,
            "implementation_version": full,
            "os_name": "posix",
            "sys_platform": "linux",
            "platform_machine": self.machine,
            "platform_system": "Linux",
            "platform_python_implementation": "CPython",
            "implementation_name": "cpython",
        }

    def platforms(self) -> tuple[str, ...]:
        """Every platform tag that runs there, best first; for tools that ask for them by name."""
        if not self.libc:
            return tuple(f"musllinux_1_{minor}_{self.machine}" for minor in range(NEWEST_MUSL, -1, -1))
        major, newest = self.libc
        found = [f"manylinux_{major}_{minor}_{self.machine}" for minor in range(newest, OLDEST_GLIBC - 1, -1)]
        old = [f"{name}_{self.machine}" for name, oldest in _OLD_MANYLINUX.items() if oldest <= self.libc]
        return (*found, *reversed(old), f"linux_{self.machine}")


class WheelName(Struct, frozen=True):
    """A wheel's file name, taken apart. ``name`` is normal."""

    filename: str
    name: str
    version: str
    build: str
    pythons: tuple[str, ...]
    abis: tuple[str, ...]
    platforms: tuple[str, ...]

    @property
    def pure(self) -> bool:
        """Whether the name promises that nothing in it is made for one machine."""
        return self.platforms == ("any",)


def parse_wheel_name(filename: str) -> WheelName | None:
    """None for what is no wheel's name."""
    match = _NAME.fullmatch(filename) if len(filename) <= MAX_NAME_CHARS else None
    if match is None:
        return None
    return WheelName(
        filename,
        normal_name(match["name"]),
        match["version"].lower().replace("_", "+", 1) if "+" not in match["version"] else match["version"].lower(),
        match["build"] or "",
        tuple(match["python"].split(".")),
        tuple(match["abi"].split(".")),
        tuple(match["platform"].split(".")),
    )


def target_of(version: tuple[int, int], micro: int, extension_suffix: str, libc: str) -> Target | None:
    """The target that a Python describes by what it answers; None for one that no wheel is chosen for."""
    match = _SUFFIX.fullmatch(extension_suffix)
    if match is None:
        return None
    glibc = _LIBC.fullmatch(libc)
    if (match["libc"] == "gnu") is not (glibc is not None):
        return None
    known = (int(glibc["major"]), int(glibc["minor"])) if glibc else ()
    return Target((*version, micro), match["machine"], known)


def preference(wheel: WheelName, target: Target) -> tuple[int, ...] | None:
    """How well a wheel fits, greater is better; None when it does not."""
    platform = max((_platform(tag, target) for tag in wheel.platforms), default=-1)
    code = max((_code(python, abi, target) for python in wheel.pythons for abi in wheel.abis), default=-1)
    if platform < 0 or code < 0:
        return None
    return (code, platform, int(re.match(r"[0-9]*", wheel.build).group() or 0))  # type: ignore[union-attr]


def _code(python: str, abi: str, target: Target) -> int:
    """Rank of one pair of Python and ABI tag, -1 when it does not run there."""
    major, minor = target.python[:2]
    match = re.fullmatch(r"(cp|py)([0-9])([0-9]{0,2})", python)
    if match is None or int(match[2]) != major:
        return -1
    at_least = int(match[3]) if match[3] else 0
    if match[1] == "cp" and abi == target.abi and at_least == minor:
        return 4000
    if match[1] == "cp" and abi == "abi3" and at_least <= minor:
        return 3000 + at_least
    if match[1] == "cp" and abi == "none" and match[3] and at_least == minor:
        return 2000
    if match[1] == "py" and abi == "none" and at_least <= minor:
        return 1000 + at_least
    return -1


def _platform(tag: str, target: Target) -> int:
    """Rank of one platform tag, -1 when it does not run there."""
    if tag == "any":
        return 0
    manylinux, musl = _MANYLINUX.fullmatch(tag), _MUSLLINUX.fullmatch(tag)
    if musl is not None:
        fits = not target.libc and musl["machine"] == target.machine and int(musl["minor"]) <= NEWEST_MUSL
        return 10 + int(musl["minor"]) if fits else -1
    if not target.libc:
        return -1
    if manylinux is not None:
        wanted = (int(manylinux["major"]), int(manylinux["minor"]))
        fits = manylinux["machine"] == target.machine and wanted[0] == target.libc[0] and wanted <= target.libc
        return 10 + wanted[1] if fits else -1
    old, _, machine = tag.partition("_")
    if machine != target.machine:
        return -1
    if old in _OLD_MANYLINUX:
        return 10 + _OLD_MANYLINUX[old][1] if _OLD_MANYLINUX[old] <= target.libc else -1
    return 5 if old == "linux" else -1
