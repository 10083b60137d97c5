"""The older ``*.modifier.yaml``: one action on one step, its steps as in documents of phases. Pure.

``{modifier_id, target_flow_id, phase, priority, action: inject_before|inject_after|append|replace|remove,
target_step_id, requires{interfaces, capabilities}, step, conflicts_with}``. What is required as a capability is looked
up like an interface. In its steps, ``${input…}`` and ``${run…}`` are the run's own, as everywhere in the one form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from backend_core.errors import quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.modifier import Modifier, parse_modifier
from core_runtime.rules.flow.older.phases import PhasedSteps
from core_runtime.rules.flow.older.writing import Step, Style, Writing, plain_id
from core_runtime.rules.flow.parse_scalars import Path, Where, invalid

WORDS: Final = frozenset({
    "modifier_id", "target_flow_id", "phase", "priority", "action", "target_step_id", "requires", "step", "steps",
    "conflicts_with", "description",
})  # fmt: skip
PLACES: Final[Mapping[str, str]] = {"inject_before": "before", "inject_after": "after"}
ACTIONS: Final[Mapping[str, str]] = {word: word for word in (*PLACES, "append", "replace", "remove")}


class Steps(Protocol):
    """A reader that can read a step, and a list of steps."""

    def step(self, raw: Any, at: Path, to: Path, index: int) -> Step | None:
        """The step in the one form."""

    def block(self, raw: Any, at: Path, to: Path) -> list[Step]:
        """The steps in the one form."""


@dataclass(slots=True)
class ModifierSteps(PhasedSteps):
    """Steps that a modifier brings."""

    def rename(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The flow that it changes may be of any style, so its variables and the kernel's own are as they are."""
        return path


def read_modifier_file(
    document: Mapping[str, Any], *, source: str, where: Where, layer: model.Layer, pack: str
) -> Modifier:
    """Understand one such document, or raise ``AuthorError`` (code ``flow_invalid``) with every problem."""
    reader = ModifierSteps(source, where, pack, bare=True)
    written = _written(reader, document)
    return parsed(reader, written, Style.MODIFIER_FILE, layer)


def parsed(reader: Writing, written: Mapping[str, Any], style: Style, layer: model.Layer) -> Modifier:
    """The modifier that a translation says; problems stand where the older document has them."""
    if reader.problems:
        raise invalid(reader.source, reader.problems)
    found = parse_modifier(written, source=reader.source, where=reader.there, layer=layer, pack=reader.pack)
    return replace(found, style=style.value, written=written)


def _written(reader: ModifierSteps, document: Mapping[str, Any]) -> dict[str, Any]:
    reader.vocabulary(document, (), WORDS, "a modifier")
    found = head(reader, document, "modifier_id", "target_flow_id")
    action = reader.choice(document.get("action"), ("action",), ACTIONS)
    target = document.get("target_step_id")
    if action == "append":
        phase = reader.id_of(document["phase"], ("phase",)) if document.get("phase") else ""
        place = {"last_in": f"@phase:{phase}" if phase else "/"}
        found["ops"] = [{"insert": place, "steps": _steps(reader, document, 0)}]
    else:
        found["ops"] = [operation(reader, action, target, ("target_step_id",), 0, lambda: _steps(reader, document, 0))]
    reader.places["ops", 0] = ("action",)
    return found


def _steps(reader: ModifierSteps, document: Mapping[str, Any], number: int) -> list[Step]:
    return brought(reader, reader, document, (), number)


# --- what both forms share -------------------------------------------------------------------------------------------


def head(reader: Writing, document: Mapping[str, Any], name: str, target: str) -> dict[str, Any]:
    """Everything but the operations. ``name``, ``target``: the words for the modifier's id and its flow."""
    found: dict[str, Any] = {"modify": document.get(target), "id": dotted(reader, document.get(name), (name,))}
    reader.places["modify",] = (target,)
    if document.get("description"):
        found["about"] = reader.text_of(document["description"], ("description",))
    if "priority" in document:
        found["priority"] = document["priority"]
    requires = reader.map_of(document.get("requires") or {}, ("requires",))
    reader.vocabulary(requires, ("requires",), {"interfaces", "capabilities"}, "requires")
    keys: list[Any] = []
    for word in ("interfaces", "capabilities"):
        keys += reader.list_of(requires.get(word) or [], ("requires", word))
    if keys:
        found["requires"] = {"interfaces": keys}
    rivals = document.get("conflicts_with") or []
    if rivals:
        names = [rivals] if isinstance(rivals, str) else reader.list_of(rivals, ("conflicts_with",))
        found["conflicts"] = [dotted(reader, one, ("conflicts_with",)) for one in names]
    return found


def operation(
    reader: Writing, action: str, target: Any, at: Path, number: int, steps: Callable[[], list[Step]]
) -> dict[str, Any]:
    """``inject_before``, ``inject_after``, ``replace``, ``remove`` of one step."""
    selector = "/".join(reader.id_of(part, at) for part in target.split("/")) if isinstance(target, str) else ""
    if not selector:
        reader.problem(at, f"expected the id of a step to {action}, got {quote(target, 60)}")
    if action == "remove":
        return {"remove": selector}
    found = steps()
    if action in PLACES:
        return {"insert": {PLACES[action]: selector}, "steps": found}
    step = found[0] if len(found) == 1 else {"do": found}
    if len(found) == 1:
        _moved(reader, ("ops", number, "steps", 0), ("ops", number, "step"))
    else:
        _moved(reader, ("ops", number, "steps"), ("ops", number, "step", "do"))
    return {"replace": selector, "step": {**step, "id": plain_id(selector.rpartition("/")[2] or "step")}}


def _moved(reader: Writing, old: Path, new: Path) -> None:
    """The places below ``old`` are those below ``new`` as well."""
    for to, at in list(reader.places.items()):
        if to[: len(old)] == old:
            reader.places[(*new, *to[len(old) :])] = at


def brought(reader: Writing, steps: Steps, document: Mapping[str, Any], at: Path, number: int) -> list[Step]:
    """The steps of one operation: under ``step``, or several under ``steps``."""
    to: Path = ("ops", number, "steps")
    if "step" in document:
        one = steps.step(document["step"], (*at, "step"), (*to, 0), 0)
        return [] if one is None else [one]
    if not document.get("steps"):
        reader.problem(at, "expected the step that it brings, under step or steps")
        return []
    return steps.block(document["steps"], (*at, "steps"), to)


def dotted(reader: Writing, raw: Any, at: Path) -> str:
    """An id of a modifier: dotted lower-case words."""
    if not isinstance(raw, str) or not raw or len(raw) > 200:
        reader.problem(at, f"expected the id of a modifier, got {quote(raw, 60)}")
        return "none"
    return ".".join(plain_id(part) for part in re.split(r"\.+", raw.strip(".")) if part) or "none"
