"""`rumi check`: the quick tools over the whole tree, side by side, each with its own verdict."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import installer, places
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterable

_LIMIT_S = 300.0
_SOURCES = (
    "app.py", "bootstrap.py", "bootstrap", "backend_core", "core_runtime", "console", "docker", "rumi_setup",
    "rumi_testing",
)  # fmt: skip
_TYPED = (
    "app.py", "bootstrap.py", "backend_core", "core_runtime", "console", "docker/core/runtime", "rumi_setup",
    "rumi_testing",
)  # fmt: skip
_SHELL = ("rumi", "setup.sh", ".ci/run")


@dataclass(frozen=True)
class Tool:
    """One program with its arguments; `program` lies in the environment."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """`code` is None when the tool ran out of time."""

    tool: str
    code: int | None
    output: str
    took_s: float


def tools(root: Path = places.ROOT) -> tuple[Tool, ...]:
    def there(names: Iterable[str]) -> tuple[str, ...]:
        return tuple(n for n in names if (root / n).exists())

    return (
        Tool("mypy", ("mypy", *there(_TYPED))),
        Tool("ruff", ("ruff", "check", "--quiet", "--output-format", "concise", ".")),
        Tool("import-linter", ("lint-imports", "--no-logo")),
        Tool("vulture", ("vulture", *there(_SOURCES), *there(("tests/vulture_allow.py",)))),
        Tool("shellcheck", ("shellcheck", *there(_SHELL))),
    )


def run_checks(names: tuple[str, ...] = ()) -> int:
    """Runs all, or the named ones; prints each verdict and what the failing ones said. 1 when one failed."""
    installer.ensure("dev")
    chosen = [t for t in tools() if not names or t.name in names]
    unknown = set(names) - {t.name for t in chosen}
    if unknown:
        known = ", ".join(t.name for t in tools())
        print(say("No check is called {names}; there are {known}.", names=", ".join(sorted(unknown)), known=known),
              file=sys.stderr)  # fmt: skip
        return 64
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        verdicts = list(pool.map(_run, chosen))
    for verdict in verdicts:
        good = verdict.code == 0
        print(f"{'ok  ' if good else 'FAIL'}  {verdict.tool}  ({verdict.took_s:.1f} s)")
        if not good:
            print(verdict.output.rstrip() or say("no end after {n} s", n=round(_LIMIT_S)))
    return 0 if all(v.code == 0 for v in verdicts) else 1


def _run(tool: Tool) -> Verdict:
    began = time.monotonic()
    program = places.venv_python().with_name(tool.argv[0])
    environment = {**os.environ, "PYTHONPATH": str(places.ROOT), "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            [str(program), *tool.argv[1:]], cwd=places.ROOT, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_LIMIT_S, check=False, text=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Verdict(tool.name, None, "", time.monotonic() - began)
    return Verdict(tool.name, done.returncode, done.stdout, time.monotonic() - began)
