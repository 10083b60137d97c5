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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from backend_core.ecosystem.requirements import LockedPackage
from backend_core.errors import HostError, quote
from core_runtime.rules.wheels import Target

ROOT: Final = Path(__file__).resolve().parents[2]
FETCH_S: Final = 300.0
ANSWER_BYTES: Final = 64 * 1024
LOCK: Final = "requirements.lock"
_START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from rumi_setup.core import wheels; sys.exit(wheels.main(sys.argv[2:]))"
)
_NO_CONNECTION: Final = ("connection broken by", "Could not fetch URL", "timed out", "Max retries exceeded")


class WheelFetcher:
    """Downloads into a folder. Blocks; call it in a thread."""

    def __init__(self, *, timeout_s: float = FETCH_S) -> None:
        self._timeout_s = timeout_s

    def fetch(self, pack_id: str, packages: Sequence[LockedPackage], target: Target, folder: Path) -> None:
        """Every wheel into ``folder``, or a ``HostError`` that says what to do; the folder's content is then of no use.

        Raises:
            HostError: ``dependencies_refused`` (other bytes than the lock says), ``dependencies_not_found`` (the
                registry has no such wheel), ``dependencies_unreachable`` (no registry, no downloader, no time).
        """
        lock = folder / LOCK
        lock.write_text("".join(_line(one) for one in packages), encoding="ascii")
        words = [str(lock), str(folder), ".".join(map(str, target.python[:2])), target.abi, *target.platforms()]
        try:
            code, answer = _run([sys.executable, "-I", "-S", "-c", _START, str(ROOT), *words], self._timeout_s)
        except OSError as error:
            raise _failed(pack_id, packages, f"The downloader can't be started: {error.strerror}.") from error
        finally:
            lock.unlink()
        if code != 0:
            raise _failed(pack_id, packages, _said(answer))


def _line(package: LockedPackage) -> str:
    hashes = " ".join(f"--hash=sha256:{value}" for value in package.hashes)
    return f"{package.pin} {hashes}\n"


def _run(command: Sequence[str], timeout_s: float) -> tuple[int | None, bytes]:
    """Exit code (None: ended by us) and the last bytes said; nothing of the process group is left afterwards."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/",
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said, deadline = b"", time.monotonic() + timeout_s
    try:
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                if not ready.select(left):
                    break
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    return process.wait(max(1.0, left)), said
                said = (said + chunk)[-ANSWER_BYTES:]
    except subprocess.TimeoutExpired:
        pass  # it closed its output and goes on: ended below
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
    return None, said


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
