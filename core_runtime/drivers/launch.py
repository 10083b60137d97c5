"""The host's side of the launcher: orders out, exits in. One launcher per driver, restarted when it has gone.

Invariants: an order is answered, or every job of that launcher is reported ``lost``; nothing waits for ever.

Not here: what is started (``bubblewrap``) and how (``launcher``, the script).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from backend_core.errors import HostError

SCRIPT = Path(__file__).with_name("launcher.py")
ANSWER_S = 10.0


class Order(Struct, frozen=True):
    """One bubblewrap to start. ``uid`` None = stay who we are. ``stage_folder`` "" = no private mounts are needed."""

    command: tuple[str, ...]
    options: tuple[str, ...]
    seccomp: bytes
    uid: int | None
    gid: int | None
    join: tuple[str, ...]
    rlimits: Mapping[str, int]
    stage_folder: str = ""
    stage_binds: Mapping[str, str] = field(default_factory=dict)

    def message(self, job: int, *, prepared: bool) -> bytes:
        """As the launcher reads it."""
        stage = {"folder": self.stage_folder, "binds": dict(self.stage_binds)} if self.stage_folder else None
        return json.dumps(
            {
                "start": job,
                "command": self.command,
                "options": self.options,
                "seccomp": base64.b64encode(self.seccomp).decode(),
                "uid": self.uid,
                "gid": self.gid,
                "join": None if prepared else self.join,
                "rlimits": dict(self.rlimits),
                "stage": stage,
            }
        ).encode()


class Job:
    """One started process: its pid, and a future of its exit status (negative = signal, ``None`` = launcher lost)."""

    def __init__(self, launcher: Launcher, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._launcher = launcher
        self._number = number
        self.started: asyncio.Future[int] = loop.create_future()
        self.ended: asyncio.Future[int | None] = loop.create_future()

    @property
    def number(self) -> int:
        """What the launcher calls it."""
        return self._number

    def signal(self, number: int) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if not self.ended.done():
            self._launcher.send({"signal": self._number, "number": number})


class Launcher:
    """Owns the launcher process. Use from one event loop."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count(1)

    def prepare(self, join: Sequence[str]) -> Job:
        """A process that enters these cgroups and waits for its order. Raises ``HostError`` without a launcher."""
        self._ensure()
        job = self._new_job()
        self.send({"prepare": job.number, "join": list(join)})
        return job

    async def start(self, order: Order, output: int, status: int, prepared: Job | None = None) -> tuple[Job, int]:
        """Start one process; ``output`` and ``status`` are descriptors that its stdout/stderr and status go to.

        ``prepared`` is one that entered ``order.join`` ahead of time; when it ends before it has taken the order,
        another is made.

        Raises:
            HostError: the launcher can't be started, or went away.
        """
        control = self._ensure()
        job = prepared or self._new_job()
        try:
            socket.send_fds(control, [order.message(job.number, prepared=prepared is not None)], [output, status])
            async with asyncio.timeout(ANSWER_S):
                answers: tuple[asyncio.Future[Any], ...] = (job.started, job.ended)
                await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
            if not job.started.done():
                if prepared is not None and job.ended.result() is not None:
                    return await self.start(order, output, status)
                raise ConnectionResetError("the launcher ended")
        except (OSError, TimeoutError) as error:
            self._jobs.pop(job.number, None)
            raise HostError(
                "The sandbox launcher does not answer",
                code="launcher_lost",
                detail=str(error) or f"no answer within {ANSWER_S:g} s",
                hint="rumi doctor",
            ) from error
        return job, job.started.result()

    def _new_job(self) -> Job:
        number = next(self._numbers)
        job = self._jobs[number] = Job(self, number, asyncio.get_running_loop())
        return job

    def send(self, message: Mapping[str, Any]) -> None:
        """A message without an answer; a launcher that is gone has killed its children already."""
        if self._control is not None:
            with contextlib.suppress(OSError):  # it is gone, and its children with it
                self._control.send(json.dumps(message).encode())

    def close(self) -> None:
        """End the launcher, and with it every sandbox that it started. Safe to call twice."""
        process, self._process = self._process, None
        self._disconnect()
        if process is not None:
            try:
                process.wait(timeout=ANSWER_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ensure(self) -> socket.socket:
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                # -I -S: this process may be root, and loads nothing but the standard library. Its own session keeps a
                # terminal's Ctrl-C away from the sandboxes.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(SCRIPT), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env={},
                    cwd="/",
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise HostError(
                "The sandbox launcher can't be started", code="launcher_lost", detail=str(error), hint="rumi doctor"
            ) from error
        ours.setblocking(False)
        self._control, self._loop = ours, asyncio.get_running_loop()
        self._loop.add_reader(ours.fileno(), self._on_readable)
        return ours

    def _on_readable(self) -> None:
        assert self._control is not None
        try:
            message = self._control.recv(65536)
        except BlockingIOError:
            return
        except OSError:  # as its end
            message = b""
        if not message:
            self._disconnect()
            return
        report = json.loads(message)
        job = self._jobs.get(report["job"])
        if job is None:
            return
        if "pid" in report:
            _settle(job.started, report["pid"])
        else:
            self._jobs.pop(report["job"])
            _settle(job.ended, report["status"])

    def _disconnect(self) -> None:
        control, self._control = self._control, None
        if control is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(control.fileno())
        control.close()
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            _settle(job.ended, None)


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done() and not future.get_loop().is_closed():
        future.set_result(value)
