"""What every part of a flow document is read with: vocabulary, scalars, and problems with their places.

Invariants:
  * Nothing is ignored: a word that the vocabulary lacks is refused with a suggestion.
  * All problems of a document are reported at once, each with line and column where the reader of the file knew them.

Not here: what the words of a document mean (``parse``, ``parse_steps``, ``parse_adverbs``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from msgspec import Struct

from backend_core.errors import AuthorError, quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.conditions import compile_condition
from core_runtime.rules.flow.values import Value, ValueProblem, compile_value, parse_duration_s, parse_path

Path = tuple[str | int, ...]
Where = Callable[[Path], tuple[int, int]]
"""Line and column (from 1) of a node, (0, 0) when unknown."""

RESERVED = frozenset({"input", "run"})
MAX_STEPS = 10_000
MAX_PROBLEMS = 50
_E = TypeVar("_E", bound=StrEnum)


class Problem(Struct, frozen=True):
    """One thing wrong with a document."""

    text: str
    origin: model.Origin
    path: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


class Supplied(Struct, frozen=True):
    """Who supplied a step, and where it was written."""

    origin: model.Origin
    acts_as: tuple[str, ...] = ()


def invalid(source: str, problems: list[Problem]) -> AuthorError:
    """The error for a document with problems; the first one is its detail."""
    first = problems[0]
    return AuthorError(
        f"The flow document {quote(source)} is not valid",
        code="flow_invalid",
        detail="; ".join(str(problem) for problem in problems[:3]),
        hint="Correct the named lines; the vocabulary is in the flow reference.",
        fields={
            "source": source,
            "line": first.origin.line,
            "column": first.origin.column,
            "problems": [
                {
                    "source": p.origin.source,
                    "line": p.origin.line,
                    "column": p.origin.column,
                    "path": p.path,
                    "text": p.text,
                }
                for p in problems
            ],
        },
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` Did you mean …?``, or nothing."""
    near = difflib.get_close_matches(word[:64], sorted(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


@dataclass(slots=True)
class Reading:
    """One pass over one document. Methods return None after noting a problem, so that the pass goes on."""

    source: str
    where: Where
    supplied: Mapping[Path, Supplied]
    pack: str
    layer: model.Layer
    problems: list[Problem] = field(default_factory=list)
    step_count: int = 0

    def origin(self, at: Path) -> model.Origin:
        return self.supplier(at).origin

    def supplier(self, at: Path) -> Supplied:
        """Of the step at ``at``, or of the nearest one around it."""
        if self.supplied:
            for length in range(len(at), 0, -1):
                if at[:length] in self.supplied:
                    return self.supplied[at[:length]]
        place = model.Origin(self.source, *self.where(at), self.pack, self.layer)
        return Supplied(place, (self.pack,) if self.pack else ())

    def problem(self, at: Path, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(text, self.origin(at), "/".join(str(part) for part in at)))

    def _vocabulary(self, entry: Mapping[str, Any], at: Path, known: Iterable[str], what: str) -> None:
        known = frozenset(known)
        for word in entry:
            if word not in known:
                text = f"{quote(word, 60)} is not a word of {what}.{suggestion(str(word), known)}"
                self.problem((*at, word), text)

    def _value(self, raw: Any, at: Path) -> Value | None:
        try:
            return compile_value(raw)
        except ValueProblem as problem:
            self.problem(at, str(problem))
            return None

    def _optional(self, entry: Mapping[str, Any], at: Path, word: str) -> Value | None:
        return self._value(entry[word], (*at, word)) if word in entry else None

    def _condition(self, entry: Mapping[str, Any], at: Path, word: str) -> Value | None:
        """A value that decides; ``match`` may also be a map of parts."""
        if word not in entry:
            return None
        try:
            return compile_condition(entry[word], parts=word == "match")
        except ValueProblem as problem:
            self.problem((*at, word), f"{word}: {problem}")
            return None

    def _duration(self, entry: Mapping[str, Any], at: Path, word: str) -> float | None:
        if entry.get(word) is None:
            return None
        try:
            return parse_duration_s(entry[word])
        except ValueProblem as problem:
            self.problem((*at, word), str(problem))
            return None

    def _target(self, raw: Any, at: Path) -> tuple[str, ...]:
        try:
            path = parse_path(raw if isinstance(raw, str) else "")
        except ValueProblem:
            self.problem(at, f"expected the name of a variable, such as reply or reply.text, got {raw!r:.80}")
            return ()
        if path[0] in RESERVED:
            self.problem(at, f"{path[0]!r} belongs to the kernel; choose another name for the variable")
        return path

    def _choice(self, entry: Mapping[str, Any], at: Path, word: str, kind: type[_E]) -> _E | None:
        raw = entry.get(word)
        words = [item.value for item in kind]
        if raw is None:
            return None
        if raw in words:
            return kind(raw)
        self.problem((*at, word), f"{word} expects {' or '.join(words)}, got {raw!r:.60}.{suggestion(str(raw), words)}")
        return None

    def _matching(self, raw: Any, at: Path, pattern: re.Pattern[str], expected: str) -> str | None:
        if isinstance(raw, str) and pattern.match(raw):
            return raw
        self.problem(at, f"expected {expected}, got {quote(raw, 60) if raw is not None else 'nothing'}")
        return None

    def _text(self, entry: Mapping[str, Any], at: Path, word: str) -> str:
        raw = entry.get(word, "")
        if isinstance(raw, str | int | float) and not isinstance(raw, bool):
            return str(raw)
        self.problem((*at, word), f"{word} expects text, got {kind_of(raw)}")
        return ""

    def _flag(self, entry: Mapping[str, Any], at: Path, word: str, *, default: bool) -> bool:
        raw = entry.get(word, default)
        if isinstance(raw, bool):
            return raw
        self.problem((*at, word), f"{word} expects true or false, got {raw!r:.60}")
        return default

    def _number(
        self, entry: Mapping[str, Any], at: Path, word: str, default: float, least: float, most: float
    ) -> float:
        raw = entry.get(word, default)
        if isinstance(raw, int | float) and not isinstance(raw, bool) and least <= raw <= most:
            return float(raw)
        self.problem((*at, word), f"{word} expects a number from {least:g} to {most:g}, got {raw!r:.60}")
        return default

    def _count(self, entry: Mapping[str, Any], at: Path, word: str, default: int, most: int) -> int:
        raw = entry.get(word, default)
        if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= most:
            return raw
        self.problem((*at, word), f"{word} expects a whole number from 0 to {most}, got {raw!r:.60}")
        return default

    def _max(self, entry: Mapping[str, Any], at: Path) -> int:
        return self._count(entry, at, "max", 0, MAX_STEPS)

    def _map(self, raw: Any, at: Path) -> Mapping[str, Any]:
        if isinstance(raw, Mapping):
            return raw
        self.problem(at, f"expected a map, got {kind_of(raw)}")
        return {}

    def _list(self, raw: Any, at: Path) -> list[Any]:
        if isinstance(raw, list):
            return raw
        self.problem(at, f"expected a list, got {kind_of(raw)}")
        return []

    def _words(self, raw: Any, at: Path) -> tuple[str, ...]:
        words = [raw] if isinstance(raw, str) else self._list(raw, at)
        for index, word in enumerate(words):
            if not isinstance(word, str):
                self.problem((*at, index), f"expected a name, got {kind_of(word)}")
        return tuple(word for word in words if isinstance(word, str))


def kind_of(value: Any) -> str:
    """What a document's author would call it."""
    names = {dict: "a map", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
