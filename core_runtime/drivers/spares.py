"""Processes kept ready for embedded sandboxes: forked and in a control group of their own, waiting for their order.

Entering a control group makes the kernel wait for every processor, ten milliseconds and more: half of a start, and the
one part of it that names no Pack. So it is done ahead of time, for a few.

Invariants:
  * A spare is the launcher's own code and nothing else: no Pack, no uid of a Pack, no file, no descriptor of the host.
  * It is given out once. Its group has the Pack's limits before it learns what to become.
  * Whatever was not given out is removed by ``close``; after a crash of the host it counts as left over.

Not here: the order (``launch``), and the steps after it, which are the same with a spare and without (``launcher``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os

from msgspec import Struct

from backend_core.errors import HostError
from core_runtime.drivers.cgroups import Cgroups, Group
from core_runtime.drivers.launch import Job, Launcher
from core_runtime.rules.sandbox import Limits

COUNT = 4
"""As many as start side by side. One costs the machine two megabytes."""
QUIET_S = 0.02
"""After a Pack's agent has answered: made earlier, a spare would cost the start beside it what it saves the next."""


class _Spare(Struct, frozen=True):
    group: Group
    job: Job


class Spares:
    """The spares of one driver. Use from one event loop."""

    def __init__(self, cgroups: Cgroups, launcher: Launcher) -> None:
        self._cgroups = cgroups
        self._launcher = launcher
        self._ready: list[_Spare] = []
        self._numbers = itertools.count(1)
        self._stopped = False
        self._filling: asyncio.Task[None] | None = None
        self.groups: set[str] = set()
        """Names of the groups that were made here and may still exist: none of them is left over."""

    async def take(self, limits: Limits) -> tuple[Group, Job] | None:
        """One whose group has these limits now; ``None`` when none is ready. Raises ``HostError``."""
        while self._ready:
            spare = self._ready.pop()
            if not spare.job.ended.done():
                await asyncio.to_thread(self._cgroups.limit, spare.group, limits)
                return spare.group, spare.job
            await asyncio.to_thread(self.remove, spare.group)
        return None

    def refill(self) -> None:
        """Make what is missing, soon."""
        if self._filling is None or self._filling.done():
            self._filling = asyncio.ensure_future(self._fill())

    def remove(self, group: Group) -> None:
        """Remove a group, and forget it if it was made here. Blocks. Raises ``OSError`` as ``Cgroups.remove`` does."""
        self._cgroups.remove(group)
        self.groups.discard(group.name)

    async def stop(self) -> None:
        """Make no more. ``close`` follows."""
        self._stopped = True
        if self._filling is not None:
            await asyncio.wait([self._filling])

    def close(self) -> None:
        """Remove what was not given out. Blocks; for when the launcher has ended, and each child with it."""
        ready, self._ready = self._ready, []
        for spare in ready:
            with contextlib.suppress(OSError):  # still in use: the next boot removes it
                self.remove(spare.group)

    async def _fill(self) -> None:
        await asyncio.sleep(QUIET_S)
        while len(self._ready) < COUNT and not self._stopped:
            name = f"spare-{os.getpid()}-{next(self._numbers)}"
            self.groups.add(name)
            try:
                group = await asyncio.to_thread(self._cgroups.make, name)
                self._ready.append(_Spare(group, self._launcher.prepare(group.join_files)))
            except HostError:  # the next start will meet the same, and say it
                return
