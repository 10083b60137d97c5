"""Values on the bus: Python ⇄ MessagePack, references apart, refusals that name the path, caps on decoding. Pure.

Invariants:
  * ``pack`` accepts exactly what the protocol carries and says where anything else sits; it never changes its argument.
  * ``unpack`` decodes only bodies whose node count is bounded, so that no body costs more than a known multiple of its
    length (1 MiB of empty maps would become 72 MiB).
  * References leave and enter through callables given by the caller; nothing here knows who holds what.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date, datetime
from typing import Any, Final

import msgspec
from msgspec import Raw
from msgspec.msgpack import Ext

EXT_REFERENCE: Final = 1
EXT_DATE: Final = 2
MAX_DEPTH: Final = 64
MAX_PATH_CHARS: Final = 200

_encode = msgspec.msgpack.Encoder().encode
_decode_plain = msgspec.msgpack.Decoder().decode
_decode_int = msgspec.msgpack.Decoder(int).decode
# First bytes of containers (fixmap, fixarray, array16/32, map16/32); UTF-8 text holds some too: this over-counts only.
_CONTAINER_BYTES: Final = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
_SUSPICIOUS_CONTAINERS: Final = 8_192
_LONG_BYTES: Final = 1024 * 1024

ExportCallable = Callable[[Any], int]
"""Called with a callable or an iterator in a value; returns its index in ``refs``. May raise ``ValueProblem``."""


class ValueProblem(ValueError):  # noqa: N818  named for what it tells
    """A value the bus refuses. ``type`` is the error's type on the bus, ``path`` says where (``$.a[3]``)."""

    def __init__(self, type_: str, message: str, path: str = "$") -> None:
        super().__init__(f"{message} at {path[:MAX_PATH_CHARS]}")
        self.type = type_
        self.path = path[:MAX_PATH_CHARS]


def refuse_callables(value: Any) -> int:
    """``ExportCallable`` for places where no reference may go."""
    raise ValueProblem("value.unsupported", f"a {'callable' if callable(value) else 'stream'} can't be passed here")


def pack(value: Any, export: ExportCallable = refuse_callables) -> bytes:
    """Encode ``value``. Raises ``ValueProblem``."""
    try:
        return _encode(_prepare(value, export, 0, "$"))
    except UnicodeEncodeError:
        raise ValueProblem("value.unsupported", "a text with half of a surrogate pair") from None


_LEAVES: Final = frozenset({str, bool, type(None), float, bytes})
_FLAT: Final = _LEAVES | {int}
_TEXT: Final = frozenset({str})


def pack_flat(value: Any) -> bytes | None:
    """``pack`` of a map from texts to leaves, as most arguments and results are; None of anything else.

    What can't be encoded is None as well: ``pack`` says what is wrong with it.
    """
    if type(value) is not dict or not _TEXT.issuperset(map(type, value)):
        return None
    if not _FLAT.issuperset(map(type, value.values())):
        return None
    try:
        return _encode(value)
    except (OverflowError, UnicodeEncodeError):
        return None


