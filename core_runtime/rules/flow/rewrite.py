"""One attempt to rewrite a flow's tree by modifiers that are all admitted: every operation, or ``Refused``. Pure.

Invariants:
  * ``Refused`` names the one modifier that can't be applied as a whole; nothing of the attempt is used then.
  * Of two modifiers that want different things of one place, the later one counts, and the other is told.
  * A step that is put in the place of others takes over what those were needed for; a step that is taken out is needed
    by nobody any more.

Not here: who is admitted, and trying again without the loser (``compose``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from backend_core.canonical import canonical_json, sha256_hex
from backend_core.ecosystem.json_patch import PatchError, Pointer, apply_patch, within, written
from backend_core.errors import AuthorError
from core_runtime.rules.digest import PREFIX
from core_runtime.rules.flow import model, tree
from core_runtime.rules.flow.changes import Change, Status
from core_runtime.rules.flow.modifier import Insert, Modifier, Op, Patch, Remove, Replace, Wrap
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.parse_scalars import Path, Supplied
from core_runtime.rules.flow.plan import Plan, plan_flow
from core_runtime.rules.flow.targets import Index

Nodes = list[tree.Node]


class Refused(Exception):  # noqa: N818 - a signal between two modules, no error of anybody's code
    """``loser`` can't be applied as a whole, because of ``op`` at ``step``."""

    def __init__(self, loser: Modifier, op: Op, step: str, why: str) -> None:
        super().__init__(why)
        self.loser, self.op, self.step, self.why = loser, op, step, why


class _Touch(Struct, frozen=True):
    """A modifier changed a step; ``places`` are the words that a patch wrote."""

    modifier: Modifier
    op: Op
    places: tuple[Pointer, ...] = ()


