"""The sandbox policy: (Pack, grant, limits, machine) → ``SandboxSpec``, and how isolation levels compare. Pure.

Invariants:
  * No field of a ``SandboxSpec`` can express privileged mode, a host namespace, an engine socket, an added capability,
    a network or a writable Pack directory. What can't be said can't be rendered.
  * A ``SandboxSpec`` that exists is valid: every field is checked at construction (``ValueError`` names it), so that
    no renderer has to escape anything.
  * Levels are ordered ``reduced < standard < strong``; a start needs driver *and* level at least as good as granted.

Not here: how a spec becomes engine options (``docker_config``) or arguments (``bwrap_argv``); ``isolation``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

MIB = 1024 * 1024

PACK_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
INSTALLATION_ID = re.compile(r"[a-z0-9]{8,64}")
DIGEST = re.compile(r"(sha256:)?[0-9a-f]{64}")
MAX_ID = 2**31 - 2
"""Greatest uid or gid: (uid_t)-1 means "unchanged" to the kernel, and engines read ids as signed 32-bit numbers."""

PACK_MOUNT = "/pack"
RUNTIME_MOUNT = "/opt/rumi"
PACKAGES_MOUNT = "/packages"
SOCKET_MOUNT = "/run/rumi/bus.sock"
AGENT_COMMAND = (
    "-I",
    "-S",
    "-c",
    f"import sys; sys.path.insert(0, {RUNTIME_MOUNT!r}); import container_agent; container_agent.main()",
    "--socket",
    SOCKET_MOUNT,
)
"""Arguments of the sandbox's Python. ``-I -S``: no user site, no ``.pth`` file, no ``PYTHON*`` variable."""
AGENT_COMMAND_STDIO = (*AGENT_COMMAND[:-2], "--stdio")
"""The same where no socket can be mounted: the bus is what the sandbox was started with as descriptors 0 and 1."""

ENVIRONMENT: Mapping[str, str] = {
    "HOME": "/tmp",  # noqa: S108 - inside the sandbox: its own size-limited tmpfs
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "TMPDIR": "/tmp",  # noqa: S108
}
"""Everything a sandbox's processes find in their environment: constants, nothing of the host."""


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


class Limits(Struct, frozen=True):
    """Resource limits of one sandbox. On by default; a ``resources`` grant may raise them."""

    memory_bytes: int = 256 * MIB
    cpus: float = 0.5
    pids: int = 128
    files: int = 256
    tmp_bytes: int = 64 * MIB
    log_bytes_per_s: int = 64 * 1024
    log_bytes_kept: int = 1024 * 1024


FLOOR = Limits(
    memory_bytes=32 * MIB, cpus=0.01, pids=8, files=32, tmp_bytes=MIB, log_bytes_per_s=1024, log_bytes_kept=4096
)
"""Below this an agent can't start; asking for less is a mistake to name, not a sandbox that dies at once."""

CEILING = Limits(
    memory_bytes=1 << 40,
    cpus=1024.0,
    pids=1 << 16,
    files=1 << 16,
    tmp_bytes=1 << 36,
    log_bytes_per_s=1 << 26,
    log_bytes_kept=1 << 28,
)
"""No operator means more than this; it also keeps every product (nanoseconds of CPU, bytes) within 63 bits."""


class SandboxSpec(Struct, frozen=True):
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
    packages_dir: str = ""
    """The verified set of the Pack's Python packages (read-only at ``/packages``); ``""`` for a Pack without any."""

    def __post_init__(self) -> None:
        """Refuse what no renderer may see.

        Raises:
            ValueError: naming the field. Such a value is a fault of the host or an attack, never a Pack's normal input.
        """
        _matches("pack_id", self.pack_id, PACK_ID)
        _matches("installation_id", self.installation_id, INSTALLATION_ID)
        _matches("digest", self.digest, DIGEST)
        _within("generation", self.generation, 1, 2**53)
        _within("uid", self.uid, 1, MAX_ID)  # 0 would be root of the host
        _within("gid", self.gid, 1, MAX_ID)
        for name in ("pack_dir", "runtime_dir", "socket_path"):
            _plain_path(name, getattr(self, name))
        if self.packages_dir != "":
            _plain_path("packages_dir", self.packages_dir)
        for name in Limits.__struct_fields__:
            _within(f"limits.{name}", getattr(self.limits, name), getattr(FLOOR, name), getattr(CEILING, name))


