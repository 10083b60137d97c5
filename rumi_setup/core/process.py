"""Runs other programs with a bound on time and output, and names processes so that a reused pid is not mistaken.

A process is identified by pid *and* start time: a pid alone may belong to somebody else by the time it is signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KEPT_CHARACTERS = 4000
_POLL_S = 0.05
_SYSTEM: str = sys.platform  # not narrowed by the type checker, which runs on one system only


@dataclass(frozen=True)
class Ran:
    """How a program ended. `code` is None when it could not be started or ran out of time; `text` then says so."""

    code: int | None
    text: str

    @property
    def ok(self) -> bool:
        return self.code == 0

    def why(self) -> str:
        """The last telling line, for a list of attempts."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        telling = [line for line in lines if line.lower().startswith(("error", "e:", "fatal"))]
        last = (telling or lines or [""])[-1][:300]
        return last if self.code is None else f"exit {self.code}" + (f", {last}" if last else "")


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    keep_open: Sequence[int] = (),
) -> Ran:
    """Runs a program without a terminal, both its outputs together; `keep_open` descriptors stay open in it."""
    extra = {} if sys.platform == "win32" else {"pass_fds": tuple(keep_open), "start_new_session": False}
    try:
        done = subprocess.run(
            [os.fspath(a) for a in argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=None if env is None else dict(env),
            cwd=cwd,
            check=False,
            **extra,  # type: ignore[call-overload]  # the keys differ by platform
        )
    except subprocess.TimeoutExpired as late:
        so_far = (late.output or b"")[-_KEPT_CHARACTERS:].decode("utf-8", "replace")
        return Ran(None, f"{so_far}\nno end after {timeout_s:.0f} s")
    except OSError as error:
        return Ran(None, f"could not be started: {error.strerror or error}")
    return Ran(done.returncode, done.stdout[-_KEPT_CHARACTERS:].decode("utf-8", "replace"))


def start_time(pid: int) -> str | None:
    """A text that differs between two processes which had the same pid; None when the process is gone."""
    if _SYSTEM.startswith("linux"):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
        return None if fields[0] == "Z" else fields[19]
    if _SYSTEM == "win32":
        shown = run(
            ["powershell", "-NoProfile", "-Command", f"(Get-Process -Id {pid}).StartTime.Ticks"], timeout_s=20
        )
    else:
        shown = run(["ps", "-o", "lstart=", "-p", str(pid)], timeout_s=10)
    return shown.text.strip() or None if shown.ok else None


def alive(pid: int, started: str) -> bool:
    return start_time(pid) == started


def stop(pid: int, started: str, *, grace_s: float) -> bool:
    """TERM, then after `grace_s` KILL; True when the process ended by itself. A reused pid is left alone."""
    if not alive(pid, started):
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if _gone_within(pid, started, grace_s):
        return True
    if alive(pid, started):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        _gone_within(pid, started, 5.0)
    return False


def _gone_within(pid: int, started: str, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        _reap(pid)
        if not alive(pid, started):
            return True
        time.sleep(_POLL_S)
    return not alive(pid, started)


def _reap(pid: int) -> None:
    """Collects it when it is our own child, so that it does not stay visible as a dead entry."""
    if sys.platform != "win32":
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
