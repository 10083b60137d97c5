"""One container of ours in a Docker Engine, from its attachment to its removal. Port ``Sandbox``.

Invariants: attached before it starts, so that no output is lost; drained always, so that a flood of output blocks
nobody; removed when it has ended, with the image that was made for it.

Not here: what it is created from (``docker_engine``, ``rules.docker_config``).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend_core.errors import HostError, SandboxUnavailable, quote
from core_runtime.drivers import cgroup_reading, docker_parcel, proc_view
from core_runtime.drivers.cgroup_watch import GroupWatch
from core_runtime.drivers.docker_client import QUERY_S, EngineClient, delete_container
from core_runtime.drivers.docker_stdio import Attached
from core_runtime.drivers.orphans import end_orphans
from core_runtime.drivers.tail import SHOWN_LIMIT_BYTES, escape
from core_runtime.ports import BusConnection, Exit
from core_runtime.rules.docker_transport import Transport
from core_runtime.rules.isolation import SANDBOXED_RUNTIMES, judge
from core_runtime.rules.sandbox import DriverKind, Isolation, SandboxSpec

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer
    from aiodocker.stream import Stream

KILL_S = 3.0
"""How long an engine may take to end a container; it takes some milliseconds."""


class DockerSandbox:
    """One container. ``live`` is the driver's set of running ids; ``image`` is removed with the container, if any;
    ``kernel`` the release that the engine's machine runs.
    """

    def __init__(
        self,
        engine: EngineClient,
        spec: SandboxSpec,
        container: DockerContainer,
        live: set[str],
        *,
        image: str = "",
        kernel: str = "",
    ) -> None:
        self.id = container.id
        self.pid = 0
        """Of the container's init, as the engine's machine counts; 0 where that is not this machine."""
        self._engine = engine
        self._spec = spec
        self._container = container
        self._live = live
        self._image = image
        self._kernel = kernel
        self._runtime = ""
        self._watch: GroupWatch | None = None
        self._last: Mapping[str, float] = {}
        self._killed = False
        self._patience = asyncio.timeout(None)
        """With its end; limited once it was killed."""
        self._tail = b""
        self._bus: Attached | None = None
        self._reader: asyncio.Task[None] | None = None
        self._end: asyncio.Task[Exit] | None = None
        live.add(self.id)

    async def begin(self, transport: Transport, runtime: str = "") -> None:
        """Attach, then start. ``SandboxUnavailable`` when the engine uses another runtime than the one asked for."""
        if runtime:
            used = str((await self._container.show())["HostConfig"].get("Runtime") or "")
            if used != runtime:
                raise SandboxUnavailable(
                    "The engine does not use the runtime that was chosen",
                    detail=f"asked for {quote(runtime)}, the container has {quote(used)}",
                    hint="Correct the engine's runtimes, or unset RUMI_DOCKER_RUNTIME.",
                )
        attached = transport is Transport.STDIO
        stream = self._container.attach(stdin=attached, stdout=True, stderr=True, logs=False)
        try:
            await stream._init()  # noqa: SLF001 - the library connects on first read only, which would be too late
            output = Attached(stream, self._wrote, bus=attached)
        except BaseException:
            await stream.close()
            raise
        self._bus = output if attached else None
        self._reader = asyncio.ensure_future(self._attached(stream, output))
        await self._container.start(timeout=QUERY_S)
        shown = await self._container.show()
        self._runtime = str(shown["HostConfig"].get("Runtime") or "")
        pid = int(shown["State"].get("Pid") or 0)
        self.pid = pid if await asyncio.to_thread(_is_local, pid, self.id) else 0
        if self.pid:
            with contextlib.suppress(OSError):  # it has ended already
                self._watch = GroupWatch(self.pid, until_end=self._runtime in SANDBOXED_RUNTIMES)
        self._end = asyncio.ensure_future(self._finish())

    async def abandon(self) -> None:
        """It could not be started: nothing of it is left."""
        self._live.discard(self.id)
        if self._watch is not None:
            self._watch.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        with contextlib.suppress(HostError):  # left to the next boot
            await self._remove()

    def connection(self) -> BusConnection | None:
        """The bus over stdio; ``None`` where a socket was mounted."""
        return self._bus

    async def visible(self) -> bool:
        """Whether this host can look at its processes."""
        return bool(self.pid) and await asyncio.to_thread(self._look) is not None

    async def measure(self, probe: Mapping[str, Any]) -> Isolation:
        """The host's look at the agent's process, where the engine runs on this machine."""
        view = await asyncio.to_thread(self._look) if self.pid else None
        return judge(DriverKind.DOCKER, self._spec, view, probe, runtime=self._runtime, kernel=self._kernel)

    async def wait(self) -> Exit:
        """When the container is gone."""
        assert self._end is not None, "begin() precedes"
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> Exit:
        """TERM, KILL after ``grace_s``, remove. Bounded: ``lost`` where nothing ends it."""
        assert self._end is not None, "begin() precedes"
        if self.pid:
            self._last = await self.usage()
        self._killed = True
        if grace_s > 0 and not self._end.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._signal("SIGTERM")
                    return await self.wait()
        if not self._end.done():
            await self._kill()
        return await self.wait()

    async def _kill(self) -> None:
        """By the engine, and where that ends nothing in time by this machine's kernel: gVisor's runtime asks the
        sandbox itself to end its processes, and one that stands still never answers. What neither ends is given up.
        """
        assert self._end is not None, "begin() precedes"
        asked = asyncio.ensure_future(self._signal("SIGKILL"))
        await asyncio.wait([self._end], timeout=KILL_S)
        if self.pid and not self._end.done():
            await asyncio.to_thread(end_orphans, self.id)
        if not self._end.done():
            with contextlib.suppress(RuntimeError):  # it ended this moment
                self._patience.reschedule(asyncio.get_running_loop().time() + QUERY_S)
            await asyncio.wait([self._end])
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async def usage(self) -> Mapping[str, float]:
        """From the container's cgroup and its ``/tmp`` where this machine can read them, else as the engine counts."""
        if self._end is None or self._end.done():
            return {}
        if self._watch is None:
            return {} if self.pid else await self._engines_count()
        return await asyncio.to_thread(self._count, self._watch.folders)

    def _count(self, group: Mapping[str, Path]) -> dict[str, float]:
        if self._runtime in SANDBOXED_RUNTIMES:  # what its processes hold here is that kernel's, not the Pack's
            return cgroup_reading.counted(group)
        files = proc_view.file_usage(cgroup_reading.processes(group), self._spec.limits.files)
        return cgroup_reading.counted(group) | files | proc_view.tmp_usage(self.pid)

    async def _engines_count(self) -> dict[str, float]:
        """One look by the engine; an engine that can't count gives nothing."""
        with contextlib.suppress(HostError, KeyError, TypeError, ValueError):  # nothing is counted
            async with self._engine.translated("count a container's use"):
                [found] = await self._container.stats(stream=False)
            throttled = found["cpu_stats"]["throttling_data"]
            return {
                "memory_bytes": float(found["memory_stats"]["usage"]),
                "cpu_s": found["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
                "pids": float(found["pids_stats"]["current"]),
                "pids_full": float(found["pids_stats"]["current"] >= self._spec.limits.pids),
                "cpu_periods": float(throttled["periods"]),
                "cpu_throttled": float(throttled["throttled_periods"]),
            }
        return {}

    async def output_tail(self) -> str:
        """What the container wrote outside the bus."""
        if self._end is not None and self._end.done() and self._reader is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        return escape(self._tail)

    def _counted_last(self) -> Mapping[str, float]:
        """At its stop, and by the watch until then."""
        return {**(self._watch.counted if self._watch is not None else {}), **self._last}

    async def _signal(self, name: str) -> None:
        with contextlib.suppress(HostError):  # it has ended, or the engine is gone: `wait` tells which
            async with self._engine.translated("signal a container"):
                await self._container.kill(signal=name, timeout=QUERY_S)

    async def _finish(self) -> Exit:
        try:
            async with self._engine.translated("wait for a container"):
                async with self._patience:
                    await self._container.wait(timeout=None)
                state = (await self._container.show())["State"]
            await self._remove()
        except HostError as error:
            return Exit(None, "lost", error.detail, self._counted_last())
        finally:
            if self._watch is not None:
                self._watch.close()
            self._live.discard(self.id)
            if self._reader is not None and not self._reader.done():
                await asyncio.wait([self._reader], timeout=0.5)
                self._reader.cancel()
        code = int(state.get("ExitCode", 0))
        counted = dict(self._counted_last())
        if state.get("OOMKilled"):  # not always where it was: the engine hears of it by another way than of the end
            counted["oom_kills"] = max(1.0, counted.get("oom_kills", 0.0))
        if self._killed:
            return Exit(code, "killed", "", counted)
        if code == 128 + signal.SIGKILL and counted.get("oom_kills"):
            return Exit(code, "oom", "the memory limit was exceeded", counted)
        if code > 128:
            return Exit(code, "signal", f"signal {code - 128}", counted)
        return Exit(code, "exited", quote(state["Error"]) if state.get("Error") else "", counted)

    async def _remove(self) -> None:
        async with self._engine.translated("remove a container"):
            await delete_container(self._container)
        if self._image:
            await docker_parcel.discard(self._engine, self._image)

    def _wrote(self, data: bytes) -> None:
        """Outside the bus. The end of it is kept."""
        self._tail = (self._tail + data)[-SHOWN_LIMIT_BYTES:]

    async def _attached(self, stream: Stream, output: Attached) -> None:
        """Until the connection is over: it broke with its engine, which `wait` reports, or the container has ended."""
        try:
            await asyncio.shield(output.ended)
        finally:
            output.close()
            await stream.close()

    def _look(self) -> Any:
        below = proc_view.descendants(self.pid)
        return proc_view.host_view(below[0] if below else self.pid, runtime=self._runtime)


def _is_local(pid: int, container_id: str) -> bool:
    """Whether ``pid`` is that container on this machine: a remote engine's number may name any process here."""
    if pid <= 0:
        return False
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii", errors="replace")
    except OSError:  # the process has ended
        return False
