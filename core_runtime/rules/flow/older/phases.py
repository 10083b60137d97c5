"""Style C: ``{flow_id, inputs, outputs, phases, defaults, schedule, steps}``, ordered by phase, priority and id. Pure.

A handler that answers ``{"__flow_control": "abort", "reason": …}`` ends the flow. ``python_file_call`` calls a Pack's
custom handler: ``backend/handlers/<name>.py`` of ``owner_pack`` is the interface ``<owner_pack>.<name>``, so that it
runs in that Pack's sandbox, from its approved bytes, and only for who may call that interface. Any other file has no
name that a right could be given for, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from backend_core.errors import quote
from core_runtime.rules.flow.older.blocks import Blocks, Reader
from core_runtime.rules.flow.older.order import Place, ordered
from core_runtime.rules.flow.older.writing import Step, plain_id
from core_runtime.rules.flow.parse_scalars import RESERVED, Path, suggestion
from core_runtime.rules.flow.parse_steps import ID
from core_runtime.rules.flow.values import ValueProblem, parse_duration_s

WORDS: Final = frozenset({
    "flow_id", "inputs", "outputs", "phases", "defaults", "schedule", "steps", "version", "description", "name",
})  # fmt: skip
PLACED: Final = frozenset({"phase", "priority", "depends_on"})
COMMON: Final = frozenset({"id", "type", "description", "when", "output", "input", "timeout_seconds", "owner_pack"})
OWN: Final[Mapping[str, frozenset[str]]] = {
    "handler": frozenset({"handler"}),
    "python_file_call": frozenset({"file"}),
    "set": frozenset({"values", "key", "value"}),
    "if": frozenset({"condition", "then", "else"}),
    "function": frozenset({"function"}),
    "flow": frozenset({"flow"}),
    "construct": frozenset({"construct"}),
}
MISSING: Final[Mapping[str, str]] = {"skip": "skip", "error": "fail"}
TYPES: Final[Mapping[str, str]] = {
    "string": "string", "str": "string", "text": "string", "integer": "integer", "int": "integer", "number": "number",
    "float": "number", "boolean": "boolean", "bool": "boolean", "array": "array", "list": "array", "object": "object",
    "dict": "object", "map": "object", "any": "", "null": "null",
}  # fmt: skip
DEFAULT_PRIORITY: Final = 100
MAX_PRIORITY: Final = 1_000_000
_FILE: Final = re.compile(r"(?:backend/)?(?:handlers/)?([A-Za-z][A-Za-z0-9_]{0,63})\.py\Z")
_PACK: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")


@dataclass(slots=True)
class PhasedSteps(Blocks):
    """Steps of this style, wherever they stand.

    ``bare``: steps of a modifier, whose place somebody else decides; ``soft``: what fails is followed by what is next.
    """

    bare: bool = False
    soft: bool = True

    def step(self, raw: Any, at: Path, to: Path, index: int) -> Step | None:
        """One step inside another, or of a modifier."""
        entry = self.map_of(raw, at)
        for word in sorted(PLACED & entry.keys()):
            if not self.bare:
                text = f"{word} orders the flow's own steps; those inside another run in the order in which they stand"
                self.problem((*at, word), text)
        return self.placed(entry, at, to, index)

    def placed(self, entry: Mapping[str, Any], at: Path, to: Path, index: int) -> Step | None:
        """One step, but for its place among others."""
        self.places[to] = at
        kind = entry.get("type", "handler")
        readers: dict[str, Reader] = {
            "handler": self._handler, "python_file_call": self._file, "set": self._set, "if": self._if,
            "function": self._function, "flow": self._flow, "construct": self._construct,
        }  # fmt: skip
        if not isinstance(kind, str) or kind not in readers:
            near = suggestion(kind, readers) if isinstance(kind, str) else ""
            self.problem((*at, "type"), f"expected {', '.join(readers)}, got {quote(kind, 60)}.{near}")
            return None
        if kind != "construct":
            self.vocabulary(entry, at, COMMON | PLACED | OWN[kind], f"a {kind} step")
        step: Step = {"id": self.step_id(entry, at, index)}
        if entry.get("description"):
            step["about"] = self.text_of(entry["description"], (*at, "description"))
        if kind != "if" or "condition" in entry:
            self.conditional(entry, at, to, step)
        readers[kind](entry, at, to, step)
        self._owned(kind, entry, at)
        self.timed(entry, at, step)
        if kind != "set":
            self.bound(entry, at, step)
        if kind == "if" and "timeout" in step:
            step["on_error"] = "continue" if self.soft else "fail"
        return step

    def _owned(self, kind: str, raw: Mapping[str, Any], at: Path) -> None:
        owner = raw.get("owner_pack")
        if owner is not None and kind != "python_file_call" and owner != self.pack:
            text = "a step acts as who supplied its document; owner_pack says whose file a python_file_call calls"
            self.problem((*at, "owner_pack"), text)

    # --- types --------------------------------------------------------------------------------------------------------

    def _handler(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        self._called(raw, "handler", at, to, step)

    def _function(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        self._called(raw, "function", at, to, step)

    def _called(self, raw: Mapping[str, Any], word: str, at: Path, to: Path, step: Step) -> None:
        self.places[*to, "call"] = (*at, word)
        step["call"] = raw.get(word)
        self.moved(raw, "input", at, to, "with", step)

    def _file(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        owner, file = raw.get("owner_pack", self.pack), raw.get("file")
        match = _FILE.match(file) if isinstance(file, str) else None
        if not isinstance(owner, str) or not _PACK.match(owner):
            self.problem((*at, "owner_pack"), f"expected the id of the Pack whose file it is, got {quote(owner, 60)}")
        if match is None:
            text = (
                f"expected backend/handlers/<name>.py, got {quote(file, 80)}; move it there, name <pack>.<name> in "
                "provides, and it is called in its own Pack's sandbox"
            )
            self.problem((*at, "file"), text)
            return
        self.places[*to, "call"] = (*at, "file")
        step["call"] = f"{owner}.{match.group(1)}"
        self.moved(raw, "input", at, to, "with", step)

    def _set(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        """``output`` takes ``input``; or each of ``values`` (or of ``input``) its value; or ``key`` its ``value``."""
        values: Step = {}
        if raw.get("output") is not None or "key" in raw:
            word, what = ("output", "input") if raw.get("output") is not None else ("key", "value")
            what = "value" if "value" in raw else what
            name = self.output(raw[word], (*at, word))
            if what not in raw:
                self.problem(at, f"set needs a value for {quote(name, 60)} under {what}")
            values[name] = self.value(raw.get(what), (*at, what))
        else:
            word = "values" if "values" in raw else "input"
            for name, item in self.map_of(raw.get(word), (*at, word)).items():
                values[self.output(name, (*at, word, name))] = self.value(item, (*at, word, name))
        self.places[*to, "set"] = at
        step["set"] = {name: value for name, value in values.items() if name}

    def _if(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        """``when`` is the condition where there is no other."""
        word = "condition" if "condition" in raw else "when"
        self.branching({**raw, "condition": raw[word]} if word in raw else raw, at, to, step)
        self.places[*to, "choose", 0, "when"] = (*at, word)

    def _flow(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        self.places[*to, "flow"] = (*at, "flow")
        step["flow"] = raw.get("flow")
        self.moved(raw, "input", at, to, "with", step)

    def _construct(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        name = raw.get("construct")
        if not isinstance(name, str) or not ID.match(name):
            self.problem((*at, "construct"), f"expected the name of a construct, got {quote(name, 60)}")
            return
        self.constructed(name, raw, at, to, step, COMMON | PLACED | {"construct"})
        self.moved(raw, "input", at, to, "with", step)


@dataclass(slots=True)
class Phased(PhasedSteps):
    """A whole document. ``inputs``: the names of those that it declares."""

    inputs: frozenset[str] = frozenset()

    def rename(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """As for every style; what looks like the run's input but is none of its inputs is refused."""
        if path[0] in RESERVED and self.inputs and path[0] not in self.inputs:
            instead = ".".join(path[1:]) or "name"
            raise ValueProblem(f"this flow has no input {path[0]!r}; each input is a variable: write ${{{instead}}}")
        return Blocks.rename(self, path)

    def flow(self, document: Mapping[str, Any], flow_id: Any) -> dict[str, Any]:
        """The document in the one form."""
        self.vocabulary(document, (), WORDS, "a flow of phases")
        self.places["flow",] = ("flow_id",)
        found: dict[str, Any] = {"flow": flow_id}
        if "version" in document:
            found["version"] = document["version"]
        about = document.get("description") or document.get("name")
        if about:
            found["about"] = self.text_of(about, ("description",))
        names = self._names(document.get("inputs"))
        self.inputs = frozenset(names)
        if names:
            found["input"] = self._schema(names)
        found["vars"] = "${input}"
        found["defaults"] = self._defaults(document)
        phases = self._phases(document)
        if phases:
            found["phases"] = phases
        if "schedule" in document:
            found["on"] = [self._schedule(self.map_of(document["schedule"], ("schedule",)))]
        found["steps"] = [*self._given(names, phases), *self._steps(document, phases)]
        if document.get("outputs"):
            found["output"] = self._outputs(document["outputs"])
        return found

    # --- inputs and outputs -------------------------------------------------------------------------------------------

    def _names(self, raw: Any) -> dict[str, Mapping[str, Any]]:
        """Each declared input with what is said of it."""
        at: Path = ("inputs",)
        if raw is None:
            return {}
        if isinstance(raw, list) and all(isinstance(one, str) for one in raw):
            raw = dict.fromkeys(raw)
        found: dict[str, Mapping[str, Any]] = {}
        for name, said in self.map_of(raw, at).items():
            entry = {"type": said} if isinstance(said, str) else self.map_of(said or {}, (*at, name))
            self.vocabulary(entry, (*at, name), {"type", "required", "default", "description"}, "an input")
            found[str(name)] = entry
        return found

    def _schema(self, names: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        required: list[str] = []
        for name, entry in names.items():
            at: Path = ("inputs", name)
            kind = self.choice(entry.get("type", "any"), (*at, "type"), TYPES)
            needed = self.flag(entry.get("required", False), (*at, "required"))
            properties[name] = {} if not kind else {"type": kind if needed else [kind, "null"]}
            if entry.get("description"):
                properties[name]["description"] = self.text_of(entry["description"], (*at, "description"))
            required += [name] if needed else []
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        return {**schema, "required": required} if required else schema

    def _given(self, names: Mapping[str, Mapping[str, Any]], phases: list[str]) -> list[Step]:
        """A first step for inputs that have a value when they are not given."""
        given: list[Step] = []
        for name, entry in names.items():
            if "default" in entry:
                value = self.value(entry["default"], ("inputs", name, "default"))
                target = self.output(name, ("inputs", name))
                self.written.pop(target, None)
                absent = {"compare": [f"${{input.{name}}}", "==", None]}
                given.append({"id": f"default{len(given)}", "when": absent, "set": {target: value}})
        if not given:
            return []
        self.places["steps", 0] = ("inputs",)
        return [{"id": "input-defaults", **({"phase": phases[0]} if phases else {}), "do": given}]

    def _outputs(self, raw: Any) -> dict[str, Any]:
        """Names of variables, or for each name of the output the variable or reference that it is."""
        at: Path = ("outputs",)
        if isinstance(raw, list):
            return {name: f"${{{name}}}" for one in raw if (name := self.output(one, at))}
        found: dict[str, Any] = {}
        for name, said in self.map_of(raw, at).items():
            here: Path = (*at, name)
            if isinstance(said, Mapping) or (isinstance(said, str) and said in TYPES):
                found[str(name)] = f"${{{self.output(name, here)}}}"
            elif isinstance(said, str) and "$" not in said:
                found[str(name)] = f"${{{self.output(said, here)}}}"
            else:
                found[str(name)] = self.value(said, here)
        return found

    # --- the whole ----------------------------------------------------------------------------------------------------

    def _defaults(self, document: Mapping[str, Any]) -> dict[str, Any]:
        at: Path = ("defaults",)
        entry = self.map_of(document.get("defaults", {}), at)
        self.vocabulary(entry, at, {"fail_soft", "on_missing_step"}, "defaults")
        self.soft = self.flag(entry.get("fail_soft", True), (*at, "fail_soft"))
        missing = self.choice(entry.get("on_missing_step", "skip"), (*at, "on_missing_step"), MISSING)
        return {
            "on_error": "continue" if self.soft else "fail", "on_missing": missing, "on_absent": "run",
            "flow_control": True,
        }  # fmt: skip

    def _phases(self, document: Mapping[str, Any]) -> list[str]:
        found: list[str] = []
        for index, item in enumerate(self.list_of(document.get("phases", []), ("phases",))):
            at: Path = ("phases", index)
            name = (item.get("name") or item.get("id")) if isinstance(item, Mapping) else item
            found.append(self.id_of(name, at))
            self.places[at] = at
        return [name for name in found if name]

    def _schedule(self, raw: Mapping[str, Any]) -> Step:
        """A trigger; the flow is started with nothing as its input."""
        at: Path = ("schedule",)
        self.vocabulary(raw, at, {"cron", "interval"}, "a schedule")
        self.places["on", 0] = at
        if ("cron" in raw) == ("interval" in raw):
            self.problem(at, "a schedule is one of cron and interval")
        if "cron" in raw:
            return {"cron": raw["cron"], "with": {}}
        every = raw.get("interval")
        try:
            parse_duration_s(every)
        except ValueProblem:
            every = self.seconds(every, (*at, "interval"))
        return {"every": every, "with": {}}

    def _steps(self, document: Mapping[str, Any], phases: list[str]) -> list[Step]:
        """The flow's own steps in their order."""
        raw = self.list_of(document.get("steps"), ("steps",))
        first = 1 if ("steps", 0) in self.places else 0
        entries = [self.map_of(item, ("steps", index)) for index, item in enumerate(raw)]
        places = [self._place(entry, index, phases) for index, entry in enumerate(entries)]
        self._known(places, phases)
        found: list[Step] = []
        numbers, stuck = ordered(places)
        if stuck:
            names = ", ".join(places[number].id for number in stuck[:10])
            self.problem(("steps", stuck[0]), f"these steps depend on each other in a circle: {names}")
        for number in numbers:
            at: Path = ("steps", number)
            step = self.placed(entries[number], at, ("steps", len(found) + first), number)
            if step is None:
                continue
            if entries[number].get("phase") is not None:
                step["phase"] = self.id_of(entries[number]["phase"], (*at, "phase"))
            found.append(step)
        return found

    def _place(self, entry: Mapping[str, Any], index: int, phases: list[str]) -> Place:
        at: Path = ("steps", index)
        name = plain_id(entry["phase"]) if isinstance(entry.get("phase"), str) and entry["phase"] else ""
        priority = self.count(entry.get("priority", DEFAULT_PRIORITY), (*at, "priority"), -MAX_PRIORITY, MAX_PRIORITY)
        step_id = str(entry.get("id", f"step{index}"))
        wanted = entry.get("depends_on", [])
        after = [wanted] if isinstance(wanted, str) else self.list_of(wanted or [], (*at, "depends_on"))
        rank = phases.index(name) if name in phases else len(phases)
        return Place(step_id, (rank, priority, step_id), tuple(one for one in after if isinstance(one, str)))

    def _known(self, places: list[Place], phases: list[str]) -> None:
        """Each dependency is there, and in no later phase."""
        ranks = {place.id: place.rank[0] for place in places}
        for index, place in enumerate(places):
            for one in place.after:
                at: Path = ("steps", index, "depends_on")
                if one not in ranks:
                    self.problem(at, f"there is no step {quote(one, 60)} to depend on.{suggestion(one, ranks)}")
                elif phases and ranks[one] > place.rank[0]:
                    self.problem(at, f"{quote(one, 60)} belongs to a later phase")
