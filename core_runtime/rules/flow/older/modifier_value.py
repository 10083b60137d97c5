"""The older modifier that a Pack registers under ``flow.modifier``: several modifications of one flow. Pure.

``{modifier_id, target_flow_id, priority, requires, conflicts_with, modifications: [{action: inject_before|inject_after|
replace|wrap_with_loop|remove|set_property, target_step, steps, …}]}``; its steps are registered steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from backend_core.errors import quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.modifier import MAX_OPS, Modifier
from core_runtime.rules.flow.older.modifier_file import PLACES, brought, head, operation, parsed
from core_runtime.rules.flow.older.registered import LOOP_INDEX, Registered
from core_runtime.rules.flow.older.texts import opposite
from core_runtime.rules.flow.older.writing import Style
from core_runtime.rules.flow.parse_scalars import MAX_STEPS, Path, Where

WORDS: Final = frozenset({
    "modifier_id", "target_flow_id", "priority", "requires", "conflicts_with", "description", "modifications",
})  # fmt: skip
PLAIN: Final[Mapping[str, str]] = {word: word for word in (*PLACES, "replace", "remove")}
ACTIONS: Final[Mapping[str, str]] = {**PLAIN, "wrap_with_loop": "wrap_with_loop", "set_property": "set_property"}
OWN: Final[Mapping[str, frozenset[str]]] = {
    "wrap_with_loop": frozenset({"exit_when", "max_iterations"}),
    "set_property": frozenset({"property", "value"}),
    "remove": frozenset(),
}


@dataclass(slots=True)
class _Reader(Registered):
    def rename(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """As in the flow that it changes, of whatever style."""
        return path

    def modifier(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The document in the one form."""
        self.vocabulary(document, (), WORDS, "a registered modifier")
        found = head(self, document, "modifier_id", "target_flow_id")
        self.places["ops",] = ("modifications",)
        changes = self.list_of(document.get("modifications"), ("modifications",))[: MAX_OPS + 1]
        found["ops"] = [
            self._change(self.map_of(item, ("modifications", number)), ("modifications", number), number)
            for number, item in enumerate(changes)
        ]
        return found

    def _change(self, raw: Mapping[str, Any], at: Path, number: int) -> dict[str, Any]:
        self.places["ops", number] = at
        action = self.choice(raw.get("action"), (*at, "action"), ACTIONS)
        own = OWN.get(action, frozenset({"step", "steps"}))
        self.vocabulary(raw, at, own | {"action", "target_step"}, f"the modification {action}")
        target = raw.get("target_step")
        if action in PLAIN:
            steps = partial(brought, self, self, raw, at, number)
            return operation(self, action, target, (*at, "target_step"), number, steps)
        selector = operation(self, "remove", target, (*at, "target_step"), number, list)["remove"]
        if action == "wrap_with_loop":
            return self._wrapped(raw, at, number, selector)
        return {"patch": selector, "json_patch": [self._property(raw, at)]}

    def _wrapped(self, raw: Mapping[str, Any], at: Path, number: int, selector: str) -> dict[str, Any]:
        most = self.count(raw.get("max_iterations", MAX_STEPS), (*at, "max_iterations"), 0, MAX_STEPS)
        loop: dict[str, Any] = {"max": most, "at": LOOP_INDEX}
        if raw.get("exit_when") is not None:
            self.places["ops", number, "with", "loop", "while"] = (*at, "exit_when")
            loop["while"] = opposite(self.condition(raw["exit_when"], (*at, "exit_when")))
        name = f"{selector.rpartition('/')[2][:58]}-loop"
        return {"wrap": [selector], "with": {"id": name, "loop": loop}}

    def _property(self, raw: Mapping[str, Any], at: Path) -> dict[str, Any]:
        """One word of a step: the pointer to what it is in the one form, and its value there."""
        here: Path = (*at, "value")
        readers: Mapping[str, tuple[str, Callable[[Any, Path], Any]]] = {
            "handler": ("/call", self.text_of), "flow": ("/flow", self.text_of), "args": ("/with", self.value),
            "when": ("/when", self.condition), "output": ("/as", self.output),
            "description": ("/about", self.text_of), "timeout_seconds": ("/timeout", self.seconds),
            "timeout": ("/timeout", self.seconds), "condition": ("/choose/0/when", self.condition),
            "exit_when": ("/loop/while", lambda value, place: opposite(self.condition(value, place))),
            "max_iterations": ("/loop/max", lambda value, place: self.count(value, place, 0, MAX_STEPS)),
        }  # fmt: skip
        name = raw.get("property")
        first, _, rest = name.partition(".") if isinstance(name, str) else ("", "", "")
        if first not in readers or (rest and first != "args") or "value" not in raw:
            expected = f"one of {', '.join(readers)} or args.<name>, and its value"
            self.problem((*at, "property"), f"expected {expected}, got {quote(name, 60)}")
            return {"op": "remove", "path": "/x"}
        pointer, read = readers[first]
        parts = [part.replace("~", "~0").replace("/", "~1") for part in rest.split(".") if part]
        return {"op": "add", "path": "/".join((pointer, *parts)), "value": read(raw["value"], here)}


def read_modifier_value(
    document: Mapping[str, Any], *, source: str, where: Where, layer: model.Layer, pack: str
) -> Modifier:
    """Understand one such value, or raise ``AuthorError`` (code ``flow_invalid``) with every problem."""
    reader = _Reader(source, where, pack)
    return parsed(reader, reader.modifier(document), Style.MODIFIER_VALUE, layer)
