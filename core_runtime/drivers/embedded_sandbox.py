"""One running bubblewrap: what the host sees of it, how it is stopped, what it said last.

Invariants:
  * ``wait`` returns when nothing of the sandbox is left: processes, control group, pid file.
  * Its counters are read a last time before its group goes.
  * Without a control group a sampler ends it above its limits of memory and processes.

Not here: starting (``bubblewrap``), levels (``rules.isolation``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from core_runtime.drivers import cgroup_reading, proc_view
from core_runtime.drivers.cgroups import Group
from core_runtime.drivers.launch import Job
from core_runtime.drivers.tail import OutputTail
from core_runtime.ports import Exit
from core_runtime.rules.isolation import judge
from core_runtime.rules.sandbox import DriverKind, Isolation, SandboxSpec

STATUS_S = 10.0
SAMPLE_S = 0.25
LOOKS = 4


class Maker(Protocol):
    """What a sandbox needs of the driver that made it."""

    live: set[str]

    def write_pid_file(self, spec: SandboxSpec, pid: int) -> Path:
        """Remember a sandbox's init for the next boot of the host."""

    def remove_group(self, group: Group) -> dict[str, float]:
        """Empty and remove a sandbox's group; what was counted in it. Raises ``OSError``; it stays then."""

    def keep_ready(self) -> None:
        """Replace the spare process that a start used up."""


class EmbeddedSandbox:
    """One running bubblewrap. Made by the driver."""

    def __init__(
        self,
        driver: Maker,
        spec: SandboxSpec,
        job: Job,
        pid: int,
        status: StatusPipe,
        tail: OutputTail,
        group: Group | None,
    ) -> None:
        self.id = f"embedded-{spec.pack_id}-{spec.generation}"
        self._driver = driver
        self._spec = spec
        self._job = job
        self._status = status
        self._tail = tail
        self._group = group
        self._stopped_by_us = ""
        self._counted: Mapping[str, float] = {}
        self.pid = pid
        """Of bubblewrap itself, on the host."""
        self._end = asyncio.ensure_future(self._finish())
        self._sampler = asyncio.ensure_future(self._sample()) if group is None else None

    def connection(self) -> None:
        """The bus is a socket file."""

    async def measure(self, probe: Mapping[str, Any]) -> Isolation:
        """The host's look at the agent, compared with the agent's own."""
        view = None
        with contextlib.suppress(TimeoutError):
            agent = await self._agent_pid()
            view = await asyncio.to_thread(proc_view.host_view, agent) if agent else None
        self._driver.keep_ready()
        return judge(DriverKind.EMBEDDED, self._spec, view, probe)

    async def wait(self) -> Exit:
        """When nothing of the sandbox is left."""
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> Exit:
        """TERM to the agent, KILL to everything after ``grace_s``."""
        self._counted = {**self._counted, **await self.usage()}
        self._stopped_by_us = self._stopped_by_us or "stopped"
        if grace_s > 0 and not self._end.done():
            with contextlib.suppress(TimeoutError, ProcessLookupError):
                agent = await self._agent_pid()
                if agent:
                    os.kill(agent, signal.SIGTERM)
                await asyncio.wait_for(asyncio.shield(self._end), grace_s)
        self._job.signal(signal.SIGKILL)
        return await self.wait()

    async def usage(self) -> Mapping[str, float]:
        """From the cgroup; without one, from the processes themselves."""
        if self._end.done():
            return {}
        if self._group is not None:
            return await asyncio.to_thread(self._count, self._group)
        pids = await asyncio.to_thread(proc_view.descendants, self.pid)
        memory = await asyncio.to_thread(proc_view.memory_bytes, pids)
        files = await asyncio.to_thread(proc_view.file_usage, pids, self._spec.limits.files)
        return {"memory_bytes": float(memory), "pids": float(len(pids))} | files

    def _count(self, group: Group) -> dict[str, float]:
        # bubblewrap itself stands outside of what it made
        pids = [pid for pid in cgroup_reading.processes(group.folders) if pid != self.pid]
        tmp = next(filter(None, map(proc_view.tmp_usage, pids[:LOOKS])), {})  # one that has just ended shows none
        files = proc_view.file_usage(pids, self._spec.limits.files)
        return cgroup_reading.counted(group.folders) | files | tmp

    async def output_tail(self) -> str:
        """What the sandbox wrote outside the bus."""
        return self._tail.text()

    async def _agent_pid(self) -> int | None:
        """The agent on the host: the only child of the sandbox's init."""
        async with asyncio.timeout(STATUS_S):
            init = await self._status.child_pid()
        return (proc_view.first_child(init) or init) if init else None

    async def _finish(self) -> Exit:
        pid_file: Path | None = None
        with contextlib.suppress(TimeoutError, OSError):  # without the file the next boot finds it by its group
            async with asyncio.timeout(STATUS_S):
                init = await self._status.child_pid()
            if init:
                pid_file = await asyncio.to_thread(self._driver.write_pid_file, self._spec, init)
        status = await self._job.ended
        if self._sampler is not None:
            self._sampler.cancel()
        detail = ""
        if self._group is not None:
            try:
                counted = await asyncio.to_thread(self._driver.remove_group, self._group)
            except OSError as error:
                counted, detail = {}, f"its control group could not be removed: {error}"
            self._counted = {**self._counted, **counted}
        await self._tail.finished()
        self._status.close()
        self._driver.live.discard(f"{self._spec.pack_id}-{self._spec.generation}")
        if pid_file is not None:
            pid_file.unlink(missing_ok=True)
        return _exit(status, self._counted, ours=self._stopped_by_us, detail=detail)

    async def _sample(self) -> None:
        """Without a cgroup nothing in the kernel adds up a sandbox's memory: look, and end it above the limit."""
        while not self._end.done():
            pids = await asyncio.to_thread(proc_view.descendants, self.pid)
            used = await asyncio.to_thread(proc_view.memory_bytes, pids)
            over_memory, over_pids = used > self._spec.limits.memory_bytes, len(pids) > self._spec.limits.pids + 2
            if over_memory or over_pids:
                self._stopped_by_us = "oom" if over_memory else "processes"
                over = {"oom_kills": 1.0} if over_memory else {"pids": float(len(pids)), "pids_full": 1.0}
                self._counted = {**self._counted, **over}
                self._job.signal(signal.SIGKILL)
                return
            await asyncio.sleep(SAMPLE_S)


