"""From a parsed document to a ``Flow``: shape, vocabulary, durations, references; every problem with its place.

Invariants:
  * Nothing is ignored: a word that the vocabulary lacks is refused with a suggestion, a word that the design knows and
    this version does not run is refused by name.
  * All problems of a document are reported at once, each with line and column where the reader of the file knew them.

Not here: reading YAML or JSON (done outside, with positions), order and references between steps (``plan``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from backend_core.errors import AuthorError, quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.schedule import cron_fault
from core_runtime.rules.flow.values import Value, ValueProblem, compile_value, parse_duration_s, parse_path

Path = tuple[str | int, ...]
Where = Callable[[Path], tuple[int, int]]
"""Line and column (from 1) of a node, (0, 0) when unknown."""

VERBS = (
    "call", "flow", "do", "set", "parallel", "choose", "each", "loop", "wait", "emit", "yield", "return", "fail",
)  # fmt: skip
ADVERBS = frozenset({
    "id", "about", "phase", "order", "needs", "when", "with", "as", "default", "timeout", "retry", "on_error",
    "on_missing", "catch", "finally", "once", "stream", "sealed", "enabled", "tags", "x",
})  # fmt: skip
FLOW_WORDS = frozenset({
    "flow", "version", "about", "extends", "input", "output", "vars", "defaults", "phases", "limits", "concurrency",
    "journal", "on", "catch", "finally", "sealed", "tags", "x", "steps",
})  # fmt: skip
RESERVED = frozenset({"input", "run"})
MAX_DEPTH = 32
MAX_STEPS = 10_000
MAX_RUN_STEPS = 1_000_000
MAX_PARALLEL = 1_000
MAX_OUTPUT_BYTES = 64 * 1024 * 1024
MAX_PROBLEMS = 50

KERNEL_ERRORS = frozenset({"missing", "timeout", "cancelled", "expression", "schema", "denied", "limit", "value"})
_CONSTRUCT = re.compile(r"([a-z][a-z0-9_-]{0,63}):([a-z][a-z0-9_.-]{0,63})\Z")
_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
_FLOW_ID = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*){0,7}\Z")
_E = TypeVar("_E", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a document."""

    text: str
    origin: model.Origin
    path: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.text}"


@dataclass(frozen=True, slots=True)
class Supplied:
    """Who supplied a step, and where it was written."""

    origin: model.Origin
    acts_as: tuple[str, ...] = ()


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
    reader = _Reader(source, where, supplied or {}, pack)
    flow = reader.flow(document, layer)
    if flow is None or reader.problems:
        raise invalid(source, reader.problems)
    return flow


