"""The embedded sandbox: the system's bubblewrap, our seccomp filter, a cgroup per sandbox, an own uid when root.

Invariants:
  * Bubblewrap and Python come from root-owned folders only, never from below a home.
  * As root, the uid is dropped *before* bubblewrap starts: bubblewrap with ``--uid`` alone would still read 0600 files.
  * No cgroup → ``memfd_create`` refused, rlimits, and a sampler that kills above the memory limit; the level says so.
  * When the host ends, however it ends, the launcher ends, and every sandbox with it.

Not here: the arguments (``rules.bwrap_argv``), the filter (``rules.seccomp``), one sandbox that runs
(``embedded_sandbox``), levels (``rules.isolation``).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import platform
import signal
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from backend_core.errors import HostError, SandboxUnavailable, quote
from core_runtime.drivers import cgroup_reading, cgroups, embedded_machine, proc_view
from core_runtime.drivers.embedded_sandbox import EmbeddedSandbox, StatusPipe
from core_runtime.drivers.launch import Job, Launcher, Order
from core_runtime.drivers.launcher import ARGS_FD, SECCOMP_FD, STATUS_FD
from core_runtime.drivers.runtime_folder import PythonAbi, probe_python
from core_runtime.drivers.spares import Spares
from core_runtime.drivers.tail import OutputTail
from core_runtime.ports import TRIAL_PREFIX, DriverStatus
from core_runtime.rules import bwrap_argv, seccomp
from core_runtime.rules.frames import LARGEST_BYTES
from core_runtime.rules.sandbox import AGENT_COMMAND, DriverKind, Level, Limits, SandboxSpec

STAGE_FOLDER = "/run/rumi-sandbox"
"""Empty, root-owned, 0711. Each launch mounts its own things there in a mount namespace that nobody else has."""
PROBE_S = 20.0
PROBE_COMMAND = ("-I", "-S", "-c", "print(open('/proc/self/status').read())")
PROBE_UID = 65534
INSTALL_HINT = "apt-get install bubblewrap (or your distribution's equivalent), then: rumi doctor"


class BubblewrapDriver:
    """Port ``SandboxDriver`` over bubblewrap.

    Args:
        installation_id: names this installation's cgroups and pid files.
        state_dir: folder of this driver's pid files and probe files; made when missing, 0711.
        use_cgroups: False = never make control groups, even where that works.
    """

    kind = DriverKind.EMBEDDED
    attaches = False

    def __init__(self, installation_id: str, state_dir: Path, *, use_cgroups: bool = True) -> None:
        self._installation_id = installation_id
        self._state_dir = state_dir
        self._use_cgroups = use_cgroups
        self._cgroups: cgroups.Cgroups | None = None
        self._spares: Spares | None = None
        self._machine: bwrap_argv.EmbeddedMachine | None = None
        self._launcher = Launcher()
        self._filter = b""
        self._trials = itertools.count(1)
        self.live: set[str] = set()
        """Names (``<pack>-<generation>``) of sandboxes that this process started and that have not ended."""

    # ---- port

    async def probe(self) -> DriverStatus:
        """Start Python under the production settings; when that fails, look for the reason."""
        try:
            machine = await self._ready()
            level = await self._trial()
            version = await asyncio.to_thread(embedded_machine.bwrap_version, machine.bwrap)
        except (HostError, OSError) as error:
            if not self.live:  # a probe beside running sandboxes must never end them
                await self.close()
            reason, hint = await asyncio.to_thread(embedded_machine.explain, str(error))
            return DriverStatus(self.kind, available=False, level=Level.NONE, reason=reason, hint=hint or INSTALL_HINT)
        reason = "" if level is Level.STANDARD else "no control group can be made here: limits are weaker"
        return DriverStatus(self.kind, available=True, level=level, version=version, reason=reason)

    async def python(self) -> PythonAbi:
        """The Python that runs inside.

        Raises:
            SandboxUnavailable: none is found.
        """
        machine = await self._ready()
        return await asyncio.to_thread(probe_python, machine.python)

    async def start(self, spec: SandboxSpec) -> EmbeddedSandbox:
        """Start the agent. Raises ``HostError``; nothing is left then."""
        return await self._start(spec, AGENT_COMMAND)

    def render(self, spec: SandboxSpec) -> Mapping[str, str]:
        """The arguments and the filter in words, for the operator."""
        machine = self._machine or embedded_machine.find()
        options = bwrap_argv.options(spec, machine, seccomp_fd=SECCOMP_FD, status_fd=STATUS_FD)
        return {
            "bubblewrap.options": "\n".join(options) + "\n",
            "bubblewrap.command": "\n".join(bwrap_argv.command_line(machine, ARGS_FD)) + "\n",
            "seccomp.json": seccomp.docker_profile_json(),
            "rlimits.json": json.dumps(self._rlimits(spec), indent=1, sort_keys=True) + "\n",
        }

    async def remove_leftovers(self, installation_id: str) -> list[str]:
        """Kill what pid files of this installation name, and empty its cgroups."""
        if installation_id != self._installation_id:
            return []
        return await asyncio.to_thread(self._remove_leftovers)

    async def close(self) -> None:
        """End the launcher. Embedded sandboxes live only as long as it does."""
        if self._spares is not None:
            await self._spares.stop()
        await asyncio.to_thread(self._give_back)

    # ---- starting

    async def _ready(self) -> bwrap_argv.EmbeddedMachine:
        if self._machine is None:
            machine = await asyncio.to_thread(embedded_machine.find)
            if self._use_cgroups:
                self._cgroups = await asyncio.to_thread(cgroups.find, self._installation_id)
            self._spares = Spares(self._cgroups, self._launcher) if self._cgroups is not None else None
            self._filter = _filter(memfd=self._cgroups is not None)
            self._machine = machine
        return self._machine

    async def _start(self, spec: SandboxSpec, command: tuple[str, ...]) -> EmbeddedSandbox:
        machine = await self._ready()
        root = os.geteuid() == 0
        if not root and spec.uid != os.geteuid():
            raise HostError(
                "This host can't give a Pack a user of its own",
                code="uid_unavailable",
                detail=f"expected uid {os.geteuid()} (the host's own), got {spec.uid}",
            )
        name = f"{spec.pack_id}-{spec.generation}"
        group, prepared = await self._group(name, spec.limits)
        output_read, output_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        status_read, status_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(output_write, True)
        os.set_blocking(status_write, True)
        tail = OutputTail(output_read, spec.limits.log_bytes_kept)
        status = StatusPipe(status_read)
        try:
            order = self._order(spec, machine, group, command, root=root)
            job, pid = await self._launcher.start(order, output_write, status_write, prepared)
            self.live.add(name)
            sandbox = EmbeddedSandbox(self, spec, job, pid, status, tail, group)
        except BaseException as error:
            tail.close()
            status.close()
            if group is not None and self._spares is not None:
                await asyncio.to_thread(self._spares.remove, group)
            if isinstance(error, OSError):
                raise HostError("A sandbox could not be started", code="start_failed", detail=str(error)) from error
            raise
        finally:
            os.close(output_write)
            os.close(status_write)
        return sandbox

    async def _group(self, name: str, limits: Limits) -> tuple[cgroups.Group | None, Job | None]:
        """A group with these limits, and the process that is in it already, if one was kept ready."""
        if self._cgroups is None or self._spares is None:
            return None, None
        return await self._spares.take(limits) or (
            await asyncio.to_thread(self._cgroups.create, name, limits),
            None,
        )

    def _order(
        self,
        spec: SandboxSpec,
        machine: bwrap_argv.EmbeddedMachine,
        group: cgroups.Group | None,
        command: tuple[str, ...],
        *,
        root: bool,
    ) -> Order:
        shown, folder, binds = spec, "", {}
        places = (spec.pack_dir, spec.runtime_dir, spec.socket_path, *filter(None, (spec.packages_dir,)))
        if root and not all(_passable(p) for p in places):
            folder = _stage_folder()
            binds = {"pack": spec.pack_dir, "runtime": spec.runtime_dir, "bus.sock": spec.socket_path}
            shown = replace(
                spec, pack_dir=f"{folder}/pack", runtime_dir=f"{folder}/runtime", socket_path=f"{folder}/bus.sock"
            )
            if spec.packages_dir:
                binds["packages"] = spec.packages_dir
                shown = replace(shown, packages_dir=f"{folder}/packages")
        return Order(
            command=tuple(bwrap_argv.command_line(machine, ARGS_FD, command)),
            options=tuple(bwrap_argv.options(shown, machine, seccomp_fd=SECCOMP_FD, status_fd=STATUS_FD)),
            seccomp=self._filter,
            uid=spec.uid if root else None,
            gid=spec.gid if root else None,
            join=group.join_files if group else (),
            rlimits=self._rlimits(spec),
            stage_folder=folder,
            stage_binds=binds,
        )

    def _rlimits(self, spec: SandboxSpec) -> dict[str, int]:
        limits = spec.limits
        out = {"CORE": 0, "NOFILE": limits.files, "FSIZE": max(limits.tmp_bytes, LARGEST_BYTES), "MSGQUEUE": 0}
        if self._cgroups is None:
            out["DATA"] = limits.memory_bytes  # per process only: the sampler adds them up
        if os.geteuid() == 0:
            out["NPROC"] = limits.pids + 8  # counted per uid, which this Pack has alone; 8 for bubblewrap itself
        return out

    async def _trial(self) -> Level:
        """A real start with everything but the agent; the level that it proves.

        Raises:
            SandboxUnavailable: with what bubblewrap said.
        """
        root = os.geteuid() == 0
        folder = await asyncio.to_thread(self._trial_folder)
        try:
            spec = SandboxSpec(
                pack_id="probe",
                generation=os.getpid() * 1_000_000 + next(self._trials),
                installation_id=self._installation_id,
                uid=PROBE_UID if root else os.geteuid(),
                gid=PROBE_UID if root else os.getegid(),
                pack_dir=f"{folder}/pack",
                runtime_dir=f"{folder}/runtime",
                socket_path=f"{folder}/bus.sock",
                digest="0" * 64,
            )
            sandbox = await self._start(spec, PROBE_COMMAND)
            try:
                async with asyncio.timeout(PROBE_S):
                    ended = await sandbox.wait()
            except TimeoutError:
                ended = await sandbox.stop(0)
            output = await sandbox.output_tail()
        finally:
            await asyncio.to_thread(embedded_machine.remove_tree, folder)
        lines = dict(line.partition(":\t")[::2] for line in output.splitlines())
        if ended.code != 0 or lines.get("Seccomp") != "2" or lines.get("NoNewPrivs") != "1":
            raise SandboxUnavailable("Bubblewrap does not work here", detail=quote(output.strip()[-400:], 400))
        return Level.STANDARD if self._cgroups is not None else Level.REDUCED

    def _trial_folder(self) -> Path:
        self._state_dir.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=TRIAL_PREFIX, dir=self._state_dir))
        for path in (folder / "pack", folder / "runtime/etc"):
            path.mkdir(parents=True)
        for name in embedded_machine.ETC.values():
            (folder / "runtime" / name).touch()
        (folder / "bus.sock").touch()
        for path in (folder, folder / "pack", folder / "runtime", folder / "runtime/etc"):
            path.chmod(0o711)
        return folder

    # ---- afterwards

    def write_pid_file(self, spec: SandboxSpec, pid: int) -> Path:
        """Remember a sandbox's init for the next boot of the host."""
        folder = self._state_dir / "pids"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / f"{spec.pack_id}-{spec.generation}.json"
        identity = {"pid": pid, "start": proc_view.start_time(pid), "boot": proc_view.boot_id()}
        path.write_text(json.dumps(identity | {"installation": self._installation_id}), encoding="ascii")
        return path

    def remove_group(self, group: cgroups.Group) -> dict[str, float]:
        """Empty and remove a sandbox's group; what was counted in it. Raises ``OSError``; it stays then."""
        counted = cgroup_reading.counted(group.folders)
        if self._spares is not None:
            self._spares.remove(group)
        return counted

    def keep_ready(self) -> None:
        """Replace the spare process that a start used up."""
        if self._spares is not None:
            self._spares.refill()

    def _remove_leftovers(self) -> list[str]:
        removed: list[str] = []
        for path in sorted((self._state_dir / "pids").glob("*.json")):
            if path.stem in self.live:
                continue
            if self._kill_named(path):
                removed.append(f"embedded-{path.stem}")
            path.unlink(missing_ok=True)
        if self._use_cgroups and self._cgroups is None:
            self._cgroups = cgroups.find(self._installation_id)
        if self._cgroups is not None:
            ours = self.live | (self._spares.groups if self._spares is not None else set())
            for name, group in self._cgroups.leftovers():
                if name in ours:
                    continue
                with contextlib.suppress(OSError):  # still in use: the next boot removes it
                    self._cgroups.remove(group)
                    removed.append(f"embedded-{name}")
        return sorted(set(removed))

    def _kill_named(self, path: Path) -> bool:
        """Kill the process that a pid file names, if it is still that very process."""
        try:
            told = json.loads(path.read_bytes()[:4096])
            pid, start, boot = int(told["pid"]), int(told["start"]), str(told["boot"])
            handle = os.pidfd_open(pid)
        except (OSError, ValueError, KeyError, TypeError):  # no account of a process: nothing is killed by it
            return False
        try:  # the descriptor names one process for good; the start time proves which
            if boot != proc_view.boot_id() or proc_view.start_time(pid) != start:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def _give_back(self) -> None:
        self._launcher.close()
        with contextlib.suppress(OSError):  # what still names a sandbox stays for the next boot
            (self._state_dir / "pids").rmdir()
        if self._spares is not None:
            self._spares.close()
        if self._cgroups is not None:
            self._cgroups.remove_parents()
        self._machine, self._cgroups, self._spares = None, None, None


def _filter(*, memfd: bool) -> bytes:
    machine = platform.machine()
    if machine not in seccomp.ARCHITECTURES:
        raise SandboxUnavailable(
            "No system-call filter exists for this processor",
            detail=f"expected one of {', '.join(seccomp.ARCHITECTURES)}, got {machine}",
            hint="Install Docker: its engine compiles the filter for this processor.",
        )
    return seccomp.bpf_program(machine, memfd=memfd)


def _passable(path: str) -> bool:
    """Whether any uid can reach ``path``: each folder above it lets others pass."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in Path(path).parents)


def _stage_folder() -> str:
    """The empty folder for private mounts, made when missing and checked, since what stands there matters to root."""
    Path(STAGE_FOLDER).mkdir(mode=0o711, exist_ok=True)
    found = os.lstat(STAGE_FOLDER)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise HostError(
            "The folder for private mounts is not safe",
            code="stage_unsafe",
            detail=f"{STAGE_FOLDER}: expected a folder of root that nobody else can write",
            hint=f"Remove {STAGE_FOLDER} and start again.",
        )
    Path(STAGE_FOLDER).chmod(0o711)
    return STAGE_FOLDER
