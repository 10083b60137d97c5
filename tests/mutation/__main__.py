"""``python -m tests.mutation [MODULE …]``: how many small faults in the rules does some test notice?

The command line, the list of equivalent mutants, and the report. See ``docs/testing.md``.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import tomllib
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.mutation.engine import BROKEN, KILLED, ROOT, TIMEOUT, Outcome, Plugin, options
from tests.mutation.operators import Mutant, mutants_of

RULES = ROOT / "core_runtime/rules"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
TESTS = (
    "tests/unit/rules",
    "tests/unit/flow",
    "tests/unit/resolve",
    "tests/unit/dependencies/test_rules.py",
    "tests/unit/isolation/test_isolation.py",
    "tests/unit/isolation/test_isolation_words.py",
    "tests/unit/isolation/test_seccomp.py",
    "tests/unit/isolation/test_restart.py",
    "tests/unit/kernel/test_composer.py",
    "tests/unit/diagnosis/test_issue_words.py",
    "tests/property",
    "tests/attack/test_egress.py",
    "tests/attack/test_trust_permissions.py",
    "tests/attack/test_trust_grants.py",
)
NO_MACHINE = "not docker and not embedded and not browser and not slow"


def main(arguments: list[str]) -> int:
    """The exit code: 1 when the score is below ``--floor`` or the list of equivalent mutants is out of date."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as globs or flow/machine; all by default")
    parser.add_argument("--sample", type=int, default=0, help="only so many mutants, chosen by --seed")
    parser.add_argument("--seed", type=int, default=None, help="which sample; told by the report")
    parser.add_argument("--minutes", type=float, default=None, help="begin no mutant later; what is left is told")
    parser.add_argument("--floor", type=float, default=0.0, help="fail below this score in percent")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants at once")
    parser.add_argument("--json", type=Path, default=None, help="the figures and the survivors")
    parser.add_argument("--again", type=Path, default=None, help="only what such a file of --json says was not found")
    parser.add_argument("--tests", nargs="*", default=list(TESTS), help="where the tests are")
    chosen = parser.parse_args(arguments)
    listed = _equivalent()
    mutants = [m for path in _paths(chosen.modules) for m in mutants_of(path)]
    names = {(_short(m.path), m.name) for m in mutants}
    shorts = {_short(path) for path in _paths(chosen.modules)}
    outdated = sorted(key for key in listed.keys() - names if key[0] in shorts)
    wanted = [m for m in mutants if (_short(m.path), m.name) not in listed]
    if chosen.again:
        missed = _missed(chosen.again)
        wanted = [m for m in wanted if (_short(m.path), m.name) in missed]
    seed = random.randrange(10_000) if chosen.seed is None else chosen.seed
    if chosen.sample:
        wanted = random.Random(seed).sample(wanted, min(chosen.sample, len(wanted)))
        print(f"sample of {len(wanted)}, seed {seed}", file=sys.stderr)
    if chosen.minutes is None:
        wanted.sort(key=lambda m: not m.owner)  # what acts at load is slow: last
    else:  # whatever the time is enough for must be a fair sample
        random.Random(seed).shuffle(wanted)
    start = time.monotonic()
    outcomes = _run(wanted, chosen.tests, chosen.jobs, chosen.minutes)
    equivalent = Counter(module for module, _ in listed.keys() & names) if not chosen.sample else Counter()
    score = _report(outcomes, equivalent, time.monotonic() - start)
    if len(outcomes) != len(wanted):
        print(f"{len(wanted) - len(outcomes)} chosen mutants were not tried")
    for module, name in outdated:
        print(f"equivalent.toml lists what is no mutant any more: {module}: {name}")
    if chosen.json:
        chosen.json.write_text(json.dumps([_as_dict(o) for o in outcomes], indent=1, ensure_ascii=False) + "\n")
    broken = any(o.result == BROKEN for o in outcomes)
    cut = len(outcomes) != len(wanted) and chosen.minutes is None
    return int(score < chosen.floor or bool(outdated) or broken or cut or not outcomes)


