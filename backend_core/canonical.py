"""One byte sequence for one JSON value (RFC 8785), so that a hash or a signature over it can be checked anywhere.

Invariants:
  * Equal values give equal bytes; object keys are ordered by their UTF-16 code units, numbers written as ECMAScript
    does.
  * What RFC 8785 can't express exactly is refused (``ValueError``/``TypeError``), never rounded: integers beyond 2^53,
    NaN and infinities, lone surrogates, keys that are no text.

Not here: signing (``core_runtime.drivers.keys``) and the older grant signature, whose message is Python's own
``json.dumps``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from json.encoder import encode_basestring
from typing import Any

SAFE_INTEGER = 2**53
MAX_DEPTH = 64


def canonical_json(value: Any) -> bytes:
    """Serialise ``value`` (None, bool, int, float, str, mappings, lists, tuples) canonically.

    Raises:
        ValueError: a number or text outside of what RFC 8785 can carry, or nesting deeper than 64.
        TypeError: a type that JSON does not have.
    """
    parts: list[str] = []
    _write(value, parts, 0)
    return "".join(parts).encode("utf-8")


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """SHA-256 of ``data``, 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def _write(value: Any, parts: list[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        parts.append(encode_basestring(value))
    elif value is None or isinstance(value, bool):
        parts.append({None: "null", True: "true", False: "false"}[value])
    elif isinstance(value, int):
        parts.append(_integer(value))
    elif isinstance(value, float):
        parts.append(_float(value))
    elif isinstance(value, Mapping):
        _write_object(value, parts, depth)
    elif isinstance(value, list | tuple):
        _write_array(value, parts, depth)
    else:
        raise TypeError(f"{type(value).__name__} has no JSON form")


def _write_object(value: Mapping[Any, Any], parts: list[str], depth: int) -> None:
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"object keys are text, not {type(key).__name__}")
    separator = "{"
    # surrogatepass: a lone surrogate is refused by the final encoding, with Python's own message
    for key in sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass")):
        parts.append(separator)
        parts.append(encode_basestring(key))
        parts.append(":")
        _write(value[key], parts, depth + 1)
        separator = ","
    parts.append("{}" if separator == "{" else "}")


def _write_array(value: list[Any] | tuple[Any, ...], parts: list[str], depth: int) -> None:
    separator = "["
    for item in value:
        parts.append(separator)
        _write(item, parts, depth + 1)
        separator = ","
    parts.append("[]" if separator == "[" else "]")


def _integer(value: int) -> str:
    if not -SAFE_INTEGER <= value <= SAFE_INTEGER:
        raise ValueError(f"integer {value} is beyond 2^53")
    return str(int(value))


def _float(value: float) -> str:
    """ECMAScript ``Number::toString``: Python and ECMAScript agree on the shortest digits, not on the notation."""
    if not math.isfinite(value):
        raise ValueError("NaN and infinities have no JSON form")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent or "0") - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return sign + _notation(digits, point)


def _notation(digits: str, point: int) -> str:
    """Write ``0.digits × 10^point`` as ECMA-262 does."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"0.{'0' * -point}{digits}"
    exponent = point - 1
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{digits[0]}{tail}e{'+' if exponent >= 0 else '-'}{abs(exponent)}"
