"""Values of a flow: data with ``${path.to.value}`` inside, compiled once to closures.

Invariants:
  * A string that is one reference keeps the referenced value's type; an absent path is null.
  * A substituted value is never parsed again: what came from a Pack stays data.
  * A path walks maps and lists only. No attribute, no environment, no file is reachable.

Not here: conditions richer than a path. They are refused by name, so that a document never means less than it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Lookup = Callable[[tuple[str, ...]], Any]
"""Reads one path in the run's variables."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}?")
_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+)*\Z")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h)\Z")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class ValueProblem(ValueError):  # noqa: N818  (a problem of a document, told with its place)
    """A value that can't be understood; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Value:
    """A compiled value: ``get`` resolves it, ``roots`` are the variables it reads, ``source`` is what was written."""

    source: Any
    get: Callable[[Lookup], Any]
    roots: frozenset[str] = frozenset()


def walk(value: Any, path: Sequence[str]) -> Any:
    """Follow ``path`` through maps and lists; None as soon as it leads nowhere."""
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def parse_path(text: str) -> tuple[str, ...]:
    """``a.b.0`` as its parts."""
    if not _PATH.match(text):
        raise ValueProblem(
            f"expected a path such as ${{name.part}}, got ${{{text[:80]}}}; this version resolves paths only, "
            "so compute anything richer in a step and refer to its result"
        )
    return tuple(text.split("."))


def parse_duration_s(value: Any) -> float:
    """``500ms``, ``3s``, ``2m`` or ``1h`` in seconds."""
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueProblem(f"expected a duration such as 500ms, 3s or 2m, got {value!r:.80}")
    return float(match.group(1)) * _UNIT_S[match.group(2)]


def compile_value(source: Any) -> Value:
    """Compile any JSON value; raises ``ValueProblem``."""
    if isinstance(source, str):
        return _compile_text(source)
    if isinstance(source, Mapping):
        return _compile_map(source)
    if isinstance(source, list | tuple):
        return _compile_list(source)
    return Value(source, lambda _lookup: source)


def _compile_map(source: Mapping[str, Any]) -> Value:
    entries = [(str(key), compile_value(item)) for key, item in source.items()]
    return Value(
        source,
        lambda lookup: {key: item.get(lookup) for key, item in entries},
        frozenset().union(*(item.roots for _, item in entries)),
    )


def _compile_list(source: Sequence[Any]) -> Value:
    items = [compile_value(item) for item in source]
    return Value(
        source,
        lambda lookup: [item.get(lookup) for item in items],
        frozenset().union(*(item.roots for item in items)),
    )


def _compile_text(source: str) -> Value:
    pieces = _split(source)
    paths = [piece for piece in pieces if isinstance(piece, tuple)]
    roots = frozenset(path[0] for path in paths)
    if not paths:
        text = "".join(str(piece) for piece in pieces)
        return Value(source, lambda _lookup: text)
    if len(pieces) == 1:
        path = paths[0]
        return Value(source, lambda lookup: lookup(path), roots)
    return Value(
        source,
        lambda lookup: "".join(_shown(lookup(p)) if isinstance(p, tuple) else p for p in pieces),
        roots,
    )


def _split(source: str) -> list[str | tuple[str, ...]]:
    """Literal text and paths in order; ``$${`` stands for a literal ``${``."""
    pieces: list[str | tuple[str, ...]] = []
    position = 0
    for match in _REFERENCE.finditer(source):
        if match.start() > position:
            pieces.append(source[position : match.start()])
        if match.group(1) is None:
            pieces.append("${")
        elif not match.group(0).endswith("}"):
            raise ValueProblem(
                f"a reference that begins with ${{ needs its closing brace: {source[match.start() :]!r:.80}"
            )
        else:
            pieces.append(parse_path(match.group(1).strip()))
        position = match.end()
    if position < len(source):
        pieces.append(source[position:])
    return pieces


def _shown(value: Any) -> str:
    """A value inside a longer text: text as it is, null as nothing, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
