"""Expressions of flows, evaluated by the C++ engine of CEL (Common Expression Language). Loaded when first needed.

Invariants:
  * An expression sees the variables that it names and nothing else: no environment, attributes, files or functions of
    ours. Patterns are RE2's (linear), and the engine bounds how much one evaluation may iterate.
  * What is bound is what the expression selects (``order.items``, not all of ``order``), so that its cost does not
    depend on the size of the rest.
  * The engine bounds iterations, not bytes, and what it goes through costs the square of its length. So what an
    expression could put together is estimated before it is evaluated (``_Cost``), and what came out is counted before
    it is taken over: no evaluation holds up the event loop for long, or fills the memory.
  * Whatever goes wrong in an evaluation is ``ExpressionFailed`` with the engine's sentence.

A path that leads nowhere is null, as everywhere in flows, except in ``has()``, which asks for just that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from msgspec import Struct

from core_runtime.rules.flow.values import MAX_VALUE_UNITS, Compiled, ExpressionFailed, Lookup, ValueProblem

MAX_SELECTED = 32
MAX_ENTRIES = 2_000
"""Of a list that an expression goes through: the engine needs the square of it (0.1 s for as many)."""
MAX_ROUNDS = 10_000
"""The engine's own bound on iterations."""
MAX_JOINED_CHARS = 32 * 1024 * 1024
_TOKEN = re.compile(
    r"""(?P<text>[rRbB]{0,2}(?:'''(?:\\.|[^\\])*?'''|\"{3}(?:\\.|[^\\])*?\"{3}|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"))"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>\d[\w.]*)|(?P<sign>\S)""",
    re.DOTALL,
)
_WORDS = frozenset({"true", "false", "null", "in"})
_MACROS = frozenset({"map", "filter", "all", "exists", "exists_one"})
_Token = tuple[str, str]


def available() -> str:
    """``""`` when expressions can be evaluated here, else why not."""
    try:
        _engine()
    except ImportError as error:
        return f"the package cel-expr-python is not there ({error})"
    return ""


@lru_cache(maxsize=4096)
def compile_expression(text: str) -> Compiled:
    """An evaluation, and the variables it reads. Raises ``ValueProblem`` with the engine's sentence."""
    cel = _engine()
    selected = _selected(text)
    if len(selected) > MAX_SELECTED:
        raise ValueProblem(f"an expression reads at most {MAX_SELECTED} variables, this one {len(selected)}")
    try:
        environment = cel.NewEnv(variables={".".join(path): cel.Type.DYN for path in selected})
        program = environment.compile(text)
    except RuntimeError as error:
        raise ValueProblem(f"{text[:80]!r} is no expression: {_sentence(error)}") from error
    failed = cel.Type.ERROR

    def evaluate(lookup: Lookup) -> Any:
        try:
            data = {name: lookup(path) for name, path in names}
            cost.admit(data)
            found = program.eval(data=data)
            if found.type() != failed:
                return _taken(found, cel) if cost.macros else _plain(found.plain_value())
        except (RuntimeError, ValueError, TypeError, OverflowError) as error:
            raise ExpressionFailed(f"{text[:80]}: {_sentence(error)}") from error
        raise ExpressionFailed(f"{text[:80]}: {_sentence(found.value())}")

    names = [(".".join(path), path) for path in selected]
    cost = _Cost.of(text)
    return evaluate, frozenset(path[0] for path in selected)


class _Cost(Struct, frozen=True):
    """What an expression can do with its variables: how deep it may go through lists, and how often it joins."""

    macros: int
    joins: int

    @classmethod
    def of(cls, text: str) -> _Cost:
        words = [word for _, word in _tokens(text)]
        return cls(sum(word in _MACROS for word in words), words.count("+"))

    def admit(self, data: Mapping[str, Any]) -> None:
        """``ExpressionFailed`` where it could put too much together, or go through too much."""
        if not self.macros and not self.joins:
            return
        longest, text = _longest(data.values())
        each = 1 + self.joins
        if self.macros * (longest * each) ** 2 > MAX_ENTRIES**2:
            raise ExpressionFailed(
                f"an expression that goes through a list takes at most {MAX_ENTRIES} entries, and fewer where it does "
                "so several times or joins: use the verb each"
            )
        rounds = min(MAX_ROUNDS, max(1, longest) ** min(self.macros, 4))
        if text * each * rounds > MAX_JOINED_CHARS:
            raise ExpressionFailed(f"an expression could put together more than {MAX_JOINED_CHARS} characters")