def _prepare(value: Any, export: ExportCallable, depth: int, path: str) -> Any:
    """Copy of ``value`` that msgspec encodes as the protocol says (by itself it takes sets, dataclasses and more)."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if depth > MAX_DEPTH:
        raise ValueProblem("value.too_deep", f"nesting deeper than {MAX_DEPTH}", path)
    if kind is dict:
        return {
            k if type(k) is str else _key(k, path): v
            if type(v) in _LEAVES
            else _prepare(v, export, depth + 1, f"{path}.{k}")
            for k, v in value.items()
        }
    if kind is list or kind is tuple:
        return [
            v if type(v) in _LEAVES else _prepare(v, export, depth + 1, f"{path}[{i}]") for i, v in enumerate(value)
        ]
    return _prepare_other(value, export, depth, path)


def _prepare_other(value: Any, export: ExportCallable, depth: int, path: str) -> Any:
    if isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise ValueProblem("value.too_large", "an integer beyond 64 bits", path)
        return int(value)
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueProblem("value.unsupported", "a datetime without time zone", path)
        return value
    if isinstance(value, date):
        return Ext(EXT_DATE, value.isoformat().encode())
    if isinstance(value, str | float | bytearray | memoryview):
        return str(value) if isinstance(value, str) else float(value) if isinstance(value, float) else bytes(value)
    if isinstance(value, dict):
        return _prepare(dict(value), export, depth, path)
    if isinstance(value, list | tuple):
        return _prepare(list(value), export, depth, path)
    if (callable(value) and not isinstance(value, type)) or isinstance(value, Iterator | AsyncIterator):
        try:
            return Ext(EXT_REFERENCE, _encode(export(value)))
        except ValueProblem as exc:
            raise ValueProblem(exc.type, str(exc).removesuffix(" at $"), path) from None
    raise ValueProblem("value.unsupported", f"a value of type {type(value).__name__}", path)


def _key(key: Any, path: str) -> Any:
    if isinstance(key, bool | int | str | bytes) or key is None:
        return key
    raise ValueProblem("value.unsupported", f"a map key of type {type(key).__name__}", path)


def unpack(
    body: Raw | bytes, resolve: Callable[[int], Any] | None = None, *, max_nodes: int = 131_072, around: int = 0
) -> Any:
    """Decode a body. ``resolve`` turns an index into ``refs`` into a callable; without it extensions stay ``Ext``.

    A value that host code uses needs one: ``no_references`` for a frame without any. ``around``: so many levels stand
    around what may be as deep as a value.
    Raises ``ValueProblem`` (``value.malformed``, ``value.too_large``, ``value.too_deep``).
    """
    data: bytes | memoryview = memoryview(body)
    if len(data) > _LONG_BYTES:
        containers = _SUSPICIOUS_CONTAINERS + 1  # its heads are fewer than its bytes: look at them alone
    else:
        data = bytes(data)
        containers = len(data) - len(data.translate(None, _CONTAINER_BYTES))
    if containers > _SUSPICIOUS_CONTAINERS:
        check_nodes(data, max_nodes)
    try:
        if resolve is None:
            value = _decode_plain(data)
        else:
            value = (_decode_closed if resolve is no_references else _decoder(resolve))(data)
    except ValueProblem:
        raise
    except RecursionError:
        raise ValueProblem("value.too_deep", f"nesting deeper than {MAX_DEPTH}") from None
    except (msgspec.DecodeError, ValueError, OverflowError, MemoryError) as exc:
        raise ValueProblem("value.malformed", f"not a MessagePack value: {str(exc)[:200]}") from exc
    if containers > MAX_DEPTH:
        _check_depth(value, MAX_DEPTH + around)
    return value


VALUE_BYTES: Final = 64
REFERENCE_BYTES: Final = 512


def footprint(value: Any, limit_bytes: int) -> int:
    """About what a decoded value takes beside its text and bytes; counting ends beyond ``limit_bytes``."""
    total = 0
    open_: list[Any] = [value]
    while open_ and total <= limit_bytes:
        node = open_.pop()
        kind = type(node)
        if kind is dict:
            total += VALUE_BYTES * (1 + len(node))
            open_.extend(node.values())
        elif kind is list:
            total += VALUE_BYTES
            open_.extend(node)
        else:
            total += REFERENCE_BYTES if callable(node) else VALUE_BYTES
    return total


def _decoder(resolve: Callable[[int], Any]) -> Callable[[Any], Any]:
    def ext_hook(code: int, data: memoryview) -> Any:
        if code == EXT_REFERENCE:
            try:
                index = _decode_int(data)
            except msgspec.DecodeError:
                raise ValueProblem("value.malformed", "a reference without an index") from None
            return resolve(index)
        if code == EXT_DATE:
            try:
                return date.fromisoformat(bytes(data).decode("ascii"))
            except ValueError:
                raise ValueProblem("value.malformed", "a date that is none") from None
        raise ValueProblem("value.malformed", f"extension type {code}")

    return msgspec.msgpack.Decoder(ext_hook=ext_hook).decode


def no_references(index: int) -> Any:
    """``resolve`` of a frame that brings no references."""
    raise ValueProblem("value.malformed", f"reference {index} of none")


_decode_closed = _decoder(no_references)


def _check_depth(value: Any, most: int) -> None:
    level = [value]
    for _ in range(most + 1):
        level = [
            child
            for node in level
            if type(node) in {dict, list}
            for child in (node.values() if type(node) is dict else node)
            if type(child) in {dict, list}
        ]
        if not level:
            return
    raise ValueProblem("value.too_deep", f"nesting deeper than {MAX_DEPTH}")


# MessagePack heads: (bytes of a length that follows, bytes that every such value carries beside it)
_LENGTH_BYTES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_FIXED_BYTES: Final = {
    0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8,
    0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8, 0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17,
}  # fmt: skip


def check_nodes(data: bytes | memoryview, max_nodes: int) -> None:
    """Walk the heads of a body without building it; more than ``max_nodes`` nodes raise ``value.too_large``."""
    position, size, open_nodes, seen = 0, len(data), 1, 0
    while open_nodes:
        if position >= size:
            raise ValueProblem("value.malformed", "not a MessagePack value: it ends too early")
        head = data[position]
        position += 1
        open_nodes -= 1
        seen += 1
        if seen + open_nodes > max_nodes:
            raise ValueProblem("value.too_large", f"more than {max_nodes} values")
        if head < 0x80 or head >= 0xE0:
            continue
        if head < 0xA0:
            open_nodes += (head & 15) * (1 if head >= 0x90 else 2)
        elif head < 0xC0:
            position += head & 31
        elif head in _FIXED_BYTES:
            position += _FIXED_BYTES[head]
        elif head in _LENGTH_BYTES:
            width = _LENGTH_BYTES[head]
            extension = 1 if 0xC7 <= head <= 0xC9 else 0
            position += width + extension + int.from_bytes(data[position : position + width], "big")
        elif head >= 0xDC:
            width = 2 if head in {0xDC, 0xDE} else 4
            count = int.from_bytes(data[position : position + width], "big")
            position += width
            open_nodes += count * (2 if head >= 0xDE else 1)
        else:
            raise ValueProblem("value.malformed", "not a MessagePack value: an unused type byte")
