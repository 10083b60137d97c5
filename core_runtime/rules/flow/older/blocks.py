"""Steps that styles B and C have alike: calls, flows, branches, constructs, and how a timeout is told. Pure.

``_error``: an older flow tells of a timeout, and of a flow that runs within itself, under that name and in the step's
output. It is written for a step that runs a flow or says how long it may take, and for every call of a document that
reads ``_error``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from core_runtime.rules.flow.older.writing import Step, Writing
from core_runtime.rules.flow.parse_scalars import Path

ERROR: Final = "_error"
TOLD: Final[Mapping[str, str]] = {"limit": "recursion", "timeout": "timeout"}
"""Type of error → what is told of it."""
Reader = Callable[[Mapping[str, Any], Path, Path, Step], None]
"""``(older step, its place, the place it is written to, what is written)``."""


@dataclass(slots=True)
class Blocks(Writing, ABC):
    """``tells``: whether the document reads ``_error``."""

    tells: bool = False

    @abstractmethod
    def step(self, raw: Any, at: Path, to: Path, index: int) -> Step | None:
        """One step."""

    def block(self, raw: Any, at: Path, to: Path) -> list[Step]:
        """A list of steps."""
        self.places[to] = at
        found: list[Step] = []
        for index, item in enumerate(self.list_of(raw, at)):
            step = self.step(item, (*at, index), (*to, len(found)), index)
            if step is not None:
                found.append(step)
        return found

    def moved(self, raw: Mapping[str, Any], word: str, at: Path, to: Path, new: str, step: Step) -> None:
        """A value that has another word in the one form."""
        if word in raw:
            self.places[*to, new] = (*at, word)
            step[new] = self.value(raw[word], (*at, word))

    def conditional(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        """``when``, where there is one."""
        if raw.get("when") is not None:
            self.places[*to, "when"] = (*at, "when")
            step["when"] = self.condition(raw["when"], (*at, "when"))

    def bound(self, raw: Mapping[str, Any], at: Path, step: Step) -> str:
        """``output``, where there is one; the variable."""
        name = self.output(raw["output"], (*at, "output")) if raw.get("output") is not None else ""
        if name:
            step["as"] = name
        return name

    def timed(self, raw: Mapping[str, Any], at: Path, step: Step) -> bool:
        """``timeout_seconds`` (or ``timeout``), where there is one."""
        word = next((word for word in ("timeout_seconds", "timeout") if raw.get(word) is not None), "")
        if word:
            step["timeout"] = self.seconds(raw[word], (*at, word))
        return bool(word)

    def telling(self, step: Step, kinds: tuple[str, ...], name: str) -> None:
        """Let these errors become data."""
        self.written[ERROR] = None
        step["catch"] = []
        for kind in kinds:
            values: dict[str, Any] = {ERROR: TOLD[kind]}
            if name:
                values[name] = {ERROR: TOLD[kind]}
            step["catch"].append({"error": kind, "do": [{"id": "error", "set": values}]})

    def branching(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        """``condition``, ``then``, ``else``."""
        if "condition" not in raw:
            self.problem(at, "a branch needs its condition")
        arms: list[Step] = [{"when": self.condition(raw.get("condition"), (*at, "condition"))}]
        self.places[*to, "choose", 0, "when"] = (*at, "condition")
        arms[0]["do"] = self.block(raw.get("then") or [], (*at, "then"), (*to, "choose", 0, "do"))
        if raw.get("else"):
            arms.append({"default": self.block(raw["else"], (*at, "else"), (*to, "choose", 1, "default"))})
        step["choose"] = arms

    def constructed(
        self, name: str, raw: Mapping[str, Any], at: Path, to: Path, step: Step, known: frozenset[str]
    ) -> None:
        """A control structure that some Pack supplies: every word of its own is its configuration."""
        verb = f"*:{name}"
        self.places[*to, verb] = at
        step[verb] = {
            str(word): self.value(item, (*at, str(word)))
            for word, item in raw.items()
            if word not in known and word != "steps"
        }
        if "steps" in raw:
            step["do"] = self.block(raw["steps"], (*at, "steps"), (*to, "do"))


def mentions(document: Any, word: str) -> bool:
    """Whether any text of a document holds ``word``."""
    pending = [document]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            if word in one:
                return True
        elif isinstance(one, Mapping):
            pending += one.values()
        elif isinstance(one, list):
            pending += one
    return False
