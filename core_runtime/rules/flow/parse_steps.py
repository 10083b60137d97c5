"""Steps of a flow document: exactly one verb each, everything else an adverb."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backend_core.errors import quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse_adverbs import Adverbs
from core_runtime.rules.flow.parse_scalars import MAX_STEPS, Path, kind_of
from core_runtime.rules.flow.values import Value, compile_value

VERBS = (
    "call", "flow", "do", "set", "parallel", "choose", "each", "loop", "wait", "emit", "yield", "return", "fail",
)  # fmt: skip
ADVERBS = frozenset({
    "id", "about", "phase", "order", "needs", "when", "with", "as", "default", "timeout", "retry", "on_error",
    "on_missing", "catch", "finally", "once", "stream", "sealed", "enabled", "tags", "x",
})  # fmt: skip
MAX_DEPTH = 32
KERNEL_ERRORS = frozenset({
    "missing", "timeout", "cancelled", "expression", "schema", "denied", "limit", "value", "abort",
})  # fmt: skip
ID = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
FLOW_ID = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*){0,7}\Z")
_NOTHING = compile_value(None)
_CONSTRUCT = re.compile(r"([a-z][a-z0-9_-]{0,63}|\*):([a-z][a-z0-9_.-]{0,63})\Z")


@dataclass(slots=True)
class Steps(Adverbs):
    """See the module."""

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
            self.problem(at, f"expected a step, a map with one verb, got {kind_of(raw)}")
            return None
        verb = self._verb(raw, at)
        step_id = f"step{index}"
        if "id" in raw:
            step_id = self._matching(raw["id"], (*at, "id"), ID, "lower-case letters, digits, - and _") or step_id
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
            expected = "<pack>:<construct>, lower-case names, * for whoever supplies it"
            self.problem(at, f"expected {expected}, got {quote(verb, 60)}")
            return None
        return model.Construct(match.group(1).strip("*"), match.group(2), self._expected(body, at), do)

    def _subflow(self, body: Any, at: Path, _path: str) -> model.Subflow | None:
        flow_id = self._matching(body, at, FLOW_ID, "the id of a flow, as in acme.answer")
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
        self.problem(at, f"call expects the name of a handler, got {kind_of(body)}")
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
            word = self._matching(name, (*at, "branches", name), ID, "lower-case letters, digits, - and _")
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
        raw = body.get("in")
        handler, args, source = "", None, None
        if isinstance(raw, Mapping) and "call" in raw:
            self._vocabulary(raw, (*at, "in"), {"call", "with"}, "what each goes through")
            called = self._call(raw["call"], (*at, "in", "call"), "")
            handler, args, source = called.handler if called else "", self._optional(raw, (*at, "in"), "with"), _NOTHING
        else:
            source = self._optional(body, at, "in")
        if source is None:
            self.problem(at, "each needs the list or map to go through under the word in, or {call, with} of a stream")
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
            self._condition(body, at, "while"), self._optional(body, at, "collect"), handler, args,
        )  # fmt: skip

    def _loop(self, body: Mapping[str, Any], at: Path, do: tuple[model.Step, ...]) -> model.Loop:
        self._vocabulary(body, at, {"while", "until", "max", "at"}, "loop")
        if "max" not in body:
            self.problem(at, "loop needs a bound under the word max")
        proceed, until = self._condition(body, at, "while"), self._condition(body, at, "until")
        name = self._target(body["at"], (*at, "at")) if "at" in body else ()
        if len(name) > 1:
            self.problem((*at, "at"), "at of a loop is a plain name")
        return model.Loop(do, self._max(body, at), proceed, until, name[0] if name else "")
