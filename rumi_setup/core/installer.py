"""Makes the environment from nothing, and knows when there is nothing to do.

Invariants
- The stamp, a copy of the lock, is written last and deleted first: where it equals a lock, the environment is complete.
- Nothing outside the project's folder is changed, except the caches of uv and pip.
- Only wheels whose sha256 stands in the lock are installed; no build step runs.
- Killed at any point, the next run mends it: `venv --clear` starts anew, and the inherited lock outlives orphans.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import files, interpreter, pip_source, places, uv_source
from rumi_setup.core.mutex import only_one
from rumi_setup.core.pins import read as read_pins
from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.core.process import run
from rumi_setup.core.progress import Progress, reporting
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEPS = 4
_INSTALL_LIMIT_S = 900.0
# each holds everything of those before it, in the same versions
_SERVES = {"runtime": ("runtime", "dev", "bench"), "dev": ("dev", "bench"), "bench": ("bench",)}


@dataclass(frozen=True)
class Environment:
    """What `ensure` leaves behind."""

    python: Path
    lock: str
    changed: bool
    took_s: float


def current(lock: str = "runtime", root: Path = places.ROOT) -> str | None:
    """The name of the lock that `.venv` was made from when it serves `lock`; None when it must be made."""
    try:
        made_from = places.stamp(root).read_bytes()
    except OSError:
        return None
    # made from the real path of an interpreter, so the link dangles once the system's Python moves on
    if not places.venv_python(root).exists():
        return None
    if _content(places.extra_stamp(root)) != _content(places.lock_file(places.EXTRA, root)):
        return None
    return next((n for n in _SERVES[lock] if _content(places.lock_file(n, root)) == made_from), None)


def ensure(
    lock: str = "runtime",
    offline: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    root: Path = places.ROOT,
) -> Environment:
    """Makes `.venv` hold what the lock says; a few file reads when it already does. Raises SetupError."""
    began = time.monotonic()
    serving = current(lock, root)
    if serving is not None:
        return Environment(places.venv_python(root), serving, changed=False, took_s=time.monotonic() - began)
    wheelhouse = _existing_folder(offline)
    with reporting(progress) as reporter, only_one(places.tools(root) / "setup.lock", reporter) as held:
        serving = current(lock, root)  # whoever held the lock may have made it
        if serving is None:
            _make(lock, wheelhouse, reporter, root, held)
        done = Environment(places.venv_python(root), serving or lock, serving is None, time.monotonic() - began)
        if done.changed:
            reporter.note(say("Environment ready in {s} s.", s=f"{done.took_s:.1f}"))
        return done


def make_wheelhouse(
    target: str | os.PathLike[str],
    lock: str = "runtime",
    progress: Progress | None = None,
    root: Path = places.ROOT,
) -> Path:
    """Fills a folder from which a machine of the same kind installs without a network. Raises SetupError."""
    folder = Path(target).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(
            say("The folder {folder} can not be written: {why}.", folder=folder, why=error.strerror),
            left=say("Nothing was changed."),
            next_steps=(say("Name a folder that you can write."),),
        ) from error
    attempts: list[Attempt] = []
    with reporting(progress) as reporter, tempfile.TemporaryDirectory(prefix="rumi-") as temporary:
        scratch = Path(temporary)
        reporter.step(say("Looking for Python"), 1, 3)
        python = interpreter.find(reporter, root)
        reporter.step(say("Downloading {n} packages", n=len(read_pins(places.lock_file(lock, root))) + 1), 2, 3)
        for pip in pip_source.Pips(python, scratch, reporter, attempts):
            got = [_pip_download(pip, name, folder, root) for name in ("uv", lock)]
            if all(answer is None for answer in got):
                _pip_download(pip, places.EXTRA, folder, root)  # where there is a build of it
                reporter.note(say("Wheelhouse ready: {folder}", folder=folder))
                reporter.note(say("On the other machine: ./rumi setup --offline {folder}", folder=folder))
                return folder
            attempts += [Attempt(pip.origin, answer) for answer in got if answer is not None]
    raise SetupError(
        say("The wheelhouse could not be filled."),
        attempts=tuple(attempts),
        left=say("What came so far lies in {folder}; running this again goes on from there.", folder=folder),
        next_steps=_next_steps(),
    )


def _pip_download(pip: pip_source.Pip, lock: str, folder: Path, root: Path) -> str | None:
    """None when all came, else why not."""
    argv: list[str] = [
        *pip.argv, "download", "-q", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-d", str(folder),
        "-r", str(places.lock_file(lock, root)),
    ]  # fmt: skip
    got = run(argv, timeout_s=_INSTALL_LIMIT_S, env=pip_source.environment())
    return None if got.ok else got.why()


def _make(lock: str, offline: Path | None, progress: Progress, root: Path, held: int) -> None:
    places.stamp(root).unlink(missing_ok=True)
    with _scratch(root) as scratch:
        progress.step(say("Looking for Python"), 1, _STEPS)
        python = interpreter.find(progress, root)
        progress.step(say("Making the environment with Python {p}", p=python.shown), 2, _STEPS)
        _make_venv(python, root, held)
        progress.step(say("Looking for the installer"), 3, _STEPS)
        attempts: list[Attempt] = []
        pips = pip_source.Pips(python, scratch, progress, attempts)
        source = uv_source.Source(root, scratch, offline, pips, (held,))
        _install(lock, source, progress, attempts)
        _install_extra(source, progress)
    progress.step(say("Finishing"), 4, _STEPS)
    extra = _content(places.lock_file(places.EXTRA, root))
    if extra is not None:
        files.write_whole(places.extra_stamp(root), extra)
    files.write_whole(places.stamp(root), places.lock_file(lock, root).read_bytes())


def _make_venv(python: interpreter.Interpreter, root: Path, held: int) -> None:
    # --without-pip: Debian's Python has no ensurepip until python3-venv is installed
    argv: list[str | os.PathLike[str]] = [python.path, "-I", "-m", "venv", "--clear", "--without-pip"]
    argv.append(places.venv(root))
    made = run(argv, timeout_s=120, keep_open=[held])
    if not made.ok:
        raise SetupError(
            say("The environment {folder} could not be made.", folder=places.venv(root)),
            attempts=(Attempt(f"{python.path} -m venv", made.why()),),
            left=say("Nothing outside {folder} was changed.", folder=root),
            next_steps=(
                say("Look whether the disk is full or the folder belongs to somebody else."),
                say("Install the module: `sudo apt install python3-venv`."),
                say("Name another Python: `RUMI_PYTHON=/path/to/python3.12 ./rumi setup`."),
            ),
        )


def _install(lock: str, source: uv_source.Source, progress: Progress, attempts: list[Attempt]) -> None:
    count = len(read_pins(places.lock_file(lock, source.root)))
    python = places.venv_python(source.root)
    text = say("Installing {n} packages", n=count)
    for uv, origin in uv_source.candidates(source, attempts):
        progress.step(f"{text} ({origin})", 3, _STEPS)
        place = ["--offline", "--no-index", "--find-links", str(source.offline)] if source.offline else []
        done = run(
            [uv, "pip", "sync", "--python", python, "--require-hashes", "--only-binary", ":all:", *place,
             places.lock_file(lock, source.root)],
            timeout_s=_INSTALL_LIMIT_S, env=uv_source.environment(), keep_open=source.held,
        )  # fmt: skip
        if done.ok:
            return
        attempts.append(Attempt(f"{origin}: pip sync", done.why()))
    progress.step(f"{text} (pip)", 3, _STEPS)
    if _install_by_pip(lock, source, attempts):
        return
    raise SetupError(
        say("The packages could not be installed."),
        attempts=tuple(attempts),
        left=say("Nothing outside {folder} was changed; .venv in it is incomplete and will be made anew.",
                 folder=source.root),
        next_steps=_next_steps(),
    )  # fmt: skip


def _install_extra(source: uv_source.Source, progress: Progress) -> None:
    """Not every machine has a build of these, and a wheelhouse may lack them: the host says what it does without."""
    if not places.lock_file(places.EXTRA, source.root).exists():
        return
    place = ["--offline", "--no-index", "--find-links", str(source.offline)] if source.offline else []
    for uv, _ in uv_source.candidates(source, []):
        done = run(
            [uv, "pip", "install", "--python", places.venv_python(source.root), "--require-hashes", "--no-deps",
             "--only-binary", ":all:", *place, "-r", places.lock_file(places.EXTRA, source.root)],
            timeout_s=_INSTALL_LIMIT_S, env=uv_source.environment(), keep_open=source.held,
        )  # fmt: skip
        if done.ok:
            return
    if not _install_by_pip(places.EXTRA, source, []):
        progress.note(say("Expressions in flows need a package that this machine does not get; all else works."))


def _install_by_pip(lock: str, source: uv_source.Source, attempts: list[Attempt]) -> bool:
    """For machines that uv has no build for; run by the environment's own Python, so it installs into it."""
    place = ["--no-index", "--find-links", str(source.offline)] if source.offline else []
    python = str(places.venv_python(source.root))
    for pip in source.pips:
        if "-m" in pip.argv:
            continue  # that one lives in another environment and installs there
        done = run(
            [python, *pip.argv[1:], "install", "-q", "--no-deps", "--require-hashes", "--only-binary", ":all:", *place,
             "-r", places.lock_file(lock, source.root)],
            timeout_s=_INSTALL_LIMIT_S, env=pip_source.environment(), keep_open=source.held,
        )  # fmt: skip
        if done.ok:
            return True
        attempts.append(Attempt(f"{pip.origin}: install", done.why()))
    return False


def _next_steps() -> tuple[str, ...]:
    return (
        say("Connect to the network (or set the index your network uses in pip.conf), then run `./rumi setup` again."),
        say("`sudo apt install python3-venv`, then run `./rumi setup` again."),
        say("On a connected machine of the same kind `./rumi setup --wheelhouse DIR`; here `./rumi setup --offline DIR`."),  # noqa: E501
    )


def _existing_folder(offline: str | os.PathLike[str] | None) -> Path | None:
    if offline is None:
        return None
    folder = Path(offline).expanduser().absolute()
    if not folder.is_dir():
        raise SetupError(
            say("{folder} is no folder of wheels.", folder=folder),
            left=say("Nothing was changed."),
            next_steps=(say("On a connected machine of the same kind: `./rumi setup --wheelhouse DIR`."),),
        )
    return folder


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    """For the holder of the lock: whatever lies there besides is a killed run's."""
    for left in places.tools(root).glob("work-*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=places.tools(root)))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
