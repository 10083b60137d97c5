"""Interface schemas supplied by Packs: which are admitted, what checking may cost, the verdict on a value. Pure.

A Pack's schema is hostile: `$ref` may lead elsewhere or double itself into 2^n evaluations, a pattern may backtrack.

Invariants:
  * An admitted schema refers to itself only (`#…`), uses linear-time regular expressions (Rust's), and has a *weight*:
    an upper bound of the evaluations per instance node along the worst instance of depth 64, at most ``MAX_WEIGHT``.
  * What its patterns take once compiled is found by compiling each within growing bounds, and bounded in sum
    (``MAX_COMPILED_BYTES``): a counted repetition of ten characters may need a megabyte.
  * ``Checker.problem`` refuses instead of working when weight × size exceeds ``MAX_WORK``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import jsonschema_rs
from msgspec import Struct
from msgspec.msgpack import Ext

from core_runtime.rules.values import EXT_REFERENCE, MAX_DEPTH

MAX_SCHEMA_NODES: Final = 2_000
MAX_SCHEMA_DEPTH: Final = 64
MAX_WEIGHT: Final = 20_000
MAX_WORK: Final = 100_000_000
MAX_PATTERN_CHARS: Final = 1_000
MAX_PATTERNS: Final = 64
MAX_PATTERNS_CHARS: Final = 8_000
MAX_COMPILED_BYTES: Final = 2 * 1024 * 1024
_SIZES: Final = (8 * 1024, 32 * 1024, 128 * 1024, 512 * 1024, 1024 * 1024)
_DFA_BYTES: Final = 64 * 1024
_REGEX = jsonschema_rs.RegexOptions(size_limit=_SIZES[-1], dfa_size_limit=_DFA_BYTES)

_SAME_LISTS = ("allOf", "anyOf", "oneOf")
_SAME_ONES = ("not", "if", "then", "else")
_SAME_MAPS = ("dependentSchemas",)
_ARRAY_CHILDREN = ("items", "contains", "unevaluatedItems")
_OBJECT_CHILDREN = ("additionalProperties", "unevaluatedProperties", "propertyNames")


class SchemaRefused(ValueError):  # noqa: N818  a refusal, as the glossary calls it
    """A schema that the host will not use; the text says why."""


class Checker:
    """One admitted schema, compiled once. Raises ``SchemaRefused`` on construction."""

    __slots__ = ("_validator", "compiled_bytes", "schema", "weight")

    def __init__(self, schema: Any) -> None:
        if not isinstance(schema, Mapping):
            raise SchemaRefused("a schema is a map")
        patterns = _admit(schema)
        self.schema = schema
        self.weight = _Weigher(schema).weight()
        if self.weight > MAX_WEIGHT:
            raise SchemaRefused("the schema could need exponentially many evaluations")
        self.compiled_bytes = _compiled_bytes(patterns)
        try:
            self._validator = jsonschema_rs.Draft202012Validator(dict(schema), offline=True, pattern_options=_REGEX)
        except (jsonschema_rs.ValidationError, ValueError) as exc:
            raise SchemaRefused(f"not a JSON Schema 2020-12: {str(exc).splitlines()[0][:200]}") from exc

    def problem(self, value: Any, size_bytes: int) -> str | None:
        """Why ``value`` (of an encoded size) does not fit, naming the path; None when it does."""
        if self.weight * size_bytes > MAX_WORK:
            return f"{size_bytes} bytes are too much for a schema of weight {self.weight}"
        try:
            if self._validator.is_valid(value):
                return None
        except (ValueError, OverflowError, RecursionError):
            # bytes, map keys that are no text, or references: named or shown as JSON below
            pass
        try:
            shown = _as_json(value, "$", 0)
            self._validator.validate(shown)
        except _NotJson as exc:
            return str(exc)
        except jsonschema_rs.ValidationError as exc:
            path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in exc.instance_path)
            return f"{exc.message[:300]} at ${path[:200]}"
        except (ValueError, OverflowError, RecursionError) as exc:
            return f"not a JSON value: {str(exc)[:200]}"
        return None


class Checkers(Struct, frozen=True):
    """Both schemas of an interface, compiled."""

    input: Checker | None
    output: Checker | None

    @property
    def compiled_bytes(self) -> int:
        """An upper bound of what their patterns take."""
        return sum(checker.compiled_bytes for checker in (self.input, self.output) if checker is not None)

    @classmethod
    def of(cls, input_schema: Any, output_schema: Any) -> Checkers:
        """Raises ``SchemaRefused``, naming which of the two."""
        found: list[Checker | None] = []
        for name, schema in (("input", input_schema), ("output", output_schema)):
            try:
                found.append(Checker(schema) if schema is not None else None)
            except SchemaRefused as exc:
                raise SchemaRefused(f"{name} schema: {exc}") from exc
        return cls(*found)


class _NotJson(ValueError):  # noqa: N818  internal
    pass


def _as_json(value: Any, path: str, depth: int) -> Any:
    """What a schema sees: references appear as ``{}``, moments as text; anything else that is no JSON is named."""
    if depth > MAX_DEPTH:
        raise _NotJson(f"nesting deeper than {MAX_DEPTH} at {path[:200]}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise _NotJson(f"a map key that is no text ({type(key).__name__}) at {path[:200]}")
        return {k: _as_json(v, f"{path}.{k}", depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, bytes):
        raise _NotJson(f"bytes are no JSON value at {path[:200]}")
    if isinstance(value, Ext):
        return {} if value.code == EXT_REFERENCE else bytes(value.data).decode("utf-8", "replace")
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def _admit(schema: Mapping[str, Any]) -> list[str]:
    """Bounds on size and depth, local references only, few and short patterns; returns those."""
    nodes = 0
    patterns: list[str] = []
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        following: list[Any] = []
        for node in level:
            nodes += 1
            if nodes > MAX_SCHEMA_NODES:
                raise SchemaRefused(f"more than {MAX_SCHEMA_NODES} parts")
            if isinstance(node, Mapping):
                _admit_map(node)
                patterns.extend(_patterns(node))
                following.extend(node.values())
            elif isinstance(node, list | tuple):
                following.extend(node)
        if len(patterns) > MAX_PATTERNS:
            raise SchemaRefused(f"more than {MAX_PATTERNS} patterns")
        if sum(map(len, patterns)) > MAX_PATTERNS_CHARS:
            raise SchemaRefused(f"patterns of more than {MAX_PATTERNS_CHARS} characters together")
        if not following:
            return patterns
        level = following
    raise SchemaRefused(f"nested deeper than {MAX_SCHEMA_DEPTH}")


def _patterns(node: Mapping[Any, Any]) -> Iterator[str]:
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        yield pattern
    named = node.get("patternProperties")
    if isinstance(named, Mapping):
        yield from (name for name in named if isinstance(name, str))


def _compiled_bytes(patterns: list[str]) -> int:
    total = 0
    for pattern in patterns:
        total += _pattern_bytes(pattern)
        if total > MAX_COMPILED_BYTES:
            raise SchemaRefused(f"patterns that take more than {MAX_COMPILED_BYTES} bytes once compiled")
    return total


@lru_cache(maxsize=1_024)
def _pattern_bytes(pattern: str) -> int:
    """The smallest of ``_SIZES`` within which a pattern compiles. What never does is refused with its schema."""
    for size in _SIZES:
        options = jsonschema_rs.RegexOptions(size_limit=size, dfa_size_limit=_DFA_BYTES)
        try:
            jsonschema_rs.Draft202012Validator({"pattern": pattern}, offline=True, pattern_options=options)
        except (jsonschema_rs.ValidationError, ValueError):
            continue
        return size
    return _SIZES[-1]


def _admit_map(node: Mapping[Any, Any]) -> None:
    for key, value in node.items():
        if not isinstance(key, str):
            raise SchemaRefused("a keyword that is no text")
        if key in {"$ref", "$dynamicRef", "$recursiveRef"} and not (isinstance(value, str) and value.startswith("#")):
            raise SchemaRefused(f"{key} must stay inside the schema ('#…')")
        if key in {"$id", "id", "$schema"} and isinstance(value, str) and not _harmless_id(key, value):
            raise SchemaRefused(f"{key} {value[:100]!r} is not used here: leave it out")
        if key == "pattern" and isinstance(value, str) and len(value) > MAX_PATTERN_CHARS:
            raise SchemaRefused(f"a pattern longer than {MAX_PATTERN_CHARS} characters")


def _harmless_id(key: str, value: str) -> bool:
    return key == "$schema" and value.rstrip("#") == "https://json-schema.org/draft/2020-12/schema"


class _Weigher:
    """Counts evaluations along the worst chain: at each level one array element or one property of the instance."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._seen: dict[tuple[int, int], int] = {}
        self._keep: list[Any] = []

    def weight(self) -> int:
        return self._cost(self._root, MAX_DEPTH)

    def _cost(self, node: Any, levels: int) -> int:
        if not isinstance(node, Mapping) or levels < 0:
            return 1
        key = (id(node), levels)
        if key in self._seen:
            return self._seen[key]
        closure, arrays, anywhere = 0, 0, 0
        named: dict[str, int] = {}
        for part in self._same_instance(node):
            closure += 1
            if closure > MAX_WEIGHT:
                raise SchemaRefused("the schema could need exponentially many evaluations")
            arrays += sum(self._cost(child, levels - 1) for child in _array_children(part))
            anywhere += sum(self._cost(child, levels - 1) for child in _object_children(part))
            properties = part.get("properties")
            if isinstance(properties, Mapping):
                for name, child in properties.items():
                    named[name] = named.get(name, 0) + self._cost(child, levels - 1)
        cost = min(closure + max(arrays, anywhere + max(named.values(), default=0)), MAX_WEIGHT + 1)
        self._seen[key] = cost
        return cost

    def _same_instance(self, node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """Every subschema applied to the same instance, as often as it is applied. A cycle is refused."""
        stack: list[tuple[Any, int]] = [(node, 0)]
        while stack:
            current, depth = stack.pop()
            if not isinstance(current, Mapping):
                continue
            if depth > 200:
                raise SchemaRefused("a reference leads to itself without consuming anything")
            yield current
            for name in _SAME_LISTS:
                parts = current.get(name)
                if isinstance(parts, list | tuple):
                    stack.extend((part, depth + 1) for part in parts)
            stack.extend((current[name], depth + 1) for name in _SAME_ONES if name in current)
            for name in _SAME_MAPS:
                parts = current.get(name)
                if isinstance(parts, Mapping):
                    stack.extend((part, depth + 1) for part in parts.values())
            for name in ("$ref", "$dynamicRef"):
                reference = current.get(name)
                if isinstance(reference, str):
                    stack.append((self._target(reference), depth + 1))

    def _target(self, reference: str) -> Any:
        if reference == "#":
            return self._root
        if not reference.startswith("#/"):
            raise SchemaRefused("references by anchor are not used here: write '#/$defs/…'")
        node: Any = self._root
        for raw in reference[2:].split("/"):
            part = raw.replace("~1", "/").replace("~0", "~").replace("%24", "$")
            if isinstance(node, Mapping) and part in node:
                node = node[part]
            elif isinstance(node, list | tuple) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                raise SchemaRefused(f"$ref {reference[:100]!r} leads nowhere")
        return node


def _array_children(node: Mapping[str, Any]) -> Iterator[Any]:
    for name in _ARRAY_CHILDREN:
        if name in node:
            yield node[name]
    parts = node.get("prefixItems")
    if isinstance(parts, list | tuple):
        yield from parts


def _object_children(node: Mapping[str, Any]) -> Iterator[Any]:
    for name in _OBJECT_CHILDREN:
        if name in node:
            yield node[name]
    parts = node.get("patternProperties")
    if isinstance(parts, Mapping):
        yield from parts.values()
