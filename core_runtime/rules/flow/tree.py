"""A flow document's steps as a tree that can be rearranged, and back. Pure.

A ``Node`` holds a step's own words with its inner blocks taken out; a ``Block`` is one list of steps and the place in
the step's words where it stands. So a patch of a step can't reach into the steps below it, and moving a step moves
what is below it.

Invariants:
  * ``document(split(x))`` is ``x`` with every id written out and without ``order``: the place in the list says it.
  * The given document is never touched.

Not here: which change is allowed or wins (``compose``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse_scalars import Path, Supplied

Own = dict[str, Any]
"""A step's words, with an empty list for each of its blocks."""


class Block(Struct, eq=False):
    """One list of steps. ``at``: its place in the words of its step; ``path``: with what its steps' begin."""

    at: Path
    path: str
    nodes: list[Node] = field(default_factory=list)


class Node(Struct, eq=False):
    """One step. ``path`` is the one it has in the original document; ``removed`` leaves an invisible anchor."""

    own: Own
    path: str
    supplied: Supplied
    blocks: list[Block]
    phase: str = ""
    removed: bool = False

    @property
    def id(self) -> str:
        """The step's id; every node has one written out."""
        return str(self.own["id"])

    @property
    def handler(self) -> str:
        """What it calls, or ``""``."""
        call = self.own.get("call")
        return call if isinstance(call, str) else ""

    def walk(self) -> Iterator[Node]:
        """This node and every one below it."""
        yield self
        for block in self.blocks:
            for node in block.nodes:
                yield from node.walk()

    def copy(self) -> Node:
        """A tree of its own; the words are shared, since they are replaced and never changed."""
        blocks = [Block(b.at, b.path, [node.copy() for node in b.nodes]) for b in self.blocks]
        return replace(self, blocks=blocks)


def split(steps: Any, at: Path, parent: str, supplied: Callable[[Path], Supplied]) -> list[Node]:
    """The nodes of a valid list of steps that stands at ``at`` of its document."""
    return [_split_one(raw, (*at, index), parent, index, supplied) for index, raw in enumerate(steps)]


def document(nodes: Sequence[Node], at: Path, places: dict[Path, Supplied]) -> list[Own]:
    """The steps as a document again; ``places`` gets each one's supplier, by its place from ``at`` on."""
    found: list[Own] = []
    for node in nodes:
        if not node.removed:
            here: Path = (*at, len(found))
            places[here] = node.supplied
            found.append(_joined(node, here, places))
    return found


def skeleton(own: Mapping[str, Any]) -> tuple[tuple[Path, str, bool], ...]:
    """Where the blocks of a step stand, and that nothing is in them: what a patch must leave as it is."""
    return tuple((at, segment, steps == []) for at, segment, steps in _blocks(own))


def sorted_like(nodes: list[Node], flow: Sequence[model.Step], blocks_of: Callable[[model.Step], Any]) -> None:
    """Put every block into the order of the planned steps."""
    rank = {step.path: number for number, step in enumerate(_planned(flow, blocks_of))}
    pending = [nodes]
    while pending:
        block = pending.pop()
        block.sort(key=lambda node: rank[node.path])
        pending += [inner.nodes for node in block for inner in node.blocks]


def _planned(steps: Sequence[model.Step], blocks_of: Callable[[model.Step], Any]) -> Iterator[model.Step]:
    for step in steps:
        yield step
        for block in blocks_of(step):
            yield from _planned(block, blocks_of)


def _split_one(raw: Mapping[str, Any], at: Path, parent: str, index: int, supplied: Callable[[Path], Supplied]) -> Node:
    own = {**raw, "id": raw.get("id", f"step{index}")}
    own.pop("order", None)
    path = f"{parent}/{own['id']}" if parent else str(own["id"])
    blocks = []
    for where, segment, steps in list(_blocks(own)):
        prefix = f"{path}/{segment}" if segment else path
        blocks.append(Block(where, prefix, split(steps, (*at, *where), prefix, supplied)))
        own = _with(own, where, [])
    return Node(own, path, supplied(at), blocks, str(own.get("phase", "")))


def _joined(node: Node, at: Path, places: dict[Path, Supplied]) -> Own:
    own = node.own
    for block in node.blocks:
        own = _with(own, block.at, document(block.nodes, (*at, *block.at), places))
    return own


def _blocks(own: Mapping[str, Any]) -> Iterator[tuple[Path, str, Any]]:
    """Place, path segment and steps of each block, as ``parse`` names them; of a malformed step those that are one."""
    if "do" in own:
        yield ("do",), "", own["do"]
    parallel = own.get("parallel")
    branches = parallel.get("branches") if isinstance(parallel, Mapping) else None
    for name, steps in branches.items() if isinstance(branches, Mapping) else ():
        yield ("parallel", "branches", name), str(name), steps
    for index, arm in _maps(own.get("choose")):
        word = "default" if "default" in arm else "do"
        yield ("choose", index, word), str(index), arm.get(word)
    for index, catch in _maps(own.get("catch")):
        if "do" in catch:
            yield ("catch", index, "do"), f"catch{index}", catch["do"]
    if "finally" in own:
        yield ("finally",), "finally", own["finally"]


def _maps(items: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, Mapping):
            yield index, item


def _with(value: Any, at: Path, new: Any) -> Any:
    """A copy of ``value`` with ``new`` at ``at``; what is not on the way is shared."""
    if not at:
        return new
    if isinstance(value, Mapping):
        return {**value, at[0]: _with(value[at[0]], at[1:], new)}
    return [_with(item, at[1:], new) if index == at[0] else item for index, item in enumerate(value)]
