"""Finds the Python that the host will run on.

The newest thing on PATH is not always the best: when the superuser runs the host, sandboxes drop to other users, so an
interpreter that every user can reach is taken before one inside a private folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import places
from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.core.process import run
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rumi_setup.core.progress import Progress

_NAMES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python")
_FETCHED = "3.13"
# Prints version and the interpreter below any virtual environment: an environment made from one dies with it.
_ASK = (
    "import json,os,sys;"
    "b=getattr(sys,'_base_executable',None) or sys.executable;"
    "print(json.dumps([list(sys.version_info[:3]),os.path.realpath(b)]))"
)


@dataclass(frozen=True)
class Interpreter:
    """A Python that answered."""

    path: Path
    version: tuple[int, int, int]

    @property
    def shown(self) -> str:
        return f"{'.'.join(map(str, self.version))} ({self.path})"


def inspect(program: str | os.PathLike[str]) -> Interpreter | None:
    """Asks a program for its version and real path; None when it is no Python that runs."""
    answer = run([program, "-I", "-S", "-c", _ASK], timeout_s=20)
    if not answer.ok:
        return None
    try:
        version, path = json.loads(answer.text.strip().splitlines()[-1])
        return Interpreter(Path(path), (int(version[0]), int(version[1]), int(version[2])))
    except (ValueError, IndexError, TypeError):
        return None


def find(progress: Progress, root: Path = places.ROOT) -> Interpreter:
    """The interpreter for `.venv`; raises SetupError, naming each one met, when none is new enough."""
    attempts: list[Attempt] = []
    fitting: list[Interpreter] = []
    for program in _candidates():
        met = inspect(program)
        if met is None or any(a.way == met.shown for a in attempts) or met in fitting:
            continue
        if met.version[:2] < places.OLDEST_HOST_PYTHON:
            attempts.append(Attempt(met.shown, say("older than 3.11")))
        elif not _shared_with_sandboxes(met.path) and not os.environ.get("RUMI_PYTHON"):
            fitting.append(met)
        else:
            return met
    if fitting:
        return fitting[0]
    progress.note(say("The Pythons found here are older than 3.11, which is needed; looking for a newer one with uv."))
    by_uv = _by_uv(attempts, root)
    if by_uv is not None:
        return by_uv
    raise SetupError(
        say("Python 3.11 or newer is needed and none was found."),
        attempts=tuple(attempts),
        left=say("Nothing was changed."),
        next_steps=(
            say("Install Python 3.11 or newer (Debian 12+, Ubuntu 24.04+: `sudo apt install python3`)."),
            say("Name one that you have: `RUMI_PYTHON=/path/to/python3.12 ./rumi setup`."),
            say("Install uv, then run this again: it can bring a Python of its own."),
        ),
    )


def _candidates() -> Iterator[str]:
    chosen = os.environ.get("RUMI_PYTHON")
    if chosen:
        yield chosen
        return
    seen: set[str] = set()
    for name in _NAMES:
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
            found = shutil.which(name, path=folder) if folder else None
            if found and found not in seen:
                seen.add(found)
                yield found
    if sys.executable not in seen:
        yield sys.executable


def _shared_with_sandboxes(path: Path) -> bool:
    """Whether users other than the superuser can reach it; always true where that makes no difference."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return True
    return all(p.stat().st_mode & 0o001 for p in (path, *path.parents))


def _by_uv(attempts: list[Attempt], root: Path) -> Interpreter | None:
    uv = shutil.which("uv") or next((str(p) for p in sorted(places.tools(root).glob("uv-*/uv"))), None)
    if uv is None:
        attempts.append(Attempt("uv", say("not on PATH")))
        return None
    environment = {**os.environ, "UV_PYTHON_INSTALL_DIR": str(places.tools(root) / "python")}
    for arguments in (["python", "find", ">=3.11"], ["python", "install", _FETCHED], ["python", "find", ">=3.11"]):
        answer = run([uv, *arguments], timeout_s=300, env=environment)
        if not answer.ok:
            attempts.append(Attempt(f"uv {' '.join(arguments)}", answer.why()))
            continue
        for line in answer.text.splitlines():
            met = inspect(line.strip()) if re.match(r"^(/|[A-Za-z]:)", line.strip()) else None
            if met is not None and met.version[:2] >= places.OLDEST_HOST_PYTHON:
                return met
    return None
