"""Reading control groups, version 1 and 2: where a process is, which limits hold for it, what was counted.

Invariant: nothing here changes anything; what can't be read is left out.

Not here: making and removing groups (``cgroups``).
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from core_runtime.rules.isolation import CgroupLimits

CONTROLLERS = ("memory", "pids", "cpu")
UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" with a number near 2^63, rounded to pages."""


def read_limits(pid: int, *, proc: Path = Path("/proc")) -> CgroupLimits:
    """The limits that the kernel enforces on a process: the smallest on the way from its group to the root."""
    mounts = mounts_of((proc / "self/mountinfo").read_text())
    places = groups_of((proc / str(pid) / "cgroup").read_text(), mounts)
    memory = [
        *_numbers(places.get("memory"), "memory.max"),
        *(n for n in _numbers(places.get("memory"), "memory.limit_in_bytes") if n < UNLIMITED_BYTES),
    ]
    pids = _numbers(places.get("pids"), "pids.max")
    cpus = [*_quotas_v2(places.get("cpu")), *_quotas_v1(places.get("cpu"))]
    return CgroupLimits(
        memory_bytes=min(memory, default=None), pids=min(pids, default=None), cpus=min(cpus, default=None)
    )


def folders_of(pid: int, *, proc: Path = Path("/proc")) -> dict[str, Path]:
    """The group that a process is in, by controller. Raises ``OSError`` when there is no such process."""
    mounts = mounts_of((proc / "self/mountinfo").read_text())
    return groups_of((proc / str(pid) / "cgroup").read_text(), mounts)


def processes(folders: Mapping[str, Path]) -> list[int]:
    """Pids in a group itself, as this process sees them; none once the group is gone."""
    with contextlib.suppress(OSError, ValueError, KeyError):  # the group has ended
        return [int(line) for line in (folders["pids"] / "cgroup.procs").read_text().split()]
    return []


def refused(folders: Mapping[str, Path]) -> float:
    """How many processes and threads did not start for their limit. Raises what reading and parsing raise."""
    return float(_words(folders["pids"] / "pids.events")["max"])


def counted(folders: Mapping[str, Path]) -> dict[str, float]:
    """``{memory_bytes, cpu_s, pids, pids_refused, oom_kills, cpu_periods, cpu_throttled}``, as the controllers tell;
    absent keys where nothing counts (any more).
    """
    out: dict[str, float] = {}
    for key, controller, name, unit in (
        ("memory_bytes", "memory", "memory.current", 1.0),
        ("memory_bytes", "memory", "memory.usage_in_bytes", 1.0),
        ("pids", "pids", "pids.current", 1.0),
        ("cpu_s", "cpuacct", "cpuacct.usage", 1e9),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError):  # this kernel does not count that
            out[key] = int((folders[controller] / name).read_text()) / unit
    with contextlib.suppress(OSError, ValueError, KeyError):  # this kernel does not count that
        stat = _words(folders["cpu"] / "cpu.stat")
        if "usage_usec" in stat:  # version 2
            out["cpu_s"] = stat["usage_usec"] / 1e6
        out["cpu_periods"], out["cpu_throttled"] = float(stat["nr_periods"]), float(stat["nr_throttled"])
    with contextlib.suppress(OSError, ValueError, KeyError):  # this kernel does not count that
        out["pids_refused"] = refused(folders)
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError, ValueError, KeyError):  # this kernel does not count that
            out["oom_kills"] = float(_words(folders["memory"] / name)["oom_kill"])
    return out


# ---- where a process is


class Mount(Struct, frozen=True):
    point: Path
    root: str
    version: int


@functools.lru_cache(maxsize=2)
def mounts_of(mountinfo: str) -> dict[str, Mount]:
    """Controller → where it is mounted; version 2 under the name ``unified``."""
    out: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if tail[0] == "cgroup2":
            out.setdefault("unified", Mount(Path(fields[4]), fields[3], 2))
        elif tail[0] == "cgroup":
            for name in tail[2].split(","):
                out.setdefault(name, Mount(Path(fields[4]), fields[3], 1))
    return out


def groups_of(text: str, mounts: Mapping[str, Mount]) -> dict[str, Path]:
    """Controller → the folder that ``/proc/<pid>/cgroup`` names. Version 1 wins where it holds the controller."""
    out: dict[str, Path] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(",") if names else ["unified"]:
            mount = mounts.get(name)
            if mount is not None:
                out[name] = mount.point / _below(path, mount.root)
    if "unified" in out:
        for name in CONTROLLERS:
            out.setdefault(name, out["unified"])
    return out


def _below(path: str, root: str) -> str:
    """``path`` relative to the part of the hierarchy that is mounted; outside of it, the mount's own top."""
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return "" if path.startswith("/..") else path.lstrip("/")


def _words(path: Path) -> dict[str, int]:
    """A file of ``name number`` lines."""
    words = path.read_text().split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=False)}


def _ancestry(folder: Path | None, name: str) -> list[str]:
    """Text of a file in a group and in every group above it. On the way of every start, hence strings and one read."""
    out: list[str] = []
    place = str(folder) if folder is not None else ""
    while place and os.access(f"{place}/cgroup.procs", os.F_OK):
        with contextlib.suppress(OSError):  # not delegated that far up
            fd = os.open(f"{place}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                out.append(os.read(fd, 256).decode().strip())
            finally:
                os.close(fd)
        place = place.rpartition("/")[0]
    return out


def _numbers(folder: Path | None, name: str) -> list[int]:
    return [int(text) for text in _ancestry(folder, name) if text.isdigit()]


def _quotas_v2(folder: Path | None) -> list[float]:
    pairs = (text.split() for text in _ancestry(folder, "cpu.max"))
    return [int(pair[0]) / int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0].isdigit()]


def _quotas_v1(folder: Path | None) -> list[float]:
    quotas, periods = _ancestry(folder, "cpu.cfs_quota_us"), _ancestry(folder, "cpu.cfs_period_us")
    return [int(q) / int(p) for q, p in zip(quotas, periods, strict=False) if q.isdigit() and p.isdigit()]
