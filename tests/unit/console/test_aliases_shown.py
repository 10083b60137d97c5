"""How a review shows which of the operator's aliases concern a Pack: in both languages, hostile text as text."""

from __future__ import annotations

from typing import Any

import pytest

from console.pages import Pages
from console.words import CATALOGUES

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"
HIDES = {"alias": "store.get", "key": "db.get", "effect": "hides", "owner": ""}
REACHES = {**HIDES, "effect": "reaches"}
OWNED = {**REACHES, "owner": "shop"}


def page(items: list[dict[str, Any]], words: Any) -> str:
    template = Pages()._templates.from_string('{% from "aliases.html" import aliases %}{{ aliases(items, words) }}')
    return template.render(items=items, words=words)


@pytest.mark.parametrize("code", CATALOGUES)
@pytest.mark.parametrize(("one", "word"), [(HIDES, "alias_hides"), (REACHES, "alias_reaches"), (OWNED, "alias_owned")])
def test_each_effect_has_its_sentence(code: str, one: dict[str, Any], word: str) -> None:
    words = CATALOGUES[code]
    text = page([one], words)
    assert "<code>store.get</code> → <code>db.get</code>" in text
    told = {name for name in ("alias_hides", "alias_reaches", "alias_owned") if str(words[name]).replace("'", "&#39;") in text}
    assert told == {word}
    assert ("<code>shop</code>" in text) is (one is OWNED)


@pytest.mark.parametrize("code", CATALOGUES)
def test_hostile_text_stays_text_and_many_are_counted(code: str) -> None:
    words = CATALOGUES[code]
    text = page([dict.fromkeys(HIDES, HOSTILE)] * 203, words)
    assert text.count("<li>") == 200
    assert words["more"].format(count=3) in text
    assert [piece for piece in ("<script>", "\x1b", "\u202e") if piece in text] == []
