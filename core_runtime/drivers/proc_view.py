"""What the host's own ``/proc`` says of a sandbox's process: the ``HostView`` that ``rules.isolation`` judges.

Invariant: either the whole view comes from one process (its start time is read before and after), or there is none.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from core_runtime.drivers.cgroup_reading import read_limits
from core_runtime.rules.isolation import NAMESPACES, HostView, parse_status, writable_mounts

PROC = Path("/proc")
PROCESS_LIMIT = 4096


def start_time(pid: int) -> int | None:
    """Start of a process in clock ticks since boot; with the pid it names one process of this boot. ``None`` = gone."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (OSError, UnicodeDecodeError):  # it has ended
        return None
    return int(text.rpartition(")")[2].split()[19])  # the name field may hold spaces and brackets


def boot_id() -> str:
    """This boot's identity, so that a pid file of another boot names nobody."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def descendants(pid: int) -> list[int]:
    """Every process below ``pid``, parents first. Bounded; a fork bomb's tail is left out."""
    parents: dict[int, list[int]] = {}
    for entry in (path.name for path in PROC.iterdir()):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended
                fields = (PROC / entry / "stat").read_bytes().rpartition(b")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(entry))
    out: list[int] = []
    todo = [pid]
    while todo and len(out) < PROCESS_LIMIT:
        children = parents.get(todo.pop(0), [])
        out += children
        todo += children
    return out


def first_child(pid: int) -> int | None:
    """The oldest child of a process; ``None`` when it has none, or is gone."""
    try:
        return int((PROC / str(pid) / "task" / str(pid) / "children").read_text().split()[0])
    except FileNotFoundError:  # a kernel without this file
        return next(iter(descendants(pid)), None)
    except (OSError, IndexError):  # it has ended
        return None


def memory_bytes(pids: list[int]) -> int:
    """Resident memory of processes, shared pages counted once each (proportional set size).

    Where the kernel refuses that (a program that nobody may read, say), a process is counted by what everybody may see,
    shared pages in full: hiding never makes a sandbox look smaller.
    """
    return sum(_proportional_bytes(pid) for pid in pids)


def _proportional_bytes(pid: int) -> int:
    try:
        rollup = (PROC / str(pid) / "smaps_rollup").read_text()
        return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
    except (OSError, ValueError, IndexError):
        pass  # gone, or hidden: the next file tells which
    try:
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # it has ended
        return 0


def file_usage(pids: list[int], limit: int) -> dict[str, float]:
    """``{files, files_full}``: the most files that one of these processes holds, and 1 when no pair of them (a pipe, a
    socket pair) can be added.

    Empty where the host may not look. What was closed again in the meantime is not seen: nothing in the kernel counts
    the attempts that it refuses.
    """
    most = -1
    for pid in pids[:PROCESS_LIMIT]:
        with contextlib.suppress(OSError):  # it has ended
            most = max(most, len(os.listdir(PROC / str(pid) / "fd")))  # noqa: PTH208 - names only, many of them
    return {} if most < 0 else {"files": float(most), "files_full": float(most >= limit - 1)}


def tmp_usage(pid: int) -> dict[str, float]:
    """``{tmp_bytes, tmp_full}`` of ``/tmp`` as a process of a sandbox sees it, where the host may look.

    ``tmp_full`` is 1 when not a page or not a file more fits. The sandbox's root is read-only and ``/tmp`` a mount
    point there, so that nobody inside can lead this look elsewhere.
    """
    try:
        found = os.statvfs(PROC / str(pid) / "root/tmp")
    except OSError:  # it has ended
        return {}
    held = (found.f_blocks - found.f_bfree) * found.f_frsize
    # no total means no limit, and then nothing is ever free
    full = any(total and not free for total, free in ((found.f_blocks, found.f_bfree), (found.f_files, found.f_ffree)))
    return {"tmp_bytes": float(held), "tmp_full": float(full)}


def host_view(pid: int, *, runtime: str = "") -> HostView | None:
    """The view of one process; ``None`` when it ended or the host may not look."""
    folder = PROC / str(pid)
    born = start_time(pid)
    try:
        status = parse_status((folder / "status").read_text())
        mountinfo = (folder / "mountinfo").read_text()
        shared = frozenset(n for n in NAMESPACES if _namespace(f"{folder}/ns/{n}") == _namespace(f"{PROC}/self/ns/{n}"))
        limits = read_limits(pid)
        view = HostView(
            pid=pid,
            uids=tuple(int(part) for part in status["Uid"].split()),
            gids=tuple(int(part) for part in status["Gid"].split()),
            cap_eff=int(status["CapEff"], 16),
            cap_bnd=int(status["CapBnd"], 16),
            no_new_privs=status.get("NoNewPrivs") == "1",
            seccomp=int(status.get("Seccomp", "0")),
            shared_namespaces=shared,
            writable=writable_mounts(mountinfo),
            cgroup=limits,
            runtime=runtime,
            host_uid=os.geteuid(),
            kernel=" ".join(os.uname()[2:4]),
        )
    except (OSError, KeyError, ValueError):  # it has ended
        return None
    return view if born is not None and start_time(pid) == born else None


def _namespace(path: str) -> tuple[int, int]:
    """What tells one namespace from another."""
    found = os.stat(path)  # noqa: PTH116 - twice seven of them on the way of every start
    return found.st_dev, found.st_ino
