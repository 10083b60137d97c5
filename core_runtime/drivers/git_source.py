"""Fetching one commit of a repository with the machine's own Git, as a tar file: nothing of it is checked out or run.

Invariants:
  * Bounded in time, in bytes on the disk while fetching, and in bytes of the tar; what goes beyond is ended.
  * Git asks nobody anything, reads no system-wide configuration, and for writing the tar not the user's either (a
    filter configured there would run over a stranger's bytes).
  * The folder is the caller's: whatever happens, what lies in it is his to remove.

Not here: which addresses are taken, and the commands (``rules.sources``); unpacking (``drivers.archive``).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from backend_core.errors import HostError, quote
from core_runtime.rules.archive import LIMITS
from core_runtime.rules.sources import SCHEMES, GitSource, commands

FETCH_S: Final = 300.0
FETCH_BYTES: Final = 1024**3
LOOK_S: Final = 0.25
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_KEPT: Final = ("PATH", "HOME", "USER", "LANG", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY",
                "https_proxy", "NO_PROXY", "no_proxy", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")  # fmt: skip


class Fetched(Struct, frozen=True):
    """``archive`` is a tar file in the caller's folder; ``commit`` its full name."""

    archive: Path
    commit: str


def fetch(source: GitSource, folder: Path, *, fetch_s: float = FETCH_S, fetch_bytes: int = FETCH_BYTES) -> Fetched:
    """Fetch into ``folder``, an empty one of ours. Raises ``HostError`` (``git_missing``, ``git_failed``)."""
    git = shutil.which("git")
    if git is None:
        raise HostError(
            "Git is not installed",
            code="git_missing",
            detail="A repository can only be fetched by the machine's own Git.",
            hint="Install it (sudo apt install git), or download an archive of the repository and add that.",
        )
    repository, archive = folder / "repository", folder / "pack.tar"
    make, get, tell, write = commands(git, source, str(repository))
    watch = _Watch(folder, time.monotonic() + fetch_s, fetch_bytes)
    try:
        watch.run(make, _environment())
        watch.run(get, _environment())
        commit = watch.run(tell, _environment()).strip()
        if not _COMMIT.fullmatch(commit):
            raise _failed(f"Git names the commit {quote(commit, 100)}.")
        watch.most_bytes = LIMITS.archive_bytes + fetch_bytes
        with archive.open("xb") as out:
            watch.run(write, _environment(own=False), out.fileno())
    finally:
        shutil.rmtree(repository, ignore_errors=True)
    return Fetched(archive, commit)


class _Watch(Struct):
    """Runs one command after the other and ends them when time or room is used up."""

    folder: Path
    deadline: float
    most_bytes: int

    def run(self, command: Sequence[str], environment: Mapping[str, str], output: int = subprocess.PIPE) -> str:
        said = self.folder / "said"
        with said.open("wb") as errors, subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=dict(environment), cwd=self.folder,
            start_new_session=True,
        ) as running:  # fmt: skip
            try:
                printed = self._wait(running)
            except BaseException:
                _end(running)
                raise
        if running.returncode:
            with said.open("rb") as file:
                told = file.read(2000).decode("utf-8", "replace").strip()
            raise _failed(f"git {_word(command)} ended with {running.returncode}: {quote(told, 600)}")
        return printed

    def _wait(self, running: subprocess.Popen[bytes]) -> str:
        while True:
            try:
                out, _ = running.communicate(timeout=LOOK_S)
            except subprocess.TimeoutExpired:
                self._check()
            else:
                self._check()
                return (out or b"")[:200].decode("ascii", "replace")

    def _check(self) -> None:
        if time.monotonic() > self.deadline:
            raise _failed("It took too long and was ended.")
        if _size(self.folder) > self.most_bytes:
            raise _failed(f"It is larger than {self.most_bytes} bytes and was ended.")


def _environment(*, own: bool = True) -> dict[str, str]:
    """``own``: with the user's configuration, which knows credentials and proxies."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    fixed = {
        "GIT_ALLOW_PROTOCOL": ":".join(SCHEMES),  # goes before whatever the user's configuration allows
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes",
        "LC_ALL": "C.UTF-8",
    }
    return {**kept, **fixed, **({} if own else {"GIT_CONFIG_GLOBAL": os.devnull})}


def _size(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(where, name)).st_size  # noqa: PTH118 - thousands of objects
            except OSError:
                continue  # it was renamed meanwhile
    return total


def _end(running: subprocess.Popen[bytes]) -> None:
    """The whole session: Git starts helpers of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, 9)
    running.wait()


def _word(command: Sequence[str]) -> str:
    words = ("init", "fetch", "rev-parse", "archive")
    return next((word for word in command if word in words), "")


def _failed(detail: str) -> HostError:
    return HostError(
        "The repository could not be fetched",
        code="git_failed",
        detail=detail,
        hint="Check the address, the name of the branch or tag, and your access to it. Nothing was kept.",
    )
