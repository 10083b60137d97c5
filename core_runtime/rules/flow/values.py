"""Values of a flow: data with ``${path.to.value}`` inside, compiled once to closures.

Invariants:
  * A string that is one reference keeps the referenced value's type; an absent path is null.
  * A substituted value is never parsed again: what came from a Pack stays data.
  * A path walks maps and lists only. No attribute, no environment, no file is reachable.

Anything richer than a path is an expression of CEL, compiled by the ``Expressions`` that ``use`` was given; without it
such a document is refused by name, so that it never means less than it says.

Not here: the engine of expressions (``drivers.cel``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

Lookup = Callable[[tuple[str, ...]], Any]
"""Reads one path in the run's variables."""

Compiled = tuple[Callable[[Lookup], Any], frozenset[str]]
Expressions = Callable[[str], Compiled]
"""Compiles the text between ``${`` and ``}``: an evaluation that raises ``ExpressionFailed``, and the roots it reads.
Raises ``ValueProblem`` for what is no expression."""

MAX_EXPRESSION_CHARS = 2_000
MAX_INDEX_DIGITS = 12
MAX_TEXT_CHARS = 8 * 1024 * 1024
"""Of a text put together from references: a loop that doubles one would fill the host's memory."""
MAX_VALUE_UNITS = 1_000_000
"""Of a value put together from references, written out: one for each entry, and one for each 64 characters or bytes.
Lists that hold one list twice take little memory, and grow without end once they become text or octets."""
MAX_VALUE_DEPTH = 64
"""As deep as the bus carries a value (``rules.values``)."""
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+)*\Z")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ValueProblem(ValueError):  # noqa: N818  (a problem of a document, told with its place)
    """A value that can't be understood; the text says what was expected."""


class ExpressionFailed(Exception):  # noqa: N818  (becomes an error of the step that reads the value)
    """An expression could not be evaluated with these variables; the text says why."""


class Value(Struct, frozen=True):
    """A compiled value: ``get`` resolves it, ``roots`` are the variables it reads, ``source`` is what was written."""

    source: Any
    get: Callable[[Lookup], Any]
    roots: frozenset[str] = frozenset()


def walk(value: Any, path: Sequence[str]) -> Any:
    """Follow ``path`` through maps and lists; None as soon as it leads nowhere."""
    for part in path:
        if type(value) is dict or isinstance(value, Mapping):  # asking an abstract class costs more than all the rest
            value = value.get(part)
        elif isinstance(value, list | tuple) and _is_index(part, len(value)):
            value = value[int(part)]
        else:
            return None
    return value


_SCALARS: Final = frozenset({bool, int, float, type(None)})
_HOLDERS: Final = (dict, list, tuple, Mapping)
_TEXTS: Final = (str, bytes)


def _is_index(part: str, length: int) -> bool:
    return part.isdecimal() and len(part) <= MAX_INDEX_DIGITS and int(part) < length


class _Engine:
    """The one engine of this process, bound by ``use``."""

    expressions: Expressions | None = None


def use(expressions: Expressions | None) -> None:
    """Let expressions be compiled by this from now on; None takes them away."""
    _Engine.expressions = expressions


def parse_path(text: str) -> tuple[str, ...]:
    """``a.b.0`` as its parts."""
    if not _PATH.match(text):
        raise ValueProblem(f"expected a path such as name.part, got {text[:80]!r}")
    return tuple(text.split("."))


def parse_duration_s(value: Any) -> float:
    """``500ms``, ``3s``, ``2m`` or ``1h`` in seconds."""
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueProblem(f"expected a duration such as 500ms, 3s or 2m, got {value!r:.80}")
    return float(match.group(1)) * _UNIT_S[match.group(2)]


def compile_value(source: Any) -> Value:
    """Compile any JSON value; raises ``ValueProblem``. Resolving raises ``ExpressionFailed`` for what is too large."""
    found = _compile(source)
    if not found.roots:
        return found
    return Value(source, lambda lookup: bounded(found.get(lookup)), found.roots)


def bounded(value: Any) -> Any:
    """``value``, or ``ExpressionFailed`` where it would be too large or too deep once it is written out."""
    if type(value) in _SCALARS:
        return value
    try:
        _extent(value, {})
    except RecursionError:
        raise ExpressionFailed(f"a value of a flow is at most {MAX_VALUE_DEPTH} deep") from None
    return value


