"""Reads a stored copy for ``rules.findings``: bounded in files and bytes, never following anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core_runtime.rules.digest import FileEntry
from core_runtime.rules.findings import MAX_FINDINGS, SCANNED_BYTES, Finding, inspect

BUDGET_BYTES = 128 * 1024 * 1024


def scan_contents(root: Path, entries: Sequence[FileEntry]) -> tuple[Finding, ...]:
    """Findings of a verified tree, at most ``MAX_FINDINGS``; what the budget leaves out is itself a finding."""
    found: list[Finding] = []
    left = BUDGET_BYTES
    for entry in entries:
        if left <= 0 or len(found) >= MAX_FINDINGS:
            found.append(Finding("unscannable", entry.path, "and the files after it were not looked at: too much."))
            break
        with root.joinpath(entry.path).open("rb") as file:
            head = file.read(min(SCANNED_BYTES, left))
        left -= len(head)
        found.extend(inspect(entry.path, head, entry.size))
    return tuple(found)
