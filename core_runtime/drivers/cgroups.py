"""Control groups, version 1 and 2: one group per sandbox, with limits, made before the sandbox and removed after it.

Invariants:
  * A group is written to only below a parent that this module found writable *and* tried by a real process.
  * Every name that it makes carries the installation id; it removes nothing else.
  * Removing a group kills what is still inside first; a group that can't be emptied within the bound is an error, not a
    silent leftover.

Not here: reading (``cgroup_reading``); joining. The launcher's child writes itself into ``Group.join_files`` before it
drops its uid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from backend_core.errors import HostError
from core_runtime.drivers.cgroup_reading import CONTROLLERS, Mount, counted, groups_of, mounts_of
from core_runtime.rules.sandbox import Limits

CPU_PERIOD_US = 100_000


class Group(Struct, frozen=True):
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
        with contextlib.suppress(OSError):  # what led here is the error to tell
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
            with contextlib.suppress(OSError):  # in use: it stays
                folder.rmdir()


def find(installation_id: str, *, proc: Path = Path("/proc")) -> Cgroups | None:
    """The first place where groups can be made *and* entered by a new process; ``None`` = no limits by cgroup here."""
    try:
        mounts = mounts_of((proc / "self/mountinfo").read_text())
        own = groups_of((proc / "self/cgroup").read_text(), mounts)
    except OSError:  # no proc: no limits by cgroup, and the level says so
        return None
    for parents, version in _candidates(mounts, own):
        cgroups = Cgroups(parents, version, installation_id)
        if _works(cgroups):
            return cgroups
    return None


# ---- where groups can be


def _candidates(mounts: Mapping[str, Mount], own: Mapping[str, Path]) -> list[tuple[dict[str, Path], int]]:
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
    except (OSError, HostError):  # a place that does not work; the level says if none does
        cgroups.remove_parents()
        return False
    try:
        return _enters(group)
    finally:
        with contextlib.suppress(OSError):  # a probe's empty group; the next one has another name
            cgroups.remove(group)


def _enters(group: Group) -> bool:
    """Whether a child process can be put into the group. It waits at a pipe, touches nothing, and is then killed."""
    argv = ["/bin/sh", "-c", "read line"]
    read_end, write_end = os.pipe()
    try:
        pid = os.posix_spawn(argv[0], argv, {}, file_actions=[(os.POSIX_SPAWN_DUP2, read_end, 0)])
    except OSError:  # as above: a place that does not work
        return False
    finally:
        os.close(read_end)
    try:
        for path in group.join_files:
            Path(path).write_text(str(pid))
    except OSError:  # as above: a place that does not work
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
    with contextlib.suppress(OSError):  # older kernels: one by one, below
        (folder / "cgroup.kill").write_text("1")  # version 2 since Linux 5.14
        return
    with contextlib.suppress(OSError, ValueError):  # it has ended meanwhile
        for line in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)
