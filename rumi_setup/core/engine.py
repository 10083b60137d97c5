"""A Docker engine of our own for a test run: own socket, data, containerd namespaces and cgroup; torn down by pid.

Invariants
- It never listens on a socket path that this module did not make: a second engine on a live socket takes it over and
  deletes it at exit.
- It touches no bridge and no firewall rule of the machine.
- Only processes whose command line names our own folder, or that sit in our own cgroup, are ended.
- After `kill -9` of the run, the engine gets TERM from the kernel, and the next run removes what is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rumi_setup.core import files, process
from rumi_setup.core.docker_http import Engine, EngineError
from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rumi_setup.core.progress import Progress

_PREFIX = "rumi-eng."
_READY_LIMIT_S = 60.0
_STOP_GRACE_S = 30.0
_POLL_S = 0.1
_OURS = ("dockerd", "containerd", "containerd-shim", "docker-proxy", "docker-init", "tini")
_CGROUPS = Path("/sys/fs/cgroup")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Place:
    """Everything of one engine is named after its folder; short, since a socket path has at most 107 bytes."""

    folder: Path

    @property
    def tag(self) -> str:
        return self.folder.name.rpartition(".")[2]

    @property
    def socket(self) -> Path:
        return self.folder / "s"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def cgroup(self) -> str:
        """Of the folder's name as digits, since that may hold underscores where containerd's namespaces take none."""
        return f"rumi-eng-{self.tag.encode().hex()}"


def possible() -> str:
    """Empty when an own engine can be started here, else why not."""
    if not sys.platform.startswith("linux"):
        return say("only on Linux")
    if os.geteuid() != 0:
        return say("needs root")
    missing = [name for name in ("dockerd", "containerd", "runc") if shutil.which(name) is None]
    return say("{names} not installed", names=", ".join(missing)) if missing else ""


def gvisor() -> dict[str, dict[str, Any]]:
    """``runtimes`` of an engine's own configuration file: ``runsc`` where it is installed, else empty.

    Without a network, which no sandbox has: Debian's ``runsc`` takes a newer kernel for one that shares it.
    """
    path = shutil.which("runsc")
    return {"runsc": {"path": path, "runtimeArgs": ["--network=none"]}} if path is not None else {}


def answering() -> Engine | None:
    """The engine that the environment names, when it answers."""
    try:
        engine = Engine.from_environment()
        engine.version(timeout_s=5.0)
    except EngineError:
        return None
    return engine


@contextlib.contextmanager
def private_engine(progress: Progress) -> Iterator[Engine]:
    """Starts one and ends it, whatever happens inside. Raises SetupError when it does not come up."""
    sweep(progress)
    place = _Place(Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp")))  # TMPDIR may be too long
    me = os.getpid()
    files.write_json(place.folder / "owner.json", {"pid": me, "started": process.start_time(me)})
    child: subprocess.Popen[bytes] | None = None
    try:
        _need_cgroup()
        child = _launch(place, {"runtimes": gvisor()})
        yield _wait(child, place)
    except SetupError:
        _show_log(place, progress)
        raise
    finally:
        _tear_down(place, child)


def sweep(progress: Progress) -> None:
    """Removes engines whose run was killed."""
    for folder in sorted(Path("/tmp").glob(f"{_PREFIX}*")):  # noqa: S108 - only looked at; ownership is checked
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or _in_use(folder):
                continue
        except FileNotFoundError:
            continue  # its own run took it away just now
        progress.note(say("Removing the engine of a run that was killed ({folder}).", folder=folder))
        _tear_down(_Place(folder), None)


def _in_use(folder: Path) -> bool:
    """Whether the run that made it lives, or may be about to say so."""
    try:
        owner = files.read_json(folder / "owner.json")
        return process.alive(int(owner["pid"]), str(owner["started"]))
    except (ValueError, KeyError, TypeError):
        return time.time() - folder.stat().st_mtime < _READY_LIMIT_S


def _need_cgroup() -> None:
    mounts = Path("/proc/mounts").read_text(encoding="utf-8")
    if any(line.split()[2] in {"cgroup", "cgroup2"} for line in mounts.splitlines()):
        return
    mounted = process.run(["mount", "-t", "cgroup2", "none", _CGROUPS], timeout_s=10)
    if not mounted.ok:
        raise SetupError(
            say("No cgroup file system is mounted, and none could be."), attempts=(Attempt("mount", mounted.why()),)
        )


def _launch(place: _Place, more: Mapping[str, Any] = MappingProxyType({})) -> subprocess.Popen[bytes]:
    """``more``: of the engine's own configuration file."""
    config = place.folder / "config.json"  # absolute paths throughout: a relative one makes the engine hang
    files.write_json(config, {"deprecated-key-path": str(place.folder / "key.json"), **more})
    argv: list[str | os.PathLike[str]] = [
        "dockerd", "-H", f"unix://{place.socket}",
        "--data-root", place.folder / "data", "--exec-root", place.folder / "x", "-p", place.folder / "pid",
        "--config-file", config,
        "--containerd-namespace", place.cgroup, "--containerd-plugins-namespace", f"{place.cgroup}-plugins",
        "--cgroup-parent", f"/{place.cgroup}", "--exec-opt", "native.cgroupdriver=cgroupfs",
        "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
    ]  # fmt: skip
    with place.log.open("wb") as log:
        try:
            return subprocess.Popen(
                [os.fspath(a) for a in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_end_with_parent,  # noqa: PLW1509 - no thread holds a lock here
            )  # fmt: skip
        except OSError as error:
            raise SetupError(say("dockerd could not be started: {why}.", why=error)) from error


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait(child: subprocess.Popen[bytes], place: _Place) -> Engine:
    engine = Engine(f"unix://{place.socket}")
    deadline = time.monotonic() + _READY_LIMIT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise SetupError(say("dockerd ended at start, with exit code {code}.", code=child.returncode))
        if place.socket.exists():
            with contextlib.suppress(EngineError):
                engine.version(timeout_s=5.0)
                return engine
        time.sleep(_POLL_S)
    raise SetupError(say("dockerd was not ready in {n} s.", n=round(_READY_LIMIT_S)))


def _show_log(place: _Place, progress: Progress) -> None:
    if place.log.exists():
        for line in place.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]:
            progress.note(f"  dockerd: {line[:300]}")


