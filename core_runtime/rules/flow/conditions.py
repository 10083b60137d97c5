"""Conditions of a flow: a reference that is true or false, one comparison, or the opposite of one. Pure.

``${path}`` · ``{compare: [left, operator, right]}`` · ``{not: condition}``. Left and right are values of a document, so
what they read stays data. They need no engine of expressions.

Invariant: a comparison never fails. Equal are values of one kind only (``true`` is not 1, ``"5"`` is not 5); an order
there is between two numbers and between two texts, and where there is none the comparison does not hold.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

from core_runtime.rules.flow.values import Lookup, Value, ValueProblem, compile_value

Comparison = Callable[[Any, Any], bool]


def equal(left: Any, right: Any) -> bool:
    """Whether two values are the same; a boolean is no number."""
    return isinstance(left, bool) is isinstance(right, bool) and bool(left == right)


def _ordered(compared: Comparison) -> Comparison:
    def holds(left: Any, right: Any) -> bool:
        texts = isinstance(left, str) and isinstance(right, str)
        return (texts or (_is_number(left) and _is_number(right))) and compared(left, right)

    return holds


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


OPERATORS: Final[Mapping[str, Comparison]] = {
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    ">=": _ordered(operator.ge),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    "<": _ordered(operator.lt),
}


def compile_condition(source: Any, *, parts: bool = False) -> Value:
    """Compile a condition; ``parts``: a map stands for parts that must be equal. Raises ``ValueProblem``."""
    if isinstance(source, Mapping) and not parts:
        return _compile_map(source)
    value = compile_value(source)
    if isinstance(source, str) and not value.roots:
        raise ValueProblem("expects a reference such as ${name}, or true or false, got plain text")
    return value


def _compile_map(source: Mapping[str, Any]) -> Value:
    if set(source) == {"not"}:
        inner = compile_condition(source["not"])
        return Value(source, lambda lookup: not inner.get(lookup), inner.roots)
    items = source.get("compare") if set(source) == {"compare"} else None
    if not isinstance(items, list) or len(items) != 3 or not isinstance(items[1], str) or items[1] not in OPERATORS:
        raise ValueProblem(
            f"expects a reference, {{compare: [left, operator, right]}} with one of {' '.join(OPERATORS)}, "
            "or {not: condition}"
        )
    left, compared, right = compile_value(items[0]), OPERATORS[items[1]], compile_value(items[2])
    if not left.roots and not right.roots:
        raise ValueProblem("a comparison without a reference such as ${name} decides nothing")

    def get(lookup: Lookup) -> bool:
        return compared(left.get(lookup), right.get(lookup))

    return Value(source, get, left.roots | right.roots)
