"""A form from a JSON Schema, and the value that a filled one stands for. Pure.

What a schema says plainly (text, numbers, yes or no, one of a list) is a field each; whatever is richer is written as
JSON. Fields are numbered, so no name that a Pack chose becomes the name of a field.

Invariant: a field that is left empty is left out. Whether the whole fits the schema is decided by whoever takes it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from backend_core.errors import RequestError, quote
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
    there at first, which is nothing where a reader could not see all of it.
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


def value_of(form: forms.Form, fields: tuple[Field, ...]) -> Any:
    """The value. ``RequestError`` names the field that can't be read."""
    found: dict[str, Any] = {}
    for asked in fields:
        text = forms.one(form, asked.key, "", CHARS_MOST).replace("\r\n", "\n")
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
        value = msgspec.json.decode(text.strip())
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise _unread(asked, f"is no JSON ({exc})", text) from exc
    if type(value) not in _READ_AS.get(asked.kind, (type(value),)):
        raise _unread(asked, f"expects {asked.kind.replace('flag', 'true or false')}", text)
    if isinstance(value, float) and not math.isfinite(value):
        raise _unread(asked, "is too large", text)
    return value


def _unread(asked: Field, why: str, text: str) -> RequestError:
    name = quote(asked.name, 80) if asked.name is not None else "The input"
    return RequestError(
        "A field can't be read", code="input_invalid", detail=f"{name} {why}; got {quote(text, 80)}",
        hint="Go back, and write it as it is asked for.",
    )  # fmt: skip