def _longest(values: Iterable[Any]) -> tuple[int, int]:
    """Entries of the longest list or map anywhere in the values, and length of the longest text."""
    longest = text = 0
    pending = list(values)
    while pending:
        value = pending.pop()
        if isinstance(value, str | bytes):
            text = max(text, len(value))
        elif isinstance(value, Mapping | list | tuple):
            longest = max(longest, len(value))
            pending += value.values() if isinstance(value, Mapping) else value
    return longest, text


def _taken(value: Any, cel: Any) -> Any:
    """The result; a list entry by entry, so that one that holds much many times is not written out first."""
    if not cel.Type.LIST.is_assignable_from(value.type()):
        return _plain(value.plain_value())
    found, units = [], 0
    for item in value.value():
        one = _plain(item.plain_value())
        units += _entries(one)
        if units > MAX_VALUE_UNITS:
            raise ExpressionFailed(f"a value of a flow has at most {MAX_VALUE_UNITS} entries")
        found.append(one)
    return found


def _entries(value: Any) -> int:
    """How many entries a value has, those of its entries included."""
    if isinstance(value, Mapping):
        return 1 + sum(_entries(item) for item in value.values())
    return 1 + sum(_entries(item) for item in value) if isinstance(value, list) else 1


@lru_cache(maxsize=1)
def _engine() -> Any:
    from cel_expr_python import cel  # noqa: PLC0415 - 50 MB that most runs of the host never need

    return cel


def _selected(text: str) -> list[tuple[str, ...]]:
    """The paths that an expression selects from variables, without those of its own macros."""
    tokens = list(_tokens(text))
    bound = {
        tokens[index + 2][1]
        for index, token in enumerate(tokens[:-3])
        if token[1] in _MACROS and tokens[index + 1][1] == "(" and tokens[index + 3][1] == ","
    }
    found: dict[tuple[str, ...], None] = {}
    index = 0
    while index < len(tokens):
        kind, word = tokens[index]
        before = tokens[index - 1][1] if index else ""
        if kind != "name" or before == "." or word in _WORDS:
            index += 1
            continue
        path, after = _chain(tokens, index)
        asked = index >= 2 and tokens[index - 2][1] == "has" and before == "("
        called = after < len(tokens) and tokens[after][1] == "("
        if called or (asked and len(path) > 1):
            path = path[:-1]
        if path and path[0] not in bound and not (called and after - index == 1):
            found[path] = None
        index = after
    return _without_parts(found)


def _chain(tokens: list[_Token], index: int) -> tuple[tuple[str, ...], int]:
    """``a.b.c`` from its first name on, and where it ends."""
    path = [tokens[index][1]]
    index += 1
    while index + 1 < len(tokens) and tokens[index][1] == "." and tokens[index + 1][0] == "name":
        path.append(tokens[index + 1][1])
        index += 2
    return tuple(path), index


def _without_parts(found: Mapping[tuple[str, ...], None]) -> list[tuple[str, ...]]:
    """A variable that is also read as a whole is bound once, as a whole: the engine would take the longest name."""
    return [path for path in found if not any(path[:length] in found for length in range(1, len(path)))]


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        yield match.lastgroup or "", match.group()


def _sentence(error: object) -> str:
    """The engine's words on one line, without its codes and its drawing of the place."""
    first = str(error).split("\n", 1)[0]
    return re.sub(r"^(?:[A-Z_]+: )+|\(in container ''\)|\[[A-Z_]+\]$", "", first).strip()[:200]


def _plain(value: Any) -> Any:
    """Values as flows know them: times as ISO 8601 text, durations in seconds, octets as bytes."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
