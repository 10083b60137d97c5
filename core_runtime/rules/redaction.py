"""Hiding known secret values in text that is kept or shown: which forms of a value are looked for, and how. Pure.

A Pack that received a secret may print it, raise it or name a file by it, by mistake or on purpose. What is looked for:
the value as it is, each of its longer lines, and its usual encodings (JSON, Python and percent escapes, HTML, Base64 in
each alignment, hex), and the value cut off at either end of a text, since texts are bounded.

Limits, on purpose: values shorter than ``SHORTEST_CHARS`` are not looked for (they would blank out ordinary text, and
tell their length by it); a Pack that *wants* to show a secret can always spell it another way. So this prevents
accidents and the plain ways of carelessness; what a Pack may send where is decided by its permissions.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, quote_plus

MARK: Final = "[secret]"
SHORTEST_CHARS: Final = 6
SHORTEST_LINE_CHARS: Final = 12
EDGE_CHARS: Final = 8
"""How much of a cut-off value at the end of a text is hidden already."""
INSIDE_CHARS: Final = 24
"""A whole text of this length that is nothing but a piece of a value is hidden."""
MAX_DEPTH: Final = 12


def forms_of(value: str) -> tuple[str, ...]:
    """The texts that give ``value`` away, longest first; empty when it is too short to look for."""
    plain = value.strip()
    if len(plain) < SHORTEST_CHARS:
        return ()
    lines = plain.splitlines()
    parts = [plain, *(line.strip() for line in lines if len(line.strip()) >= SHORTEST_LINE_CHARS)]
    found = {form for part in parts for form in _written(part)}
    found |= {form for part in {plain, value} for form in _encoded(part.encode("utf-8", "surrogatepass"))}
    found |= {form for part in parts for form in _encoded(part.encode("utf-8", "surrogatepass"))}
    return tuple(sorted((form for form in found if len(form) >= SHORTEST_CHARS), key=len, reverse=True))


def hide(text: str, forms: Iterable[str]) -> str:
    """``text`` with every form replaced by ``MARK``, and with what of a form was cut off at its ends."""
    for form in forms:
        if form in text:
            text = text.replace(form, MARK)
        text = _without_edges(text, form)
    return text


def hidden(value: Any, conceal: Callable[[str], str], depth: int = 0) -> Any:
    """JSON-like ``value`` with ``conceal`` applied to each text in it, keys included. Bounded in depth."""
    if isinstance(value, str):
        return conceal(value)
    if depth >= MAX_DEPTH:
        return value if value is None or isinstance(value, bool | int | float) else MARK
    if isinstance(value, Mapping):
        return {
            conceal(name) if isinstance(name, str) else name: hidden(item, conceal, depth + 1)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [hidden(item, conceal, depth + 1) for item in value]
    return value


def _written(text: str) -> Iterable[str]:
    """As programs write text inside other text."""
    percent = quote(text, safe="")
    return (
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        text.encode("unicode_escape").decode("ascii"),
        percent,
        quote(text),
        quote_plus(text),
        percent.lower(),
        html.escape(text),
        html.escape(text, quote=False),
    )


def _encoded(data: bytes) -> Iterable[str]:
    """As programs write bytes. Base64 of a longer text that holds them has one of three alignments."""
    yield data.hex()
    yield data.hex().upper()
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + data).decode("ascii").rstrip("=")
        first = -(-shift * 8 // 6)
        last = (shift + len(data)) * 8 // 6
        inner = whole[first:last]
        yield inner
        yield inner.replace("+", "-").replace("/", "_")


def _without_edges(text: str, form: str) -> str:
    """A form of which only the beginning, the end or the middle is left, because the text was cut there."""
    if len(form) <= EDGE_CHARS:
        return text
    start = text.rfind(form[:EDGE_CHARS])
    if start >= 0 and form.startswith(text[start:]):
        text = text[:start] + MARK
    end = text.find(form[-EDGE_CHARS:])
    if end >= 0 and form.endswith(text[: end + EDGE_CHARS]):
        text = MARK + text[end + EDGE_CHARS :]
    return MARK if len(text) >= INSIDE_CHARS and text in form else text
