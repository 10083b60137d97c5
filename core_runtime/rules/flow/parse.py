"""From a parsed document to a ``Flow``: shape, vocabulary, durations, references; every problem with its place.

Invariants:
  * Nothing is ignored: a word that the vocabulary lacks is refused with a suggestion, a word that the design knows and
    this version does not run is refused by name.
  * All problems of a document are reported at once, each with line and column where the reader of the file knew them.

Not here: reading YAML or JSON (done outside, with positions), order and references between steps (``plan``), older
styles (``older``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse_scalars import Path, Problem, Supplied, Where, invalid, kind_of
from core_runtime.rules.flow.parse_steps import FLOW_ID, ID, MAX_DEPTH, Steps
from core_runtime.rules.flow.schedule import cron_fault
from core_runtime.rules.flow.values import Value

FLOW_WORDS = frozenset({
    "flow", "version", "about", "extends", "input", "output", "vars", "defaults", "phases", "limits", "concurrency",
    "journal", "on", "catch", "finally", "sealed", "tags", "x", "steps",
})  # fmt: skip
MAX_RUN_STEPS = 1_000_000
MAX_PARALLEL = 1_000
MAX_OUTPUT_BYTES = 64 * 1024 * 1024


def parse_flow(
    document: Any,
    *,
    source: str,
    where: Where = lambda _path: (0, 0),
    layer: model.Layer = model.Layer.CORE,
    supplied: Mapping[Path, Supplied] | None = None,
    pack: str = "",
) -> model.Flow:
    """Understand one flow document, or raise ``AuthorError`` (code ``flow_invalid``) with ``fields.problems``.

    ``supplied`` names, for steps by their place in the document, who else than ``pack`` supplied them; the steps below
    are theirs too.
    """
    reader = _Reader(source, where, supplied or {}, pack, layer)
    flow = reader.flow(document)
    if flow is None or reader.problems:
        raise invalid(source, reader.problems)
    return flow


def step_problems(steps: Any, *, source: str, where: Where) -> list[Problem]:
    """What is wrong with steps of a document of another kind; ``where`` knows places from the list of steps on."""
    reader = _Reader(source, where, {}, "", model.Layer.CORE)
    reader.steps(steps, (), "")
    return reader.problems


@dataclass(slots=True)
class _Reader(Steps):
    """One pass over one flow document."""

    def flow(self, document: Any) -> model.Flow | None:
        if not isinstance(document, Mapping):
            self.problem((), f"expected a map with the words flow and steps, got {kind_of(document)}")
            return None
        self._vocabulary(document, (), FLOW_WORDS, "a flow")
        flow_id = self._matching(
            document.get("flow"), ("flow",), FLOW_ID, "dotted lower-case words, as in acme.answer"
        )
        extends = None
        if "extends" in document:
            extends = self._matching(document["extends"], ("extends",), FLOW_ID, "the id of a flow")
        elif not document.get("steps"):
            self.problem(("steps",), "a flow needs at least one step under the word steps")
        return model.Flow(
            id=flow_id or "",
            version=self._text(document, (), "version"),
            about=self._text(document, (), "about"),
            extends=extends or "",
            phases=self._phases(document.get("phases", [])),
            defaults=self._defaults(document.get("defaults", {})),
            limits=self._limits(document.get("limits", {})),
            variables=self._variables(document.get("vars", {})),
            spread=self._spread(document.get("vars")),
            input=self._map(document["input"], ("input",)) if "input" in document else None,
            concurrency=self._concurrency(document.get("concurrency", {})),
            journal=self._choice(document, (), "journal", model.Journal) or model.Journal.NONE,
            triggers=self._triggers(document.get("on", [])),
            catch=self._catches(document.get("catch", []), ("catch",), ""),
            finally_=self.steps(document.get("finally", []), ("finally",), "finally"),
            output=self._value(document["output"], ("output",)) if "output" in document else None,
            steps=self.steps(document.get("steps") or [], ("steps",), ""),
            sealed=self._flag(document, (), "sealed", default=False),
            tags=self._words(document.get("tags", []), ("tags",)),
            origin=self.origin(()),
            layer=self.layer,
        )

    def _phases(self, raw: Any) -> tuple[model.Phase, ...]:
        found = []
        for index, item in enumerate(self._list(raw, ("phases",))):
            at: Path = ("phases", index)
            entry = {"name": item} if isinstance(item, str) else item
            if not isinstance(entry, Mapping):
                self.problem(at, f"expected a phase's name or {{name, on_error, sealed}}, got {kind_of(entry)}")
                continue
            self._vocabulary(entry, at, {"name", "on_error", "sealed"}, "a phase")
            name = self._matching(
                entry.get("name"), (*at, "name"), ID, "a name of lower-case letters, digits, - and _"
            )
            sealed = self._flag(entry, at, "sealed", default=False)
            on_error = self._choice(entry, at, "on_error", model.OnError)
            if sealed and on_error is model.OnError.CONTINUE:
                self.problem(at, "a sealed phase fails closed: on_error can't be continue")
            found.append(model.Phase(name or "", on_error, sealed))
        return tuple(found)

    def _defaults(self, raw: Any) -> model.Defaults:
        at: Path = ("defaults",)
        entry = self._map(raw, at)
        words = {"on_error", "on_missing", "on_absent", "flow_control", "timeout", "retry"}
        self._vocabulary(entry, at, words, "defaults")
        return model.Defaults(
            on_error=self._choice(entry, at, "on_error", model.OnError),
            on_missing=self._choice(entry, at, "on_missing", model.OnMissing),
            on_absent=self._choice(entry, at, "on_absent", model.OnAbsent) or model.OnAbsent.SKIP,
            flow_control=self._flag(entry, at, "flow_control", default=False),
            timeout_s=self._duration(entry, at, "timeout"),
            retry=self._retry(entry.get("retry"), (*at, "retry")),
        )

    def _limits(self, raw: Any) -> model.FlowLimits:
        at: Path = ("limits",)
        entry = self._map(raw, at)
        words = {"wall", "steps", "depth", "parallel", "output_bytes", "recursion"}
        self._vocabulary(entry, at, words, "limits")
        usual = model.FlowLimits()
        return model.FlowLimits(
            self._duration(entry, at, "wall"),
            self._count(entry, at, "steps", usual.steps, MAX_RUN_STEPS),
            self._count(entry, at, "depth", usual.depth, MAX_DEPTH),
            self._count(entry, at, "parallel", usual.parallel, MAX_PARALLEL),
            self._count(entry, at, "output_bytes", usual.output_bytes, MAX_OUTPUT_BYTES),
            self._count(entry, at, "recursion", 0, MAX_DEPTH) if "recursion" in entry else None,
        )

    def _concurrency(self, raw: Any) -> model.Concurrency:
        at: Path = ("concurrency",)
        entry = self._map(raw, at)
        self._vocabulary(entry, at, {"key", "mode", "max"}, "concurrency")
        mode = self._choice(entry, at, "mode", model.Overlap) or model.Overlap.PARALLEL
        return model.Concurrency(self._optional(entry, at, "key"), mode, self._count(entry, at, "max", 0, MAX_PARALLEL))

    def _triggers(self, raw: Any) -> tuple[model.Trigger, ...]:
        found = []
        for index, item in enumerate(self._list(raw, ("on",))):
            at: Path = ("on", index)
            entry = self._map({"event": item} if isinstance(item, str) else item, at)
            self._vocabulary(entry, at, {"event", "match", "every", "cron", "with"}, "a trigger")
            if len({"event", "every", "cron"} & entry.keys()) != 1:
                self.problem(at, "a trigger is one of event, every and cron")
            cron = self._text(entry, at, "cron")
            if cron and cron_fault(cron):
                self.problem((*at, "cron"), cron_fault(cron))
            every_s = self._duration(entry, at, "every")
            if every_s is not None and every_s < 1:
                self.problem((*at, "every"), "a schedule repeats after one second at the least")
            found.append(
                model.Trigger(
                    self._text(entry, at, "event"), self._condition(entry, at, "match"), every_s, cron,
                    self._optional(entry, at, "with"),
                )
            )  # fmt: skip
        return tuple(found)

    def _spread(self, raw: Any) -> Value | None:
        """``vars: ${input}``: each entry of the map is a variable."""
        if not isinstance(raw, str):
            return None
        value = self._value(raw, ("vars",))
        if value is not None and not value.roots:
            self.problem(("vars",), "vars expects a map, or a reference to one such as ${input}")
        return value

    def _variables(self, raw: Any) -> tuple[tuple[str, Value], ...]:
        if isinstance(raw, str):
            return ()
        entry = self._map(raw, ("vars",))
        pairs = (
            (self._target(name, ("vars", name)), self._value(item, ("vars", name))) for name, item in entry.items()
        )
        return tuple((target[0], value) for target, value in pairs if target and value)
