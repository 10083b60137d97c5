"""Which steps a selector means, and which places are sealed. Pure.

Selectors: a step's path (``a/b/c``), an id that only one step has, ``@handler:glob``, ``@tag:name``, ``@alias:name``;
for ``first_in`` and ``last_in`` also the path of a block (``gather/history``), ``@phase:name``, and ``/`` for the flow
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Self

from msgspec import Struct, field

from core_runtime.rules.flow import model
from core_runtime.rules.flow.tree import Node
from core_runtime.rules.globs import matches


class Index(Struct):
    """Of the original flow. ``closed``: path of a step or block → the sentence why it is sealed.

    ``holding``: path of an open step around a sealed one → why it is not changed as a whole; its blocks are open.
    """

    steps: dict[str, Node] = field(default_factory=dict)
    ids: dict[str, list[str]] = field(default_factory=dict)
    block_phase: dict[str, str] = field(default_factory=dict)
    closed: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    holding: dict[str, str] = field(default_factory=dict)
    handlers_of: Callable[[str], Iterable[str]] = lambda _alias: ()

    @classmethod
    def of(cls, nodes: Sequence[Node], flow: model.Flow, handlers_of: Callable[[str], Iterable[str]]) -> Self:
        """The index of a flow's tree."""
        index = cls(handlers_of=handlers_of)
        whole = f"the flow {flow.id} is sealed" if flow.sealed else ""
        if not flow.phases:
            index._open_block("/", "", whole)
        for phase in flow.phases:
            index._open_block(f"@phase:{phase.name}", phase.name, whole or _sealed_phase(phase))
        for node in nodes:
            index._add(node, index.closed.get(f"@phase:{node.phase}", whole))
        return index

    def find(self, selector: str) -> list[str]:
        """Paths of the steps that a selector means, in the flow's order."""
        if selector in self.steps:
            return [selector]
        kind, _, name = selector.partition(":")
        if kind == "@handler":
            return [path for path, node in self.steps.items() if node.handler and matches(name, node.handler, "\0")]
        if kind == "@tag":
            return [path for path, node in self.steps.items() if name in _tags(node)]
        if kind == "@alias":
            meant = frozenset((name, *self.handlers_of(name)))
            return [path for path, node in self.steps.items() if node.handler in meant]
        return list(self.ids.get(selector, ()))

    def blocks(self, selector: str) -> list[str]:
        """Paths of the blocks that a selector means: a block itself, or the one block of a step."""
        if selector in self.block_phase:
            return [selector]
        return [path for path in self.find(selector) if path in self.block_phase]

    def phase_of_block(self, path: str) -> str:
        """The phase that steps directly in this block must name; ``""`` below the first level."""
        return self.block_phase.get(path, "")

    def _add(self, node: Node, closed: str) -> None:
        self.steps[node.path] = node
        self.ids.setdefault(node.id, []).append(node.path)
        self.beside[node.path] = closed
        closed = closed or (f"the step {node.path} is sealed" if node.own.get("sealed") is True else "")
        if closed:
            self.closed[node.path] = closed
        elif inner_sealed := next((one for one in node.walk() if one.own.get("sealed") is True), None):
            self.holding[node.path] = f"the step {inner_sealed.path} inside {node.path} is sealed"
        for block in node.blocks:
            self._open_block(block.path, "", closed)
            for inner in block.nodes:
                self._add(inner, closed)

    def _open_block(self, path: str, phase: str, closed: str) -> None:
        self.block_phase[path] = phase
        if closed:
            self.closed[path] = closed


def closed_by(index: Index, path: str, *, beside: bool) -> str:
    """Why the step may not be touched, or with ``beside`` why nothing may stand next to it; ``""`` when it may."""
    return index.beside[path] if beside else index.closed.get(path) or index.holding.get(path, "")


def _sealed_phase(phase: model.Phase) -> str:
    return f"the phase {phase.name} is sealed" if phase.sealed else ""


def _tags(node: Node) -> Sequence[str]:
    tags = node.own.get("tags", ())
    return (tags,) if isinstance(tags, str) else tuple(tags)
