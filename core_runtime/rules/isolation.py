"""What the host saw of a sandbox + what the agent reported from inside → ``Isolation``. Pure.

Invariants:
  * A claim is worth what the weaker of its two witnesses says; the agent's word can lower a level, never raise it
    above what the host saw. Where the host can't look, the result says ``reported``.
  * ``standard`` needs all of: an own uid (or user namespace), our seccomp filter, no capability, no_new_privs, limits
    that a cgroup enforces, own network, process, mount and ipc namespaces. One missing → ``reduced``, and a sentence.
  * ``strong`` is ``standard`` and a kernel of its own, seen by both: the engine says that it used a runtime that has
    one, and the kernel inside is not this machine's. What that kernel says of filters inside is not asked then, nor of
    its own device files: the walls stand around it, where the host looks. What it sees there is that kernel's monitor,
    whose process namespace is no wall, nor are capabilities within a user namespace of the monitor's own.
  * A broken border (root of the host, a capability, a host namespace, a writable Pack, a visible canary, a foreign
    network interface) is ``none``: nothing may run there, whatever was granted.

Not here: reading ``/proc`` (drivers) and deciding what follows (the orchestrator).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct, field

from core_runtime.rules.sandbox import (
    PACK_MOUNT,
    PACKAGES_MOUNT,
    RUNTIME_MOUNT,
    DriverKind,
    Isolation,
    Level,
    SandboxSpec,
)

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "user")
REQUIRED_NAMESPACES = ("mnt", "pid", "net", "ipc")
WRITABLE_ALLOWED = ("/tmp", "/dev/shm", "/dev/pts", "/dev/mqueue", "/dev", "/proc")  # noqa: S108 - places inside
"""Mount points inside that may be writable: size-limited tmpfs, or kernel files that check each write."""
LOOPBACK = frozenset({"lo"})
KERNEL_TUNNELS = frozenset({"tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"})
"""Down devices that the kernel puts into every new network namespace when the module is loaded; they lead nowhere."""
SANDBOXED_RUNTIMES = frozenset({"runsc", "kata", "kata-runtime", "io.containerd.runsc.v1", "io.containerd.kata.v2"})
GUEST_DEVICES = frozenset({"/dev/fuse", "/dev/net/tun"})
"""Device files that gVisor's kernel makes itself in every sandbox; they lead into that kernel."""
SECCOMP_FILTER = 2


class CgroupLimits(Struct, frozen=True):
    """Limits as the kernel enforces them, read back from the sandbox's own cgroup; ``None`` = not limited there."""

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None


class HostView(Struct, frozen=True):
    """What the host read from ``/proc/<pid>`` of the agent.

    ``uids`` are in the host's user namespace; ``shared_namespaces`` those that the sandbox has in common with the host;
    ``writable`` the mount points that are writable; ``runtime`` the engine's runtime name;
    ``kernel`` release and version of this machine's kernel.
    """

    pid: int
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    cap_eff: int
    cap_bnd: int
    no_new_privs: bool
    seccomp: int
    shared_namespaces: frozenset[str]
    writable: tuple[str, ...]
    cgroup: CgroupLimits
    runtime: str = ""
    host_uid: int = 0
    kernel: str = ""


class _Verdict(Struct):
    level: Level = Level.STANDARD
    findings: list[str] = field(default_factory=list)

    def lower(self, level: Level, sentence: str) -> None:
        self.level = min(self.level, level)
        self.findings.append(sentence)


