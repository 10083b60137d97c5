"""Every command that a hint, an issue or a page names is one of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import click
import pytest

from rumi_setup.cli.main import root as cli
from tests.support.documents import ROOT

NAMED = re.compile(r"(?<![\w/.])(?:\./)?rumi ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?(?![\w.])")
SOURCES = ("core_runtime", "backend_core", "console", "rumi_setup", "rumi_testing")
NO_COMMANDS = {"rumi command"}
"""Sentences that are about the program."""


def texts() -> Iterator[tuple[str, str]]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def unknown(text: str) -> Iterator[str]:
    """The commands of a text that there are not. A word behind a group must be one of its commands."""
    context = click.Context(cli)
    for match in NAMED.finditer(text):
        first, second = match.groups()
        command = cli.get_command(context, first)
        if command is None or (isinstance(command, click.Group) and second and command.get_command(context, second) is None):
            yield match.group()


def test_every_command_that_is_named_exists() -> None:
    found = [(place, text) for place, text in texts() if NAMED.search(text)]
    assert len(found) > 100
    assert [(place, name) for place, text in found for name in unknown(text) if name not in NO_COMMANDS] == []


@pytest.mark.parametrize("text", ["Try: rumi pak list", "./rumi pack strat alpha", "see `rumi issues`"])
def test_the_search_finds_what_is_not_there(text: str) -> None:
    assert list(unknown(text))
