"""Bounded readers of JSON and YAML: bytes in, plain values with positions out, or one ``AuthorError`` that says where.

What is read here was written by a Pack's author or by the operator's editor; a reader that admits two meanings of one
document, or work that grows faster than its bytes, is an attack.

Invariants:
  * Bytes, depth, values, key lengths and integers are bounded *before* the value that would cost is built.
  * UTF-8 only, without a byte-order mark; no lone surrogate reaches a caller.
  * A key appears once. Keys are text. YAML has no anchor, alias, tag, merge key or second document, and only
    ``true false null ~``, plain integers and decimal floats are more than text.
  * Numbers are finite; integers stay within the range that every reader of JSON keeps exactly (RFC 7493).

Not here: opening files (``files``, ``ecosystem.folder``), what a document must contain (``ecosystem.spec.validate``).
"""

from __future__ import annotations

import bisect
import json
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import yaml
from msgspec import Struct

from backend_core.document import (
    JSON,
    JSON_LIMITS,
    YAML_LIMITS,
    Document,
    Limits,
    Path,
    Position,
    decode,
    located_error,
    pointer,
)
from backend_core.errors import AuthorError, quote

__all__ = [
    "JSON",
    "JSON_LIMITS",
    "YAML_LIMITS",
    "Document",
    "Limits",
    "Position",
    "load_json",
    "located_error",
    "parse_json",
    "parse_yaml",
    "pointer",
]


def parse_json(data: bytes, *, source: str, limits: Limits = JSON_LIMITS) -> JSON:
    """The value of one JSON text (RFC 8259). Raises ``AuthorError``."""
    return load_json(data, source=source, limits=limits).value


def load_json(data: bytes, *, source: str, limits: Limits = JSON_LIMITS) -> Document:
    """Like ``parse_json``, with positions; they are computed when first asked for, so valid documents cost nothing."""
    text = decode(data, source=source, limits=limits)
    _measure_json(text, source, limits)
    found: list[Mapping[Path, Position]] = []

    def locate() -> Mapping[Path, Position]:
        if not found:
            found.append(_JsonLocator(text).run())
        return found[0]

    document = Document(None, source, locate)
    try:
        value = _decoder(limits)(text)
    except json.JSONDecodeError as exc:
        found_text = quote(text[exc.pos : exc.pos + 20]) if exc.pos < len(text) else "the end of the file"
        raise located_error(
            "Not valid JSON", source=source, at=Position(exc.lineno, exc.colno), expected=_json_expectation(exc.msg),
            found=found_text, code="json_invalid",
        ) from exc  # fmt: skip
    except _Refusal as exc:
        at = _find_refused(text, exc)
        raise located_error(
            exc.title, source=source, at=at, expected=exc.expected, found=exc.found, code="json_invalid"
        ) from None
    if "\\u" in text:
        _refuse_surrogates(value, document)
    return Document(value, source, locate)


def parse_yaml(data: bytes, *, source: str, limits: Limits = YAML_LIMITS) -> Document:
    """One YAML document of the strict subset named in the module's invariants. Raises ``AuthorError``."""
    return _YamlBuilder(decode(data, source=source, limits=limits), source, limits).run()


# -- JSON ---------------------------------------------------------------------------------------------------------

_JSON_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{},]', re.DOTALL)
"""The closing quote is optional: retrying after an unterminated string would make the pass quadratic."""


def _measure_json(text: str, source: str, limits: Limits) -> None:
    """Bound nesting and the number of values in one linear pass, before anything is built."""
    opened = text.count("[") + text.count("{")
    if opened <= limits.depth and opened + text.count(",") <= limits.values:
        return  # not even if all of them stood outside of text
    depth = values = 0
    for match in _JSON_TOKEN.finditer(text):
        mark = match.group()
        if mark in "]}":
            depth -= 1
            continue
        if mark in "[{":
            depth += 1
        values += len(mark) == 1
        if depth > limits.depth:
            expected, found = f"at most {limits.depth} levels", "deeper nesting"
        elif values > limits.values:
            expected, found = f"at most {limits.values} values", "more"
        else:
            continue
        raise located_error(
            "JSON too complex", source=source, at=_position_of(text, match.start()), expected=expected, found=found,
            code="too_complex",
        )  # fmt: skip


def _position_of(text: str, offset: int) -> Position:
    return Position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def _json_expectation(message: str) -> str:
    """The standard library's message, turned into what it expected."""
    table = {
        "Expecting property name enclosed in double quotes": 'a key in double quotes, or "}"',
        "Illegal trailing comma before end of object": "no comma before }",
        "Illegal trailing comma before end of array": "no comma before ]",
        "Expecting ':' delimiter": '":" after the key',
        "Expecting ',' delimiter": '"," or the end of the list or object',
        "Expecting value": "a JSON value",
        "Extra data": "nothing after the first value",
    }
    return table.get(message, f"valid JSON ({message.lower()})")


class _Refusal(Exception):  # noqa: N818 - private control flow, turned into AuthorError by load_json
    def __init__(self, title: str, expected: str, found: str, raw: str, *, repeated: bool = False) -> None:
        super().__init__(title)
        self.title, self.expected, self.found, self.raw, self.repeated = title, expected, found, raw, repeated