class StatusPipe:
    """Reads bubblewrap's ``--json-status-fd``: its first line names the sandbox's init."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._child: asyncio.Future[int | None] = self._loop.create_future()
        self._data = b""
        self._loop.add_reader(fd, self._on_readable)

    async def child_pid(self) -> int | None:
        """Pid on the host; ``None`` when bubblewrap ended before there was one."""
        return await asyncio.shield(self._child)

    def close(self) -> None:
        """Stop reading."""
        if self._fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if not self._child.done():
            self._child.set_result(None)

    def _on_readable(self) -> None:
        data = b""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, 4096)
            if not data:
                self.close()
                return
        self._data = (self._data + data)[-8192:]
        first, newline, _ = self._data.partition(b"\n")
        if newline and not self._child.done():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._child.set_result(int(json.loads(first)["child-pid"]))


def _exit(status: int | None, counted: Mapping[str, float], *, ours: str, detail: str) -> Exit:
    if status is None and ours != "oom":
        return Exit(None, "lost", detail or "the launcher ended", counted)
    # bubblewrap reports a signalled child as 128 + its number
    signalled = 0 if status is None else -status if status < 0 else max(status - 128, 0)
    if ours == "oom" or (not ours and signalled == signal.SIGKILL and counted.get("oom_kills")):
        return Exit(status, "oom", detail or "the memory limit was exceeded", counted)
    if ours:
        many = f"{counted.get('pids', 0.0):g} processes ran" if ours == "processes" else ""
        return Exit(status, "killed", detail or many, counted)
    cause = "signal" if signalled else "exited"
    return Exit(status, cause, detail or (f"signal {signalled}" if signalled else ""), counted)
