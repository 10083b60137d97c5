"""Text of Packs on a page: bounded, and without characters that change how the rest is read.

HTML is escaped by the template engine, always; this is about what escaping does not touch: bidi controls, invisible
characters, ten thousand characters where a word was expected.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

SHOWN_CHARS = 300
DEPTH_MOST = 64
LINE_CHARS = 80


def shown(value: object, limit_chars: int = SHOWN_CHARS) -> str:
    """``value`` as one bounded line of printable characters."""
    if value is None:
        return ""
    text = str(value)
    line = "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text[:limit_chars])
    return f"{line}…" if len(text) > limit_chars else line


def argument(value: Any) -> str:
    """``value`` as JSON that a shell takes for one word; printable, and the same JSON for whoever reads it."""
    text = json.dumps(value, ensure_ascii=False)
    return shlex.quote("".join(ch if ch.isprintable() else json.dumps(ch)[1:-1] for ch in text))


def pretty(value: Any, limit_chars: int, conceal: Callable[[str], str] = str) -> tuple[str, bool]:
    """``value`` as JSON of at most ``limit_chars``, indented where it is long, and whether that is all of it.

    ``conceal`` sees each text in it. What JSON has no form for is named in angle brackets. A value of any size costs no
    more than what is shown of it.
    """
    room = _Room(limit_chars, conceal)
    part = room.part(value, 0)
    text = json.dumps(part, ensure_ascii=False)
    if len(text) > LINE_CHARS:
        text = json.dumps(part, ensure_ascii=False, indent=1)
    whole = room.chars >= 0 and len(text) <= limit_chars
    return (text if whole else f"{text[:limit_chars]}…"), whole


class _Room:
    """What may still be shown; negative once something was left out."""

    def __init__(self, chars: int, conceal: Callable[[str], str]) -> None:
        self.chars = chars
        self._conceal = conceal

    def part(self, value: Any, depth: int) -> Any:
        """As much of a value as there is room for."""
        self.chars -= 1
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if depth < DEPTH_MOST and isinstance(value, Mapping):
            return self._map(value, depth)
        if depth < DEPTH_MOST and isinstance(value, (list, tuple)):
            return self._list(value, depth)
        return self._text(_named(value))

    def _text(self, text: str) -> str:
        kept = text[: max(0, self.chars)]
        self.chars -= len(text)
        return self._conceal(kept)

    def _map(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, item in value.items():
            if self.chars < 0:
                break
            found[self._text(str(name))] = self.part(item, depth + 1)
        return found

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        found: list[Any] = []
        for item in value:
            if self.chars < 0:
                break
            found.append(self.part(item, depth + 1))
        return found


def _named(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, float):
        return f"<{value}>"
    return "<function>" if callable(value) else f"<{type(value).__name__}>"
