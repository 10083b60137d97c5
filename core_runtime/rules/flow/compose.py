"""Composition: one flow, changed by modifiers of people who don't know each other. Pure.

Order of modifiers: layer, then ``order`` (topologically), then priority, Pack id, modifier id. All selectors are
resolved against the original flow; then patch → replace → remove → wrap → insert, each in that order (``wrap`` from
the last to the first, so that a smaller priority ends further out).

Invariants:
  * The order in which files were found never matters; composing twice gives the same; taking a modifier away gives the
    flow as it would be without it.
  * A modifier is atomic: one operation that can't be done takes back all of them.
  * Sealed steps, phases and flows refuse, always.
  * Each step has exactly one origin. It acts as whoever supplied it: a patched one as both at once, which is less than
    either.
  * Whatever does not come to pass is told, with both parties where there are two, and who won.

Not here: reading documents, who holds ``flow.modify`` (asked of ``World``), showing it (``explain``).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from backend_core.ecosystem.versions import in_range
from core_runtime.rules.flow import model, tree
from core_runtime.rules.flow.changes import Change, Status
from core_runtime.rules.flow.modifier import IfMissing, Insert, Modifier, Op, Wrap
from core_runtime.rules.flow.parse_scalars import Supplied
from core_runtime.rules.flow.plan import Plan, blocks_of, plan_flow
from core_runtime.rules.flow.rewrite import Refused, Rewrite, change_of
from core_runtime.rules.flow.targets import Index, closed_by
from core_runtime.rules.globs import matches

MAX_FAILURES = 8
ANY = "\0"
"""No separator: ``*`` in a flow's pattern covers dots as well."""


class World(Struct, frozen=True):
    """What composing asks of its surroundings."""

    has_interface: Callable[[str], bool] = lambda _key: True
    handlers_of: Callable[[str], Iterable[str]] = lambda _alias: ()
    may_modify: Callable[[str, str], bool] = lambda _pack, _flow: False
    may_run: Callable[[str, str], bool] = lambda _pack, _flow: False


class Base(Struct, frozen=True):
    """A flow as it was written: ``document`` is valid, ``flow`` is what it says.

    ``style``: the older one that it was translated from, ``""`` for none; ``changes``: of files that made it together.
    """

    document: Mapping[str, Any]
    flow: model.Flow
    style: str = ""
    changes: tuple[Change, ...] = ()

    @property
    def owner(self) -> str:
        """The Pack that supplied it, or ``""``."""
        return self.flow.origin.pack


class Composition(Struct, frozen=True):
    """The flow that runs, and how it came to be. ``digest`` covers every word and who each step acts as."""

    plan: Plan
    document: Mapping[str, Any]
    digest: str
    changes: tuple[Change, ...] = ()
    style: str = ""


def compose(base: Base, modifiers: Sequence[Modifier], world: World = World()) -> Composition:
    """Apply every modifier that is about this flow, may be applied and can be."""
    nodes = _nodes(base)
    index = Index.of(nodes, base.flow, world.handlers_of)
    changes: list[Change] = []
    admitted = _admitted(base, modifiers, world, index, changes)
    failures: Counter[str] = Counter()
    while True:
        attempt = Rewrite(base.flow, base.document, [node.copy() for node in nodes], index, admitted)
        try:
            plan, document, digest = attempt.run()
        except Refused as refused:
            changes += _given_up(refused.loser, refused)
            failures[refused.loser.pack] += 1
            admitted = [modifier for modifier in admitted if modifier is not refused.loser]
            if failures[refused.loser.pack] > MAX_FAILURES:  # each costs everybody a new attempt
                changes += [c for m in admitted if m.pack == refused.loser.pack for c in _given_up(m, None)]
                admitted = [modifier for modifier in admitted if modifier.pack != refused.loser.pack]
        else:
            told = (*base.changes, *attempt.changes, *changes)
            return Composition(plan, document, digest, told, base.style)


def _given_up(modifier: Modifier, refused: Refused | None) -> list[Change]:
    """Every operation of a modifier that is taken back as a whole."""
    why = "another operation of this modifier was refused" if refused else "too many of this Pack's can't be applied"
    return [
        change_of(modifier, op, refused.step, Status.REFUSED, refused.why)
        if refused is not None and op is refused.op
        else change_of(modifier, op, "", Status.SKIPPED, why)
        for op in modifier.ops
    ]


def ordered(modifiers: Sequence[Modifier]) -> tuple[list[Modifier], list[Modifier]]:
    """The modifiers in the order in which they count, and those that wait for each other in a circle.

    ``order`` moves within a layer only: a lower layer always comes first.
    """
    found: list[Modifier] = []
    stuck: list[Modifier] = []
    for layer in model.Layer:
        same = sorted((m for m in modifiers if m.layer is layer), key=_rank)
        later: dict[int, set[int]] = {number: set() for number in range(len(same))}
        for number, modifier in enumerate(same):
            for other, candidate in enumerate(same):
                if candidate.id in modifier.after and other != number:
                    later[number].add(other)
                if candidate.id in modifier.before and other != number:
                    later[other].add(number)
        done: set[int] = set()
        ready = [number for number, waits in later.items() if not waits]
        heapq.heapify(ready)
        while ready:
            number = heapq.heappop(ready)
            done.add(number)
            found.append(same[number])
            for other, waits in later.items():
                if number in waits:
                    waits.discard(number)
                    if not waits:
                        heapq.heappush(ready, other)
        stuck += [modifier for number, modifier in enumerate(same) if number not in done]
    return found, stuck


