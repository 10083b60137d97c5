"""A document that somebody else wrote: its text, its parts, where they stand, and the one shape of an error about them.

Not here: the readers (``parsing``) and what a document must contain (``ecosystem.spec.validate``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct

from backend_core.errors import AuthorError, quote

JSON: TypeAlias = Any
"""``None | bool | int | float | str | list[JSON] | dict[str, JSON]``; freshly built, owned by the caller."""

Path: TypeAlias = tuple[str | int, ...]
"""Keys and indexes from the root of a document; ``()`` is the root."""


class Limits(Struct, frozen=True):
    """Bounds of one document. ``max_int`` bounds the absolute value of an integer."""

    limit_bytes: int = 1024 * 1024
    depth: int = 64
    values: int = 50_000
    key_chars: int = 512
    max_int: int = 2**53 - 1


JSON_LIMITS: Final = Limits()
YAML_LIMITS: Final = Limits(depth=48, values=20_000)


class Position(Struct, frozen=True):
    """Where something stands, both counted from 1."""

    line: int
    column: int


class Document(Struct, frozen=True):
    """A parsed document: its value, and where each part of it stands. ``source`` is the name shown to the reader."""

    value: JSON
    source: str
    locate: Callable[[], Mapping[Path, Position]]

    def position(self, path: Path) -> Position:
        """Where ``path`` stands: the key of a mapping's entry, the start of an item; else of its nearest parent."""
        positions = self.locate()
        while path and path not in positions:
            path = path[:-1]
        return positions.get(path, Position(1, 1))

    def error(
        self, title: str, path: Path = (), *, expected: str, found: str, hint: str = "", code: str | None = None
    ) -> AuthorError:
        """An ``AuthorError`` about ``path`` of this document. ``found`` is safe text: quote what the document says."""
        where = self.position(path)
        return located_error(
            title, source=self.source, at=where, pointer=pointer(path), expected=expected, found=found, hint=hint,
            code=code,
        )  # fmt: skip


def pointer(path: Path) -> str:
    """The JSON Pointer (RFC 6901) of ``path``."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def located_error(
    title: str,
    *,
    source: str,
    at: Position = Position(1, 1),
    pointer: str = "",
    expected: str,
    found: str,
    hint: str = "",
    code: str | None = None,
) -> AuthorError:
    """The one shape of an error about a file: fields ``{source, line, column, pointer, expected, found, hint}``."""
    place = f"{source}:{at.line}:{at.column}" + (f" at {quote(pointer)}" if pointer else "")
    hint = hint or f"Correct {source}, line {at.line}, then scan again."
    return AuthorError(
        title,
        code=code,
        detail=f"{place}: expected {expected}, found {found}.",
        hint=hint,
        fields={
            "source": source,
            "line": at.line,
            "column": at.column,
            "pointer": pointer,
            "expected": expected,
            "found": found,
            "hint": hint,
        },
    )


def decode(data: bytes, *, source: str, limits: Limits) -> str:
    """UTF-8 text of at most ``limits.limit_bytes``; anything else is refused with a sentence."""
    if len(data) > limits.limit_bytes:
        raise located_error(
            "File too large", source=source, expected=f"at most {limits.limit_bytes} bytes",
            found=f"{len(data)} bytes", code="too_large",
        )  # fmt: skip
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            raise _encoding_error(source, found=f"a {name} byte-order mark")
    if b"\x00" in data:
        raise _encoding_error(source, found="NUL bytes (perhaps UTF-16)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - (data.rfind(b"\n", 0, exc.start) + 1) + 1
        raise _encoding_error(
            source, found=f"byte 0x{data[exc.start]:02x} at offset {exc.start}", at=Position(line, column)
        ) from exc


_BYTE_ORDER_MARKS: Final = (
    (b"\xef\xbb\xbf", "UTF-8"),
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def _encoding_error(source: str, *, found: str, at: Position = Position(1, 1)) -> AuthorError:
    return located_error(
        "Not plain UTF-8 text", source=source, at=at, expected="UTF-8 without a byte-order mark", found=found,
        hint=f"Save {source} as UTF-8 without BOM, then scan again.", code="encoding",
    )  # fmt: skip
