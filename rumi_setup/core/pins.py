"""Reads lock files: names, versions, hashes. Pure except for `read`.

Invariant: a requirement without a hash is an error, and so is an address of a registry.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)"
    r"(?:\s*;\s*(?P<marker>.+?))?(?:\s+--hash|\s*$)"
)
_HASH = re.compile(r"--hash=sha256:(?P<digest>[0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One locked package."""

    name: str
    version: str
    marker: str
    sha256: frozenset[str]


def parse(text: str) -> tuple[Pin, ...]:
    """Raises ValueError, naming the line, for anything but hashed pins and comments."""
    pins: list[Pin] = []
    for number, logical in _logical_lines(text):
        if "://" in logical or logical.startswith("-"):
            raise ValueError(f"line {number}: a lock holds hashed pins only, no options and no addresses")
        match = _PIN.match(logical)
        if match is None:
            raise ValueError(f"line {number}: expected NAME==VERSION, got {logical[:60]!r}")
        digests = frozenset(_HASH.findall(logical))
        if not digests:
            raise ValueError(f"line {number}: {match['name']} has no hash")
        pins.append(Pin(match["name"].lower(), match["version"], (match["marker"] or "").strip(), digests))
    return tuple(pins)


def read(path: Path) -> tuple[Pin, ...]:
    return parse(path.read_text(encoding="utf-8"))


def _logical_lines(text: str) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    buffer, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not buffer and (not stripped or stripped.startswith("#")):
            continue
        began = began if buffer else number
        if stripped.endswith("\\"):
            buffer += stripped[:-1] + " "
            continue
        found.append((began, (buffer + stripped).strip()))
        buffer = ""
    if buffer:
        found.append((began, buffer.strip()))
    return found


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