@lru_cache(maxsize=8)
def _decoder(limits: Limits) -> Callable[[str], JSON]:
    refused = _Refusals(limits)
    decode_text: Callable[[str], JSON] = json.JSONDecoder(
        object_pairs_hook=refused.pairs,
        parse_int=refused.integer,
        parse_float=refused.number,
        parse_constant=refused.constant,
    ).decode
    return decode_text


class _Refusals:
    """Hooks for a JSON decoder that stop at what JSON's grammar admits and we don't."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def pairs(self, pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
        out = dict(pairs)
        if len(out) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise _Refusal("Key given twice", "each key once", quote(key) + " again", key, repeated=True)
                seen.add(key)
        for key in out:
            if len(key) > self._limits.key_chars:
                raise _Refusal("Key too long", f"at most {self._limits.key_chars} characters", quote(key, 40), key)
        return out

    def integer(self, raw: str) -> int:
        if len(raw) > 40 or abs(int(raw)) > self._limits.max_int:
            expected = f"an integer between -{self._limits.max_int} and {self._limits.max_int}"
            raise _Refusal("Number too large", expected, quote(raw, 40), raw)
        return int(raw)

    @staticmethod
    def number(raw: str) -> float:
        value = float(raw)
        if not math.isfinite(value):
            raise _Refusal("Number too large", "a finite number", quote(raw, 40), raw)
        return value

    @staticmethod
    def constant(raw: str) -> float:
        raise _Refusal("Not a JSON number", "a finite number", quote(raw), raw)


def _find_refused(text: str, refusal: _Refusal) -> Position:
    """Where the refused key or number stands. Found by its text: the parser's hooks are not told positions."""
    if refusal.repeated:
        return _JsonLocator(text).repeated(refusal.raw)
    return _position_of(text, max(text.find(refusal.raw), 0))


def _refuse_surrogates(value: JSON, document: Document) -> None:
    r"""``\ud800`` alone is no character: such text could not be written again."""
    stack: list[tuple[Path, JSON]] = [((), value)]
    while stack:
        path, item = stack.pop()
        texts: list[tuple[Path, str]] = []
        if isinstance(item, str):
            texts.append((path, item))
        elif isinstance(item, dict):
            texts.extend((path, key) for key in item)
            stack.extend(((*path, key), child) for key, child in item.items())
        elif isinstance(item, list):
            stack.extend(((*path, index), child) for index, child in enumerate(item))
        for where, text in texts:
            if any("\ud800" <= ch <= "\udfff" for ch in text):
                raise document.error(
                    "Half a character", where, expected="a complete character", found=quote(text, 40), code="encoding"
                )


_JSON_SCAN: Final = re.compile(r'[ \t\r\n]*("(?:[^"\\]|\\.)*+"|[\[\]{},:]|[^\s\[\]{},:"]+)', re.DOTALL)


class _Repeated(Exception):  # noqa: N818 - private control flow
    def __init__(self, where: Position) -> None:
        super().__init__()
        self.where = where


