"""Environment markers of a lock file (``; python_version < "3.12"``): a small language, parsed once, evaluated on values.

The subset is that of locks: names of the environment compared with texts, joined by ``and``, ``or`` and brackets. No
name of the machine but those of ``VARIABLES``, no ``extra``, no comparison of two names, no function, no escape.

Invariants:
  * Whatever parses evaluates: ``Marker.holds`` raises nothing for an environment that has every variable.
  * Length and depth are bounded, so that neither parsing nor evaluating can be made slow.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from msgspec import Struct
from typing import Final, TypeAlias

VERSIONS: Final = frozenset({"python_version", "python_full_version", "implementation_version"})
VARIABLES: Final = VERSIONS | {
    "os_name", "sys_platform", "platform_machine", "platform_system", "platform_python_implementation",
    "implementation_name",
}  # fmt: skip
MAX_CHARS: Final = 1000
MAX_DEPTH: Final = 16
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<name>[a-z_]+)|(?P<op>===|==|!=|<=|>=|~=|<|>)|(?P<text>"[^"'\\]*"|'[^"'\\]*')|(?P<bracket>[()]))"""
)
_VERSION: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,4}")
_PREFIX: Final = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}\.\*")

Expression: TypeAlias = tuple[object, ...]
"""``("and"|"or", left, right)`` or ``(operator, variable, text, reversed)``."""


class MarkerError(ValueError):
    """The text is none of this language; its argument says what was expected."""


class Marker(Struct, frozen=True):
    """A parsed marker. ``text`` is as it was written."""

    text: str
    expression: Expression

    def holds(self, environment: Mapping[str, str]) -> bool:
        """Whether the requirement counts there. ``environment`` has every name of ``VARIABLES``."""
        return _holds(self.expression, environment)


def parse_marker(text: str) -> Marker:
    """Raises ``MarkerError``."""
    if len(text) > MAX_CHARS:
        raise MarkerError(f"a marker of at most {MAX_CHARS} characters")
    tokens = _tokens(text)
    expression, at = _either(tokens, 0, 0)
    if at != len(tokens):
        raise MarkerError("'and', 'or' or the end of the marker")
    return Marker(text.strip(), expression)


def release(text: str) -> tuple[int, ...]:
    """``3.11.0`` as numbers without trailing zeros, so that ``3.11`` equals ``3.11.0``."""
    numbers = [int(part) for part in text.split(".")]
    while numbers and numbers[-1] == 0:
        del numbers[-1]
    return tuple(numbers)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise MarkerError("names, texts in quotation marks, comparisons, 'and', 'or' and brackets")
        kind, value = match.lastgroup, match.group(match.lastgroup)
        if kind == "name" and value in {"and", "or", "in", "not"}:
            kind = "word"
        elif kind == "name" and value not in VARIABLES:
            raise MarkerError(f"one of {', '.join(sorted(VARIABLES))}")
        found.append((kind, value))
        at = match.end()
    return found


def _either(tokens: list[tuple[str, str]], at: int, depth: int) -> tuple[Expression, int]:
    left, at = _both(tokens, at, depth)
    while tokens[at : at + 1] == [("word", "or")]:
        right, at = _both(tokens, at + 1, depth)
        left = ("or", left, right)
    return left, at


def _both(tokens: list[tuple[str, str]], at: int, depth: int) -> tuple[Expression, int]:
    left, at = _one(tokens, at, depth)
    while tokens[at : at + 1] == [("word", "and")]:
        right, at = _one(tokens, at + 1, depth)
        left = ("and", left, right)
    return left, at


def _one(tokens: list[tuple[str, str]], at: int, depth: int) -> tuple[Expression, int]:
    if depth > MAX_DEPTH:
        raise MarkerError(f"at most {MAX_DEPTH} brackets within each other")
    if tokens[at : at + 1] == [("bracket", "(")]:
        inner, at = _either(tokens, at + 1, depth + 1)
        if tokens[at : at + 1] != [("bracket", ")")]:
            raise MarkerError("a closing bracket")
        return inner, at + 1
    return _comparison(tokens, at)


def _comparison(tokens: list[tuple[str, str]], at: int) -> tuple[Expression, int]:
    rest = tokens[at : at + 4]
    operator, used = _operator(rest[1:3])
    sides = [rest[0], rest[1 + used]] if len(rest) > 1 + used else []
    if not operator or sorted(kind for kind, _ in sides) != ["name", "text"]:
        raise MarkerError("a comparison of a name with a text, such as python_version < '3.12'")
    backwards = sides[0][0] == "text"
    (_, variable), (_, quoted) = reversed(sides) if backwards else sides
    text = quoted[1:-1]
    if variable in VERSIONS:
        _check_version(operator, text, backwards=backwards)
    elif operator not in {"==", "!=", "in", "not in"}:
        raise MarkerError(f"==, !=, in or not in for {variable}, which is no version")
    return (operator, variable, text, backwards), at + 2 + used


def _operator(rest: list[tuple[str, str]]) -> tuple[str, int]:
    """The operator at the head of ``rest``, and how many tokens it takes."""
    if rest[:1] and rest[0][0] == "op":
        return rest[0][1], 1
    if rest[:1] == [("word", "in")]:
        return "in", 1
    if rest == [("word", "not"), ("word", "in")]:
        return "not in", 2
    return "", 0


def _check_version(operator: str, text: str, *, backwards: bool) -> None:
    if operator in {"in", "not in"}:
        if backwards or not all(_VERSION.fullmatch(part.strip()) for part in text.split(",")):
            raise MarkerError("python_version in '3.11,3.12': versions with commas between them")
    elif operator in {"==", "!="} and not backwards and _PREFIX.fullmatch(text):
        pass
    elif operator in {"===", "~="} or not _VERSION.fullmatch(text):
        raise MarkerError("a plain version such as 3.11 after one of == != < <= > >=")


def _holds(expression: Expression, environment: Mapping[str, str]) -> bool:
    head = expression[0]
    if head in {"and", "or"}:
        _, left, right = expression
        assert isinstance(left, tuple)
        assert isinstance(right, tuple)
        if head == "and":
            return _holds(left, environment) and _holds(right, environment)
        return _holds(left, environment) or _holds(right, environment)
    operator, variable, text, backwards = (str(part) for part in expression)
    value = environment[variable]
    if variable in VERSIONS:
        return _compare_versions(operator, value, text, backwards=backwards == "True")
    if operator in {"in", "not in"}:
        found = text in value if backwards == "True" else value in text
        return found if operator == "in" else not found
    return (value == text) is (operator == "==")


def _compare_versions(operator: str, value: str, text: str, *, backwards: bool) -> bool:
    match = _VERSION.match(value)
    mine = release(match.group()) if match else ()
    if operator in {"in", "not in"}:
        return (mine in [release(part.strip()) for part in text.split(",")]) is (operator == "in")
    if text.endswith(".*"):
        wanted = tuple(int(part) for part in text[:-2].split("."))
        padded = (*mine, *([0] * len(wanted)))[: len(wanted)]
        return (padded == wanted) is (operator == "==")
    left, right = (release(text), mine) if backwards else (mine, release(text))
    return {
        "==": left == right, "!=": left != right, "<": left < right, "<=": left <= right, ">": left > right,
        ">=": left >= right,
    }[operator]  # fmt: skip
