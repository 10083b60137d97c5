"""References and conditions of older documents, in the words of the one form. Pure.

Interpolation: ``${ctx.a.b}``, ``${a.b}``, ``$ctx.a.b``, alone or within a text. Conditions: one of
``== != > < >= <=`` between two operands, or a reference alone; bare words are texts.

Invariants:
  * Only paths come through: nothing that stands in an older document is ever read as an expression.
  * What a reference stands for at run time is data: neither text is put together before it is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from core_runtime.rules.flow.values import MAX_EXPRESSION_CHARS, ValueProblem

Path = tuple[str, ...]
Rename = Callable[[Path], Path]
"""From a path in the older context to one in the flow's variables. Raises ``ValueProblem``."""

_INSIDE: Final = re.compile(r"(?:ctx\.)?([A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_-]+)*)\Z")
_BARE: Final = re.compile(r"\$ctx(?![A-Za-z0-9_])((?:\.[A-Za-z0-9_]+)*)")
_OPERATOR: Final = re.compile(r"==|!=|>=|<=|>|<")
_NUMBER: Final = re.compile(r"-?\d{1,15}(?:\.\d{1,15})?\Z")
_WORDS: Final[Mapping[str, Any]] = {
    "true": True, "True": True, "false": False, "False": False, "null": None, "None": None, "none": None,
}  # fmt: skip
_JOINED: Final = re.compile(r"\s(?:and|or)\s|^\s*not\s|&&|\|\||^\s*!(?!=)")
WHOLE: Final = "the whole context can't be carried over; name what is wanted of it: ${name}"


def value(source: Any, rename: Rename) -> Any:
    """Any value of an older document. Raises ``ValueProblem``."""
    if isinstance(source, str):
        return text(source, rename)
    if isinstance(source, Mapping):
        return {str(key): value(item, rename) for key, item in source.items()}
    if isinstance(source, list):
        return [value(item, rename) for item in source]
    return source


def text(source: str, rename: Rename) -> str:
    """A text, its references in the one form. Raises ``ValueProblem``."""
    pieces: list[str] = []
    position, last = 0, source.rfind("}")
    while (start := source.find("$", position)) >= 0:
        pieces.append(source[position:start])
        reference, position = _reference(source, start, last, rename)
        if reference.startswith("${") and start and source[start - 1] == "$":
            raise ValueProblem(f"a $ before a reference can't be carried over: {source[:80]!r}; put it into the value")
        pieces.append(reference)
    return "".join((*pieces, source[position:]))


def _reference(source: str, start: int, last: int, rename: Rename) -> tuple[str, int]:
    """What stands for the ``$`` at ``start``, and where the rest of the text begins. ``last``: the last brace."""
    bare = _BARE.match(source, start)
    if bare is not None:
        return _written(bare.group(1)[1:], rename), bare.end()
    if not source.startswith("${", start):
        return "$", start + 1
    if last < start:
        return "$${", start + 2
    end = source.find("}", start)
    content = source[start + 2 : end].strip()
    inside = _INSIDE.match(content)
    if content == "ctx":
        raise ValueProblem(WHOLE)
    if inside is None:
        raise ValueProblem(
            f"${{…}} holds a path such as ${{name.part}} in this style, got {content[:80]!r}; "
            "a flow in the new form may hold expressions"
        )
    return _written(inside.group(1), rename), end + 1


def _written(path: str, rename: Rename) -> str:
    parts = tuple(path.split("."))
    if not re.match(r"[A-Za-z_]", parts[0]):
        raise ValueProblem(WHOLE if not path else f"a variable's name begins with a letter, got {path[:80]!r}")
    return f"${{{'.'.join(rename(parts))}}}"


# --- conditions ------------------------------------------------------------------------------------------------------


def condition(source: Any, rename: Rename) -> Any:
    """A condition in the one form. Raises ``ValueProblem``."""
    if isinstance(source, bool):
        return source
    if not isinstance(source, str) or not source.strip():
        raise ValueProblem("expected true, false, a reference such as ${name}, or a comparison such as ${name} == word")
    if len(source) > MAX_EXPRESSION_CHARS:
        raise ValueProblem(f"a condition has at most {MAX_EXPRESSION_CHARS} characters")
    operators = _operators(source)
    if len(operators) > 1 or _JOINED.search(_outside(source)):
        raise ValueProblem(
            f"one comparison only, got {source[:80]!r}; put texts into quotes, and write several conditions as steps "
            "around each other, or in the new form as an expression"
        )
    if not operators:
        return _alone(source.strip(), rename)
    [(start, sign)] = operators
    left, right = (_operand(part, rename) for part in (source[:start], source[start + len(sign) :]))
    if not any(isinstance(side, str) and "${" in side.replace("$${", "") for side in (left, right)):
        raise ValueProblem(f"bare words are texts, so {source[:80]!r} decides nothing; write ${{name}} for a variable")
    return {"compare": [left, sign, right]}


def opposite(found: Any) -> Any:
    """The condition that holds where ``found`` does not."""
    return not found if isinstance(found, bool) else {"not": found}


def _alone(source: str, rename: Rename) -> Any:
    if isinstance(_WORDS.get(source), bool):
        return _WORDS[source]
    found = text(source, rename)
    if found.startswith("${") and found.find("}") == len(found) - 1:
        return found
    raise ValueProblem(f"bare words are texts and always hold, got {source[:80]!r}; write ${{name}} for a variable")


def _operand(source: str, rename: Rename) -> Any:
    source = source.strip()
    if len(source) > 1 and source[0] in "'\"" and source[-1] == source[0] and source[0] not in source[1:-1]:
        return text(source[1:-1], rename)
    if source in _WORDS:
        return _WORDS[source]
    if _NUMBER.match(source):
        return float(source) if "." in source else int(source)
    if not source or source[0] in "[{'\"":
        raise ValueProblem(f"expected a reference, a number, a word or a text in quotes, got {source[:60]!r}")
    return text(source, rename)


def _operators(source: str) -> list[tuple[int, str]]:
    """Comparisons outside of quotes and references, with their places."""
    return [(match.start(), match.group()) for match in _OPERATOR.finditer(_outside(source))]


def _outside(source: str) -> str:
    """The text with everything in quotes and references blanked out; the places stay."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\$\{[^}]*\}", lambda match: "_" * len(match.group()), source)
