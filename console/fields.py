"""A form from a JSON Schema, and the value that a filled one stands for. Pure.

What a schema says plainly (text, numbers, yes or no, one of a list) is a field each; whatever is richer is written as
JSON. Fields are numbered, so no name that a Pack chose becomes the name of a field.

Invariants:
  * A field that is left empty is left out. Whether the whole fits the schema is decided by whoever takes it.
  * A form that was filled before its schema became another one is refused: its fields would mean something else.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from backend_core.errors import AuthorError, ConflictError, RequestError, quote
from backend_core.parsing import parse_json
from console import forms

FIELDS_MOST: Final = 40
CHOICES_MOST: Final = 100
CHARS_MOST: Final = 60_000
RICHER: Final = ("$ref", "allOf", "anyOf", "oneOf", "if")
_PLAIN: Final = {"string": "text", "integer": "integer", "number": "number", "boolean": "flag"}

_READ_AS: Final[Mapping[str, tuple[type, ...]]] = {"integer": (int,), "number": (int, float), "flag": (bool,)}


@dataclass(frozen=True, slots=True)
class Field:
    """``key``: what the form calls it; ``name``: the property, None for the whole value; ``kind``: see ``_PLAIN``.

    ``choices``: what can be chosen, with what it is shown as; a form names them by place. ``start``: what stands
    there at first; of a schema's own, nothing where a reader could not see all of it.
    """

    key: str
    name: str | None
    kind: str
    required: bool = False
    title: str = ""
    about: str = ""
    start: str = ""
    choices: tuple[tuple[Any, str], ...] = ()


def fields_of(schema: Any) -> tuple[Field, ...]:
    """What a form asks for; one field for the whole value where the schema is not that of a plain map."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    richer = any(word in schema for word in RICHER) if isinstance(schema, Mapping) else True
    if richer or not isinstance(properties, Mapping) or not 0 < len(properties) <= FIELDS_MOST:
        return (Field("f0", None, "json", start="{}"),)
    wanted = schema.get("required")
    required = set(map(str, wanted)) if isinstance(wanted, list | tuple) else set()
    return tuple(
        _field(f"f{number}", str(name), one, str(name) in required)
        for number, (name, one) in enumerate(properties.items())
    )


def example_of(fields: tuple[Field, ...]) -> dict[str | None, str]:
    """What a value has to have, to be filled in."""
    return {field.name: "…" for field in fields if field.required}


def print_of(fields: tuple[Field, ...]) -> str:
    """Tells forms apart whose fields stand for something else; a form carries it along as ``fields``."""
    asked = [(field.key, field.name, field.kind, [_json(value) for value, _ in field.choices]) for field in fields]
    return hashlib.sha256(_json(asked).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def same(form: forms.Form, fields: tuple[Field, ...]) -> None:
    """``ConflictError`` where the form was not made of these fields."""
    if forms.one(form, "fields") != print_of(fields):
        raise ConflictError(
            "The form has changed meanwhile", code="form_changed",
            detail="What it asks for is not what was shown when it was filled in.",
            hint="Load its page again, then fill it in as it is now.",
        )  # fmt: skip


def refilled(form: forms.Form, fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """The fields with what was written into them, which is the writer's own."""
    return tuple(replace(field, start=_written(form, field)) for field in fields)


def value_of(form: forms.Form, fields: tuple[Field, ...]) -> Any:
    """The value. ``RequestError`` names the field that can't be read."""
    found: dict[str, Any] = {}
    for asked in fields:
        text = _written(form, asked)
        if asked.name is None:
            return _read(asked, text or "{}")
        if text or (asked.required and asked.kind == "text"):
            found[asked.name] = _read(asked, text)
    return found


def _field(key: str, name: str, schema: Any, required: bool) -> Field:  # noqa: FBT001
    one = schema if isinstance(schema, Mapping) else {}
    title, about = (str(one.get(word) or "") for word in ("title", "description"))
    listed = one.get("enum")
    if isinstance(listed, list | tuple) and 0 < len(listed) <= CHOICES_MOST:
        choices = tuple((item, item if isinstance(item, str) else _json(item)) for item in listed)
        usual = _json(one["default"]) if "default" in one else None
        start = next((str(place) for place, item in enumerate(listed) if _json(item) == usual), "")
        return Field(key, name, "choice", required, title, about, start, choices)
    kind = _PLAIN.get(one.get("type", "")) if isinstance(one.get("type"), str) else None
    start = ""
    if "default" in one:
        start = one["default"] if kind == "text" and isinstance(one["default"], str) else _json(one["default"])
    seen = all(line.isprintable() for line in start.split("\n"))
    return Field(key, name, kind or "json", required, title, about, start if seen else "")


def _written(form: forms.Form, asked: Field) -> str:
    return forms.one(form, asked.key, "", CHARS_MOST).replace("\r\n", "\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=list)


def _read(asked: Field, text: str) -> Any:
    if asked.kind == "text":
        return text
    if asked.kind == "choice":
        if not text.isdecimal() or len(text) > 4 or int(text) >= len(asked.choices):
            raise _unread(asked, "is none of the values that can be chosen", text)
        return asked.choices[int(text)][0]
    try:
        value = parse_json(text.strip().encode("utf-8", "surrogatepass"), source="line")
    except AuthorError as exc:
        raise _unread(asked, f"can't be read as JSON ({exc})", text) from exc
    if type(value) not in _READ_AS.get(asked.kind, (type(value),)):
        raise _unread(asked, f"expects {asked.kind.replace('flag', 'true or false')}", text)
    if isinstance(value, float) and not math.isfinite(value):
        raise _unread(asked, "is too large", text)
    return value


def _unread(asked: Field, why: str, text: str) -> RequestError:
    name = quote(asked.name, 80) if asked.name is not None else "The input"
    return RequestError(
        "A field can't be read", code="input_invalid", detail=f"{name} {why}; got {quote(text, 80)}",
        hint="Write it as it is asked for.",
    )  # fmt: skip