def judge(
    driver: DriverKind,
    spec: SandboxSpec,
    host: HostView | None,
    probe: Mapping[str, Any],
    *,
    runtime: str = "",
    kernel: str = "",
) -> Isolation:
    """Effective isolation of one sandbox.

    Args:
        driver: which driver started it.
        spec: what was asked for.
        host: the host's own view; ``None`` where it can't look (remote engine).
        probe: the ``probe`` of HELLO, sent before any Pack byte was read; its values are checked for type here.
        runtime: what the engine says that it used, and
        kernel: the release that its machine runs, for where the host can't look.
    """
    verdict = _Verdict()
    inside = probe.get("kernel")
    if host is not None:
        guest = has_own_kernel(host.runtime, host.kernel, inside)
    else:
        guest = has_own_kernel(runtime, kernel, inside.partition(" ")[0] if isinstance(inside, str) else None)
    if host is not None:
        _judge_host(verdict, spec, host, guest=guest)
        if host.runtime in SANDBOXED_RUNTIMES and not guest:
            verdict.findings.append(f"the runtime {host.runtime} shows this machine's own kernel inside")
    _judge_probe(verdict, spec, host, probe, guest=guest)
    if driver is DriverKind.EMBEDDED and _int(probe.get("landlock")) in {None, 0}:
        verdict.findings.append("this kernel has no Landlock: programs that a Pack puts into its /tmp can be executed")
    if verdict.level is Level.STANDARD and guest:
        verdict.level = Level.STRONG
    return Isolation(
        driver=driver,
        level=verdict.level,
        source="measured" if host is not None else "reported",
        findings=tuple(verdict.findings),
        evidence=_evidence(host),
    )


def has_own_kernel(runtime: str, outside: str, inside: Any) -> bool:
    """Whether a sandbox runs on another kernel than its machine. ``outside``, ``inside``: release and version."""
    return runtime in SANDBOXED_RUNTIMES and bool(outside) and isinstance(inside, str) and inside not in {"", outside}


def _judge_host(verdict: _Verdict, spec: SandboxSpec, host: HostView, *, guest: bool) -> None:
    shared = host.shared_namespaces
    walls = set(REQUIRED_NAMESPACES) - ({"pid"} if guest else set())
    if 0 in host.uids and "user" in shared:
        verdict.lower(Level.NONE, "the sandbox runs as root of the host")
    if host.cap_eff and "user" in shared:
        verdict.lower(Level.NONE, f"the sandbox holds capabilities ({host.cap_eff:#x})")
    elif host.cap_eff and not guest:
        verdict.lower(Level.REDUCED, f"the sandbox holds capabilities in its own user namespace ({host.cap_eff:#x})")
    for name in sorted(shared & walls):
        verdict.lower(Level.NONE, f"the sandbox shares the host's {name} namespace")
    for place in _pack_places(host.writable):
        verdict.lower(Level.NONE, f"{place} is writable inside the sandbox")
    for place in _unexpected(host.writable):
        verdict.lower(Level.REDUCED, f"{place} is writable inside the sandbox")
    if not host.no_new_privs:
        verdict.lower(Level.REDUCED, "no_new_privs is not set")
    if host.seccomp != SECCOMP_FILTER:
        verdict.lower(Level.REDUCED, "no system-call filter is active")
    if any(uid == host.host_uid for uid in host.uids) and "user" in shared:
        verdict.lower(Level.REDUCED, "the sandbox has the host's own user id and no user namespace of its own")
    _judge_limits(verdict, spec, host.cgroup)


def _judge_limits(verdict: _Verdict, spec: SandboxSpec, got: CgroupLimits) -> None:
    limits = spec.limits
    slack = 1 << 16  # the kernel rounds to pages, the processor quota to a hundredth
    wanted: tuple[tuple[str, float | None, float], ...] = (
        ("memory", got.memory_bytes, limits.memory_bytes + slack),
        ("number of processes", got.pids, limits.pids),
        ("processor time", got.cpus, limits.cpus + 0.011),
    )
    for name, actual, most in wanted:
        if actual is None:
            verdict.lower(Level.REDUCED, f"no cgroup limits the sandbox's {name}")
        elif actual > most:
            verdict.lower(Level.REDUCED, f"the cgroup's limit of {name} is {actual:g}, asked for {most:g}")


