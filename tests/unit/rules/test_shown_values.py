"""The documented JSON forms of what a Pack may answer with, and that nothing shown is obeyed by a terminal."""

from __future__ import annotations

import json
import unicodedata
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend_core.errors import PackError
from core_runtime.rules.shown import DEPTH_LIMIT, encode, plain


class Colour(Enum):
    RED = "red"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_bytes_and_dates_have_a_form():
    value = {"b": b"\x00\xff", "day": date(2031, 5, 6), "at": datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)}
    assert plain(value) == {"b": {"$base64": "AP8="}, "day": "2031-05-06", "at": "2031-05-06T07:08:09+00:00"}
    assert plain([bytearray(b"a"), memoryview(b"a")]) == [{"$base64": "YQ=="}] * 2


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=10,
    )
)
def test_what_json_carries_stays_as_it_is(value: Any):
    assert plain(value) == value
    assert type(plain(value)) is type(value)


def test_tuples_are_lists_and_every_mapping_is_one():
    assert plain((1, MappingProxyType({"a": (2,)}))) == [1, {"a": [2]}]


@pytest.mark.parametrize(
    ("value", "path", "found"),
    [
        ({1: "x"}, "result", "a key that is no text: '1'"),
        ({"a": {None: "x"}}, "result.a", "a key that is no text"),
        ([float("inf")], "result[0]", "the number inf"),
        ([0, float("nan")], "result[1]", "the number nan"),
        ({"deep": [print]}, "result.deep[0]", "a function"),
        ({"deep": [0, {"x": object()}]}, "result.deep[1].x", "a value of type object"),
        ({"s": {1}}, "result.s", "a value of type set"),
        (["\ud800"], "result[0]", "half of a surrogate pair"),
        ({"\udfff": 1}, "result", "half of a surrogate pair"),
    ],
)
def test_what_has_none_is_named_with_its_path(value, path, found):
    with pytest.raises(PackError) as caught:
        plain(value)
    assert caught.value.code == "result_not_json"
    assert caught.value.detail.startswith(f"'{path}' holds ")
    assert found in caught.value.detail
    assert caught.value.hint


def test_values_nest_as_deep_as_the_bus_carries_them():
    assert DEPTH_LIMIT == 64
    assert plain(nested(64)) == nested(64)
    for value in (nested(65), {"a": nested(64)}):
        with pytest.raises(PackError, match="nesting") as caught:
            plain(value)
        assert "deeper than 64" in caught.value.detail


@given(st.text())
def test_what_is_shown_is_json_of_the_same_text_and_obeyed_by_nobody(text: str):
    written = encode({"a": text}).decode()
    assert json.loads(written) == {"a": text}
    assert not [character for character in written if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"}]


@pytest.mark.parametrize("character", ["\x7f", "\x85", "\xad", "\u061c", "\u200e", "\u202e", "\u2028", "\u2066", "\ufeff", "\U000e0041"])
def test_characters_that_a_terminal_or_an_eye_would_obey_are_escaped(character: str):
    for text in (character, f"a{character}", f"ä{character}b"):
        written = encode([text]).decode()
        assert character not in written
        assert json.loads(written) == [text]
    assert encode(["ä界"]).decode() == '["ä界"]'


def test_the_hosts_own_values_have_forms_of_their_own():
    fault = PackError("It failed", code="some_code", detail="why", hint="what to do")
    data = {"map": MappingProxyType({"a": 1}), "path": PurePosixPath("/a/b"), "colour": Colour.RED, "fault": fault, "else": print}
    found = json.loads(encode(data))
    assert (found["map"], found["path"], found["colour"]) == ({"a": 1}, "/a/b", "red")
    assert found["fault"] == json.loads(json.dumps(fault.as_dict()))
    assert "print" in found["else"]


def test_half_of_a_surrogate_pair_is_shown_and_stops_nothing():
    data = {"a\ud800": ["\udfff", {"b": "fine", "n": 1}], "m": MappingProxyType({"c": "\ud801"})}
    assert json.loads(encode(data)) == {"a\\ud800": ["\\udfff", {"b": "fine", "n": 1}], "m": {"c": "\\ud801"}}
