"""The sandbox policy: (Pack, grant, limits, machine) → ``SandboxSpec``, and how isolation levels compare. Pure.

Invariants:
  * No field of a ``SandboxSpec`` can express privileged mode, a host namespace, an engine socket, an added capability,
    a network or a writable Pack directory. What can't be said can't be rendered.
  * Levels are ordered ``reduced < standard < strong``; a start needs driver *and* level at least as good as granted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Level(IntEnum):
    """Effective isolation, measured. Source of the definitions: sandbox design, "Effective isolation is measured"."""

    NONE = 0
    REDUCED = 1
    STANDARD = 2
    STRONG = 3


class DriverKind(StrEnum):
    """Isolation drivers; ``rank`` orders them for "at least as good as granted"."""

    DOCKER = "docker"
    EMBEDDED = "embedded"

    @property
    def rank(self) -> int:
        """Docker ranks above the embedded sandbox."""
        return {DriverKind.DOCKER: 2, DriverKind.EMBEDDED: 1}[self]


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits of one sandbox. On by default; a ``resources`` grant may raise them."""

    memory_bytes: int = 256 * 1024 * 1024
    cpus: float = 0.5
    pids: int = 128
    files: int = 256
    tmp_bytes: int = 64 * 1024 * 1024
    log_bytes_per_s: int = 64 * 1024
    log_bytes_kept: int = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox to start. Paths are absolute host paths that the host itself made.

    ``pack_dir`` is the verified copy in the store (mounted read-only at ``/pack``), ``runtime_dir`` holds the agent
    (read-only at ``/opt/rumi``), ``socket_path`` the Pack's bus socket (appears as ``/run/rumi/bus.sock``).
    """

    pack_id: str
    generation: int
    installation_id: str
    uid: int
    gid: int
    pack_dir: str
    runtime_dir: str
    socket_path: str
    digest: str
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Isolation:
    """What isolates a Pack: ``driver`` and ``level``; ``source`` tells ``measured`` (host looked) from ``reported``."""

    driver: DriverKind
    level: Level
    source: str = "measured"
    findings: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)