class Rewrite(Struct):
    """Call ``run`` once. ``nodes`` is a copy that may be changed; ``index`` describes the original."""

    flow: model.Flow
    original: Mapping[str, Any]
    nodes: Nodes
    index: Index
    modifiers: Sequence[Modifier]
    changes: list[Change] = field(default_factory=list)
    _steps: dict[str, tree.Node] = field(default_factory=dict)
    _blocks: dict[str, Nodes] = field(default_factory=dict)
    _around: dict[str, Nodes] = field(default_factory=dict)
    _touched: dict[str, list[_Touch]] = field(default_factory=dict)
    _placed: dict[tuple[str, str], int] = field(default_factory=dict)
    _brought_by: dict[int, _Touch] = field(default_factory=dict)

    def run(self) -> tuple[Plan, Mapping[str, Any], str]:
        """The plan, the composed document and its digest. Raises ``Refused``."""
        self._register(self.nodes)
        for kind, apply in ((Patch, self._patch), (Replace, self._replace), (Remove, self._remove)):
            self._each(self.modifiers, kind, apply)
        self._each(self.modifiers[::-1], Wrap, self._wrap)
        self._each(self.modifiers, Insert, self._insert)
        return self._result()

    def _each(self, modifiers: Iterable[Modifier], kind: type[Op], apply: Callable[[Modifier, Any], None]) -> None:
        for modifier in modifiers:
            for op in modifier.ops:
                if isinstance(op, kind):
                    apply(modifier, op)

    def _register(self, block: Nodes) -> None:
        for node in block:
            self._steps[node.path] = node
            self._around[node.path] = block
            for inner in node.blocks:
                self._blocks[inner.path] = inner.nodes
                self._register(inner.nodes)

    # --- patch, replace, remove --------------------------------------------------------------------------------------

    def _patch(self, modifier: Modifier, op: Patch) -> None:
        places = written(op.operations)
        for path in self.index.find(op.target):
            node = self._steps[path]
            if modifier.pack and node.handler.startswith(model.KERNEL_PREFIX):
                raise Refused(modifier, op, path, "a Pack may not change what the host itself does")
            try:
                own = apply_patch(node.own, op.operations)
            except PatchError as error:
                raise Refused(modifier, op, path, f"the patch does not apply: {error.detail or error.title}") from error
            if not isinstance(own, dict) or tree.skeleton(own) != tree.skeleton(node.own):
                raise Refused(modifier, op, path, "a patch may not add, remove or reach into blocks of steps")
            for touch in self._touched.get(path, []):
                if touch.modifier is not modifier and _overlap(places, touch.places):
                    self._overridden(touch, path, f"{modifier.name} changes the same words and comes later, so it won")
            self._applied(_Touch(modifier, op, places), path, node.own, own)
            node.own = own
            node.supplied = _also(node.supplied, modifier)

    def _replace(self, modifier: Modifier, op: Replace) -> None:
        for path in self._standing(modifier, op, self.index.find(op.target)):
            node = self._steps[path]
            [new] = self._brought([op.step], modifier, op.at, node.phase, strip=1)
            if "id" not in op.step:
                new.own["id"] = path.rpartition("/")[2]
            if new.id != node.id:
                self._check_ids(modifier, op, path, self._around[path], [new])
            self._outdo(modifier, path)
            self._applied(_Touch(modifier, op), path, node.own, new.own)
            _renamed(self._around[path], {node.id: new.id})
            node.own, node.blocks, node.supplied = new.own, new.blocks, new.supplied
            self._brought_by[id(node)] = _Touch(modifier, op)

    def _remove(self, modifier: Modifier, op: Remove) -> None:
        for path in self._standing(modifier, op, self.index.find(op.target)):
            node = self._steps[path]
            if node.removed:
                self.changes.append(change_of(modifier, op, path, Status.SKIPPED, "it is gone already"))
                continue
            for other in self._around[path]:
                if node.id in _needs(other.own) and other.path in self.index.closed:
                    raise Refused(modifier, op, path, f"the sealed step {other.path} needs it")
            self._outdo(modifier, path)
            self._applied(_Touch(modifier, op), path, node.own, None)
            node.removed = True
            _renamed(self._around[path], {node.id: None})

    # --- wrap --------------------------------------------------------------------------------------------------------

    def _wrap(self, modifier: Modifier, op: Wrap) -> None:
        found = [path for target in op.targets for path in self.index.find(target)]
        paths = list(self._standing(modifier, op, list(dict.fromkeys(found))))
        if all(self._steps[path].removed for path in paths):
            self.changes.append(change_of(modifier, op, ", ".join(paths), Status.SKIPPED, "what it wraps is gone"))
            return
        if len({id(self._around[path]) for path in paths}) > 1:
            raise Refused(modifier, op, paths[0], "the steps to wrap do not stand in one block")
        wanted = [self._steps[path] for path in paths]
        block = self._innermost(self._around[paths[0]], wanted)
        units = [number for number, node in enumerate(block) if any(inner in wanted for inner in _direct(node))]
        start, end = units[0], units[-1] + 1
        inside = block[start:end]
        self._check_inside(modifier, op, paths[0], inside, wanted)
        wrapper = self._wrapper(modifier, op, inside)
        self._check_ids(modifier, op, paths[0], [*block[:start], *block[end:]], [wrapper])
        block[start:end] = [wrapper]
        self._applied(_Touch(modifier, op), ", ".join(paths), None, wrapper.own)
        _renamed([*block[:start], *block[start + 1 :]], {node.id: wrapper.id for node in inside})

    def _check_inside(self, modifier: Modifier, op: Wrap, path: str, inside: Nodes, wanted: Nodes) -> None:
        for node in inside:
            for inner in _direct(node):
                if inner in wanted or inner.removed:
                    continue
                if inner is node:
                    raise Refused(modifier, op, path, f"{inner.id!r} stands between the steps to wrap")
                both = (_Touch(modifier, op), self._brought_by[id(node)])
                winner, loser = sorted(both, key=lambda touch: self.modifiers.index(touch.modifier))
                why = f"it overlaps the wrap of {winner.modifier.name}, which comes first and won"
                raise Refused(loser.modifier, loser.op, inner.path, why)
        phases = sorted({node.phase for node in inside})
        if len(phases) > 1:
            raise Refused(modifier, op, path, f"the steps to wrap belong to several phases: {', '.join(phases)}")

    def _wrapper(self, modifier: Modifier, op: Wrap, inside: Nodes) -> tree.Node:
        ids = {node.id for node in inside}
        outer = list(dict.fromkeys(need for node in inside for need in _needs(node.own) if need not in ids))
        own: tree.Own = {"id": modifier.id.rpartition(".")[2], **op.own, "do": []}
        if outer:
            own["needs"] = outer
        if inside[0].phase:
            own["phase"] = inside[0].phase
        supplied = Supplied(modifier.origin(op.at), (modifier.pack,) if modifier.pack else ())
        [wrapper] = tree.split([own], op.at, "", lambda _at: supplied)
        wrapper.path = ""
        for node in inside:
            node.own = _needing(node.own, [need for need in _needs(node.own) if need in ids])
            node.own.pop("phase", None)
            node.phase = ""
        wrapper.blocks[0].nodes = inside
        self._brought_by[id(wrapper)] = _Touch(modifier, op)
        return wrapper

    def _innermost(self, block: Nodes, wanted: Nodes) -> Nodes:
        """The list that holds all of ``wanted``, where wrappers have moved some of it further in."""
        for node in block:
            if id(node) in self._brought_by and node not in wanted and _is_wrapper(node):
                inner = list(_direct(node))
                if all(step in inner for step in wanted) and len(inner) > len(wanted):
                    return self._innermost(node.blocks[0].nodes, wanted)
        return block

    # --- insert ------------------------------------------------------------------------------------------------------

    def _insert(self, modifier: Modifier, op: Insert) -> None:
        inner = op.place.endswith("_in")
        targets = self.index.blocks(op.target) if inner else self.index.find(op.target)
        if not targets:  # if_missing: append
            self._append(modifier, op)
        for target in targets:
            if self._buried(target, itself=inner):
                why = "the step around this place was taken out or exchanged"
                self.changes.append(change_of(modifier, op, target, Status.OVERRIDDEN, why))
                continue
            anchor = None if inner else self._steps[target]
            if anchor is None:
                block, phase = self._blocks.get(target, self.nodes), self.index.phase_of_block(target)
            else:
                block, phase = self._holding(self._around[target], anchor), anchor.phase
            nodes = self._brought(op.steps, modifier, op.at, phase)
            self._check_ids(modifier, op, target, block, nodes)
            at = self._position(op.place, target, block, anchor, len(nodes))
            block[at:at] = nodes
            self._applied(_Touch(modifier, op), target, None, [node.own for node in nodes])

    def _append(self, modifier: Modifier, op: Insert) -> None:
        phases = self.flow.phases
        if phases and phases[-1].sealed:
            raise Refused(modifier, op, "", f"the last phase {phases[-1].name!r} is sealed")
        nodes = self._brought(op.steps, modifier, op.at, phases[-1].name if phases else "")
        self._check_ids(modifier, op, "", self.nodes, nodes)
        self.nodes += nodes
        self._applied(_Touch(modifier, op), "", None, [node.own for node in nodes])

    def _position(self, place: str, target: str, block: Nodes, anchor: tree.Node | None, count: int) -> int:
        """Where the next steps go, so that of several inserts at one place the earlier modifier's come first."""
        done = self._placed.get((place, target), 0)
        self._placed[place, target] = done + count
        if anchor is not None:
            return block.index(anchor) + (1 + done if place == "after" else 0)
        phase = target.removeprefix("@phase:") if target.startswith("@phase:") else None
        inside = [number for number, node in enumerate(block) if phase is None or node.phase == phase]
        if place == "first_in":
            return (inside[0] if inside else len(block)) + (done if inside else 0)
        return inside[-1] + 1 if inside else len(block)

    def _holding(self, block: Nodes, anchor: tree.Node) -> Nodes:
        """The list in which ``anchor`` itself stands now: its block, or a wrapper's."""
        if anchor in block:
            return block
        inner = next(node for node in block if _is_wrapper(node) and anchor in _direct(node))
        return self._holding(inner.blocks[0].nodes, anchor)

    # --- shared ------------------------------------------------------------------------------------------------------

    def _brought(
        self, steps: Sequence[Mapping[str, Any]], modifier: Modifier, at: Path, phase: str, *, strip: int = 0
    ) -> Nodes:
        """Steps that the modifier brings. ``strip``: path parts that their place in its document lacks."""
        acts_as = (modifier.pack,) if modifier.pack else ()
        nodes = tree.split(steps, (), "", lambda p: Supplied(modifier.origin((*at, *p[strip:])), acts_as))
        for top in nodes:
            top.own.pop("phase", None)
            top.phase = phase
            if phase:
                top.own["phase"] = phase
            for node in top.walk():
                node.path = ""
        return nodes

    def _standing(self, modifier: Modifier, op: Op, paths: Sequence[str]) -> Iterator[str]:
        """The steps that are still there; about the others the modifier is told."""
        for path in paths:
            if self._buried(path, itself=False):
                why = "the step around it was taken out or exchanged"
                self.changes.append(change_of(modifier, op, path, Status.OVERRIDDEN, why))
            else:
                yield path

    def _buried(self, path: str, *, itself: bool) -> bool:
        """Whether the place lies inside a step (or with ``itself``: is one) that was taken out or exchanged."""
        parts = path.split("/")
        for length in range(1, len(parts) + (1 if itself else 0)):
            node = self._steps.get("/".join(parts[:length]))
            if node is not None and (node.removed or id(node) in self._brought_by):
                return True
        return False

    def _check_ids(self, modifier: Modifier, op: Op, target: str, block: Nodes, nodes: Nodes) -> None:
        taken = {node.id for node in block if not node.removed}
        twice = next((node.id for node in nodes if node.id in taken), None)
        if twice is not None:
            raise Refused(modifier, op, target, f"a step {twice!r} is there already")

    def _outdo(self, modifier: Modifier, path: str) -> None:
        """Whoever changed the step before is told that this counts instead."""
        for touch in self._touched.get(path, []):
            if touch.modifier is not modifier:
                self._overridden(touch, path, f"{modifier.name} comes later and won")

    def _overridden(self, touch: _Touch, path: str, why: str) -> None:
        self.changes.append(change_of(touch.modifier, touch.op, path, Status.OVERRIDDEN, why))

    def _applied(self, touch: _Touch, path: str, before: Any, after: Any) -> None:
        self._touched.setdefault(path, []).append(touch)
        self.changes.append(change_of(touch.modifier, touch.op, path, Status.APPLIED, "", before, after))

    def _result(self) -> tuple[Plan, Mapping[str, Any], str]:
        places: dict[Path, Supplied] = {}
        document = {**self.original, "steps": tree.document(self.nodes, ("steps",), places)}
        origin = self.flow.origin
        try:
            parsed = parse_flow(
                document, source=origin.source, layer=self.flow.layer, supplied=places, pack=origin.pack
            )
            # the flow's own catch and finally are as they were, with who supplied them
            parsed = replace(parsed, origin=origin, catch=self.flow.catch, finally_=self.flow.finally_)
            plan = plan_flow(parsed)
        except AuthorError as error:
            raise self._blamed(error) from error
        acting = {"/".join(map(str, at)): list(one.acts_as) for at, one in places.items()}
        usual = (origin.pack,) if origin.pack else ()
        for block in self.flow.own_blocks()[1:]:
            acting |= {f"!{step.path}": list(step.acts_as) for step in block if step.acts_as != usual}
        digest = PREFIX + sha256_hex(canonical_json({"document": document, "acts_as": acting}))
        return plan, document, digest

    def _blamed(self, error: AuthorError) -> Refused:
        """A composed flow that is none is a modifier's doing: of the one that wrote what is named, else the last."""
        if not self.modifiers:
            raise error
        sources = {problem["source"] for problem in error.fields["problems"]}
        paths = {problem["path"] for problem in error.fields["problems"]}
        applied = [change for change in self.changes if change.status is Status.APPLIED]
        named = [change for change in applied if change.source in sources or change.step in paths]
        culprit = (named or applied)[-1]
        loser = next(m for m in self.modifiers if (m.name, m.source) == (culprit.modifier, culprit.source))
        return Refused(loser, loser.ops[0], culprit.step, f"the flow would not be valid: {error.detail}")