def _rank(modifier: Modifier) -> tuple[int, str, str]:
    return modifier.priority, modifier.pack, modifier.id


def concerns(modifier: Modifier, flow_id: str) -> bool:
    """Whether the modifier is about this flow."""
    return any(matches(target, flow_id, ANY) for target in modifier.targets)


def _nodes(base: Base) -> list[tree.Node]:
    owner = (base.owner,) if base.owner else ()
    supplied = {step.path: Supplied(step.origin, step.acts_as) for step in _every(base.flow.steps)}
    nodes = tree.split(base.document["steps"], ("steps",), "", lambda _at: Supplied(base.flow.origin, owner))
    for node in (inner for top in nodes for inner in top.walk()):
        node.supplied = supplied[node.path]
    tree.sorted_like(nodes, plan_flow(base.flow).flow.steps, blocks_of)
    return nodes


def _every(steps: Iterable[model.Step]) -> Iterable[model.Step]:
    for step in steps:
        yield step
        for block in blocks_of(step):
            yield from _every(block)


# --- who is admitted -------------------------------------------------------------------------------------------------


def _admitted(
    base: Base, modifiers: Sequence[Modifier], world: World, index: Index, changes: list[Change]
) -> list[Modifier]:
    """The modifiers to apply, in order; why each other one is not."""
    concerned = [modifier for modifier in modifiers if concerns(modifier, base.flow.id)]
    usable = []
    for modifier in concerned:
        status, why = _obstacle(base, modifier, world, index)
        if why:
            changes += [change_of(modifier, op, "", status, why) for op in modifier.ops]
        else:
            usable.append(modifier)
    found, stuck = ordered(usable)
    names = ", ".join(modifier.name for modifier in stuck)
    changes += [
        change_of(modifier, op, "", Status.REFUSED, f"their order is a circle: {names}")
        for modifier in stuck
        for op in modifier.ops
    ]
    kept: list[Modifier] = []
    for modifier in found:
        rival = next((m for m in kept if modifier.id in m.conflicts or m.id in modifier.conflicts), None)
        if rival is None:
            kept.append(modifier)
        else:
            why = f"it conflicts with {rival.name}, which comes first and won"
            changes += [change_of(modifier, op, "", Status.SKIPPED, why) for op in modifier.ops]
    return kept


def _obstacle(base: Base, modifier: Modifier, world: World, index: Index) -> tuple[Status, str]:
    """What keeps a modifier from being applied at all: ``(status, why)``, why empty when nothing does."""
    flow = base.flow
    if not modifier.enabled:
        return Status.SKIPPED, "it is switched off"
    if modifier.pack and modifier.pack != base.owner and not world.may_modify(modifier.pack, flow.id):
        return Status.REFUSED, f"{modifier.pack} was not granted flow.modify for {flow.id}"
    absent = [key for key in modifier.interfaces if not world.has_interface(key)]
    if absent:
        return Status.SKIPPED, f"nobody provides {', '.join(absent)} now"
    if modifier.flow_version and not _version_fits(flow.version, modifier.flow_version):
        return Status.SKIPPED, f"it is for version {modifier.flow_version}; the flow has {flow.version or 'none'}"
    if flow.sealed:
        return Status.REFUSED, f"the flow {flow.id} is sealed"
    for op in modifier.ops:
        status, why = _target_obstacle(op, modifier, index)
        if why:
            return status, why
    return Status.APPLIED, ""


def _target_obstacle(op: Op, modifier: Modifier, index: Index) -> tuple[Status, str]:
    for selector in op.targets if isinstance(op, Wrap) else (op.target,):
        if isinstance(op, Insert) and op.place.endswith("_in"):
            blocks = index.blocks(selector)
            found, sealed = len(blocks), next((why for path in blocks if (why := index.closed.get(path))), "")
        else:
            paths = index.find(selector)
            if len(paths) > 1 and not selector.startswith("@"):
                return Status.REFUSED, f"{selector!r} could be {' or '.join(paths)}; name the path"
            places = [closed_by(index, path, beside=isinstance(op, Insert)) for path in paths]
            found, sealed = len(paths), next((why for why in places if why), "")
        if sealed:
            return Status.REFUSED, sealed
        if found or (modifier.if_missing is IfMissing.APPEND and isinstance(op, Insert)):
            continue
        status = Status.REFUSED if modifier.if_missing is IfMissing.FAIL else Status.SKIPPED
        return status, f"there is no step {selector!r} in it"
    return Status.APPLIED, ""


def _version_fits(version: str, wanted: str) -> bool:
    numbers = version.split(".") if version else ["0"]
    try:
        return in_range(".".join([*numbers, "0", "0"][: max(3, len(numbers))]), wanted)
    except ValueError:
        return False
