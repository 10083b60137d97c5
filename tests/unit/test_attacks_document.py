"""docs/attacks.md says the truth: every named test exists, every row is covered or says what it waits for."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/attacks.md"
TEST = re.compile(r"`(tests/[a-z0-9_/]+\.py)::(test_[a-z0-9_]+)`")
WAITS = re.compile(r"waits for: [A-Za-z].{3,60}? — \S.{20,}\.")


def rows() -> list[tuple[str, str]]:
    """(attack, covered by) of every table."""
    found = []
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and not line.startswith(("|---", "| attack |")):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            assert len(cells) == 2, line
            found.append((cells[0], cells[1]))
    return found


@functools.cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_there_are_many_and_each_stands_once() -> None:
    names = [attack for attack, _ in rows()]
    assert len(names) == len(set(names))
    assert len(names) > 60


@pytest.mark.parametrize(("attack", "covered"), rows())
def test_an_attack_is_covered_or_waits_for_a_named_surface(attack: str, covered: str) -> None:
    named = TEST.findall(covered)
    missing = [f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in names_in(path)]
    assert not missing, f"{attack}: no such test"
    if covered.startswith("waits for:"):
        assert WAITS.fullmatch(covered), f"{attack}: 'waits for: SURFACE — one sentence.'"
    else:
        assert named, f"{attack}: neither a test nor what it waits for"
        assert covered.count("`") == 2 * len(named), f"{attack}: something is quoted that is no test"
