"""Control groups, version 1 and 2: one group per sandbox, with limits, made before the sandbox and removed after it.

Invariants:
  * A group is written to only below a parent that this module found writable *and* tried by a real process.
  * Every name that it makes carries the installation id; it removes nothing else.
  * Removing a group kills what is still inside first; a group that can't be emptied within the bound is an error, not a
    silent leftover.

Not here: joining. The launcher's child writes itself into ``Group.join_files`` before it drops its uid.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backend_core.errors import HostError
from core_runtime.rules.isolation import CgroupLimits
from core_runtime.rules.sandbox import Limits

CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_US = 100_000
UNLIMITED_BYTES = 1 << 60
"""Version 1 says "no limit" with a number near 2^63, rounded to pages."""


@dataclass(frozen=True, slots=True)
class Group:
    """One sandbox's group: a folder per version-1 controller, or one folder under version 2."""

    folders: Mapping[str, Path]
    version: int

    @property
    def name(self) -> str:
        """Its folder's name, the same in every hierarchy."""
        return next(iter(self.folders.values())).name

    @property
    def join_files(self) -> tuple[str, ...]:
        """Files that the launcher's child writes ``0`` into."""
        return tuple(str(folder / "cgroup.procs") for folder in dict.fromkeys(self.folders.values()))


class Cgroups:
    """The place where this host may make groups. Build it with :func:`find`."""

    def __init__(self, parents: Mapping[str, Path], version: int, installation_id: str) -> None:
        self.version = version
        self._name = f"rumi-{installation_id}"
        self._parents = {controller: parent / self._name for controller, parent in parents.items()}

    def prepare(self) -> None:
        """Make the installation's own folders; under version 2, hand the controllers down. ``OSError`` if refused."""
        for folder in dict.fromkeys(self._parents.values()):
            folder.mkdir(mode=0o755, exist_ok=True)
        if self.version == 2:
            root = self._parents["memory"]
            for folder in (root.parent, root):
                _enable(folder)

    def create(self, name: str, limits: Limits) -> Group:
        """A group with its limits set.

        Raises:
            HostError: the kernel refuses; nothing is left behind.
        """
        group = self.make(name)
        self.limit(group, limits)
        return group

    def make(self, name: str) -> Group:
        """A group without limits yet. Raises as ``create`` does."""
        group = Group({c: parent / name for c, parent in self._parents.items()}, self.version)
        made: dict[str, Path] = {}  # a name in use belongs to a running sandbox: only our own folders go again
        try:
            for folder in dict.fromkeys(group.folders.values()):
                folder.mkdir(mode=0o755)
                made[str(folder)] = folder
        except OSError as error:
            raise self._failed(Group(made, self.version), error) from error
        return group

    def limit(self, group: Group, limits: Limits) -> None:
        """Set the limits of a group that has none. Raises as ``create`` does; the group is removed then."""
        try:
            for path, value, required in self._settings(group, limits):
                _write_setting(path, value, required=required)
        except OSError as error:
            raise self._failed(group, error) from error

    def _failed(self, made: Group, error: OSError) -> HostError:
        with contextlib.suppress(OSError):
            self.remove(made)
        return HostError(
            "No control group could be made for a sandbox",
            code="cgroup_failed",
            detail=f"{error.filename}: {error.strerror}",
            hint="rumi doctor",
        )

    def _settings(self, group: Group, limits: Limits) -> list[tuple[Path, str, bool]]:
        at, quota_us = group.folders, round(limits.cpus * CPU_PERIOD_US)
        if self.version == 2:
            return [
                (at["memory"] / "memory.max", str(limits.memory_bytes), True),
                (at["memory"] / "memory.swap.max", "0", False),  # absent without swap accounting
                (at["memory"] / "memory.oom.group", "1", False),
                (at["pids"] / "pids.max", str(limits.pids), True),
                (at["cpu"] / "cpu.max", f"{max(quota_us, 1000)} {CPU_PERIOD_US}", True),
            ]
        return [
            (at["memory"] / "memory.limit_in_bytes", str(limits.memory_bytes), True),
            (at["memory"] / "memory.memsw.limit_in_bytes", str(limits.memory_bytes), False),
            (at["memory"] / "memory.swappiness", "0", False),
            (at["pids"] / "pids.max", str(limits.pids), True),
            (at["cpu"] / "cpu.cfs_period_us", str(CPU_PERIOD_US), True),
            (at["cpu"] / "cpu.cfs_quota_us", str(max(quota_us, 1000)), True),
        ]

    def usage(self, group: Group) -> dict[str, float]:
        """As ``counted``."""
        return counted(group.folders)

    def remove(self, group: Group, *, wait_s: float = 5.0) -> None:
        """Kill what is inside, then remove the folders. Blocks at most ``wait_s``: call it in a thread.

        Raises:
            OSError: some process can't be ended (uninterruptible in the kernel).
        """
        deadline = time.monotonic() + wait_s
        for folder in dict.fromkeys(group.folders.values()):
            _empty_and_remove(folder, deadline)

    def leftovers(self) -> list[tuple[str, Group]]:
        """Groups of this installation that exist now, by name. At boot these are all left over."""
        names = {
            entry.name
            for parent in dict.fromkeys(self._parents.values())
            if parent.is_dir()
            for entry in parent.iterdir()
            if entry.is_dir()
        }
        return [
            (name, Group({c: parent / name for c, parent in self._parents.items()}, self.version))
            for name in sorted(names)
        ]

    def remove_parents(self) -> None:
        """Remove the installation's own empty folders; one still in use stays."""
        for folder in dict.fromkeys(self._parents.values()):
            with contextlib.suppress(OSError):
                folder.rmdir()


