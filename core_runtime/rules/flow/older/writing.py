"""What the readers of older documents share: places, problems, names, and the words that all styles have. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from backend_core.errors import quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.older import texts
from core_runtime.rules.flow.parse_scalars import MAX_PROBLEMS, RESERVED, Path, Problem, Where, kind_of, suggestion
from core_runtime.rules.flow.parse_steps import ID
from core_runtime.rules.flow.values import ValueProblem, parse_path

MAX_SECONDS: Final = 10**9
Step = dict[str, Any]


class Style(StrEnum):
    """How an older document is written. ``NEW``: in the one form."""

    NEW = ""
    PIPELINES = "pipelines"
    REGISTERED = "registered steps"
    PHASES = "phases"
    MODIFIER_FILE = "modifier file"
    MODIFIER_VALUE = "registry modifier"


@dataclass(slots=True)
class Writing:
    """One translation under way. Methods return a harmless value after noting a problem, so that the pass goes on.

    ``places``: from a place in what is written to the one in the older document.
    """

    source: str
    where: Where
    pack: str
    problems: list[Problem] = field(default_factory=list)
    places: dict[Path, Path] = field(default_factory=dict)
    written: dict[str, None] = field(default_factory=dict)

    def problem(self, at: Path, text: str) -> None:
        """Note what is wrong at a place of the older document."""
        if len(self.problems) < MAX_PROBLEMS:
            place = model.Origin(self.source, *self.where(at), self.pack)
            self.problems.append(Problem(text, place, "/".join(map(str, at))))

    def there(self, to: Path) -> tuple[int, int]:
        """Line and column in the older document of a place in what was written."""
        for length in range(len(to), 0, -1):
            if to[:length] in self.places:
                return self.where((*self.places[to[:length]], *to[length:]))
        return self.where(to)

    # --- names --------------------------------------------------------------------------------------------------------

    def rename(self, path: texts.Path) -> texts.Path:
        """The variable behind a path of the context. What the kernel owns a name of is still in the run's input."""
        return ("input", *path) if path[0] in RESERVED else path

    def output(self, raw: Any, at: Path) -> str:
        """The variable that takes a result; ``""`` after a problem."""
        name = raw.removeprefix("ctx.") if isinstance(raw, str) else raw
        try:
            path = parse_path(name if isinstance(name, str) else repr(name))
        except ValueProblem:
            self.problem(at, f"expected the name of a variable, such as reply or reply.text, got {quote(raw, 60)}")
            return ""
        if path[0] in RESERVED:
            self.problem(at, f"{path[0]!r} belongs to the kernel; choose another name for the variable")
            return ""
        self.written[path[0]] = None
        return str(name)

    def step_id(self, raw: Mapping[str, Any], at: Path, index: int) -> str:
        """The step's id; what the one form has no letter for becomes ``-``."""
        if "id" not in raw:
            return f"step{index}"
        return self.id_of(raw["id"], (*at, "id")) or f"step{index}"

    def id_of(self, raw: Any, at: Path) -> str:
        """An id of a step as the one form writes it, ``""`` after a problem."""
        if not isinstance(raw, str) or not raw or len(raw) > 200:
            self.problem(at, f"expected the id of a step, got {quote(raw, 60)}")
            return ""
        return plain_id(raw)

    # --- values -------------------------------------------------------------------------------------------------------

    def value(self, raw: Any, at: Path) -> Any:
        """A value with its references in the one form."""
        return self._told(texts.value, raw, at)

    def condition(self, raw: Any, at: Path) -> Any:
        """A condition in the one form."""
        return self._told(texts.condition, raw, at)

    def _told(self, translate: Callable[[Any, texts.Rename], Any], raw: Any, at: Path) -> Any:
        try:
            return translate(raw, self.rename)
        except ValueProblem as problem:
            self.problem(at, str(problem))
            return None

    def seconds(self, raw: Any, at: Path) -> str:
        """A number of seconds as a duration."""
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 < raw < MAX_SECONDS:
            self.problem(at, f"expected a number of seconds, got {quote(raw, 40)}")
            return "1s"
        return duration(raw)

    def count(self, raw: Any, at: Path, least: int, most: int) -> int:
        """A whole number within bounds."""
        if isinstance(raw, int) and not isinstance(raw, bool) and least <= raw <= most:
            return raw
        self.problem(at, f"expected a whole number from {least} to {most}, got {quote(raw, 40)}")
        return least

    def flag(self, raw: Any, at: Path) -> bool:
        """True or false."""
        if not isinstance(raw, bool):
            self.problem(at, f"expected true or false, got {quote(raw, 40)}")
        return raw is True

    def choice(self, raw: Any, at: Path, words: Mapping[str, str]) -> str:
        """One of ``words``, as the one form says it."""
        if isinstance(raw, str) and raw in words:
            return words[raw]
        near = suggestion(raw, words) if isinstance(raw, str) else ""
        self.problem(at, f"expected {' or '.join(words)}, got {quote(raw, 40)}.{near}")
        return next(iter(words.values()))

    def text_of(self, raw: Any, at: Path) -> str:
        """Plain text for people."""
        if isinstance(raw, str):
            return raw
        self.problem(at, f"expected text, got {kind_of(raw)}")
        return ""

    # --- shapes -------------------------------------------------------------------------------------------------------

    def vocabulary(self, entry: Mapping[Any, Any], at: Path, known: Iterable[str], what: str) -> None:
        """Refuse every word that the style lacks."""
        known = frozenset(known)
        for word in entry:
            if word not in known:
                text = f"{quote(word, 60)} is not a word of {what}.{suggestion(str(word), known)}"
                self.problem((*at, str(word)), text)

    def map_of(self, raw: Any, at: Path) -> Mapping[str, Any]:
        """A map, empty after a problem."""
        if isinstance(raw, Mapping):
            return raw
        self.problem(at, f"expected a map, got {kind_of(raw)}")
        return {}

    def list_of(self, raw: Any, at: Path) -> list[Any]:
        """A list, empty after a problem."""
        if isinstance(raw, list):
            return raw
        self.problem(at, f"expected a list, got {kind_of(raw)}")
        return []


def plain_id(raw: str) -> str:
    """An id in the letters of the one form, the same for the same id everywhere."""
    if ID.match(raw):
        return raw
    found = re.sub(r"[^a-z0-9_-]", "-", raw.lower())
    return (found if "a" <= found[0] <= "z" else f"s-{found}")[:64]


def duration(seconds: float) -> str:
    """``3s``, ``0.25s``."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def file_id(source: str) -> str:
    """The id that a file's name gives: ``<id>.flow.json``."""
    name = source.rpartition("/")[2].rpartition(":")[2]
    for suffix in (".yaml", ".yml", ".json"):
        name = name.removesuffix(suffix)
    return name.removesuffix(".flow")
