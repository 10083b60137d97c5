"""Whatever the product tells its users to run exists: hints, messages and documents name commands of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import click
import pytest

from rumi_setup.cli.main import COMMANDS, Lazy
from tests.support.documents import ROOT

NAMED = re.compile(r"(?:\./rumi|(?<=[`(:;] )rumi|(?<=[`(])rumi|^rumi) ([a-z][a-z-]*)(?: ([a-z][a-z-]*)\b)?")
SOURCES = sorted(path for folder in ("backend_core", "console", "core_runtime", "rumi_setup") for path in (ROOT / folder).rglob("*.py"))
PAGES = [*sorted(ROOT.glob("README*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/reference").glob("*.md"))]


def texts() -> Iterator[tuple[str, str]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield str(path.relative_to(ROOT)), node.value
    for path in PAGES:
        for line in path.read_text(encoding="utf-8").splitlines():
            yield str(path.relative_to(ROOT)), line


def named() -> set[tuple[str, str, str]]:
    return {(source, *match.groups("")) for source, text in texts() for match in NAMED.finditer(text)}


def test_every_command_that_is_named_exists() -> None:
    table = Lazy(table=COMMANDS)
    context = click.Context(table)
    missing = []
    for source, word, second in sorted(named()):
        command = table.get_command(context, word) if word in COMMANDS else None
        if command is None or (isinstance(command, click.Group) and second and command.get_command(context, second) is None):
            missing.append(f"{source}: rumi {word} {second}")
    assert not missing


@pytest.mark.parametrize("text", ["./rumi trust rotate-key", "run: rumi trust rotate-key", "(rumi doctor)"])
def test_such_places_are_found(text: str) -> None:
    assert NAMED.search(text)
