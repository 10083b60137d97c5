"""Schemas of Packs: what is admitted, at which border it is refused and with which words, and verdicts on values."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec.msgpack import Ext

from core_runtime.rules import schemas
from core_runtime.rules.schemas import Checker, Checkers, SchemaRefused
from tests.support.names import case

encode = msgspec.msgpack.Encoder().encode


def refused(schema) -> str:
    with pytest.raises(SchemaRefused) as caught:
        Checker(schema)
    return str(caught.value)


def nested(depth: int) -> dict:
    schema: dict = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


def doubling(levels: int) -> dict:
    """2^levels evaluations of one value."""
    definitions = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(levels)}
    definitions[f"d{levels}"] = {"type": "string"}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def test_bounds():
    assert (schemas.MAX_SCHEMA_NODES, schemas.MAX_SCHEMA_DEPTH, schemas.MAX_WEIGHT, schemas.MAX_WORK) == (
        2000,
        64,
        20_000,
        10**8,
    )
    assert (schemas.MAX_PATTERN_CHARS, schemas.MAX_PATTERNS, schemas.MAX_PATTERNS_CHARS) == (1000, 64, 8000)
    assert schemas.MAX_COMPILED_BYTES == 2 * 2**20
    assert schemas._SIZES == (8192, 32768, 131072, 524288, 1048576)


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (7, "a schema is a map"), (None, "a schema is a map"), ([], "a schema is a map"), (True, "a schema is a map"),
        ({7: 1}, "a keyword that is no text"), ({"properties": {"a": {7: 1}}}, "a keyword that is no text"),
        ({"$ref": "http://x/y"}, "$ref must stay inside the schema ('#…')"), ({"$ref": 7}, "$ref must stay inside the schema ('#…')"),
        ({"items": {"$dynamicRef": "other.json#x"}}, "$dynamicRef must stay inside the schema ('#…')"),
        ({"$recursiveRef": "x"}, "$recursiveRef must stay inside the schema ('#…')"),
        ({"$id": "http://x"}, "$id 'http://x' is not used here: leave it out"), ({"id": "x"}, "id 'x' is not used here: leave it out"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"},
         "$schema 'http://json-schema.org/draft-07/schema#' is not used here: leave it out"),
        ({"$id": "https://json-schema.org/draft/2020-12/schema"},
         "$id 'https://json-schema.org/draft/2020-12/schema' is not used here: leave it out"),
        ({"$id": "x" * 300}, "$id '" + "x" * 100 + "' is not used here: leave it out"),
        ({"pattern": "a" * 1001}, "a pattern longer than 1000 characters"),
        ({"anyOf": [{"pattern": f"a{n}"} for n in range(65)]}, "more than 64 patterns"),
        ({"patternProperties": {f"a{n}": {} for n in range(65)}}, "more than 64 patterns"),
        ({"anyOf": [{"pattern": "a" * 999 + str(n)} for n in range(8)] + [{"pattern": "b"}]}, "patterns of more than 8000 characters together"),
        ({"enum": list(range(2000))}, "more than 2000 parts"), (nested(64), "nested deeper than 64"),
        ({"$ref": "#"}, "a reference leads to itself without consuming anything"),
        ({"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}, "a reference leads to itself without consuming anything"),
        ({"$ref": "#anchor"}, "references by anchor are not used here: write '#/$defs/…'"),
        ({"$ref": "#/$defs/none"}, "$ref '#/$defs/none' leads nowhere"), ({"$ref": "#/allOf/1", "allOf": [{}]}, "$ref '#/allOf/1' leads nowhere"),
        ({"$ref": "#/allOf/x", "allOf": [{}]}, "$ref '#/allOf/x' leads nowhere"),
        (doubling(16), "the schema could need exponentially many evaluations"),
        ({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}, "the schema could need exponentially many evaluations"),
        ({"properties": {"a": {"$ref": "#"}}, "additionalProperties": {"$ref": "#"}}, "the schema could need exponentially many evaluations"),
        ({"type": 7}, None), ({"pattern": "("}, None), ({"pattern": "(?=a)"}, None), ({"minimum": "x"}, None),
    ],
    ids=case,
)  # fmt: skip
def test_what_is_not_admitted_and_why(schema, said):
    text = refused(schema)
    if said is None:
        assert text.startswith("not a JSON Schema 2020-12: ")
        assert "\n" not in text
        assert len(text) <= len("not a JSON Schema 2020-12: ") + 200
    else:
        assert text == said


@pytest.mark.parametrize(
    "schema",
    [
        {}, {"$schema": "https://json-schema.org/draft/2020-12/schema"}, {"$schema": "https://json-schema.org/draft/2020-12/schema#"},
        {"title": "x"}, {"pattern": "a" * 1000}, {"anyOf": [{"pattern": f"a{n}"} for n in range(64)]},
        {"anyOf": [{"pattern": "a" * 999 + str(n)} for n in range(8)]}, {"enum": list(range(1998))}, nested(63),
        {"$defs": {"a": {"type": "string"}}, "items": {"$ref": "#/$defs/a"}}, {"items": {"$ref": "#"}},
        {"allOf": [{}, {"type": "string"}], "items": {"$ref": "#/allOf/1"}},
        {"$defs": {"a/b": {}, "c~d": {}, "$e": {}}, "allOf": [{"$ref": "#/$defs/a~1b"}, {"$ref": "#/$defs/c~0d"}, {"$ref": "#/%24defs/%24e"}]},
        doubling(12),
    ],
    ids=case,
)  # fmt: skip
def test_what_is_admitted(schema):
    checker = Checker(schema)
    assert checker.schema is schema
    assert 0 < checker.weight <= schemas.MAX_WEIGHT


LEAF = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "weight"),
    [
        ({}, 1), (LEAF, 1), ({"allOf": [LEAF, LEAF]}, 3), ({"anyOf": [LEAF]}, 2), ({"oneOf": [LEAF] * 3}, 4), ({"not": LEAF}, 2),
        ({"if": LEAF, "then": LEAF, "else": LEAF}, 4), ({"dependentSchemas": {"a": LEAF, "b": LEAF}}, 3), ({"items": LEAF}, 2),
        ({"contains": LEAF}, 2), ({"unevaluatedItems": LEAF}, 2), ({"prefixItems": [LEAF, LEAF]}, 3), ({"items": LEAF, "contains": LEAF}, 3),
        ({"additionalProperties": LEAF}, 2), ({"unevaluatedProperties": LEAF}, 2), ({"propertyNames": LEAF}, 2),
        ({"patternProperties": {"a": LEAF, "b": LEAF}}, 3), ({"properties": {"a": LEAF, "b": LEAF}}, 2),
        ({"properties": {"a": LEAF, "b": {"allOf": [LEAF]}}}, 3), ({"properties": {"a": LEAF}, "additionalProperties": LEAF}, 3),
        ({"properties": {"a": LEAF}, "items": LEAF}, 2), ({"items": {"allOf": [LEAF] * 4}, "properties": {"a": LEAF}}, 6),
        ({"allOf": [{"properties": {"a": LEAF}}, {"properties": {"a": LEAF}}]}, 5),
        ({"allOf": [{"properties": {"a": LEAF}}, {"properties": {"b": LEAF}}]}, 4), ({"items": True}, 2), ({"items": {"items": LEAF}}, 3),
        ({"$defs": {"a": LEAF}, "$ref": "#/$defs/a"}, 2), ({"$defs": {"a": LEAF}, "$dynamicRef": "#/$defs/a"}, 2), ({"items": {"$ref": "#"}}, 130),
        ({"allOf": "x", "properties": [], "patternProperties": 7, "prefixItems": 7}, None),
    ],
    ids=case,
)  # fmt: skip
def test_the_weight_of_a_schema(schema, weight):
    """Evaluations along the worst value, counted by hand."""
    if weight is None:
        assert refused(schema).startswith("not a JSON Schema")
    else:
        assert Checker(schema).weight == weight


def test_patterns_are_weighed_once_compiled():
    assert Checker({}).compiled_bytes == 0
    assert Checker({"pattern": "a"}).compiled_bytes == 8192
    assert Checker({"pattern": "a", "patternProperties": {"b": {}, "c": {}}}).compiled_bytes == 3 * 8192
    big = Checker({"pattern": r"\w{100}"}).compiled_bytes
    assert big in schemas._SIZES
    assert big > 8192
    many = {"anyOf": [{"pattern": rf"\pL{{20}}a{n}"} for n in range(3)]}
    assert refused(many) == "patterns that take more than 2097152 bytes once compiled"


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    [
        ({"type": "string"}, "x", None), ({"type": "string"}, 7, '7 is not of type "string" at $'),
        ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1, "x"]}, '"x" is not of type "integer" at $.a[1]'),
        ({"additionalProperties": {"type": "string"}}, {"a": b"x"}, "bytes are no JSON value at $.a"),
        ({"type": "object"}, {7: 1}, "a map key that is no text (int) at $"),
        ({"additionalProperties": {"additionalProperties": {"type": "integer"}}}, {"a": {b"k": 1}}, "a map key that is no text (bytes) at $.a"),
        ({"items": {"type": "integer"}}, [1, b""], "bytes are no JSON value at $[1]"),
        ({"items": {"type": "string"}}, [datetime(2024, 1, 1, tzinfo=UTC)], None),
        ({"type": "object"}, Ext(1, b"\0"), None), ({"type": "string"}, Ext(2, b"2024-01-01"), None),
        ({"type": "string"}, Ext(1, b"\0"), '{} is not of type "string" at $'),
        ({"const": "2024-01-01"}, Ext(2, b"2024-01-01"), None),
    ],
    ids=case,
)  # fmt: skip
def test_verdicts_name_the_place(schema, value, problem):
    assert Checker(schema).problem(value, 100) == problem


def test_verdicts_are_bounded():
    checker = Checker({"properties": {"k" * 300: {"type": "string"}}})
    found = checker.problem({"k" * 300: 7}, 100)
    assert found is not None
    assert found.endswith("at $." + "k" * 199)
    long = Checker({"const": "x"}).problem("y" * 5000, 100)
    assert long is not None
    assert len(long) <= 300 + len(" at $")
    deep: list = [b"x"]
    for _ in range(70):
        deep = [deep]
    assert Checker({"items": {"$ref": "#"}}).problem(deep, 100) == f"nesting deeper than 64 at ${'[0]' * 65}"


def test_work_is_refused_by_weight_and_size():
    checker = Checker({"allOf": [LEAF, LEAF]})
    assert checker.weight == 3
    assert checker.problem("x", 10**8 // 3) is None
    assert checker.problem("x", 10**8 // 3 + 1) == "33333334 bytes are too much for a schema of weight 3"


def test_both_schemas_of_an_interface():
    both = Checkers.of({"pattern": "a"}, {"pattern": "b"})
    assert both.input is not None
    assert both.output is not None
    assert both.compiled_bytes == 16384
    none = Checkers.of(None, None)
    assert (none.input, none.output, none.compiled_bytes) == (None, None, 0)
    only = Checkers.of(None, {"pattern": "a"})
    assert (only.input, only.compiled_bytes) == (None, 8192)
    for given, name in (((7, None), "input"), ((None, 7), "output"), (({}, 7), "output")):
        with pytest.raises(SchemaRefused, match=f"^{name} schema: a schema is a map$"):
            Checkers.of(*given)
