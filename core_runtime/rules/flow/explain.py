"""Why a flow is as it is: each step with its origin, who it acts as, and what was done to it. Pure.

Shapes:
  * ``as_data``: ``{flow, version, digest, style, changes, steps: [{path, verb, handler,
    origin: {file, line, pack, layer}, acts_as, changes}]}``; ``changes`` of the flow are those that touched no
    step of it (skipped, refused, removed).
  * ``as_mermaid``: a flowchart in Mermaid's text form. What a document's author chose as text is escaped.
  * ``as_diff``: the composed documents with and without something, as a unified diff.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Composition
from core_runtime.rules.flow.plan import Plan, blocks_of
from core_runtime.rules.flow.values import Value

LABEL_CHARS = 60


def as_data(found: Composition) -> dict[str, Any]:
    """Everything, as JSON."""
    steps = [step for _, _, _, block in groups_of(found.plan) for step in every(block)]
    paths = {step.path for step in steps}
    return {
        "flow": found.plan.flow.id,
        "version": found.plan.flow.version,
        "digest": found.digest,
        "style": found.style,
        "steps": [_step(step, found) for step in steps],
        "changes": [change.as_dict() for change in found.changes if change.step not in paths],
    }


def as_mermaid(found: Composition) -> str:
    """A graph of the steps in their order; nested blocks are boxes, what another Pack supplied is marked with it."""
    return "\n".join(("flowchart TD", *_Graph(found.plan.flow.origin.pack).lines(found.plan.phases))) + "\n"


def as_diff(before: Composition, after: Composition, names: tuple[str, str]) -> str:
    """How the documents differ, as text; empty when they don't."""
    return difference(before.document, after.document, names)


def difference(before: Any, after: Any, names: tuple[str, str] = ("then", "now")) -> str:
    """How two documents differ, as a unified diff."""
    old, new = (json.dumps(one, indent=1, ensure_ascii=False, sort_keys=True).splitlines() for one in (before, after))
    return "".join(f"{line}\n" for line in difflib.unified_diff(old, new, *names, lineterm="", n=2))


def groups_of(plan: Plan) -> Iterator[tuple[str, str, bool, tuple[model.Step, ...]]]:
    """The blocks of the flow itself, in their order: what kind, its words, whether it is sealed, its steps."""
    yield from (("phase", phase.name, phase.sealed, steps) for phase, steps in plan.phases)
    yield from (("catch", catch.error, False, catch.do) for catch in plan.flow.catch)
    yield "finally", "", False, plan.flow.finally_


def lanes_of(step: model.Step) -> Iterator[tuple[str, str, tuple[model.Step, ...]]]:
    """The blocks directly below a step in their order: what kind, its words, its steps.

    Kinds: do, branch, when, default, catch, finally. Words: the branch's name, the condition, the errors' pattern.
    """
    match step.action:
        case model.Do(steps):
            yield "do", "", steps
        case model.Parallel(branches):
            yield from (("branch", name, steps) for name, steps in branches)
        case model.Choose(cases):
            for case in cases:
                yield "default" if case.when is None else "when", as_written(case.when), case.do
        case model.Each() | model.Loop() | model.Construct():
            yield "do", "", step.action.do
        case _:
            pass
    yield from (("catch", catch.error, catch.do) for catch in step.catch)
    if step.finally_:
        yield "finally", "", step.finally_


def as_written(value: Value | None) -> str:
    """A value as the document spells it."""
    if value is None:
        return ""
    return value.source if isinstance(value.source, str) else json.dumps(value.source, ensure_ascii=False, default=str)


def verb_of(step: model.Step) -> str:
    """The step's verb, as the document spells it."""
    return type(step.action).__name__.lower()


def every(steps: Iterable[model.Step]) -> Iterator[model.Step]:
    """Steps and all below them."""
    for step in steps:
        yield step
        for block in blocks_of(step):
            yield from every(block)


def _step(step: model.Step, found: Composition) -> dict[str, Any]:
    return {
        "path": step.path,
        "verb": verb_of(step),
        "handler": step.action.handler if isinstance(step.action, model.Call) else "",
        "phase": step.phase,
        "origin": {
            "file": step.origin.source, "line": step.origin.line, "pack": step.origin.pack,
            "layer": step.origin.layer.name.lower(),
        },
        "acts_as": list(step.acts_as),
        "changes": [change.as_dict() for change in found.changes if change.step == step.path],
    }


class _Graph:
    """Numbers the nodes, so that no name of a document becomes part of the graph's syntax."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._count = 0

    def lines(self, phases: Sequence[tuple[model.Phase, Sequence[model.Step]]]) -> Iterator[str]:
        last = ""
        for phase, steps in phases:
            if not steps:
                continue
            if phase.name:
                box = self._next()
                title = f"{phase.name} (sealed)" if phase.sealed else phase.name
                yield f'  subgraph {box}["{_label(title)}"]'
                inner, last = self._block(steps, last)
                yield from inner
                yield "  end"
            else:
                inner, last = self._block(steps, last)
                yield from inner

    def _block(self, steps: Sequence[model.Step], last: str) -> tuple[list[str], str]:
        found: list[str] = []
        for step in steps:
            node = self._next()
            found.append(f'  {node}["{_label(self._words(step))}"]')
            if last:
                found.append(f"  {last} --> {node}")
            for kind, words, block in lanes_of(step):
                inner, _ = self._block(block, "")
                if inner:
                    box = self._next()
                    title = f"{kind} {words} in {step.id}" if words else f"{kind} in {step.id}"
                    found += [f'  subgraph {box}["{_label(title)}"]', *inner, "  end", f"  {node} -.-> {box}"]
            last = node
        return found, last

    def _words(self, step: model.Step) -> str:
        what = step.action.handler if isinstance(step.action, model.Call) else verb_of(step)
        by = f" [{', '.join(step.acts_as)}]" if step.acts_as and step.acts_as != (self._owner,) else ""
        return f"{step.id}: {what}{by}"

    def _next(self) -> str:
        self._count += 1
        return f"n{self._count}"


_ENTITIES = str.maketrans({"#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "`": "#96;"})


def _label(text: str) -> str:
    """Text between quotation marks of a graph: nothing in it ends them, is markup, or is invisible."""
    short = text if len(text) <= LABEL_CHARS else f"{text[: LABEL_CHARS - 1]}…"
    return "".join(c if c.isprintable() else "·" for c in short).translate(_ENTITIES)