def _paths(modules: list[str]) -> list[Path]:
    if not modules:
        return sorted(RULES.rglob("*.py"))
    paths = [RULES / f"{name.removesuffix('.py')}.py" for name in modules]
    for path in paths:
        if not path.is_file():
            raise SystemExit(f"no such module: {path}")
    return paths


def _equivalent() -> dict[tuple[str, str], str]:
    """(module, name of the mutant) → why no test can notice it."""
    document = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))
    found: dict[tuple[str, str], str] = {}
    for entry in document.get("group", []):
        for name in entry["mutants"]:
            assert entry["reason"]
            assert (entry["module"], name) not in found, name
            found[entry["module"], name] = entry["reason"]
    return found


def _missed(report: Path) -> set[tuple[str, str]]:
    rows = json.loads(report.read_text(encoding="utf-8"))
    return {(row["module"], row["name"]) for row in rows if row["result"] not in {KILLED, TIMEOUT}}


def _run(mutants: list[Mutant], tests: list[str], jobs: int, minutes: float | None) -> list[Outcome]:
    begun = time.monotonic()
    until = float("inf") if minutes is None else begun + 60 * minutes

    def note(text: str) -> None:
        print(f"{time.monotonic() - begun:.0f} s: {text}", file=sys.stderr, flush=True)

    def tell(outcome: Outcome, done: int, total: int) -> None:
        if outcome.result not in {KILLED, TIMEOUT}:
            print(f"[{done}/{total}] {outcome.result}: {_short(outcome.mutant.path)}:{outcome.mutant.line} "
                  f"{outcome.mutant.name}", file=sys.stderr, flush=True)  # fmt: skip
        elif done % 50 == 0:
            note(f"{done} of {total}")

    plugin = Plugin(lambda: mutants, jobs=jobs, tell=tell, note=note, until=until)
    status = pytest.main([*options(), "-m", NO_MACHINE, *tests], plugins=[plugin])
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}:
        raise SystemExit(f"pytest could not collect the tests: {status!r}")
    for name in sorted(plugin.baseline.failed):
        print(f"left out, does not pass here without a fault: {name}", file=sys.stderr)
    return plugin.outcomes


def _report(outcomes: list[Outcome], equivalent: Counter[str], taken_s: float) -> float:
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        rows[_short(outcome.mutant.path)][outcome.result] += 1
    print("\n| module | mutants | found | not found | equivalent | score |\n|---|---:|---:|---:|---:|---:|")
    for module in sorted(rows):
        print(_row(module, rows[module], equivalent[module]))
    whole = sum(rows.values(), Counter())
    print(_row("**all**", whole, sum(equivalent.values())))
    survivors = [o for o in outcomes if o.result not in {KILLED, TIMEOUT}]
    for outcome in sorted(survivors, key=lambda o: (o.mutant.path, o.mutant.line)):
        print(_difference(outcome))
    print(f"\n{len(outcomes)} mutants in {taken_s:.0f} s; {whole[TIMEOUT]} found as endless loops")
    return _score(whole)


def _row(name: str, counts: Counter[str], equivalent: int) -> str:
    found = counts[KILLED] + counts[TIMEOUT]
    total = counts.total()
    return f"| {name} | {total + equivalent} | {found} | {total - found} | {equivalent} | {_score(counts):.1f} % |"


def _score(counts: Counter[str]) -> float:
    return 100.0 * (counts[KILLED] + counts[TIMEOUT]) / counts.total() if counts else 100.0


def _difference(outcome: Outcome) -> str:
    mutant = outcome.mutant
    lines = mutant.path.read_text(encoding="utf-8").splitlines()
    place = f"core_runtime/rules/{_short(mutant.path)}:{mutant.line}"
    note = f" ({outcome.by.strip()})" if outcome.by else ""
    return (
        f"\n{outcome.result}{note}  {place}\n  {mutant.name}\n"
        f"  - {lines[mutant.line - 1].strip()}\n  + … {mutant.after} …"
    )


def _short(path: Path) -> str:
    return path.relative_to(RULES).as_posix()


def _as_dict(outcome: Outcome) -> dict[str, object]:
    m = outcome.mutant
    return {"module": _short(m.path), "line": m.line, "name": m.name, "result": outcome.result, "by": outcome.by}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
