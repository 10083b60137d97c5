"""The readers never fail otherwise than by ``AuthorError``, and what they accept means what the standard readers say."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from backend_core.errors import AuthorError
from backend_core.parsing import load_json, parse_json, parse_yaml

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | TEXT
    | st.floats(allow_nan=False, allow_infinity=False)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=15
)
SOUP = st.text(st.sampled_from("{}[]\",:\\ \n\t-#&*!|>'%@`?~<=0123456789.eE+truefalsn\u00e9\ufeff"), max_size=60)


@given(VALUES, st.booleans(), st.none() | st.integers(0, 3))
def test_json_means_what_the_standard_library_says(value, ascii_only, indent) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8")
    assert parse_json(data, source="f") == json.loads(data)


@given(VALUES, st.none() | st.integers(0, 3))
def test_every_part_has_its_position(value, indent) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    document = load_json(text.encode("utf-8"), source="f")
    lines = text.split("\n")
    for path, at in document.locate().items():
        part = document.value
        for step in path:
            part = part[step]
        rest = lines[at.line - 1][at.column - 1 :]
        if path and isinstance(path[-1], str):
            assert rest.startswith(json.dumps(path[-1], ensure_ascii=False))
        else:
            assert rest.startswith(
                ("{", "[") if isinstance(part, (dict, list)) else json.dumps(part, ensure_ascii=False)
            )


@given(SOUP | st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_place(data) -> None:
    raw = data if isinstance(data, bytes) else data.encode("utf-8")
    for read in (parse_json, parse_yaml):
        try:
            read(raw, source="f")
        except AuthorError as error:
            fields = error.fields
            lines = raw.count(b"\n") + raw.count(b"\r") + 4 * raw.count(b"\xe2\x80") + raw.count(b"\xc2\x85") + 2
            assert 1 <= fields["line"] <= lines
            assert fields["expected"]
            assert fields["found"]


@given(VALUES)
def test_json_is_yaml_where_both_can_say_it(value) -> None:
    """Plain JSON texts mean the same to the strict YAML reader."""
    text = json.dumps(value, ensure_ascii=True)
    if "\\u" in text or "/" in text:
        return  # surrogate escapes are JSON's own
    read = parse_yaml(text.encode("utf-8"), source="f").value
    assert json.dumps(read) == text or read == value
