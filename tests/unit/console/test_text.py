"""Values of Packs as bounded JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import pytest

from console.text import DEPTH_MOST, LINE_CHARS, pretty


@pytest.mark.parametrize("value", [None, True, 3, 2.5, "", '"\\\u202e', [], {}, {"a": [1, {"b": None}], "説明": "x"}, ["x" * 200, {"y": ["z"] * 50}]])
def test_a_value_that_is_short_enough_is_json_as_it_is(value: Any) -> None:
    text, whole = pretty(value, 10_000)
    assert (json.loads(text), whole) == (value, True)
    assert ("\n" in text) == (len(json.dumps(value, ensure_ascii=False)) > LINE_CHARS), "what is long is indented"


@pytest.mark.parametrize("value", ["x" * 1000, ["x"] * 1000, {str(n): n for n in range(1000)}, {"x" * 1000: 1}, ["x" * 60, "y" * 60], [[[["x"] * 10] * 10] * 10] * 10])
def test_what_is_longer_is_its_beginning(value: Any) -> None:
    text, whole = pretty(value, 100)
    assert (len(text) <= 101, text.endswith("…"), whole) == (True, True, False)


class Endless(Mapping[str, Any]):
    """Counts what is looked at."""

    seen = 0

    def __getitem__(self, key: str) -> Any:
        return key

    def __iter__(self) -> Iterator[str]:
        while True:
            self.seen += 1
            yield f"n{self.seen}"

    def __len__(self) -> int:
        return 1 << 40


def test_no_more_is_looked_at_than_is_shown() -> None:
    value = Endless()
    assert pretty([value, value], 1000)[1] is False
    assert value.seen < 1000


def test_what_json_has_no_form_for_is_named_and_depth_has_an_end() -> None:
    value = {"at": date(2026, 1, 2), "raw": b"abc", "f": len, "o": object(), "nan": float("nan"), 5: 1}
    assert json.loads(pretty(value, 1000)[0]) == {"at": "2026-01-02", "raw": "<3 bytes>", "f": "<function>", "o": "<object>", "nan": "<nan>", "5": 1}
    deep: Any = "bottom"
    for _ in range(DEPTH_MOST + 10):
        deep = [deep]
    text, _ = pretty(deep, 100_000)
    assert "bottom" not in text
    assert "<list>" in text


def test_each_text_is_concealed_before_it_is_cut_from_what_surrounds_it() -> None:
    text, _ = pretty({"secret-key": ["a secret b"], "n": 1}, 1000, lambda one: one.replace("secret", "[hidden]"))
    assert json.loads(text) == {"[hidden]-key": ["a [hidden] b"], "n": 1}
