"""A counter of a control group that somebody else removes: read while there is time.

An engine removes a container's group within milliseconds of its end, so that a look afterwards comes too late, and
one at that very moment often. So what nobody else tells, refused processes and threads, is read every ``SAMPLE_S``.
A kernel of its own that is refused a thread or memory dies of it, so there the first refusal is the last thing that
happens, and the engine does not always see which it was: the end of its process is watched for too, and comes before
the engine, which must be told of it and start a program.

Invariant: costs no descriptor, but one where the end is watched for.

Not here: groups that this host removes itself (``cgroups``), which are read before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from core_runtime.drivers.cgroup_reading import counted, folders_of, refused

SAMPLE_S = 1.0
"""Costs a read of twenty bytes. The kernel's notice of a change (``poll``) does not come under version 1."""


class GroupWatch:
    """The group of ``pid``. Raises ``OSError`` when there is no such process any more. Belongs to the loop's thread.

    ``until_end``: read all that it counts when ``pid`` ends.
    """

    def __init__(self, pid: int, *, until_end: bool = False) -> None:
        self.folders: Mapping[str, Path] = folders_of(pid)
        self.counted: dict[str, float] = {}
        """As it was last; what can't be read any more keeps its last value."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)
        self._process = -1
        if until_end and hasattr(os, "pidfd_open"):
            self._process = os.pidfd_open(pid)
            self._loop.add_reader(self._process, self._ended)

    def close(self) -> None:
        """Stop watching. Safe to repeat."""
        self._timer.cancel()
        if self._process >= 0:
            self._loop.remove_reader(self._process)
            os.close(self._process)
            self._process = -1

    def _ended(self) -> None:
        self.counted.update(counted(self.folders))
        self.close()

    def _look(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # the group has ended; the last count stays
            self.counted["pids_refused"] = refused(self.folders)

    def _sample(self) -> None:
        self._look()
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)