def read_limits(pid: int, *, proc: Path = Path("/proc")) -> CgroupLimits:
    """The limits that the kernel enforces on a process: the smallest on the way from its group to the root."""
    mounts = _mounts((proc / "self/mountinfo").read_text())
    places = _groups_of((proc / str(pid) / "cgroup").read_text(), mounts)
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
    mounts = _mounts((proc / "self/mountinfo").read_text())
    return _groups_of((proc / str(pid) / "cgroup").read_text(), mounts)


def processes(folders: Mapping[str, Path]) -> list[int]:
    """Pids in a group itself, as this process sees them; none once the group is gone."""
    with contextlib.suppress(OSError, ValueError, KeyError):
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
        with contextlib.suppress(OSError, ValueError, KeyError):
            out[key] = int((folders[controller] / name).read_text()) / unit
    with contextlib.suppress(OSError, ValueError, KeyError):
        stat = _words(folders["cpu"] / "cpu.stat")
        if "usage_usec" in stat:  # version 2
            out["cpu_s"] = stat["usage_usec"] / 1e6
        out["cpu_periods"], out["cpu_throttled"] = float(stat["nr_periods"]), float(stat["nr_throttled"])
    with contextlib.suppress(OSError, ValueError, KeyError):
        out["pids_refused"] = refused(folders)
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            out["oom_kills"] = float(_words(folders["memory"] / name)["oom_kill"])
    return out


def find(installation_id: str, *, proc: Path = Path("/proc")) -> Cgroups | None:
    """The first place where groups can be made *and* entered by a new process; ``None`` = no limits by cgroup here."""
    try:
        mounts = _mounts((proc / "self/mountinfo").read_text())
        own = _groups_of((proc / "self/cgroup").read_text(), mounts)
    except OSError:
        return None
    for parents, version in _candidates(mounts, own):
        cgroups = Cgroups(parents, version, installation_id)
        if _works(cgroups):
            return cgroups
    return None


# ---- where groups can be


@dataclass(frozen=True, slots=True)
class _Mount:
    point: Path
    root: str
    version: int


