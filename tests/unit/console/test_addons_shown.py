"""How addons are shown: on the console's pages and on the terminal, in both languages, with hostile text as text."""

from __future__ import annotations

from typing import Any

import pytest

from console.pages import Pages
from console.words import CATALOGUES
from rumi_setup.cli.review import addons

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"
APPLIED = {
    "addon": f"guest:{HOSTILE}", "target": "base:service:core", "outcome": "applied", "reason": "", "changed": [],
    "overrides": [], "effective_digest": "sha256:" + "a" * 64,
    "changes": [{"file": "data.json", "op": "replace", "path": f"/{HOSTILE}", "before": "5", "value": f'"{HOSTILE}"'},
                {"file": "data.json", "op": "remove", "path": "/gone", "before": "1", "value": ""}],
}  # fmt: skip
REFUSED = {**APPLIED, "outcome": "refused", "reason": f"why {HOSTILE}", "effective_digest": "", "changes": []}
OUTCOMES = ("applied", "skipped", "refused", "conflict", "failed")


def page(items: list[dict[str, Any]], words: Any) -> str:
    environment = Pages()._templates
    return environment.from_string('{% from "addons.html" import addons %}{{ addons(items, words) }}').render(
        items=items, words=words
    )


@pytest.mark.parametrize("code", CATALOGUES)
def test_the_page_names_each_outcome_and_each_change(code: str) -> None:
    words = CATALOGUES[code]
    text = page([APPLIED, REFUSED, *({**REFUSED, "outcome": one} for one in OUTCOMES)], words)
    for expected in ("base:service:core", "sha256:" + "a" * 64, *(words[f"addon_{one}"] for one in OUTCOMES)):
        assert expected in text
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_terminal_names_each_outcome_and_each_change() -> None:
    lines = list(addons([APPLIED, APPLIED, REFUSED]))
    text = "\n".join(lines)
    assert "5 → " in text
    assert sum("effective digest" in line for line in lines) == 1, "the changes of one result are told once"
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert list(addons(None)) == []
    assert list(addons(["no object"])) == []
