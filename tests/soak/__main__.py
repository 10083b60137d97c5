"""``python -m tests.soak [--seconds 600] [--seed N]``: the whole soak, with a report. The exit code is 1 when something was found."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

from tests.soak.run import run


def main() -> int:
    """Soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 20)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rumi-") as folder:
        soak = run(Path(folder) / "home", options.seconds, seed, lambda line: print(line, flush=True))
    print(soak.report())
    return 1 if soak.problems() else 0


if __name__ == "__main__":
    raise SystemExit(main())
