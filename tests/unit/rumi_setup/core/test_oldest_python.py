"""The setup core, its entries and the agent must be readable by Python 3.9, which then says what is missing."""

import ast
import sys

import pytest

from rumi_setup.core import places

FILES = [
    places.ROOT / "bootstrap.py",
    *sorted((places.ROOT / "bootstrap").glob("*.py")),
    places.ROOT / "rumi_setup" / "__init__.py",
    places.ROOT / "rumi_setup" / "__main__.py",
    *sorted((places.ROOT / "rumi_setup" / "core").glob("*.py")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_parses_as_3_9_and_imports_only_the_standard_library(path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top == "rumi_setup" or top in sys.stdlib_module_names, f"{path.name}:{node.lineno} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parent.name == "core" and "say(" in p.read_text()], ids=lambda p: p.name)
def test_annotations_are_not_evaluated(path) -> None:
    """`X | None` in a signature is a TypeError on 3.9 without this import."""
    assert "from __future__ import annotations" in path.read_text(encoding="utf-8")
