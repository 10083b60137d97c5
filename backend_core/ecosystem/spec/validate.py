"""Does a document say what its format says? JSON Schema 2020-12, answered in words with file, line and pointer.

Invariants:
  * Schemas are ours, read from ``schema/`` once; nothing of a Pack is ever used as a schema here.
  * The first error in document order is reported: one thing to correct at a time, where it stands.
  * Unknown fields are not errors (newer Packs carry them) but are named, since a misspelt field is silently nothing.

Not here: types (``models``), reading (``registry``), schemas that Packs supply for their interfaces.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path as FilePath
from typing import Any, Final

import jsonschema_rs

from backend_core.document import JSON, Document, Path
from backend_core.errors import AuthorError, quote

SCHEMA_DIR: Final = FilePath(__file__).parent / "schema"
_FOUND_CHARS: Final = 80


class Kind(StrEnum):
    """The formats with a schema; the value is the schema's file name without its suffix."""

    ECOSYSTEM = "ecosystem"
    MANIFEST = "manifest"
    PERMISSIONS = "permissions"
    ADDON = "addon"
    MOUNTS = "mounts"
    ACTIVE_ECOSYSTEM = "active_ecosystem"
    ALIASES = "aliases"
    FLOW = "flow"
    MODIFIER = "modifier"
    OLDER_FLOW = "older_flow"


@functools.cache
def schema(kind: Kind) -> Mapping[str, Any]:
    """The schema of ``kind``, as published."""
    loaded: dict[str, Any] = json.loads((SCHEMA_DIR / f"{kind.value}.schema.json").read_bytes())
    return loaded


@functools.cache
def _validator(kind: Kind) -> jsonschema_rs.Draft202012Validator:
    # RegexOptions: the linear-time engine, so that no text can make one of our patterns slow
    return jsonschema_rs.Draft202012Validator(
        dict(schema(kind)), pattern_options=jsonschema_rs.RegexOptions(), offline=True
    )


def check(kind: Kind, document: Document) -> None:
    """Raise ``AuthorError`` unless ``document`` is a valid ``kind``."""
    check_part(kind, document, document.value, ())


def check_part(kind: Kind, document: Document, value: JSON, base: Path) -> None:
    """Like ``check`` for ``value``, which stands at ``base`` inside ``document`` (inline components)."""
    failures = list(_validator(kind).iter_errors(value))
    if not failures:
        return
    first = min(failures, key=lambda failure: _order(document, base, failure))
    path: Path = (*base, *first.instance_path)
    expected, found = _explain(kind, first, value)
    raise document.error(
        f"{_TITLES[kind]} is not valid", path, expected=expected, found=found, hint=_hint(first, document),
        code=f"{kind.value}_invalid",
    )  # fmt: skip


def unknown_fields(kind: Kind, document: Document, value: JSON, base: Path = ()) -> tuple[str, ...]:
    """One sentence for each top-level field of ``value`` that the format doesn't know, with the likely meant one."""
    known = schema(kind).get("properties", {})
    if not isinstance(value, dict):
        return ()
    notes = []
    for name in value:
        if name in known or name.startswith(("x-", "_", "$")):
            continue
        near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.8)
        meant = f'; did you mean "{near[0]}"?' if near else ""
        where = document.position((*base, name))
        notes.append(f"{document.source}:{where.line}: field {quote(name, 64)} is not known and has no effect{meant}")
    return tuple(notes)


def invalid(kind: Kind, document: Document, path: Path, *, expected: str, found: str, hint: str = "") -> AuthorError:
    """The same error as ``check`` raises, for rules that a schema can't say."""
    return document.error(
        f"{_TITLES[kind]} is not valid", path, expected=expected, found=found, hint=hint, code=f"{kind.value}_invalid"
    )


_TITLES: Final[Mapping[Kind, str]] = {
    Kind.ECOSYSTEM: "Pack metadata",
    Kind.MANIFEST: "Component manifest",
    Kind.PERMISSIONS: "Permission requests",
    Kind.ADDON: "Addon",
    Kind.MOUNTS: "mounts.json",
    Kind.ACTIVE_ECOSYSTEM: "active_ecosystem.json",
    Kind.ALIASES: "aliases.json",
    Kind.FLOW: "Flow",
    Kind.MODIFIER: "Modifier",
    Kind.OLDER_FLOW: "Flow of an older style",
}


def _order(document: Document, base: Path, failure: jsonschema_rs.ValidationError) -> tuple[int, int, int]:
    where = document.position((*base, *failure.instance_path))
    return (where.line, where.column, -len(failure.instance_path))


def _at(value: JSON, path: Iterable[str | int]) -> JSON:
    for part in path:
        value = value[part]
    return value


def _rule(kind: Kind, failure: jsonschema_rs.ValidationError) -> Mapping[str, Any]:
    """The subschema that failed. ``evaluation_path`` passes through ``$ref``; follow it by hand (local ones only)."""
    root: Any = schema(kind)
    node: Any = root
    for part in failure.evaluation_path[:-1]:
        while isinstance(node, dict) and "$ref" in node and part != "$ref":
            node = _at(root, node["$ref"].removeprefix("#/").split("/"))
        node = _at(root, node["$ref"].removeprefix("#/").split("/")) if part == "$ref" else node[part]
    return node if isinstance(node, dict) else {}


def _explain(kind: Kind, failure: jsonschema_rs.ValidationError, value: JSON) -> tuple[str, str]:
    """``(expected, found)`` in words."""
    instance = _at(value, failure.instance_path)
    problem = failure.kind
    rule = _rule(kind, failure)
    if isinstance(problem, jsonschema_rs.ValidationErrorKind.Required):
        return f'the field "{problem.property}"', "none"
    if isinstance(problem, jsonschema_rs.ValidationErrorKind.AdditionalProperties):
        return f"only {_join(rule.get('properties', {}))}", quote(", ".join(problem.unexpected), _FOUND_CHARS)
    if isinstance(problem, jsonschema_rs.ValidationErrorKind.Type):
        kinds = rule.get("type", "another type")
        return _described(rule, _join([kinds] if isinstance(kinds, str) else kinds)), _show(instance)
    if isinstance(problem, jsonschema_rs.ValidationErrorKind.Enum):
        return f"one of {_join(rule.get('enum', ()))}", _show(instance)
    if isinstance(problem, jsonschema_rs.ValidationErrorKind.AnyOf) and isinstance(instance, dict):
        fields = [" and ".join(option["required"]) for option in rule.get("anyOf", ()) if "required" in option]
        if fields:
            return f"the fields {' or '.join(fields)}", _show(instance)
    return _described(rule, failure.message.partition(" is ")[2] or "a valid value"), _show(instance)


def _described(rule: Mapping[str, Any], fallback: str) -> str:
    return str(rule.get("description", fallback))


def _join(words: Iterable[object]) -> str:
    return ", ".join(str(word) for word in words)


def _show(instance: JSON) -> str:
    """A short, escaped picture of a value of the document."""
    if isinstance(instance, str):
        return f"the text {quote(instance, _FOUND_CHARS)}"
    if isinstance(instance, dict):
        return f"an object with {len(instance)} fields"
    if isinstance(instance, list):
        return f"a list of {len(instance)} items"
    return json.dumps(instance)


def _hint(failure: jsonschema_rs.ValidationError, document: Document) -> str:
    problem = failure.kind
    if isinstance(problem, jsonschema_rs.ValidationErrorKind.Required):
        return f'Add "{problem.property}" to {document.source}, then scan again.'
    return ""