def change_of(
    modifier: Modifier, op: Op, step: str, status: Status, why: str, before: Any = None, after: Any = None
) -> Change:
    """What became of one operation, for whoever asks."""
    number = next(index for index, known in enumerate(modifier.ops) if known is op)
    return Change(
        modifier.name, type(op).__name__.lower(), ", ".join(op.targets) if isinstance(op, Wrap) else op.target,
        step, status, why, before, after, source=modifier.source, line=modifier.origin(("ops", number)).line,
        pack=modifier.pack, layer=modifier.layer.name.lower(),
    )  # fmt: skip


def _direct(node: tree.Node) -> Iterator[tree.Node]:
    """A step of the block itself, or those that a wrapper in its place holds."""
    if not _is_wrapper(node):
        yield node
        return
    for inner in node.blocks[0].nodes:
        yield from _direct(inner)


def _is_wrapper(node: tree.Node) -> bool:
    """Wrappers have no path of their own and hold original steps; steps that a modifier brought come later."""
    return not node.path and bool(node.blocks)


def _overlap(one: Iterable[Pointer], other: Sequence[Pointer]) -> bool:
    return any(within(a, b) or within(b, a) for a in one for b in other)


def _also(supplied: Supplied, modifier: Modifier) -> Supplied:
    """A patched step acts as both; the operator's patch takes no rights away."""
    if not modifier.pack:
        return supplied
    return replace(supplied, acts_as=tuple(sorted({*supplied.acts_as, modifier.pack})))


def _needs(own: Mapping[str, Any]) -> list[str]:
    needs = own.get("needs", [])
    return [needs] if isinstance(needs, str) else list(needs)


def _needing(own: Mapping[str, Any], needs: list[str]) -> tree.Own:
    rest = {word: value for word, value in own.items() if word != "needs"}
    return {**rest, "needs": needs} if needs else rest


def _renamed(block: Iterable[tree.Node], names: Mapping[str, str | None]) -> None:
    """Let the steps of a block need what now stands in the place of what they needed."""
    for node in block:
        needs = _needs(node.own)
        if any(need in names for need in needs):
            changed = [names.get(need, need) for need in needs]
            node.own = _needing(node.own, list(dict.fromkeys(need for need in changed if need)))
