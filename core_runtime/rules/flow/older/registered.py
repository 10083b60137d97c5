"""Style B: ``{"steps": […]}``, registered under ``flow.<id>`` or kept in a file of that name. Pure.

Step types: handler, flow, loop, branch, parallel, group, retry; any other is the construct ``flow.construct.<type>``.
The run's input is the first context, and what the flow wrote is its output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from core_runtime.rules.flow.older.blocks import ERROR, Blocks, Reader, mentions
from core_runtime.rules.flow.older.texts import opposite
from core_runtime.rules.flow.older.writing import Step, duration
from core_runtime.rules.flow.parse_scalars import MAX_STEPS, Path
from core_runtime.rules.flow.parse_steps import ID

LOOP_INDEX: Final = "_loop_index"
PARALLEL_RESULTS: Final = "_parallel_results"
WORDS: Final = frozenset({"steps", "id", "description", "version"})
COMMON: Final = frozenset({"id", "type", "description", "when", "output", "args", "timeout_seconds", "timeout"})
OWN: Final[Mapping[str, frozenset[str]]] = {
    "handler": frozenset({"handler"}),
    "flow": frozenset({"flow"}),
    "loop": frozenset({"exit_when", "max_iterations", "steps"}),
    "branch": frozenset({"condition", "then", "else"}),
    "parallel": frozenset({"branches"}),
    "group": frozenset({"steps"}),
    "retry": frozenset({"handler", "max_attempts", "delay_ms"}),
}
CALLS: Final = frozenset({"handler", "retry", "flow"})
DEFAULT_ATTEMPTS: Final = 3
MAX_ATTEMPTS: Final = 101
MAX_DELAY_MS: Final = 86_400_000


@dataclass(slots=True)
class Registered(Blocks):
    """See the module."""

    def flow(self, document: Mapping[str, Any], flow_id: Any) -> dict[str, Any]:
        """The document in the one form."""
        self.vocabulary(document, (), WORDS, "a flow of registered steps")
        self.tells = mentions(document, ERROR)
        found: dict[str, Any] = {"flow": flow_id}
        if "version" in document:
            found["version"] = document["version"]
            self.places["version",] = ("version",)
        if document.get("description"):
            found["about"] = self.text_of(document["description"], ("description",))
        found["vars"] = "${input}"
        found["defaults"] = {"on_absent": "run"}
        found["limits"] = {"recursion": 0}
        found["steps"] = self.block(document.get("steps"), ("steps",), ("steps",))
        if self.written:
            found["output"] = {name: f"${{{name}}}" for name in self.written}
        return found

    def step(self, raw: Any, at: Path, to: Path, index: int) -> Step | None:
        """One step."""
        self.places[to] = at
        entry = self.map_of(raw, at)
        kind = entry.get("type", "handler")
        step: Step = {"id": self.step_id(entry, at, index)}
        if entry.get("description"):
            step["about"] = self.text_of(entry["description"], (*at, "description"))
        self.conditional(entry, at, to, step)
        readers: dict[str, Reader] = {
            "handler": self._handler, "flow": self._flow, "loop": self._loop, "branch": self.branching,
            "parallel": self._parallel, "group": self._group, "retry": self._retry,
        }  # fmt: skip
        if isinstance(kind, str) and kind in readers:
            self.vocabulary(entry, at, COMMON | OWN[kind], f"a {kind} step")
            readers[kind](entry, at, to, step)
        elif isinstance(kind, str) and ID.match(kind):
            self.constructed(kind, entry, at, to, step, COMMON)
        else:
            self.problem((*at, "type"), f"expected {', '.join(readers)} or the name of a construct, got {kind!r:.60}")
            return None
        self._finish(kind, entry, at, to, step)
        return step

    def _finish(self, kind: str, entry: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        """Arguments, output and time, which mean the same on every type."""
        if kind in CALLS or kind not in OWN:
            self.moved(entry, "args", at, to, "with", step)
        elif "args" in entry:
            self.problem((*at, "args"), f"a {kind} step takes no arguments")
        timed = self.timed(entry, at, step)
        name = "" if kind == "parallel" else self.bound(entry, at, step)
        if kind == "flow":
            self.telling(step, ("limit", "timeout"), name)
        elif timed or (self.tells and kind in CALLS):
            self.telling(step, ("timeout",), name)
        if kind not in CALLS and timed:
            step["on_error"] = "continue"

    # --- types --------------------------------------------------------------------------------------------------------

    def _handler(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        self.places[*to, "call"] = (*at, "handler")
        step["call"] = raw.get("handler")

    def _flow(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        self.places[*to, "flow"] = (*at, "flow")
        step["flow"] = raw.get("flow")

    def _group(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        step["do"] = self.block(raw.get("steps"), (*at, "steps"), (*to, "do"))

    def _retry(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        self._handler(raw, at, to, step)
        attempts = self.count(raw.get("max_attempts", DEFAULT_ATTEMPTS), (*at, "max_attempts"), 1, MAX_ATTEMPTS)
        delay_ms = self.count(raw.get("delay_ms", 0), (*at, "delay_ms"), 0, MAX_DELAY_MS)
        if attempts > 1:
            step["retry"] = {"max": attempts - 1}
            if delay_ms:
                step["retry"] |= {"delay": f"{delay_ms}ms", "max_delay": duration(delay_ms / 1000)}

    def _loop(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        most = self.count(raw.get("max_iterations", MAX_STEPS), (*at, "max_iterations"), 0, MAX_STEPS)
        loop: Step = {"max": most, "at": LOOP_INDEX}
        if raw.get("exit_when") is not None:
            self.places[*to, "loop", "while"] = (*at, "exit_when")
            loop["while"] = opposite(self.condition(raw["exit_when"], (*at, "exit_when")))
        step["loop"] = loop
        step["do"] = self.block(raw.get("steps"), (*at, "steps"), (*to, "do"))

    def _parallel(self, raw: Mapping[str, Any], at: Path, to: Path, step: Step) -> None:
        inside: Path = (*to, "do", 0) if raw.get("output") is not None else to
        branches: Step = {}
        for index, item in enumerate(self.list_of(raw.get("branches"), (*at, "branches"))):
            here: Path = (*at, "branches", index)
            entry = self.map_of(item, here)
            self.vocabulary(entry, here, {"name", "steps"}, "a branch")
            name = entry.get("name", f"branch_{index}")
            if not isinstance(name, str) or not ID.match(name) or name in branches:
                expected = "a name of its own, lower-case letters, digits, - and _"
                self.problem((*here, "name"), f"each branch has {expected}, got {name!r:.60}")
                continue
            branches[name] = self.block(entry.get("steps"), (*here, "steps"), (*inside, "parallel", "branches", name))
        self.written[PARALLEL_RESULTS] = None
        side: Step = {"parallel": {"branches": branches}, "as": PARALLEL_RESULTS}
        name = self.output(raw["output"], (*at, "output")) if inside != to else ""
        if name:  # under its own name as well
            also = {"id": "output", "set": {name: f"${{{PARALLEL_RESULTS}}}"}}
            step["do"] = [{"id": "branches", **side}, also]
        else:
            step.update(side)