@functools.lru_cache(maxsize=2)
def _mounts(mountinfo: str) -> dict[str, _Mount]:
    """Controller → where it is mounted; version 2 under the name ``unified``."""
    out: dict[str, _Mount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if tail[0] == "cgroup2":
            out.setdefault("unified", _Mount(Path(fields[4]), fields[3], 2))
        elif tail[0] == "cgroup":
            for name in tail[2].split(","):
                out.setdefault(name, _Mount(Path(fields[4]), fields[3], 1))
    return out


def _groups_of(text: str, mounts: Mapping[str, _Mount]) -> dict[str, Path]:
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


def _candidates(mounts: Mapping[str, _Mount], own: Mapping[str, Path]) -> list[tuple[dict[str, Path], int]]:
    """Places to try: below the host's own group, so that its limits bound all sandboxes; then higher up."""
    out: list[tuple[dict[str, Path], int]] = []
    if all(name in mounts and mounts[name].version == 1 for name in CONTROLLERS):
        names = [*CONTROLLERS, *(["cpuacct"] if "cpuacct" in mounts else [])]
        out.append(({name: own.get(name, mounts[name].point) for name in names}, 1))
        out.append(({name: mounts[name].point for name in names}, 1))
    if "unified" in mounts and not out:
        top, mine = mounts["unified"].point, own.get("unified", mounts["unified"].point)
        # A group that holds processes can't hand controllers down, except the real root: so the ancestors too.
        ancestors = [p for p in (mine, *mine.parents) if p == top or top in p.parents]
        out += [(dict.fromkeys((*CONTROLLERS,), place), 2) for place in ancestors]
    return out


def _works(cgroups: Cgroups) -> bool:
    """Make a group, let a real process enter it, remove it."""
    name = f"probe-{os.getpid()}"
    try:
        cgroups.prepare()
        group = cgroups.create(name, Limits())
    except (OSError, HostError):
        cgroups.remove_parents()
        return False
    try:
        return _enters(group)
    finally:
        with contextlib.suppress(OSError):
            cgroups.remove(group)


def _enters(group: Group) -> bool:
    """Whether a child process can be put into the group. It waits at a pipe, touches nothing, and is then killed."""
    argv = ["/bin/sh", "-c", "read line"]
    read_end, write_end = os.pipe()
    try:
        pid = os.posix_spawn(argv[0], argv, {}, file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 0)])
    except OSError:
        return False
    finally:
        os.close(read_end)
    try:
        for path in group.join_files:
            Path(path).write_text(str(pid))
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(write_end)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _enable(folder: Path) -> None:
    """Hand memory, pids and cpu down to children (version 2)."""
    have = (folder / "cgroup.subtree_control").read_text().split()
    missing = [f"+{name}" for name in CONTROLLERS if name not in have]
    if missing:
        (folder / "cgroup.subtree_control").write_text(" ".join(missing))


def _write_setting(path: Path, value: str, *, required: bool) -> None:
    try:
        path.write_text(value)
    except OSError:
        if required:
            raise


def _empty_and_remove(folder: Path, deadline: float) -> None:
    while True:
        try:
            for child in [entry for entry in folder.iterdir() if entry.is_dir()]:
                _empty_and_remove(child, deadline)  # the sandbox's own cgroup namespace may hold groups
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            _kill_all(folder)
            time.sleep(0.005)
        else:
            return


def _kill_all(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "cgroup.kill").write_text("1")  # version 2 since Linux 5.14
        return
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)


# ---- reading back


def _words(path: Path) -> dict[str, int]:
    """A file of ``name number`` lines."""
    words = path.read_text().split()
    return {name: int(number) for name, number in zip(words[::2], words[1::2], strict=False)}


def _ancestry(folder: Path | None, name: str) -> list[str]:
    """Text of a file in a group and in every group above it. On the way of every start, hence strings and one read."""
    out: list[str] = []
    place = str(folder) if folder is not None else ""
    while place and os.access(f"{place}/cgroup.procs", os.F_OK):
        with contextlib.suppress(OSError):
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
