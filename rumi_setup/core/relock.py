"""`rumi setup --lock`: compiles `locks/*.in` into hashed locks and `requirements.txt`. For developers; needs a network.

Invariant: a lock names no registry, so it can be used behind any mirror, and each larger lock holds the smaller one in
the same versions.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import files, interpreter, pins, pip_source, places, uv_source
from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.core.process import run
from rumi_setup.core.progress import Progress, reporting
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADER = (
    "# Generated from locks/runtime.lock by `./rumi setup --lock`; edit locks/runtime.in instead.\n"
    "# pip install --require-hashes -r requirements.txt\n"
)


def relock(upgrade: Sequence[str] = (), progress: Progress | None = None, root: Path = places.ROOT) -> None:
    """Compiles every lock, keeping pinned versions except for the packages to upgrade. Raises SetupError."""
    attempts: list[Attempt] = []
    with reporting(progress) as reporter, tempfile.TemporaryDirectory(prefix="rumi-") as scratch:
        python = interpreter.find(reporter, root)
        pips = pip_source.Pips(python, Path(scratch), reporter, attempts)
        source = uv_source.Source(root, Path(scratch), None, pips)
        uv, _ = next(uv_source.candidates(source, attempts), (None, ""))
        if uv is None:
            raise SetupError(say("The locks could not be compiled: no uv."), attempts=tuple(attempts))
        for number, name in enumerate((*places.LOCK_NAMES, places.EXTRA, "uv"), 1):
            reporter.step(say("Compiling locks/{name}.lock", name=name), number, 5)
            _compile(uv, name, upgrade, root)
        text = HEADER + places.lock_file("runtime", root).read_text(encoding="utf-8")
        files.write_whole(root / "requirements.txt", text.encode())


def _compile(uv: Path, name: str, upgrade: Sequence[str], root: Path) -> None:
    chosen = [word for package in upgrade for word in ("--upgrade-package", package)]
    done = run(
        [uv, "pip", "compile", "-q", "--universal", "--python-version", "3.11", "--generate-hashes",
         "--only-binary", ":all:", "--no-emit-index-url", "--no-emit-find-links", "--no-header",
         "--annotation-style", "line", *chosen, f"{name}.in", "-o", f"{name}.lock"],
        timeout_s=300, env=uv_source.environment(), cwd=root / "locks",
    )  # fmt: skip
    if not done.ok:
        raise SetupError(say("locks/{name}.in has no solution.", name=name), attempts=(Attempt("uv", done.text),))
    pins.read(places.lock_file(name, root))
