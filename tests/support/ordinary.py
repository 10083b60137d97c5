"""Running a program as an ordinary user of this machine: own uid, one extra group, and control groups handed to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from core_runtime.drivers import cgroup_reading, cgroups

NOBODY = 65534


def skip_where_refused(told: Mapping[str, Any]) -> None:
    """For what an ordinary user's embedded sandbox said of itself: a machine whose kernel gives an ordinary user no
    namespaces has none, and that is a reason to leave a test out. Any other is a failure.
    """
    if "unavailable" not in told:
        return
    who: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    tried = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "true"], check=False, capture_output=True, text=True, cwd="/", **who,
    )
    assert tried.returncode != 0, f"namespaces work here, the sandbox does not: {told['unavailable']}"
    pytest.skip(f"no namespaces for ordinary users here: {tried.stderr.strip()}")


BECOME = """
import os, sys
joins, uid, gid, groups = sys.argv[1].split(":"), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
for path in filter(None, joins):
    with open(path, "w") as file:
        file.write("0")
os.setgroups([int(group) for group in groups.split(",")])
os.setgid(gid)
os.setuid(uid)
os.execv(sys.argv[5], sys.argv[5:])
"""


@contextlib.contextmanager
def delegated(uid: int) -> Iterator[list[str]]:
    """Control groups that belong to `uid`, as a service manager hands them over; the files to write oneself into."""
    name = f"rumi-user-{secrets.token_hex(4)}"
    mounts = cgroup_reading.mounts_of(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
    own = cgroup_reading.groups_of(Path("/proc/self/cgroup").read_text(encoding="utf-8"), mounts)
    places, version = cgroups._candidates(mounts, own)[-1]
    tops = [place / name for place in dict.fromkeys(places.values())]
    leaves = []
    try:
        for top in tops:
            top.mkdir()
            # version 2 hands controllers down only from a group without processes
            leaf = top / "own" if version == 2 else top
            if version == 2:
                cgroups._enable(top.parent)
                leaf.mkdir()
            for folder in {top, leaf}:
                for path in (folder, *folder.glob("cgroup.*"), *folder.glob("tasks")):
                    with contextlib.suppress(OSError):  # a file that the kernel lets nobody have
                        os.chown(path, uid, uid)
            leaves.append(str(leaf / "cgroup.procs"))
        yield leaves
    finally:
        for top in tops:
            for folder in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True):
                folder.rmdir()
            top.rmdir()


def run(
    argv: Sequence[str],
    *,
    uid: int,
    group: int,
    joins: Sequence[str] = (),
    environment: Mapping[str, str],
    cwd: Path,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as `uid`, a member of `group`."""
    become = [sys.executable, "-I", "-S", "-c", BECOME, ":".join(joins), str(uid), str(uid), f"{uid},{group}"]
    return subprocess.run(
        [*become, *argv], env=dict(environment), cwd=cwd, capture_output=True, text=True, timeout=timeout_s, check=False
    )