def _judge_probe(
    verdict: _Verdict, spec: SandboxSpec, host: HostView | None, probe: Mapping[str, Any], *, guest: bool
) -> None:
    """The agent's own look. Fields are typed loosely on the wire: a wrong type counts as not reported."""
    if _int(probe.get("uid")) != spec.uid:
        verdict.lower(Level.NONE, f"the agent reports uid {_int(probe.get('uid'))}, expected {spec.uid}")
    if _hex(probe.get("cap_eff")) != 0:
        verdict.lower(Level.REDUCED, "the agent reports capabilities, or could not read them")
    if not probe.get("no_new_privs") and not guest:
        verdict.lower(Level.REDUCED, "the agent does not see no_new_privs")
    if _int(probe.get("seccomp")) != SECCOMP_FILTER and not guest:
        verdict.lower(Level.REDUCED, "the agent does not see a system-call filter")
    for path in _texts(probe.get("canaries")):
        if guest and path in GUEST_DEVICES:
            continue
        verdict.lower(Level.NONE, f"a file of the host is visible inside: {path!r:.120}")
    foreign = set(_texts(probe.get("interfaces"))) - LOOPBACK - KERNEL_TUNNELS
    if foreign:
        verdict.lower(Level.NONE, f"network interfaces are visible inside: {', '.join(sorted(foreign))!r:.120}")
    for place in _pack_places(_texts(probe.get("writable"))):
        verdict.lower(Level.NONE, f"the agent can write to {place}")
    if host is None:
        for place in _unexpected(_texts(probe.get("writable"))):
            verdict.lower(Level.REDUCED, f"{place!r:.120} is writable inside the sandbox")
        if not isinstance(probe.get("pid_count"), int) or probe["pid_count"] > 8:
            verdict.lower(Level.REDUCED, "the agent sees processes that are not its own")


def _pack_places(writable: Iterable[str]) -> list[str]:
    """Of the writable places, those where only approved bytes may be."""
    roots = (PACK_MOUNT, PACKAGES_MOUNT, RUNTIME_MOUNT)
    return [p for p in writable if any(p == root or p.startswith(root + "/") for root in roots)]


def _unexpected(writable: Iterable[str]) -> list[str]:
    return [
        place
        for place in writable
        if not any(place == ok or place.startswith(ok + "/") for ok in WRITABLE_ALLOWED) and not _pack_places([place])
    ]


def _evidence(host: HostView | None) -> dict[str, Any]:
    if host is None:
        return {}
    return {
        "uid": host.uids[0] if host.uids else None,
        "no_new_privs": host.no_new_privs,
        "seccomp": host.seccomp,
        "cap_eff": f"{host.cap_eff:x}",
        "namespaces": {name: name not in host.shared_namespaces for name in NAMESPACES},
        "limits": {
            "memory_bytes": host.cgroup.memory_bytes,
            "pids": host.cgroup.pids,
            "cpus": host.cgroup.cpus,
        },
        "runtime": host.runtime,
    }


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _hex(value: Any) -> int | None:
    if not isinstance(value, str) or not 0 < len(value) <= 32:
        return None
    try:
        return int(value, 16)
    except ValueError:
        return None


def _texts(value: Any) -> list[str]:
    """At most 64 entries of text: the probe is bounded like everything from inside."""
    if not isinstance(value, list | tuple):
        return []
    return [item for item in value[:64] if isinstance(item, str)]


# ---- reading the kernel's text formats


def parse_status(text: str) -> dict[str, str]:
    """``/proc/<pid>/status`` as a mapping of its fields."""
    fields = (line.partition(":") for line in text.splitlines())
    return {name: value.strip() for name, _, value in fields}


def writable_mounts(mountinfo: str) -> tuple[str, ...]:
    """Mount points of ``/proc/<pid>/mountinfo`` that are writable (mount flag and file system flag) and not covered.

    Lines stand in the order of mounting: a later mount hides everything at and below its point.
    """
    seen: dict[str, bool] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 3:
            continue
        point, options, kind, super_options = _unescape(fields[4]), fields[5], tail[0], tail[2]
        seen = {place: flag for place, flag in seen.items() if place != point and not place.startswith(f"{point}/")}
        read_only = "ro" in options.split(",") or "ro" in super_options.split(",")
        # these check each write themselves
        seen[point] = not read_only and kind not in {"proc", "devpts", "mqueue"}
    return tuple(point for point, writable in seen.items() if writable)


def _unescape(text: str) -> str:
    for code, char in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, char)
    return text
