"""Forms from schemas."""

from __future__ import annotations

from typing import Any

import pytest

from backend_core.errors import ConflictError, RequestError
from console.fields import FIELDS_MOST, example_of, fields_of, print_of, refilled, same, value_of

SCHEMA = {
    "type": "object",
    "required": ["name", "note"],
    "properties": {
        "name": {"type": "string", "title": "Name", "description": "Who", "default": "tea"},
        "note": {"type": "string"},
        "count": {"type": "integer", "default": 3},
        "price": {"type": "number"},
        "sure": {"type": "boolean"},
        "size": {"enum": ["s", 2, None], "default": 2},
        "rest": {"type": "array"},
        "odd": True,
    },
}


def filled(**texts: str) -> Any:
    fields = fields_of(SCHEMA)
    return value_of({field.key: [texts.get(str(field.name), "")] for field in fields}, fields)


def test_each_plain_property_is_a_field_and_all_else_is_json() -> None:
    fields = {field.name: field for field in fields_of(SCHEMA)}
    assert {name: field.kind for name, field in fields.items()} == {
        "name": "text", "note": "text", "count": "integer", "price": "number", "sure": "flag", "size": "choice", "rest": "json", "odd": "json",
    }  # fmt: skip
    assert (fields["name"].title, fields["name"].about, fields["name"].start, fields["name"].required) == ("Name", "Who", "tea", True)
    assert (fields["count"].start, fields["size"].start, fields["size"].choices) == ("3", "1", (("s", "s"), (2, "2"), (None, "null")))
    assert [field.key for field in fields.values()] == [f"f{n}" for n in range(8)]


@pytest.mark.parametrize("schema", [None, True, {}, {"type": "object"}, {"properties": []}, {"properties": {}}, {"$ref": "#/x", "properties": {"a": {}}}, {"properties": {f"p{n}": {} for n in range(FIELDS_MOST + 1)}}])
def test_what_is_no_plain_map_is_one_field_of_json(schema: Any) -> None:
    [field] = fields_of(schema)
    assert (field.name, field.kind, field.start) == (None, "json", "{}")
    assert value_of({"f0": ['[1, {"a": null}]']}, (field,)) == [1, {"a": None}]
    assert value_of({}, (field,)) == {}


def test_a_filled_form_is_a_value_and_what_is_empty_is_left_out() -> None:
    assert filled() == {"name": "", "note": ""}
    assert filled(name="a\r\nb", count=" 3 ", price="1e3", sure="false", size="0", rest="[1]", odd="null") == {
        "name": "a\nb", "note": "", "count": 3, "price": 1000.0, "sure": False, "size": "s", "rest": [1], "odd": None,
    }  # fmt: skip


@pytest.mark.parametrize("texts", [{"count": "x"}, {"count": "1.5"}, {"count": "true"}, {"price": '"1"'}, {"price": "1e999"}, {"price": "NaN"}, {"sure": "1"}, {"size": "3"}, {"size": "x"}, {"size": "9" * 5000}, {"rest": "[1"}, {"rest": '{"a": 1, "a": 2}'}, {"count": "9" * 20}, {"rest": "[" * 100_0 + "]" * 100_0 + "]"}])
def test_what_can_not_be_read_names_its_field(texts: dict[str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        filled(**texts)
    assert (caught.value.code, next(iter(texts)) in caught.value.detail) == ("input_invalid", True)


def test_hostile_schemas_make_plain_forms() -> None:
    hostile = {"properties": {"<b>": {"type": ["string", "null"], "enum": "abc", "title": ["x"]}, "\u202e": {"type": {}, "default": {"a": 1}}}, "required": "abc"}
    assert [field.start for field in fields_of({"properties": {"a": {"type": "string", "default": "a\u202eb"}, "b": {"type": "string", "default": "a\nb"}}})] == ["", "a\nb"]
    assert [(field.kind, field.required) for field in fields_of(hostile)] == [("json", False), ("json", False)]


def test_a_form_whose_fields_stand_for_something_else_now_is_refused() -> None:
    before = fields_of({"properties": {"note": {"type": "string"}, "size": {"enum": ["s", "m"]}}})
    same({"fields": [print_of(before)]}, before)
    same({"fields": [print_of(before)]}, fields_of({"properties": {"note": {"type": "string", "title": "Words only"}, "size": {"enum": ["s", "m"]}}}))
    others: list[Any] = [
        {"properties": {"erase": {"type": "string"}, "size": {"enum": ["s", "m"]}}}, {"properties": {"note": {"type": "string"}, "size": {"enum": ["m", "s"]}}},
        {"properties": {"note": {"type": "integer"}, "size": {"enum": ["s", "m"]}}}, None,
    ]  # fmt: skip
    for schema in others:
        with pytest.raises(ConflictError) as caught:
            same({"fields": [print_of(before)]}, fields_of(schema))
        assert caught.value.code == "form_changed"
    with pytest.raises(ConflictError):
        same({}, before)
    assert print_of(fields_of({"properties": {"\ud800": {"type": "string"}}}))


def test_a_form_is_shown_again_with_what_was_written_into_it() -> None:
    fields = fields_of(SCHEMA)
    texts = {"name": "a\r\n\u3000\t<b>", "count": "many", "size": "2"}
    shown = refilled({field.key: [texts.get(str(field.name), "")] for field in fields}, fields)
    assert {field.name: field.start for field in shown if field.start} == {"name": "a\n\u3000\t<b>", "count": "many", "size": "2"}
    assert print_of(shown) == print_of(fields)


def test_an_example_has_what_a_value_must_have() -> None:
    assert example_of(fields_of(SCHEMA)) == {"name": "…", "note": "…"}
    assert example_of(fields_of(None)) == {}
