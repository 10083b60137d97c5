"""docs/reference/permissions.md says what the table of permission types says, type by type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backend_core.ecosystem.spec.models import PermissionRequest
from core_runtime.rules.grants import Mode
from core_runtime.rules.permissions import KINDS, withheld_reason

PAGE = (Path(__file__).parents[3] / "docs/reference/permissions.md").read_text(encoding="utf-8")
ROWS = {
    cells[0].strip("` "): cells[1:]
    for line in PAGE.partition("## How long")[0].splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 6
}


def test_every_type_has_its_row_and_no_other_is_there() -> None:
    assert list(ROWS) == list(KINDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_row_says_what_the_host_does(kind: str) -> None:
    entry = KINDS[kind]
    parameters, risk, enforced_by, grantable, plain = ROWS[kind]
    assert re.findall(r"`(\w+)`", parameters) == list(entry.params)
    assert re.findall(r"\*\*`(\w+)`\*\*", parameters) == ([entry.required] if entry.required else [])
    assert risk == entry.risk
    assert enforced_by
    assert (grantable == "yes") == (not entry.missing)
    assert grantable == "yes" or grantable.startswith("not yet: needs ")
    assert (plain == "granted") == (not withheld_reason(PermissionRequest(kind, "", {})))


def test_every_mode_is_explained() -> None:
    assert re.findall(r"^\| `(\w+)` \| [^|]+\|$", PAGE.partition("## How long")[2], re.MULTILINE) == [
        "always", "once", "restart", "until",
    ] == sorted(Mode, key=["always", "once", "restart", "until"].index)  # fmt: skip
