"""``extends``: a flow that begins with another one's words and steps. Pure.

Words that the flow has itself count; of ``vars``, ``defaults`` and ``limits`` each entry. Its steps replace those of
the same id in their place, all others come behind. What starts the other flow, and how it is called, stays with it.

Invariants:
  * A step that was taken over acts as whoever supplied it *and* as the flow that took it over: less than either, so
    that nobody has another's steps done with values of his own choice and the other's rights.
  * Nothing of a sealed flow is taken over.

Not here: which flow has that id, and who may take it over (``flow_composer``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from backend_core.errors import AuthorError
from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Base
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.parse_scalars import Path, Supplied
from core_runtime.rules.flow.plan import plan_flow

MAX_DEPTH: Final = 8
OWN: Final = frozenset({"flow", "version", "about", "extends", "on", "sealed", "tags", "x"})
"""Words that say something of one flow only."""
MERGED: Final = ("vars", "defaults", "limits")


def extended(own: Base, base: Base) -> Base:
    """``own`` with what it takes over from ``base``. ``AuthorError`` where the whole is no flow."""
    if base.flow.is_sealed():
        raise refused(own, f"{base.flow.id} is sealed")
    document: dict[str, Any] = {word: value for word, value in base.document.items() if word not in OWN}
    document |= {word: value for word, value in own.document.items() if word not in {"extends", "steps"}}
    for word in MERGED:
        theirs, mine = base.document.get(word), own.document.get(word)
        if mine and theirs and mine != theirs and (isinstance(mine, str) or isinstance(theirs, str)):
            raise refused(own, f"{word} of both can't be put together: one of them is a reference to a whole map")
        if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
            document[word] = {**theirs, **mine}
    supplied: dict[Path, Supplied] = {
        (word,): _both(base.flow.origin, base.owner, own)
        for word in ("catch", "finally")
        if word in base.document and word not in own.document
    }
    document["steps"] = _steps(own, base, supplied)
    flow = parse_flow(
        document, source=own.flow.origin.source, where=lambda _at: (own.flow.origin.line, own.flow.origin.column),
        layer=own.flow.layer, supplied=supplied, pack=own.owner,
    )  # fmt: skip
    plan_flow(flow)
    return Base(document, flow)


def refused(own: Base, why: str) -> AuthorError:
    """The error of a flow that extends what it can't."""
    return AuthorError(
        f"The flow {own.flow.id} can't extend {own.flow.extends}", code="flow_invalid",
        detail=f"{own.flow.origin.source}: {why}.", hint="Name a flow that is there, or write the steps out.",
        fields={"source": own.flow.origin.source, "line": own.flow.origin.line, "column": own.flow.origin.column},
    )  # fmt: skip


def _steps(own: Base, base: Base, supplied: dict[Path, Supplied]) -> list[Any]:
    mine: dict[str, tuple[Any, model.Step]] = {
        step.id: (raw, step) for raw, step in _pairs(own.document.get("steps") or [], own.flow.steps)
    }
    found: list[Any] = []
    for raw, step in _pairs(base.document["steps"], base.flow.steps):
        at: Path = ("steps", len(found))
        taken = mine.pop(step.id, None)
        if taken is None:
            supplied[at] = Supplied(step.origin, tuple(sorted({*step.acts_as, *filter(None, (own.owner,))})))
            found.append({**raw, "id": step.id})
        else:
            supplied[at] = Supplied(taken[1].origin, taken[1].acts_as)
            found.append({**taken[0], "id": taken[1].id})
    for raw, step in mine.values():
        supplied["steps", len(found)] = Supplied(step.origin, step.acts_as)
        found.append({**raw, "id": step.id})
    return found


def _pairs(raw: Sequence[Any], steps: Sequence[model.Step]) -> list[tuple[Any, model.Step]]:
    """Each step's text with what it means; the reader keeps their order."""
    return list(zip(raw, steps, strict=True))


def _both(origin: model.Origin, owner: str, own: Base) -> Supplied:
    return Supplied(origin, tuple(sorted(set(filter(None, (owner, own.owner))))))
