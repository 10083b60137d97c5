"""`rumi test`: makes everything that tests need as far as this machine allows, then runs them.

What the machine does not allow is left out, and pytest's summary names it with its reason (`tests/conftest.py`).
`RUMI_TEST_REQUIRE=docker,embedded` turns each such omission into a failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rumi_setup.core import base_image, checker, engine, installer, places, system_packages
from rumi_setup.core.docker_http import Engine
from rumi_setup.core.problem import SetupError
from rumi_setup.core.progress import Progress, reporting
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator

_ENGINE_PACKAGES = ("docker.io", "containerd", "runc")
_GRACE_S = 20.0
_INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """Our own flags, taken out of what goes to pytest."""

    with_engine: bool
    without_engine: bool
    pytest: tuple[str, ...]


def parse(args: list[str]) -> Options:
    return Options(
        with_engine="--with-engine" in args or os.environ.get("CI", "").lower() in {"1", "true", "yes"},
        without_engine="--no-engine" in args,
        pytest=tuple(a for a in args if a not in {"--with-engine", "--no-engine"}),
    )


def run(args: list[str], progress: Progress | None = None) -> int:
    """Returns pytest's exit code. Raises SetupError when the environment itself can not be made."""
    options = parse(args)
    with reporting(progress) as reporter:
        installer.ensure("dev", progress=reporter)
        _need("bubblewrap", checker.find_bubblewrap() is not None, reporter)
        _need("nodejs", any(map(shutil.which, ("node", "nodejs"))), reporter)  # runs the second agent of the bus
        with _engine(options, reporter) as address:
            reporter.finish()
            return _pytest(options, address)


def _need(package: str, there: bool, progress: Progress) -> None:  # noqa: FBT001
    if not there and system_packages.can_install():
        failed = system_packages.install(package, progress=progress)
        if failed is not None:
            progress.note(f"{failed.way}: {failed.outcome}")


@contextlib.contextmanager
def _engine(options: Options, progress: Progress) -> Iterator[str | None]:
    """The address of an engine with a base image in it; None where there is none, said why."""
    if options.without_engine:
        yield None
        return
    found = engine.answering()
    if found is not None:
        _base(found, progress)
        yield found.address
        return
    obstacle = engine.possible()
    if obstacle and options.with_engine and system_packages.can_install():
        failed = system_packages.install(*_ENGINE_PACKAGES, progress=progress)
        obstacle = f"{failed.way}: {failed.outcome}" if failed else engine.possible()
    if obstacle:
        progress.note(say("No Docker engine for the tests: {why}.", why=obstacle))
        yield None
        return
    progress.step(say("Starting a Docker engine for the tests"), 1, 2)
    with contextlib.ExitStack() as stack:
        try:
            own = stack.enter_context(engine.private_engine(progress))
        except SetupError as error:
            progress.note(say("No Docker engine for the tests: {why}.", why=error.what))
            yield None
            return
        _base(own, progress)
        yield own.address


def _base(target: Engine, progress: Progress) -> None:
    """A machine that reaches a registry does not need it; one that does not says so, and its tests fail or skip."""
    try:
        if not target.has_image(base_image.PUBLIC_NAME):
            base_image.build_local(target, progress)
        if (places.ROOT / "docker/core/base/Dockerfile").exists():
            base_image.build_official_base(target, progress)
    except SetupError as error:
        progress.note(str(error))


def _pytest(options: Options, address: str | None) -> int:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTEST_ADDOPTS", "DOCKER_CONTEXT"}}
    if address is not None:
        environment["DOCKER_HOST"] = address
    argv = [str(places.venv_python()), "-I", "-m", "pytest", *_parallel(options), *options.pytest]
    # its own group, so that a test's processes end with it
    apart = {} if sys.platform == "win32" else {"start_new_session": True}
    previous = {number: signal.signal(number, _raise) for number in (signal.SIGTERM, signal.SIGINT)}
    child = subprocess.Popen(argv, cwd=places.ROOT, env=environment, **apart)  # type: ignore[call-overload]
    try:
        return int(child.wait())
    except KeyboardInterrupt:
        _end_group(child)
        return _INTERRUPTED
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _raise(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt


def _parallel(options: Options) -> tuple[str, ...]:
    """Two workers for the whole suite; a chosen part is quicker and clearer in one."""
    chosen = any(not a.startswith("-") or a.startswith(("-n", "-x", "-s", "--pdb", "-p")) for a in options.pytest)
    return () if chosen or (os.cpu_count() or 1) < 2 else ("-n", "2")


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Lets pytest write its summary, then ends whatever its tests left."""
    if sys.platform == "win32":
        child.terminate()
        child.wait()
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_S)