class Isolation(Struct, frozen=True):
    """What isolates a Pack: ``driver`` and ``level``; ``source`` tells ``measured`` (host looked) from ``reported``."""

    driver: DriverKind
    level: Level
    source: str = "measured"
    findings: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


class MachineLimits(Struct, frozen=True):
    """What the machine has: no sandbox is promised more than this."""

    memory_bytes: int
    cpus: int


def limits_from_grant(resources: Mapping[str, Any], machine: MachineLimits, base: Limits | None = None) -> Limits:
    """Raise the default limits by a granted ``resources`` permission, never beyond the machine.

    Args:
        resources: the granted parameters ``memory_mb``, ``cpu``, ``pids``, ``tmp_mb``; others are not of this module.
        machine: the machine's own measures.
        base: the operator's defaults.

    Raises:
        ValueError: a parameter is no number, or outside ``FLOOR`` and ``CEILING``.
    """
    start = base or Limits()
    memory = round(_number(resources, "memory_mb", start.memory_bytes / MIB) * MIB)
    tmp = round(_number(resources, "tmp_mb", start.tmp_bytes / MIB) * MIB)
    return Limits(
        memory_bytes=min(memory, machine.memory_bytes),
        cpus=min(_number(resources, "cpu", start.cpus), float(machine.cpus)),
        pids=round(_number(resources, "pids", start.pids)),
        files=start.files,
        tmp_bytes=min(tmp, machine.memory_bytes),
        log_bytes_per_s=start.log_bytes_per_s,
        log_bytes_kept=start.log_bytes_kept,
    )


def within(limits: Limits, machine: MachineLimits) -> Limits:
    """The same limits, no more than a machine has: an engine's may be smaller than the host's, and refuses more."""
    return replace(
        limits,
        memory_bytes=min(limits.memory_bytes, max(machine.memory_bytes, FLOOR.memory_bytes)),
        cpus=min(limits.cpus, float(max(machine.cpus, 1))),
    )


def build_spec(
    *,
    pack_id: str,
    generation: int,
    installation_id: str,
    uid: int,
    gid: int,
    pack_dir: str,
    runtime_dir: str,
    socket_path: str,
    digest: str,
    machine: MachineLimits,
    resources: Mapping[str, Any] | None = None,
    defaults: Limits | None = None,
) -> SandboxSpec:
    """The one way from a grant to a sandbox. Nothing of the Pack's own metadata is an input, apart from its id.

    Raises:
        ValueError: some value can't be part of a sandbox; the text names the field.
    """
    return SandboxSpec(
        pack_id=pack_id,
        generation=generation,
        installation_id=installation_id,
        uid=uid,
        gid=gid,
        pack_dir=pack_dir,
        runtime_dir=runtime_dir,
        socket_path=socket_path,
        digest=digest,
        limits=limits_from_grant(resources or {}, machine, defaults),
    )


def at_least(measured: Isolation, granted: Isolation) -> bool:
    """Whether ``measured`` is as good as ``granted``: driver and level each, no trading one for the other."""
    return measured.driver.rank >= granted.driver.rank and measured.level >= granted.level


def _matches(name: str, value: object, pattern: re.Pattern[str]) -> None:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ValueError(f"{name}: expected {pattern.pattern}, got {value!r:.80}")


def _within(name: str, value: object, low: float, high: float) -> None:
    # a bool is an int to Python, and NaN passes no comparison: both end here
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {value!r:.40}")


def _plain_path(name: str, path: object) -> None:
    if (
        not isinstance(path, str)
        or not path.startswith("/")
        or path.startswith("//")
        or posixpath.normpath(path) != path
        or path == "/"
        or not path.isprintable()  # control characters, bidi marks and lone surrogates
        or len(path) > 4000
    ):
        raise ValueError(f"{name}: expected a plain absolute path, got {path!r:.80}")


def _number(params: Mapping[str, Any], key: str, default: float) -> float:
    value = params.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value < 0:  # noqa: PLR0124 - NaN
        raise ValueError(f"resources.{key}: expected a number, got {value!r:.40}")
    return min(float(value), 2.0**50)
