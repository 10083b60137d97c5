"""Values as JSON that is safe to show: what a terminal or a reader's eye would obey is escaped. Pure.

Invariant: what is written is JSON. A Pack's value that JSON can't carry is named by its path and refused with
``result_not_json``, never silently changed. The one exception is documented: bytes become ``{"$base64": "…"}``.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any

import msgspec

from backend_core.errors import PackError, RumiError, quote

DEPTH_LIMIT = 64
_OBEYED = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f]"
)
"""Control and format characters (Unicode Cc, Cf) and line separators: outside strings JSON has none of them."""


def encode(data: Any) -> bytes:
    """JSON bytes of the host's own data, safe to show: what a terminal or a reader's eye would obey is escaped."""
    try:
        encoded = msgspec.json.encode(data, enc_hook=_known)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_without_surrogates(msgspec.to_builtins(data, enc_hook=_known)))
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded
    return _OBEYED.sub(_escaped, encoded.decode()).encode()


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match.group())[1:-1]


def plain(value: Any) -> Any:
    """A Pack's value as plain JSON. Raises ``PackError`` ``result_not_json`` naming the path and what stands there."""
    return _plain(value, "result", 0)


def _plain(value: Any, path: str, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _text(value, path)
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise _not_json(path, f"the number {value}")
    if depth >= DEPTH_LIMIT:
        raise _not_json(path, f"nesting deeper than {DEPTH_LIMIT}")
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {_key(key, path): _plain(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    raise _not_json(path, "a function" if callable(value) else f"a value of type {type(value).__name__}")


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _not_json(path, "text with half of a surrogate pair") from None
    return value


def _key(key: Any, path: str) -> str:
    if isinstance(key, str):
        return _text(key, path)
    raise _not_json(path, f"a key that is no text: {quote(key, 60)}")


def _not_json(path: str, found: str) -> PackError:
    return PackError(
        "The result can't be carried by JSON",
        code="result_not_json",
        detail=f"{quote(path)} holds {found}",
        hint="Return text, bytes, finite numbers, true, false, null, lists, and mappings with text keys.",
    )


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, RumiError):
        return value.as_dict()
    if isinstance(value, Enum):
        return value.value
    return quote(value)


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