def _tear_down(place: _Place, child: subprocess.Popen[bytes] | None) -> None:
    _end_containers(place)  # first: the engine would grant each of them ten seconds
    if child is not None:
        _end(child)
    for grace_s in (_STOP_GRACE_S if child is None else 1.0, 0.0):
        left = [(p, process.start_time(p)) for p in _processes_of(place)]
        for pid, started in left:
            if started is not None:
                process.stop(pid, started, grace_s=grace_s)
    _empty_cgroup(place)
    for mount in _mounts_under(place.folder):
        process.run(["umount", "-l", mount], timeout_s=10)
    if not _mounts_under(place.folder):
        shutil.rmtree(place.folder, ignore_errors=True)


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(5.0)


def _processes_of(place: _Place) -> list[int]:
    """Engine programs whose command line names our folder."""
    needle = f"{place.folder}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            named = needle in (entry / "cmdline").read_bytes().replace(b"\0", b" ")
            program = (entry / "exe").readlink().name
        except OSError:
            continue  # ended meanwhile
        if named and program.startswith(_OURS):
            found.append(int(entry.name))
    return found


def _cgroups_of(place: _Place) -> list[Path]:
    """Version 2 has one, version 1 one for each controller; the engine itself is in none of them."""
    return [g for g in (_CGROUPS / place.cgroup, *_CGROUPS.glob(f"*/{place.cgroup}")) if g.is_dir()]


def _end_containers(place: _Place) -> None:
    for group in _cgroups_of(place):
        for listing in group.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                for pid in listing.read_text(encoding="ascii").split():
                    os.kill(int(pid), signal.SIGKILL)


def _empty_cgroup(place: _Place) -> None:
    """Ends containers whose engine died under them, then removes the groups."""
    _end_containers(place)
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and (groups := _cgroups_of(place)):
        for group in groups:
            for folder in [*sorted((p for p in group.rglob("*") if p.is_dir()), reverse=True), group]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        time.sleep(_POLL_S)


def _mounts_under(folder: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [line.split()[4] for line in lines]
    return sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True)
