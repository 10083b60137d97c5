"""The pages about interfaces: who uses what, what a reader finds, hostile keys and schemas as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from console.fields import fields_of
from console.interfaces import CALLERS, TIMEOUTS_S, listed
from console.pages import Pages, Reader
from console.words import CATALOGUES

HOSTILE = "<script>alert(1)</script>\"'>\u202egnp\x1b[31m"


def one(key: str, **more: Any) -> dict[str, Any]:
    return {
        "key": key, "owner": "shop", "available": True, "count": 1, "providers": ["shop"], "callable": True,
        "version": "", "meta": {}, "aliases": [], "alias_of": None, "input": None, "output": None, "registered_at": 1.0, "needed_by": [], **more,
    }  # fmt: skip


def edge(caller: str, key: str, calls: int = 1, errors: int = 0) -> dict[str, Any]:
    return {"caller": caller, "key": key, "provider": "shop", "calls": calls, "errors": errors, "failures": {HOSTILE: errors} if errors else {},
            "last_error": "", "last_error_at": None, "p50_us": 1500, "p99_us": 2500}  # fmt: skip


def page_of(code: str, row: dict[str, Any], **more: Any) -> str:
    """The page of a key, as ``interfaces.about`` has it shown."""
    values = {"edges": [], "documents": [], "fields": fields_of(row["input"]), "timeouts": TIMEOUTS_S, "timeout": "", "example": "'{}'", "data": "", "whole": True, "asked": False}
    return Pages().text("interface.html", Reader(code), **{**values, **more}, one=row)


def test_each_interface_has_its_callers_and_the_rest_of_them_as_a_number() -> None:
    edges = [edge(f"p{n}", "shop.price", 9 - n) for n in range(CALLERS + 2)]
    [price, other] = listed([one("shop.price"), one("shop.other")], edges, "")
    assert ([caller["caller"] for caller in price["callers"]], price["more_callers"]) == ([f"p{n}" for n in range(CALLERS)], 2)
    assert (other["callers"], other["more_callers"]) == ([], 0)


@pytest.mark.parametrize(("find", "keys"), [("", ["a.one", "b.two"]), ("one", ["a.one"]), ("oth", ["b.two"]), ("none", [])])
def test_a_part_of_a_key_or_of_a_pack_finds_it(find: str, keys: list[str]) -> None:
    found = listed([one("a.one"), one("b.two", owner="other", providers=["other"])], [], find)
    assert [row["key"] for row in found] == keys


def test_another_name_finds_it_and_is_shown_as_is_what_an_alias_hides() -> None:
    both = [one("db.get", aliases=["store.get"]), one("old.get", alias_of="db.get")]
    rows = listed(both, [], "store")
    assert [row["key"] for row in rows] == ["db.get"]
    page = page_of("en", rows[0])
    assert "<dt>Other names</dt><dd><code>store.get</code></dd>" in page
    table = Pages().text("interfaces.html", Reader("en"), rows=listed(both, [], ""), left_out=0, find="", edges=[])
    assert table.count("by this name the host calls <code>db.get</code>") == 1


@pytest.mark.parametrize(("more", "word"), [({}, "interface_callable"), ({"callable": False}, "interface_value"), ({"available": False, "callable": False}, "interface_missing")])
def test_whether_it_may_be_called_is_a_word(more: dict[str, Any], word: str) -> None:
    [row] = listed([one("a", **more)], [], "")
    assert row["standing"] == word
    assert all(words[word] for words in CATALOGUES.values())


def test_who_answers_comes_first_and_only_packs_are_links() -> None:
    [row] = listed([one("a", owner="second", providers=["first", HOSTILE, "host", "second"])], [], "")
    assert [(pack["name"], pack["is_pack"]) for pack in row["packs"]] == [("second", True), ("first", True), (HOSTILE, False), ("host", False)]


@pytest.mark.parametrize("code", CATALOGUES)
def test_hostile_keys_callers_and_schemas_stay_text(code: str) -> None:
    words = CATALOGUES[code]
    hostile = one(HOSTILE, aliases=[HOSTILE], alias_of=HOSTILE, version=HOSTILE,
                  input={HOSTILE: 1, "properties": {HOSTILE: {"type": "string", "title": HOSTILE, "description": HOSTILE, "default": HOSTILE}, "e": {"enum": [HOSTILE]}}}, output={"a": 1}, owner=HOSTILE, providers=[HOSTILE], meta={HOSTILE: HOSTILE},
                  needed_by=[{"pack_id": "reader", "wanted": HOSTILE, "why_not": HOSTILE}])  # fmt: skip
    edges = [edge(HOSTILE, HOSTILE, 3, 2)]
    rows = listed([hostile, one("shop.price", version="1.2.0")], edges, "")
    assert [row["page"] for row in rows] == ["", "/_rumi/interfaces/shop.price"]
    texts = [
        Pages().text("interfaces.html", Reader(code), rows=rows, left_out=3, find=HOSTILE, edges=edges),
        page_of(code, rows[0], edges=edges, documents=[("input", HOSTILE)]),
    ]
    for text in texts:
        for forbidden in ("<script", "\u202e", "\x1b"):
            assert forbidden not in text
        for expected in (words["interface_callable"], words["interface_has_input"], "1.5 ms", "2.5 ms", "&lt;script&gt;"):
            assert expected in text, expected
    assert f"{words['interface_version']} 1.2.0" in texts[0]
    assert words["more"].format(count=3) in texts[0]


def test_what_may_be_called_has_a_form_and_a_value_is_shown_instead() -> None:
    [callable_, value, missing] = listed([one("a"), one("b", callable=False), one("c", available=False, callable=False)], [], "")
    assert '<form method="post" action="/_rumi/interfaces/a" class="asking">' in page_of("en", callable_)
    assert "./rumi call a &#39;{}&#39;" in page_of("en", callable_)
    shown = page_of("en", value, data='"<b>"', whole=False)
    assert ("asking" in shown, "&#34;&lt;b&gt;&#34;" in shown, CATALOGUES["en"]["call_left_out"] in shown) == (False, True, True)
    assert "asking" not in page_of("en", missing)
    assert "disabled>" in page_of("en", callable_), "nobody calls without a session"


def test_the_page_of_an_answer_has_the_form_as_it_was_filled_in() -> None:
    [row] = listed([one("a", input={"properties": {"x": {"type": "integer"}}})], [], "")
    [asked] = fields_of(row["input"])
    page = page_of("ja", row, asked=True, fields=(replace(asked, start="7"),), timeout="60")
    for expected in ("<!--answer-->", 'value="7"', '<option value="60" selected>', CATALOGUES["ja"]["call_under_way"]):
        assert expected in page, expected
    assert "./rumi call" not in page, "the answer says it with its arguments"
