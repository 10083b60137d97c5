"""Finds a pip that can download, without installing one: it fetches the pinned installer and wheelhouses, no more.

Order: the one bundled with this Python, run in place · `python -m pip` · the distribution's package, fetched by apt
into a private folder, signatures checked, unpacked without root and without touching the system.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core.problem import Attempt
from rumi_setup.core.process import run
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rumi_setup.core.interpreter import Interpreter
    from rumi_setup.core.progress import Progress

_WHERE_BUNDLED = "import ensurepip,os;print(os.path.dirname(ensurepip.__file__))"
_APT_PACKAGES = ("python3-pip-whl", "python-pip-whl")
_DEBIAN_WHEELS = Path("/usr/share/python-wheels")


@dataclass(frozen=True)
class Pip:
    """How to start one: the words before its own arguments."""

    argv: tuple[str, ...]
    origin: str


class Pips:
    """The pips of one setup run, each looked for once however often they are gone through."""

    def __init__(self, python: Interpreter, scratch: Path, progress: Progress, attempts: list[Attempt]) -> None:
        self._found: list[Pip] = []
        self._more = _candidates(python, scratch, progress, attempts)

    def __iter__(self) -> Iterator[Pip]:
        yield from self._found
        for pip in self._more:
            self._found.append(pip)
            yield pip


def _candidates(python: Interpreter, scratch: Path, progress: Progress, attempts: list[Attempt]) -> Iterator[Pip]:
    """Each pip that starts, cheapest first; what did not start is added to `attempts`."""
    bundled = _bundled(python)
    if bundled is not None:
        yield Pip((str(python.path), "-I", f"{bundled}/pip"), say("the pip bundled with Python"))
    else:
        attempts.append(Attempt(say("the pip bundled with Python"), say("this Python has none")))
    own = run([python.path, "-I", "-m", "pip", "--version"], timeout_s=30)
    if own.ok:
        yield Pip((str(python.path), "-I", "-m", "pip"), "python -m pip")
    else:
        attempts.append(Attempt("python -m pip", own.why()))
    fetched = _by_apt(scratch, progress, attempts)
    if fetched is not None:
        yield Pip((str(python.path), "-I", f"{fetched}/pip"), say("pip fetched by apt into a private folder"))


def _bundled(python: Interpreter) -> Path | None:
    shown = run([python.path, "-I", "-S", "-c", _WHERE_BUNDLED], timeout_s=20)
    folders = [Path(shown.text.strip()) / "_bundled"] if shown.ok else []
    return _newest_wheel([*folders, _DEBIAN_WHEELS])


def _newest_wheel(folders: list[Path]) -> Path | None:
    wheels = [w for folder in folders for w in sorted(folder.glob("pip-*.whl"))]
    return wheels[-1] if wheels else None


def _by_apt(scratch: Path, progress: Progress, attempts: list[Attempt]) -> Path | None:
    way = say("apt without root")
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        attempts.append(Attempt(way, say("this system has no apt")))
        return None
    progress.note(say("No pip here: fetching Debian's into a private folder (nothing on the system changes)."))
    base = scratch / "apt"
    for folder in ("lists/partial", "cache/archives/partial", "packages", "unpacked"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    apt = [
        "apt-get", "-qq",
        "-o", f"Dir::State::Lists={base / 'lists'}",
        "-o", f"Dir::Cache={base / 'cache'}",
        "-o", "Debug::NoLocking=1",
        "-o", "APT::Sandbox::User=root" if os.geteuid() == 0 else "Acquire::Languages=none",
        "-o", "Acquire::Languages=none",
        "-o", "Acquire::Retries=2",
        # without it `update` ends well though nothing came
        "-o", "APT::Update::Error-Mode=any",
    ]  # fmt: skip
    update = run([*apt, "update"], timeout_s=120, cwd=base)
    if not update.ok:
        attempts.append(Attempt(way, update.why()))
        return None
    for package in _APT_PACKAGES:
        got = run([*apt, "download", package], timeout_s=120, cwd=base / "packages")
        archive = next((base / "packages").glob(f"{package}_*.deb"), None)
        if not got.ok or archive is None:
            attempts.append(Attempt(f"{way}: {package}", got.why()))
            continue
        unpacked = run(["dpkg-deb", "-x", archive, base / "unpacked"], timeout_s=60)
        wheel = _newest_wheel([base / "unpacked/usr/share/python-wheels"])
        if unpacked.ok and wheel is not None:
            return wheel
        attempts.append(Attempt(f"{way}: {package}", unpacked.why()))
    return None


def environment() -> dict[str, str]:
    """pip's, without what would make it ask, look for updates or write outside."""
    kept = {k: v for k, v in os.environ.items() if k not in {"PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_PREFIX"}}
    return {**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONDONTWRITEBYTECODE": "1"}
