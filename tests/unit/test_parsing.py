"""Bounded readers: what they refuse, where they say it stands, and that no small text makes them slow."""

from __future__ import annotations

import json
import time

import pytest

from backend_core.errors import AuthorError
from backend_core.parsing import Limits, load_json, parse_json, parse_yaml


def refused(data: bytes, *, read=parse_json, limits: Limits | None = None) -> AuthorError:
    with pytest.raises(AuthorError) as caught:
        read(data, source="f", **({"limits": limits} if limits else {}))
    fields = caught.value.fields
    assert set(fields) >= {"source", "line", "column", "pointer", "expected", "found", "hint"}
    assert fields["source"] == "f"
    return caught.value


def where(error: AuthorError) -> tuple[int, int]:
    return error.fields["line"], error.fields["column"]


# -- both ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b'\xef\xbb\xbf{"a": 1}', "UTF-8 byte-order mark"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 byte-order mark"),
        ('{"a": 1}'.encode("utf-32"), "UTF-32 byte-order mark"),
        ('{"a": 1}'.encode("utf-16-le"), "NUL bytes"),
        (b'{"a": "\xff"}', "byte 0xff at offset 7"),
        ('{"a": "日本"}'.encode("shift_jis"), "byte 0x93"),
        (b'{"a": "\xed\xa0\x80"}', "byte 0xed"),
    ],
)
def test_odd_encodings_are_refused_with_a_sentence(read, data, found) -> None:
    error = refused(data, read=read)
    assert found in error.fields["found"]
    assert error.fields["expected"] == "UTF-8 without a byte-order mark"
    assert "Save f as UTF-8" in error.hint


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
def test_size_is_bounded_before_anything_is_read(read) -> None:
    error = refused(b"[" + b" " * 100 + b"]", read=read, limits=Limits(limit_bytes=50))
    assert error.code == "too_large"


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
def test_depth_and_values_are_bounded(read) -> None:
    assert refused(b"[" * 100 + b"]" * 100, read=read).code == "too_complex"
    many = b"[" + b"1," * 300 + b"1]"
    assert refused(many, read=read, limits=Limits(values=200)).code == "too_complex"
    read(many, source="f", limits=Limits(values=400))


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
def test_a_key_given_twice_is_refused_where_it_stands_again(read) -> None:
    error = refused(b'{"x": {"a": 1},\n "a": 1,\n  "a": 2}', read=read)
    assert where(error) == (3, 3)
    assert "'a' again" in error.detail


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
@pytest.mark.parametrize("number", ["9007199254740992", "-9007199254740992", "1" * 5000, "1e999", "-1e999"])
def test_numbers_that_not_every_reader_keeps_are_refused(read, number) -> None:
    assert refused(f'{{"a": {number}}}'.encode(), read=read).title == "Number too large"


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
def test_hostile_text_is_escaped_in_the_error(read) -> None:
    error = refused('{"\u202e\u001b[31m": 1, "\u202e\u001b[31m": 2}'.encode(), read=read)
    assert "\u202e" not in str(error)
    assert "\x1b" not in str(error)


# -- JSON ---------------------------------------------------------------------------------------------------------


def test_json_gives_plain_values() -> None:
    text = '{"a": [1, 2.5, true, null, "é\\ud83d\\ude00"], "b": {}}'
    assert parse_json(text.encode(), source="f") == json.loads(text)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a":}', "[1,]", '{"a":1,}', "nul", "{'a': 1}", '{"a" 1}', "1 2", "[1 2]", '"\t"', "01", "+1", ".5",
     "// x\n1", '{"a":1}x', '"\\x"', '"unterminated'],
)  # fmt: skip
def test_what_is_no_json_is_refused_with_a_place(text) -> None:
    error = refused(text.encode())
    assert error.code == "json_invalid"
    assert error.fields["line"] >= 1


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_nan(word) -> None:
    assert refused(f"[{word}]".encode()).title == "Not a JSON number"


@pytest.mark.parametrize("text", ['["\\ud800"]', '{"\\udc00x": 1}', '["\\ud800\\u0041"]'])
def test_half_a_character_is_refused(text) -> None:
    assert refused(text.encode()).code == "encoding"


def test_json_positions_by_path() -> None:
    document = load_json(b'{\n  "a": [\n    1,\n    {"b/c": true}\n  ]\n}', source="f")
    seen = {path: (at.line, at.column) for path, at in document.locate().items()}
    assert seen == {(): (1, 1), ("a",): (2, 3), ("a", 0): (3, 5), ("a", 1): (4, 5), ("a", 1, "b/c"): (4, 6)}
    assert document.position(("a", 1, "absent")).line == 4
    error = document.error("Title", ("a", 1, "b/c"), expected="x", found="y")
    assert error.fields["pointer"] == "/a/1/b~1c"
    assert error.detail == "f:4:6 at '/a/1/b~1c': expected x, found y."


@pytest.mark.parametrize("read", [parse_json, parse_yaml])
@pytest.mark.parametrize(
    "data",
    [
        b'"' + b'\\"' * 250_000,
        b'{"a":' * 100_000,
        b"[" * 500_000,
        b'"' * 500_001,
        b"{" * 3 + b'"a":1,' * 80_000,
        b"1" * 1_000_000,
        b"- " * 300_000,
        b"a: " * 200_000,
        b"? " * 200_000,
        b"&a " * 200_000,
    ],
    ids=["escapes", "objects", "lists", "quotes", "pairs", "digits", "dashes", "colons", "questions", "anchors"],
)
def test_no_text_of_a_megabyte_takes_long(read, data) -> None:
    started = time.monotonic()
    refused(data, read=read)
    assert time.monotonic() - started < 3


# -- YAML ---------------------------------------------------------------------------------------------------------


def test_yaml_scalars_of_the_strict_subset() -> None:
    text = b"""
a: true
b: null
c: ~
d:
e: -12
f: 1.5e3
g: yes
h: 0x1f
i: 012
j: 2024-01-01
k: "1"
l: on
m: |
  two
  lines
on: [x, 'y']
"""
    assert parse_yaml(text, source="f").value == {
        "a": True, "b": None, "c": None, "d": None, "e": -12, "f": 1500.0, "g": "yes", "h": "0x1f", "i": "012",
        "j": "2024-01-01", "k": "1", "l": "on", "m": "two\nlines\n", "on": ["x", "y"],
    }  # fmt: skip


def test_yaml_positions_by_path() -> None:
    document = parse_yaml(b"steps:\n  - id: one\n    with: {a: 1}\n  - id: two\n", source="f")
    assert (document.position(("steps", 1, "id")).line, document.position(("steps", 1, "id")).column) == (4, 5)
    assert document.position(("steps", 0, "with", "a")).line == 3
    assert document.position(("steps", 0, "with", "zzz")).column == 5


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: &x 1\nb: *x", "yaml_anchor"),
        ("a: *x", "yaml_anchor"),
        ("a: !!python/object/apply:os.system [id]", "yaml_tag"),
        ("a: !!str 1", "yaml_tag"),
        ("a: !mine {}", "yaml_tag"),
        ("!!map {a: 1}", "yaml_tag"),
        ("<<: {a: 1}", "yaml_anchor"),
        ("a: 1\n---\nb: 2", "yaml_invalid"),
        ("1: a", "yaml_invalid"),
        ("true: a", "yaml_invalid"),
        ("? [a]\n: b", "yaml_invalid"),
        ("? {a: 1}\n: b", "yaml_invalid"),
        (": a", "yaml_invalid"),
        ("a: [", "yaml_invalid"),
        ("a:\n\tb: 1", "yaml_invalid"),
        ("a: \x07", "yaml_invalid"),
        ("a: 1\nb: 2\na: 3", "duplicate_key"),
    ],
)
def test_yaml_outside_the_subset_is_refused(text, code) -> None:
    assert refused(text.encode(), read=parse_yaml).code == code


def test_the_alias_bomb_dies_at_its_first_anchor() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
    )
    error = refused(bomb.encode(), read=parse_yaml)
    assert where(error) == (1, 4)


def test_an_empty_yaml_file_is_null() -> None:
    assert parse_yaml(b"", source="f").value is None
    assert parse_yaml(b"# only a comment\n", source="f").value is None
