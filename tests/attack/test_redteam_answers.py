"""Consent spoofing through plain curl: JSON that a terminal shows must hold nothing that the terminal obeys."""

import json
import sys
import unicodedata

from core_runtime.rules.shown import encode


def test_no_character_that_a_terminal_or_an_eye_obeys_is_sent_raw() -> None:
    text = "a\x9b31m\u202eb\u2066\u200b\x7f\x1b日本"
    shown = encode({"description": text})
    assert [c for c in shown.decode() if unicodedata.category(c) in {"Cc", "Cf"}] == []
    assert json.loads(shown) == {"description": text}


def test_the_list_of_such_characters_is_complete() -> None:
    obeyed = [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}]
    shown = encode("".join(obeyed)).decode()
    assert [hex(ord(c)) for c in obeyed if c in shown] == []
    assert json.loads(shown) == "".join(obeyed)


def test_plain_text_of_any_language_is_left_readable() -> None:
    assert encode({"説明": "日本語 — ελληνικά 🙂"}).decode() == '{"説明":"日本語 — ελληνικά 🙂"}'