def step_problems(steps: Any, *, source: str, where: Where) -> list[Problem]:
    """What is wrong with steps of a document of another kind; ``where`` knows places from the list of steps on."""
    reader = _Reader(source, where, {}, "")
    reader.steps(steps, (), "")
    return reader.problems


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
class _Reader:
    """One pass over one document. Methods return None after noting a problem, so that the pass goes on."""

    source: str
    where: Where
    supplied: Mapping[Path, Supplied]
    pack: str
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
        return Supplied(model.Origin(self.source, *self.where(at), self.pack), (self.pack,) if self.pack else ())

    def problem(self, at: Path, text: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(text, self.origin(at), "/".join(str(part) for part in at)))

    # -- flow ------------------------------------------------------------------------------------------------------

    def flow(self, document: Any, layer: model.Layer) -> model.Flow | None:
        if not isinstance(document, Mapping):
            self.problem((), f"expected a map with the words flow and steps, got {_kind(document)}")
            return None
        self._vocabulary(document, (), FLOW_WORDS, "a flow")
        flow_id = self._matching(
            document.get("flow"), ("flow",), _FLOW_ID, "dotted lower-case words, as in acme.answer"
        )
        if not document.get("steps"):
            self.problem(("steps",), "a flow needs at least one step under the word steps")
        return model.Flow(
            id=flow_id or "",
            version=self._text(document, (), "version"),
            about=self._text(document, (), "about"),
            phases=self._phases(document.get("phases", [])),
            defaults=self._defaults(document.get("defaults", {})),
            limits=self._limits(document.get("limits", {})),
            variables=self._variables(document.get("vars", {})),
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
            layer=layer,
        )

    def _phases(self, raw: Any) -> tuple[model.Phase, ...]:
        found = []
        for index, item in enumerate(self._list(raw, ("phases",))):
            at: Path = ("phases", index)
            entry = {"name": item} if isinstance(item, str) else item
            if not isinstance(entry, Mapping):
                self.problem(at, f"expected a phase's name or {{name, on_error, sealed}}, got {_kind(entry)}")
                continue
            self._vocabulary(entry, at, {"name", "on_error", "sealed"}, "a phase")
            name = self._matching(
                entry.get("name"), (*at, "name"), _ID, "a name of lower-case letters, digits, - and _"
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
        self._vocabulary(entry, at, {"on_error", "on_missing", "timeout", "retry"}, "defaults")
        return model.Defaults(
            on_error=self._choice(entry, at, "on_error", model.OnError),
            on_missing=self._choice(entry, at, "on_missing", model.OnMissing),
            timeout_s=self._duration(entry, at, "timeout"),
            retry=self._retry(entry.get("retry"), (*at, "retry")),
        )

    def _limits(self, raw: Any) -> model.FlowLimits:
        at: Path = ("limits",)
        entry = self._map(raw, at)
        self._vocabulary(entry, at, {"wall", "steps", "depth", "parallel", "output_bytes"}, "limits")
        usual = model.FlowLimits()
        return model.FlowLimits(
            self._duration(entry, at, "wall"),
            self._count(entry, at, "steps", usual.steps, MAX_RUN_STEPS),
            self._count(entry, at, "depth", usual.depth, MAX_DEPTH),
            self._count(entry, at, "parallel", usual.parallel, MAX_PARALLEL),
            self._count(entry, at, "output_bytes", usual.output_bytes, MAX_OUTPUT_BYTES),
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

    def _variables(self, raw: Any) -> tuple[tuple[str, Value], ...]:
        entry = self._map(raw, ("vars",))
        pairs = (
            (self._target(name, ("vars", name)), self._value(item, ("vars", name))) for name, item in entry.items()
        )
        return tuple((target[0], value) for target, value in pairs if target and value)

    # -- steps -----------------------------------------------------------------------------------------------------

    def steps(self, raw: Any, at: Path, parent: str) -> tuple[model.Step, ...]:
        """A list of steps below the step path ``parent``."""
        if parent.count("/") >= MAX_DEPTH:
            self.problem(at, f"steps are nested deeper than {MAX_DEPTH} levels")
            return ()
        found: list[model.Step] = []
        seen: set[str] = set()
        for index, item in enumerate(self._list(raw, at)):
            step = self.step(item, (*at, index), parent, index)
            if step is None:
                continue
            if step.id in seen:
                self.problem((*at, index), f"the id {step.id!r} is used twice among these steps; ids name results")
            seen.add(step.id)
            found.append(step)
        return tuple(found)

    def step(self, raw: Any, at: Path, parent: str, index: int) -> model.Step | None:
        self.step_count += 1
        if self.step_count > MAX_STEPS:
            self.problem(at, f"a flow has at most {MAX_STEPS} steps")
            return None
        if not isinstance(raw, Mapping):
            self.problem(at, f"expected a step, a map with one verb, got {_kind(raw)}")
            return None
        verb = self._verb(raw, at)
        step_id = f"step{index}"
        if "id" in raw:
            step_id = self._matching(raw["id"], (*at, "id"), _ID, "lower-case letters, digits, - and _") or step_id
        path = f"{parent}/{step_id}" if parent else step_id
        action = self._action(verb, raw, at, path) if verb else None
        if action is None:
            return None
        supplier = self.supplier(at)
        return model.Step(
            id=step_id,
            path=path,
            action=action,
            origin=supplier.origin,
            acts_as=supplier.acts_as,
            about=self._text(raw, at, "about"),
            phase=self._text(raw, at, "phase"),
            order=self._count(raw, at, "order", 0, 1_000_000),
            needs=self._words(raw.get("needs", []), (*at, "needs")),
            when=self._condition(raw, at, "when"),
            args=self._optional(raw, at, "with"),
            bind=self._target(raw["as"], (*at, "as")) if "as" in raw else (),
            default=self._value(raw["default"], (*at, "default")) if "default" in raw else None,
            timeout_s=self._timeout(raw, at),
            idle_s=self._idle(raw, at),
            once=self._optional(raw, at, "once"),
            stream=self._stream(raw.get("stream"), (*at, "stream")),
            retry=self._retry(raw.get("retry"), (*at, "retry")),
            on_error=self._choice(raw, at, "on_error", model.OnError),
            on_missing=self._choice(raw, at, "on_missing", model.OnMissing),
            catch=self._catches(raw.get("catch", []), (*at, "catch"), path),
            finally_=self.steps(raw.get("finally", []), (*at, "finally"), f"{path}/finally"),
            enabled=self._flag(raw, at, "enabled", default=True),
            sealed=self._flag(raw, at, "sealed", default=False),
            tags=self._words(raw.get("tags", []), (*at, "tags")),
        )

    def _verb(self, raw: Mapping[str, Any], at: Path) -> str | None:
        constructs = [word for word in raw if ":" in word]
        # `do` is the body of each, loop and constructs, and a verb of its own elsewhere
        holds = "each" in raw or "loop" in raw or bool(constructs)
        verbs = [word for word in VERBS if word in raw and not (word == "do" and holds)] + constructs
        self._vocabulary(raw, at, ADVERBS | frozenset(VERBS) | frozenset(constructs), "a step")
        if len(verbs) == 1:
            return verbs[0]
        if verbs:
            self.problem(at, f"a step needs exactly one verb; this one has {' and '.join(verbs)}")
        else:
            self.problem(at, f"a step needs exactly one verb of {', '.join(VERBS)}; this one has none")
        return None

    def _action(self, verb: str, raw: Mapping[str, Any], at: Path, path: str) -> model.Action | None:
        readers: dict[str, Callable[[Any, Path, str], model.Action | None]] = {
            "call": self._call,
            "flow": self._subflow,
            "do": lambda body, where, parent: model.Do(self.steps(body, where, parent)),
            "set": self._set,
            "parallel": self._parallel,
            "choose": self._choose,
            "wait": self._wait_for,
            "emit": lambda body, where, _path: model.Emit(self._expected(body, where)),
            "yield": lambda body, where, _path: model.Yield(self._expected(body, where)),
            "return": lambda body, where, _path: model.Return(self._expected(body, where)),
            "fail": self._fail,
        }
        if "stream" in raw and verb != "call":
            self.problem((*at, "stream"), "stream is an adverb of call: only a handler has items")
        if verb in readers:
            return readers[verb](raw[verb], (*at, verb), path)
        do = self.steps(raw.get("do", []), (*at, "do"), path)
        if ":" in verb:
            return self._construct(verb, raw[verb], (*at, verb), do)
        if not do:
            self.problem(at, f"{verb} needs its steps under the word do")
        body = self._map(raw[verb], (*at, verb))
        return self._each(body, (*at, verb), do) if verb == "each" else self._loop(body, (*at, verb), do)

    def _construct(self, verb: str, body: Any, at: Path, do: tuple[model.Step, ...]) -> model.Construct | None:
        match = _CONSTRUCT.match(verb)
        if match is None:
            self.problem(at, f"expected <pack>:<construct>, both lower-case names, got {quote(verb, 60)}")
            return None
        return model.Construct(match.group(1), match.group(2), self._expected(body, at), do)

    def _subflow(self, body: Any, at: Path, _path: str) -> model.Subflow | None:
        flow_id = self._matching(body, at, _FLOW_ID, "the id of a flow, as in acme.answer")
        return model.Subflow(flow_id) if flow_id else None

    def _wait_for(self, body: Any, at: Path, _path: str) -> model.Wait:
        if isinstance(body, str):
            return model.Wait(delay_s=self._duration({"wait": body}, at[:-1], "wait"))
        entry = self._map(body, at)
        self._vocabulary(entry, at, {"event", "match", "until"}, "wait")
        if ("event" in entry) == ("until" in entry) or ("match" in entry and "event" not in entry):
            self.problem(at, "wait expects a duration, {event, match} or {until}")
        return model.Wait(
            event=self._text(entry, at, "event"), match=self._condition(entry, at, "match"),
            until=self._optional(entry, at, "until"),
        )  # fmt: skip

    def _fail(self, body: Any, at: Path, _path: str) -> model.Fail:
        entry = {"type": body} if isinstance(body, str) else self._map(body, at)
        self._vocabulary(entry, at, {"type", "title", "detail", "retryable"}, "fail")
        kind = entry.get("type")
        if not isinstance(kind, str) or not kind or kind in KERNEL_ERRORS:
            self.problem(at, f"fail expects a type of your own, not one of {', '.join(sorted(KERNEL_ERRORS))}")
        return model.Fail(
            self._expected(kind, (*at, "type")), self._expected(entry.get("title", ""), (*at, "title")),
            self._expected(entry.get("detail", ""), (*at, "detail")),
            self._expected(entry.get("retryable", False), (*at, "retryable")),
        )  # fmt: skip

    def _expected(self, body: Any, at: Path) -> Value:
        return self._value(body, at) or compile_value(None)

    def _call(self, body: Any, at: Path, _path: str) -> model.Call | None:
        if isinstance(body, str) and 0 < len(body) <= 200 and body.isprintable() and "${" not in body:
            return model.Call(body)
        self.problem(at, f"call expects the name of a handler, got {_kind(body)}")
        return None

    def _set(self, body: Any, at: Path, _path: str) -> model.Set:
        pairs = []
        for name, item in self._map(body, at).items():
            target, value = self._target(name, (*at, name)), self._value(item, (*at, name))
            if target and value:
                pairs.append((target, value))
        return model.Set(tuple(pairs))

    def _parallel(self, body: Any, at: Path, path: str) -> model.Parallel:
        entry = self._map(body, at)
        self._vocabulary(entry, at, {"branches", "wait", "max"}, "parallel")
        branches = []
        for name, steps in self._map(entry.get("branches", {}), (*at, "branches")).items():
            word = self._matching(name, (*at, "branches", name), _ID, "lower-case letters, digits, - and _")
            branches.append((word or "", self.steps(steps, (*at, "branches", name), f"{path}/{word}")))
        if not branches:
            self.problem(at, "parallel needs at least one branch under the word branches")
        return model.Parallel(
            tuple(branches), self._wait(entry.get("wait", "all"), (*at, "wait"), len(branches)), self._max(entry, at)
        )

    def _wait(self, raw: Any, at: Path, branches: int) -> int:
        if raw in ("all", "any"):
            return 0 if raw == "all" else 1
        least = raw.get("min") if isinstance(raw, Mapping) and set(raw) == {"min"} else None
        if isinstance(least, int) and not isinstance(least, bool) and 1 <= least <= max(branches, 1):
            return least
        self.problem(at, f"wait expects all, any or {{min: 1…{branches}}}, got {raw!r:.80}")
        return 0

    def _choose(self, body: Any, at: Path, path: str) -> model.Choose:
        cases = []
        for index, item in enumerate(self._list(body, at)):
            here: Path = (*at, index)
            arm = self._map(item, here)
            below = f"{path}/{index}"
            if set(arm) == {"default"}:
                cases.append(model.Case(None, self.steps(arm["default"], (*here, "default"), below)))
            elif set(arm) == {"when", "do"}:
                cases.append(
                    model.Case(self._condition(arm, here, "when"), self.steps(arm["do"], (*here, "do"), below))
                )
            else:
                self.problem(here, "an arm of choose is {when, do} or {default}")
        return model.Choose(tuple(cases))

    def _each(self, body: Mapping[str, Any], at: Path, do: tuple[model.Step, ...]) -> model.Each | None:
        self._vocabulary(body, at, {"in", "as", "at", "parallel", "while", "collect"}, "each")
        source = self._optional(body, at, "in")
        if source is None:
            self.problem(at, "each needs the list or map to go through under the word in")
            return None
        item, index = (
            self._target(body.get("as", "item"), (*at, "as")),
            self._target(body.get("at", "index"), (*at, "at")),
        )
        if len(item) != 1 or len(index) != 1:
            self.problem(at, "as and at of each are plain names")
            return None
        return model.Each(
            source, do, item[0], index[0], self._count(body, at, "parallel", 1, 1000),
            self._condition(body, at, "while"), self._optional(body, at, "collect"),
        )  # fmt: skip

    def _loop(self, body: Mapping[str, Any], at: Path, do: tuple[model.Step, ...]) -> model.Loop:
        self._vocabulary(body, at, {"while", "until", "max"}, "loop")
        if "max" not in body:
            self.problem(at, "loop needs a bound under the word max")
        proceed, until = self._condition(body, at, "while"), self._condition(body, at, "until")
        return model.Loop(do, self._max(body, at), proceed, until)

    # -- adverbs ---------------------------------------------------------------------------------------------------

    def _timeout(self, raw: Mapping[str, Any], at: Path) -> float | None:
        if not isinstance(raw.get("timeout"), Mapping):
            return self._duration(raw, at, "timeout")
        entry = raw["timeout"]
        self._vocabulary(entry, (*at, "timeout"), {"total", "idle"}, "timeout")
        return self._duration(entry, (*at, "timeout"), "total")

    def _idle(self, raw: Mapping[str, Any], at: Path) -> float | None:
        if not isinstance(raw.get("timeout"), Mapping) or "idle" not in raw["timeout"]:
            return None
        if "stream" not in raw:
            self.problem((*at, "timeout", "idle"), "idle is the time between two items of a stream; this step has none")
        return self._duration(raw["timeout"], (*at, "timeout"), "idle")

    def _stream(self, raw: Any, at: Path) -> model.Stream | None:
        if raw is None:
            return None
        entry = self._map({} if raw is True else raw, at)
        self._vocabulary(entry, at, {"yield", "collect", "start", "as", "buffer"}, "stream")
        return model.Stream(
            self._optional(entry, at, "yield"), self._optional(entry, at, "collect"),
            self._optional(entry, at, "start"),
            self._target(entry["as"], (*at, "as")) if "as" in entry else (), self._count(entry, at, "buffer", 16, 1024),
        )  # fmt: skip

    def _retry(self, raw: Any, at: Path) -> model.Retry | None:
        if raw is None:
            return None
        entry = self._map({"max": raw} if isinstance(raw, int) else raw, at)
        self._vocabulary(entry, at, {"max", "delay", "backoff", "max_delay", "jitter", "when"}, "retry")
        limit = self._duration(entry, at, "max_delay")
        return model.Retry(
            max=self._count(entry, at, "max", 0, 100),
            delay_s=self._duration(entry, at, "delay") or 0.0,
            backoff=self._number(entry, at, "backoff", 1.0, 1.0, 100.0),
            max_delay_s=60.0 if limit is None else limit,
            jitter=self._number(entry, at, "jitter", 0.0, 0.0, 1.0),
            when=self._condition(entry, at, "when"),
        )

    def _catches(self, raw: Any, at: Path, path: str) -> tuple[model.Catch, ...]:
        found = []
        for index, item in enumerate(self._list(raw, at)):
            here: Path = (*at, index)
            entry = self._map(item, here)
            self._vocabulary(entry, here, {"error", "when", "as", "do"}, "catch")
            bind = self._target(entry.get("as", "error"), (*here, "as"))
            below = f"{path}/catch{index}" if path else f"catch{index}"
            found.append(
                model.Catch(
                    error=self._text(entry, here, "error") or "*",
                    do=self.steps(entry.get("do", []), (*here, "do"), below),
                    when=self._condition(entry, here, "when"),
                    bind=bind[0] if bind else "error",
                )
            )
        return tuple(found)

    # -- scalars ---------------------------------------------------------------------------------------------------

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
        """A value that decides; text without a reference would always be true, which nobody means."""
        value = self._optional(entry, at, word)
        if value is not None and isinstance(value.source, str) and not value.roots:
            self.problem((*at, word), f"{word} expects a reference such as ${{name}}, or true or false, got plain text")
        return value

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
            path = parse_path(raw if isinstance(raw, str) else repr(raw))
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
        self.problem((*at, word), f"{word} expects text, got {_kind(raw)}")
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
        self.problem(at, f"expected a map, got {_kind(raw)}")
        return {}

    def _list(self, raw: Any, at: Path) -> list[Any]:
        if isinstance(raw, list):
            return raw
        self.problem(at, f"expected a list, got {_kind(raw)}")
        return []

    def _words(self, raw: Any, at: Path) -> tuple[str, ...]:
        words = [raw] if isinstance(raw, str) else self._list(raw, at)
        for index, word in enumerate(words):
            if not isinstance(word, str):
                self.problem((*at, index), f"expected a name, got {_kind(word)}")
        return tuple(word for word in words if isinstance(word, str))


def _kind(value: Any) -> str:
    """What a document's author would call it."""
    names = {dict: "a map", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)