class _JsonLocator:
    """Positions of every key and item of a text, as far as ``json.loads`` accepted it; its depth is bounded by then."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._at = 0
        self._wanted: str | None = None
        self._positions: dict[Path, Position] = {}

    def run(self) -> Mapping[Path, Position]:
        self._value(())
        return self._positions

    def repeated(self, key: str) -> Position:
        """Where ``key`` appears for the second time within one object."""
        self._wanted = key
        try:
            self._value(())
        except _Repeated as exc:
            return exc.where
        return Position(1, 1)

    def _next(self) -> tuple[str, Position]:
        match = _JSON_SCAN.match(self._text, self._at)
        if match is None:
            return "", Position(len(self._line_starts), 1)
        self._at = match.end()
        offset = match.start(1)
        line = bisect.bisect_right(self._line_starts, offset)
        return match.group(1), Position(line, offset - self._line_starts[line - 1] + 1)

    def _peek(self) -> str:
        match = _JSON_SCAN.match(self._text, self._at)
        return match.group(1) if match else ""

    def _value(self, path: Path) -> None:
        mark, where = self._next()
        self._positions.setdefault(path, where)
        if mark == "{":
            self._object(path)
        elif mark == "[":
            self._array(path)

    def _object(self, path: Path) -> None:
        seen: set[str] = set()
        while self._peek() not in {"}", ""}:
            raw, where = self._next()
            key = json.loads(raw)
            if key == self._wanted and key in seen:
                raise _Repeated(where)
            seen.add(key)
            self._positions[*path, key] = where
            self._next()  # the colon
            self._value((*path, key))
            if self._peek() == ",":
                self._next()
        self._next()

    def _array(self, path: Path) -> None:
        index = 0
        while self._peek() not in {"]", ""}:
            self._value((*path, index))
            index += 1
            if self._peek() == ",":
                self._next()
        self._next()


# -- YAML ---------------------------------------------------------------------------------------------------------

_YAML_INT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_YAML_FLOAT: Final = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_YAML_WORDS: Final[Mapping[str, bool | None]] = {"true": True, "false": False, "null": None, "~": None, "": None}


class _Open(Struct):
    """A list or mapping whose end has not been seen. ``key`` is what the next event is the value of."""

    path: Path
    value: list[JSON] | dict[str, JSON]
    key: str | None = None

    @property
    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    def child_path(self) -> Path:
        if isinstance(self.value, list):
            return (*self.path, len(self.value))
        return (*self.path, self.key or "")


class _YamlBuilder:
    """Builds values from parser events, so that nothing of a refused document is ever constructed."""

    def __init__(self, text: str, source: str, limits: Limits) -> None:
        self._text = text
        self._source = source
        self._limits = limits
        self._positions: dict[Path, Position] = {}
        self._stack: list[_Open] = []
        self._root: JSON = None
        self._values = 0
        self._documents = 0

    def run(self) -> Document:
        try:
            for event in yaml.parse(self._text, Loader=yaml.CSafeLoader):
                self._event(event)
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark or exc.context_mark
            at = Position(1, 1) if mark is None else Position(mark.line + 1, mark.column + 1)
            raise self._error("Not valid YAML", at, "valid YAML", quote(exc.problem or "unreadable text")) from exc
        except yaml.YAMLError as exc:
            raise self._error("Not valid YAML", Position(1, 1), "printable text", quote(str(exc))) from exc
        positions = self._positions
        return Document(self._root, self._source, lambda: positions)

    def _error(self, title: str, at: Position, expected: str, found: str, code: str = "yaml_invalid") -> AuthorError:
        return located_error(title, source=self._source, at=at, expected=expected, found=found, code=code)

    def _event(self, event: yaml.Event) -> None:
        mark = event.start_mark
        at = Position(1, 1) if mark is None else Position(mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self._error(
                "Anchors are not allowed", at, "each value written out", "an anchor or alias (& or *)", "yaml_anchor"
            )
        tag = getattr(event, "tag", None)
        if tag:
            raise self._error("Tags are not allowed", at, "plain values", quote(f"tag {tag}"), "yaml_tag")
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._error("More than one document", at, "one document in a file", "a second '---'")
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, at)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, at)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._stack.pop()

    def _count(self, at: Position) -> None:
        self._values += 1
        if self._values > self._limits.values:
            raise self._error("YAML too complex", at, f"at most {self._limits.values} values", "more", "too_complex")

    def _open(self, event: yaml.CollectionStartEvent, at: Position) -> None:
        self._count(at)
        if len(self._stack) >= self._limits.depth:
            raise self._error(
                "YAML too complex", at, f"at most {self._limits.depth} levels", "deeper nesting", "too_complex"
            )
        if self._stack and self._stack[-1].wants_key:
            raise self._error("Keys must be text", at, "a text key", "a list or mapping as key")
        value: list[JSON] | dict[str, JSON] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        path = self._stack[-1].child_path() if self._stack else ()
        self._add(value, at)
        self._stack.append(_Open(path, value))

    def _scalar(self, event: yaml.ScalarEvent, at: Position) -> None:
        self._count(at)
        plain = not event.style and event.implicit[0]
        value = self._resolve(event.value, at) if plain else event.value
        if self._stack and self._stack[-1].wants_key:
            self._key(value, event.value, at, plain=plain)
        else:
            self._add(value, at)

    def _key(self, value: JSON, raw: str, at: Position, *, plain: bool) -> None:
        top = self._stack[-1]
        if not isinstance(value, str):
            raise self._error("Keys must be text", at, f'text, such as "{raw[:20]}" in quotes', quote(raw, 40))
        if plain and value == "<<":
            raise self._error("Merge keys are not allowed", at, "each key written out", "'<<'", "yaml_anchor")
        if len(value) > self._limits.key_chars:
            raise self._error("Key too long", at, f"at most {self._limits.key_chars} characters", quote(value, 40))
        if value in top.value:
            raise self._error("Key given twice", at, "each key once", quote(value) + " again", "duplicate_key")
        top.key = value
        self._positions[*top.path, value] = at

    def _add(self, value: JSON, at: Position) -> None:
        if not self._stack:
            self._root = value
            self._positions[()] = at
            return
        top = self._stack[-1]
        if isinstance(top.value, list):
            self._positions[*top.path, len(top.value)] = at
            top.value.append(value)
        elif top.key is not None:
            top.value[top.key] = value
            top.key = None

    def _resolve(self, raw: str, at: Position) -> JSON:
        if raw in _YAML_WORDS:
            return _YAML_WORDS[raw]
        if _YAML_INT.fullmatch(raw):
            if len(raw) > 40 or abs(int(raw)) > self._limits.max_int:
                raise self._error("Number too large", at, f"at most {self._limits.max_int}", quote(raw, 40))
            return int(raw)
        if _YAML_FLOAT.fullmatch(raw):
            value = float(raw)
            if not math.isfinite(value):
                raise self._error("Number too large", at, "a finite number", quote(raw, 40))
            return value
        return raw
