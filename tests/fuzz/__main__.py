"""``python -m tests.fuzz [TARGET…] [--seconds 600] [--seed N] [--engine guided|atheris] [--keep]``: long runs.

The time is that of each target. A finding ends the run: its input is printed as hex, to go into ``corpus`` with the repair.
``--keep`` adds what reached something new to ``corpus``, where every run of the tests tries it.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

from tests.fuzz import guided, targets

CORPUS = Path(__file__).parent / "corpus"
KEPT_PER_TARGET = 150
KEPT_BYTES = 1_024


def keep(name: str, inputs: list[bytes]) -> None:
    """Add inputs to a target's corpus: short ones, bounded in number."""
    path = CORPUS / f"{name}.hex"
    known = path.read_text().split() if path.exists() else []
    fresh = sorted({data.hex() for data in inputs if len(data) <= KEPT_BYTES} - set(known), key=len)
    path.write_text("".join(f"{line}\n" for line in [*known, *fresh][:KEPT_PER_TARGET]))


def say(line: str) -> None:
    """Progress."""
    print(f"  {line}", flush=True)


def main() -> int:
    """Fuzz."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", nargs="*", choices=[[], *targets.NAMES], default=[])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--engine", choices=("guided", "atheris"), default="guided")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.engine == "atheris":
        # in a process of its own: what it instruments must not be imported yet
        name = (options.target or ["host_frame"])[0]
        os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz.with_atheris", name, str(options.seconds)])
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    for name in options.target or targets.NAMES:
        print(f"{name}: seed {seed}", flush=True)
        with targets.target(name) as work:
            try:
                result = guided.run(
                    work, targets.seeds(name), seed=seed, inputs=sys.maxsize, seconds=options.seconds, report=say
                )
            except BaseException as exc:
                print(f"{name}: FOUND {exc!r}\n  {' '.join(getattr(exc, '__notes__', ()))}", flush=True)
                raise
        print(
            f"{name}: {result.inputs} inputs in {result.seconds:.0f} s, {result.steps} steps reached, {len(result.kept)} inputs "
            f"reached something new, slowest {result.slowest_s * 1e3:.0f} ms, no finding",
            flush=True,
        )
        if options.keep:
            keep(name, result.kept)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
