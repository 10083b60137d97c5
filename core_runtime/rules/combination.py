"""Combination risk: three harmless-looking permissions that together let data out, even spread over several Packs.
Pure.

Labels: ``private-data`` (reads what is the operator's), ``untrusted-input`` (takes in what strangers wrote),
``external-communication`` (can send). A granted edge carries arguments one way and results the other, so a path over
edges joins the labels of its Packs; so does a flow, which hands on what the keys that it calls and the Packs that
supplied its steps give. The shortest path is shown, since a path is what the operator can cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from backend_core.ecosystem.spec.models import PermissionRequest
from core_runtime.rules.globs import matches
from core_runtime.rules.grants import Grant
from core_runtime.rules.permission_kinds import KINDS, TOPIC_SEPARATOR

PRIVATE: Final = "private-data"
UNTRUSTED: Final = "untrusted-input"
EXTERNAL: Final = "external-communication"
FLOW: Final = "flow "
"""No Pack's id begins so."""
PRIVILEGE_LABELS: Final[Mapping[str, frozenset[str]]] = {
    "host.file.export": frozenset({EXTERNAL}),
    "host.open_url": frozenset({EXTERNAL}),
}


class PackNode(Struct, frozen=True):
    """One Pack as the search sees it."""

    pack_id: str
    provides: frozenset[str]
    calls: frozenset[str]
    labels: frozenset[str]
    members: frozenset[str] = frozenset()
    """Of a flow: the Packs that supplied its steps."""

    @classmethod
    def flow(cls, flow_id: str, keys: Iterable[str], suppliers: Iterable[str]) -> PackNode:
        """A flow, which stands in a path as ``flow <id>``: it joins whom it calls and who supplied its steps."""
        return cls(f"{FLOW}{flow_id}", frozenset(), frozenset(keys), frozenset(), frozenset(suppliers))

    @classmethod
    def of(cls, grant: Grant) -> PackNode:
        """What a granted Pack contributes."""
        calls = frozenset(key for p in grant.of_type("interface.call") for key in p.texts("keys"))
        labels = labels_of([permission.type for permission in grant.permissions])
        return cls(grant.pack_id, frozenset(grant.since), calls, labels)

    @classmethod
    def asked(cls, pack_id: str, provides: frozenset[str], requests: Sequence[PermissionRequest]) -> PackNode:
        """What a Pack would contribute if everything it asks for were granted."""
        calls = frozenset(str(key) for r in requests if r.type == "interface.call" for key in r.params.get("keys", ()))
        return cls(pack_id, provides, calls, labels_of([request.type for request in requests]))


class Combination(Struct, frozen=True):
    """A join of labels. ``paths`` leads from the Pack under review to a holder of each label."""

    labels: tuple[str, ...]
    paths: Mapping[str, tuple[str, ...]]

    @property
    def complete(self) -> bool:
        """Whether all three meet: data of the operator, text of strangers, and a way out."""
        return len(self.labels) == 3

    def sentence(self) -> str:
        """For the operator, with the paths."""
        routes = "; ".join(f"{label}: {' → '.join(self.paths[label])}" for label in self.labels)
        return f"Together these can carry data out. {routes}"


def labels_of(types: Sequence[str]) -> frozenset[str]:
    """The labels that permissions of these types carry."""
    known = (KINDS[kind].labels if kind in KINDS else PRIVILEGE_LABELS.get(kind, frozenset()) for kind in types)
    return frozenset().union(*known)


def combination(subject: PackNode, others: Sequence[PackNode]) -> Combination | None:
    """The risk that approving ``subject`` completes: a way out joined with private data or with all three labels."""
    nodes = {node.pack_id: node for node in (*others, subject)}
    paths: dict[str, tuple[str, ...]] = {}
    reached: dict[str, tuple[str, ...]] = {subject.pack_id: (subject.pack_id,)}
    queue = deque([subject.pack_id])
    while queue:
        here = nodes[queue.popleft()]
        for label in sorted(here.labels):
            paths.setdefault(label, reached[here.pack_id])
        for other in sorted(nodes.values(), key=lambda node: node.pack_id):
            if other.pack_id not in reached and _joined(here, other):
                reached[other.pack_id] = (*reached[here.pack_id], other.pack_id)
                queue.append(other.pack_id)
    if EXTERNAL not in paths or PRIVATE not in paths:
        return None
    return Combination(tuple(sorted(paths)), {label: paths[label] for label in sorted(paths)})


def with_supplier(flows: Sequence[PackNode], pack_id: str, targets: Sequence[str]) -> tuple[PackNode, ...]:
    """The flows as they would be with changes of a Pack to those that ``targets`` (ids and globs) name."""
    return tuple(
        replace(node, members=node.members | {pack_id})
        if any(matches(target, node.pack_id.removeprefix(FLOW), TOPIC_SEPARATOR) for target in targets)
        else node
        for node in flows
    )


def _joined(one: PackNode, other: PackNode) -> bool:
    members = one.pack_id in other.members or other.pack_id in one.members
    return members or bool(one.calls & other.provides or other.calls & one.provides)
