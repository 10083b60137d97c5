"""Reading the commands and examples that documents hold, so that tests run exactly what users copy."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def marked_block(document: Path, marker: str) -> str:
    """The fenced block right after ``<!-- marker -->``."""
    text = document.read_text(encoding="utf-8")
    comment = f"<!-- {marker} -->\n"
    assert text.count(comment) == 1, f"{document.name}: expected {comment!r} once"
    match = _FENCE.match(text, text.index(comment) + len(comment))
    assert match, f"{document.name}: no fenced block after {comment!r}"
    return match.group(2)


def files_shown(document: Path, below: str) -> dict[str, str]:
    """``{path: content}`` of every block introduced by a line that is just a path in backquotes below ``below``."""
    text = document.read_text(encoding="utf-8")
    pattern = re.compile(r"^`(" + re.escape(below) + r"[^`]*)`\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return {match.group(1): match.group(2) for match in pattern.finditer(text)}


def specified_block(specification: str, heading: str) -> str:
    """The first fenced block below ``### heading`` of the specification's text."""
    start = specification.index(f"\n### {heading}\n")
    match = _FENCE.search(specification, start)
    assert match, heading
    return match.group(2)
