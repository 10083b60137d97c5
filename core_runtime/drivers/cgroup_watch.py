"""A counter of a control group that somebody else removes: read while there is time.

An engine removes a container's group within milliseconds of its end, so that a look afterwards comes too late, and
one at that very moment often. So what nobody else tells, refused processes and threads, is read every ``SAMPLE_S``.

Invariant: costs no descriptor. Not here: groups that this host removes itself (``cgroups``), which are read before.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path

from core_runtime.drivers.cgroup_reading import folders_of, refused

SAMPLE_S = 1.0
"""Costs a read of twenty bytes. The kernel's notice of a change (``poll``) does not come under version 1."""


class GroupWatch:
    """The group of ``pid``. Raises ``OSError`` when there is no such process any more. Belongs to the loop's thread."""

    def __init__(self, pid: int) -> None:
        self.folders: Mapping[str, Path] = folders_of(pid)
        self.counted: dict[str, float] = {}
        """As it was last; what can't be read any more keeps its last value."""
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)

    def close(self) -> None:
        """Stop watching. Safe to repeat."""
        self._timer.cancel()

    def _sample(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):  # the group has ended; the last count stays
            self.counted["pids_refused"] = refused(self.folders)
        self._timer = self._loop.call_later(SAMPLE_S, self._sample)
