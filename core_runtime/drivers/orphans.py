"""Processes that an engine left behind, or can't end: of a container that it was killed in the middle of starting, or
that its runtime can't reach.

A container is made with a process that waits to become the Pack's (``runc init``). An engine that dies then takes it,
when it comes back, for one that never ran: removing it leaves the process, in a control group of its name. A runtime
with a kernel of its own asks that kernel to end what runs on it, and waits for ever for one that stands still.

Invariant: a process is ended only if its control group bears the container's whole id, which the engine drew at random,
and is looked at again once it can't be mistaken for another (a pidfd).

Not here: which containers are leftovers (``docker_engine``).
"""

from __future__ import annotations

import os
import re
import signal
from typing import Final

from core_runtime.drivers.proc_view import PROC

_WHOLE_ID: Final = re.compile(r"[0-9a-f]{64}\Z")


def end_orphans(container_id: str) -> list[int]:
    """Kill what runs in the control group of a container that was or is to be removed; which, by pid. Blocks for a look
    at all processes. None where the engine is another machine's, and none that this user may not end.
    """
    if not _WHOLE_ID.match(container_id) or not hasattr(os, "pidfd_open"):
        return []
    running = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return [pid for pid in running if _is_in(pid, container_id) and _end(pid, container_id)]


def _is_in(pid: int, container_id: str) -> bool:
    try:
        return container_id in (PROC / str(pid) / "cgroup").read_text(encoding="ascii", errors="replace")
    except OSError:  # it has ended
        return False


def _end(pid: int, container_id: str) -> bool:
    try:
        held = os.pidfd_open(pid)
    except OSError:  # it has ended
        return False
    try:
        if not _is_in(pid, container_id):
            return False
        signal.pidfd_send_signal(held, signal.SIGKILL)
    except OSError:  # it has ended, or belongs to somebody else
        return False
    finally:
        os.close(held)
    return True