def _extent(value: Any, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Units and depth. What is held several times counts each time, but is looked at once."""
    kind = type(value)
    if kind is str or kind is bytes or isinstance(value, _TEXTS):
        return 1 + len(value) // 64, 0
    if kind in _SCALARS or not isinstance(value, _HOLDERS):
        return 1, 0
    known = seen.get(id(value))
    if known is None:
        units, depth = 1, 0
        for item in value.values() if isinstance(value, Mapping) else value:
            more, below = _extent(item, seen)
            units, depth = units + more, max(depth, below)
        known = seen[id(value)] = units, depth + 1
        if units > MAX_VALUE_UNITS:
            raise ExpressionFailed(f"a value of a flow has at most {MAX_VALUE_UNITS} entries")
        if depth + 1 > MAX_VALUE_DEPTH:
            raise ExpressionFailed(f"a value of a flow is at most {MAX_VALUE_DEPTH} deep")
    return known


def _compile(source: Any) -> Value:
    if isinstance(source, str):
        return _compile_text(source)
    if isinstance(source, Mapping):
        entries = [(str(key), _compile(item)) for key, item in source.items()]
        roots = frozenset().union(*(item.roots for _, item in entries))
        return Value(source, lambda lookup: {key: item.get(lookup) for key, item in entries}, roots)
    if isinstance(source, list | tuple):
        items = [_compile(item) for item in source]
        roots = frozenset().union(*(item.roots for item in items))
        return Value(source, lambda lookup: [item.get(lookup) for item in items], roots)
    return Value(source, lambda _lookup: source)


def _compile_text(source: str) -> Value:
    pieces = _split(source)
    found = [piece for piece in pieces if isinstance(piece, tuple)]
    roots: frozenset[str] = frozenset().union(*(names for _, names in found))
    if not found:
        text = "".join(str(piece) for piece in pieces)
        return Value(source, lambda _lookup: text)
    if len(pieces) == 1:
        return Value(source, found[0][0], roots)
    return Value(
        source,
        lambda lookup: _text_of(_shown(one[0](lookup)) if isinstance(one, tuple) else one for one in pieces),
        roots,
    )


def _split(source: str) -> list[str | Compiled]:
    """Literal text and compiled references in order; ``$${`` stands for a literal ``${``."""
    pieces: list[str | Compiled] = []
    position = 0
    while (start := source.find("${", position)) >= 0:
        if start > position and source[start - 1] == "$":
            pieces.append(f"{source[position : start - 1]}${{")
            position = start + 2
            continue
        if start > position:
            pieces.append(source[position:start])
        end = _closing(source, start + 2)
        pieces.append(_reference(source[start + 2 : end].strip()))
        position = end + 1
    if position < len(source):
        pieces.append(source[position:])
    return pieces


def _closing(source: str, start: int) -> int:
    """Where the reference that begins at ``start`` ends: its brace, not one of a map or a text within."""
    depth, quote = 0, ""
    index = start
    while index < len(source):
        character = source[index]
        if quote:
            if character == "\\":
                index += 1
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character == "{":
            depth += 1
        elif character == "}":
            if not depth:
                return index
            depth -= 1
        index += 1
    raise ValueProblem(f"a reference that begins with ${{ needs its closing brace: {source[start - 2 :]!r:.80}")


def _reference(text: str) -> Compiled:
    if _PATH.match(text):
        path = tuple(text.split("."))
        return (lambda lookup: lookup(path)), frozenset(path[:1])
    if not text or len(text) > MAX_EXPRESSION_CHARS:
        raise ValueProblem(f"expected a path or an expression of at most {MAX_EXPRESSION_CHARS} characters")
    if _Engine.expressions is None:
        raise ValueProblem(
            f"expected a path such as ${{name.part}}, got ${{{text[:80]}}}; anything richer needs the expression "
            "engine (CEL), which this machine does not have: rumi doctor"
        )
    return _Engine.expressions(text)


def _text_of(parts: Iterable[str]) -> str:
    """The parts as one text; what is too long is refused before it is put together."""
    found, length = [], 0
    for part in parts:
        length += len(part)
        if length > MAX_TEXT_CHARS:
            raise ExpressionFailed(f"a text of a flow has at most {MAX_TEXT_CHARS} characters")
        found.append(part)
    return "".join(found)


def _shown(value: Any) -> str:
    """A value inside a longer text: text as it is, null as nothing, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(bounded(value), ensure_ascii=False, default=str)
