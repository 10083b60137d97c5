"""Fetches the wheels of locked packages: the set-up's downloader as a process, bounded, with nothing of a Pack in it.

Invariants:
  * The downloader gets a lock that is written here, from parsed names, versions and hashes: no line of a Pack's file.
  * It can neither run for ever nor speak for ever, and no child of it outlives the answer.
  * What it leaves counts for nothing here: every file is hashed by whoever unpacks it.

Not here: which packages (``rules.dependencies``), unpacking (``packages``), registries: these are the operator's.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from backend_core.ecosystem.requirements import LockedPackage
from backend_core.errors import HostError, quote
from core_runtime.rules.digest import TreeLimits
from core_runtime.rules.wheels import Target

ROOT: Final = Path(__file__).resolve().parents[2]
FETCH_S: Final = 300.0
WATCH_S: Final = 0.5
SET_BYTES: Final = TreeLimits().total_bytes
"""What a Pack's packages may weigh in all, packed or not: as much as the Pack itself."""
TOO_LARGE: Final = "The wheels weigh more than"
ANSWER_BYTES: Final = 64 * 1024
LOCK: Final = "requirements.lock"
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from rumi_setup.core import wheels; sys.exit(wheels.main(sys.argv[2:]))"
)
_NO_CONNECTION: Final = ("connection broken by", "Could not fetch URL", "timed out", "Max retries exceeded")


class WheelFetcher:
    """Downloads into a folder. Blocks; call it in a thread."""

    def __init__(self, *, timeout_s: float = FETCH_S, limit_bytes: int = SET_BYTES) -> None:
        self._timeout_s = timeout_s
        self._limit_bytes = limit_bytes
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End what is under way, within a moment. From any thread."""
        self._cancelled.set()

    def fetch(self, pack_id: str, packages: Sequence[LockedPackage], target: Target, folder: Path) -> Path:
        """Every wheel into a new folder below ``folder``, which is returned.

        Raises:
            HostError: ``dependencies_refused`` (other bytes than the lock says), ``dependencies_not_found`` (the
                registry has no such wheel), ``dependencies_too_large``, ``dependencies_unreachable`` (no registry, no
                downloader, no time). It says what to do; what lies in the folder is then of no use.
        """
        lock, wheels, work = folder / LOCK, folder / "wheels", folder / "work"
        wheels.mkdir(0o700)
        work.mkdir(0o700)
        lock.write_text("".join(_line(one) for one in packages), encoding="ascii")
        words = [str(lock), str(wheels), ".".join(map(str, target.python[:2])), target.abi, *target.platforms()]
        command = [sys.executable, "-I", "-S", "-c", _START, str(ROOT), *words]
        try:
            code, answer = _run(command, work, self._timeout_s, lambda: self._stops(folder))
        except OSError as error:
            raise _failed(pack_id, packages, f"The downloader can't be started: {error.strerror}.") from error
        if _bytes_below(folder) > self._limit_bytes:
            raise _failed(pack_id, packages, f"{TOO_LARGE} {self._limit_bytes} bytes.")
        if code != 0:
            raise _failed(pack_id, packages, _said(answer))
        return wheels

    def _stops(self, folder: Path) -> bool:
        return self._cancelled.is_set() or _bytes_below(folder) > self._limit_bytes


def _bytes_below(folder: Path) -> int:
    """Sizes of all files as they are now; what vanishes meanwhile counts for nothing."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it vanished meanwhile
                total += os.lstat(os.path.join(where, name)).st_size  # noqa: PTH118 - beside os.walk
    return total


def _line(package: LockedPackage) -> str:
    hashes = " ".join(f"--hash=sha256:{value}" for value in package.hashes)
    return f"{package.pin} {hashes}\n"


def _run(command: Sequence[str], work: Path, timeout_s: float, stops: Callable[[], bool]) -> tuple[int | None, bytes]:
    """Exit code (None: ended by us) and the last bytes said; nothing of the process group is left afterwards."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
        env={**os.environ, "TMPDIR": str(work)}, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said, deadline, ended = b"", time.monotonic() + timeout_s, False
    handle = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            ready.register(handle, selectors.EVENT_READ)
            while not ended and not stops() and (left := deadline - time.monotonic()) > 0:
                for key, _ in ready.select(min(left, WATCH_S)):
                    chunk = b"" if key.fd == handle else os.read(key.fd, 65536)
                    said = (said + chunk)[-ANSWER_BYTES:]
                    ended = ended or key.fd == handle
                    if not chunk and key.fd != handle:
                        ready.unregister(key.fileobj)
        if ended:  # what it said last may still be in the pipe
            os.set_blocking(process.stdout.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                said = (said + os.read(process.stdout.fileno(), ANSWER_BYTES))[-ANSWER_BYTES:]
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still its own
        process.stdout.close()
        code = process.wait()
        os.close(handle)
    return (code if ended else None), said


def _said(answer: bytes) -> str:
    lines = answer.decode("utf-8", "replace").strip().splitlines()
    try:
        found = json.loads(lines[-1])["said"] if lines else []
        return "\n".join(str(text) for text in found)
    except (ValueError, KeyError, TypeError):
        return ""


def _failed(pack_id: str, packages: Sequence[LockedPackage], said: str) -> HostError:
    names = ", ".join(one.pin for one in packages[:5]) + (" …" if len(packages) > 5 else "")
    telling = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in telling if "ERROR:" in line] or telling
    code, title, what = "dependencies_unreachable", "The Python packages can't be fetched", "connect to a registry"
    if "DO NOT MATCH THE HASHES" in said:
        code, title, what = "dependencies_refused", "A registry sent other bytes than the lock says", "ask the author"
    elif said.startswith(TOO_LARGE):
        code, title, what = "dependencies_too_large", "The Python packages are too large", "ask the author for fewer"
    elif "No matching distribution" in said and not any(words in said for words in _NO_CONNECTION):
        code, title = "dependencies_not_found", "The registry has no such wheel"
        what = "ask the author for a lock with wheels for this machine"
    return HostError(
        f"{title}: {pack_id}",
        code=code,
        detail=f"Wanted: {names}. {quote(' '.join(errors[-2:]) or 'No answer in time.', 400)}",
        hint=f"Put wheels into wheels/ beside the lock and approve again; or {what}, then: rumi pack fetch {pack_id}",
        fields={"packages": [one.pin for one in packages[:50]]},
    )
