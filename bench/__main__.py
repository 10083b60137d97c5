"""``./rumi bench [--json FILE] [--quick] [ROW …]``: run the groups, print a table, keep the figures."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from bench import calls, develop, digest, downloads, flows, inside, known, plot, scale, served, starts, streams, values
from bench.harness import Report

GROUPS = {
    "calls": calls.run,
    "streams": streams.run,
    "values": values.run,
    "inside": inside.run,
    "known": known.run,
    "served": served.run,
    "starts": starts.run,
    "develop": develop.run,
    "scale": scale.run,
    "digest": digest.run,
    "downloads": downloads.run,
    "flows": flows.run,
}


def main(arguments: list[str]) -> int:
    """The exit code: 0 when every group was measured, 1 when one could not be (the table says why)."""
    parser = argparse.ArgumentParser(prog="rumi bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"which of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--json", type=Path, default=Path("bench/results/latest.json"), help="where the figures go")
    parser.add_argument("--quick", action="store_true", help="a tenth of the operations: does it run, not how fast")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.groups) - GROUPS.keys():
        parser.error(f"unknown group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    report = Report()
    for name in chosen.groups or GROUPS:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        try:
            GROUPS[name](report, quick=chosen.quick)
        except Exception as error:  # noqa: BLE001  the rows of the others are kept; this one's end is told
            traceback.print_exc()
            report.missing[f"the rest of {name}"] = f"{type(error).__name__}: {error}"
    print(report.table())
    report.write(chosen.json)
    picture = chosen.json.with_suffix(".svg")
    picture.write_text(plot.svg(report), encoding="utf-8")
    print(f"figures: {chosen.json}, picture: {picture}", file=sys.stderr)
    return 1 if report.missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
