"""What a command says: data on stdout, words on stderr, and nothing of a stranger's text unescaped.

Invariants:
  * Control, bidi and other invisible characters never reach the terminal, in JSON neither.
  * With `--json`, stdout holds exactly one JSON document (for a stream: one a line).
  * Colour and boxes only on a terminal without NO_COLOR; elsewhere plain columns for grep.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from rumi_setup.cli.failure import Failure
from rumi_setup.cli.words import say

_CELL_CHARS = 200
_MARKS = {"running": "green", "approved": "cyan", "pending": "yellow", "installed": "yellow", "modified": "magenta",
          "blocked": "red", "error": "red"}  # fmt: skip

WAITING = frozenset({"installed", "pending", "modified"})
"""States in which a Pack waits for a decision."""


def wants_json() -> bool:
    """Whether `--json` was given anywhere on the command line."""
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().ensure_object(dict).get("json"))


def safe(value: object, limit_chars: int = _CELL_CHARS) -> str:
    """One line of a stranger's text: bounded, with everything invisible written out."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    shown = "".join(ch if ch.isprintable() else _escaped(ch) for ch in text[:limit_chars])
    return shown + "…" if len(text) > limit_chars else shown


def _escaped(character: str) -> str:
    """The escape that is also JSON's, so that a document keeps its meaning."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON without characters that a terminal acts on; they stand only inside of texts, where an escape is the same."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    return "".join(ch if ch.isprintable() or ch == "\n" else _escaped(ch) for ch in text)


def data(value: Any) -> None:
    """The command's result as JSON."""
    click.echo(as_json(value))


def line(value: Any) -> None:
    """One item of a stream: JSON on one line, at once."""
    click.echo(as_json(value, indent=None))
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under translated headings; the first column is the name, a column `status` is coloured."""
    cells = [[safe(cell) for cell in row] for row in rows]
    titles = [say(column) for column in columns]
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        _rich_table(titles, list(columns), cells)
        return
    widths = [max(len(row[at]) for row in [titles, *cells]) for at in range(len(titles))]
    for row in [titles, *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(titles: list[str], columns: list[str], cells: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        made.add_column(title, overflow="fold")
    for row in cells:
        # Text, never markup: "[red]" in a Pack's description is just that
        made.add_row(*(Text(cell, style=_MARKS.get(cell, "") if columns[at] == "status" else "")
                       for at, cell in enumerate(row)))  # fmt: skip
    Console().print(made)


def pairs(rows: Iterable[tuple[str, object]]) -> None:
    """Name and value, a line each; empty values are left out."""
    kept = [(say(name), safe(value, 1000)) for name, value in rows if value not in {None, ""}]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        click.echo(f"{name.ljust(width)}  {value}")


def section(title: str, lines: Iterable[str]) -> None:
    """A heading with its lines, where there are any. The lines are safe already."""
    found = list(lines)
    if found:
        click.echo(f"\n{say(title)}")
        for text in found:
            click.echo(f"  {text}")


def words(sentence: str) -> None:
    """A sentence for the human, on stderr."""
    click.echo(sentence, err=True)


def next_step(command: str) -> None:
    """The command that is likely wanted now; not in JSON mode, where nobody reads it."""
    if not wants_json():
        words(say("Next: {command}", command=command))


def failure(found: Failure, *, as_document: bool) -> None:
    """Why a command ended; with `--json` a document, on stderr as well."""
    if as_document:
        document = {"error": found.title, "code": found.code, "hint": found.hint, "fields": dict(found.fields)}
        words(as_json(document, indent=None))
        return
    words(f"rumi: {safe(found.title, 2000)}")
    if found.hint:
        words(f"  → {safe(found.hint, 1000)}")
