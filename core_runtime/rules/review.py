"""Everything that an operator should see before deciding about a Pack, as one value. Pure.

Not here: texts of faces. Text of the Pack (reasons, descriptions, paths) is carried as it is, bounded by the parsers;
each face escapes it (``backend_core.errors.quote``, templates).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict

from backend_core.ecosystem.spec.models import Contract, PackMetadata
from core_runtime.rules.aliases import Concerned, concerned
from core_runtime.rules.approval import State
from core_runtime.rules.combination import Combination, PackNode, combination, with_supplier
from core_runtime.rules.contracts import ContractChange, Terms, contract_changes, contract_documents
from core_runtime.rules.dependencies import PackageDifference, SeenPackages
from core_runtime.rules.dependencies import difference as package_difference
from core_runtime.rules.digest import FileEntry, TreeDifference, difference, fingerprints
from core_runtime.rules.findings import Finding
from core_runtime.rules.flow.brought import Brought
from core_runtime.rules.grants import Grant, permission_document, thaw
from core_runtime.rules.permissions import describe, host_key_permission, requests_of
from core_runtime.rules.rating import Rating, rate


class ReviewFacts(Struct, frozen=True):
    """What the review is made from. ``owners``: key → other Pack that owns it; ``others``: the approved Packs."""

    pack_id: str
    state: State
    cause: str
    digest: str
    entries: tuple[FileEntry, ...]
    metadata: PackMetadata
    before: Grant | None
    owners: Mapping[str, str]
    findings: tuple[Finding, ...]
    others: tuple[PackNode, ...] = ()
    packages: SeenPackages = field(default_factory=SeenPackages)
    contracts_before: Mapping[str, Contract] | None = None
    """What the approved version promises of its keys."""
    brought: tuple[Brought, ...] = ()
    """What its files say about flows."""
    flows: tuple[PackNode, ...] = ()
    """The flows that there are."""
    peers: Mapping[str, Terms] = field(default_factory=dict)
    """What the other approved Packs promise and need."""
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Who signed it, and whether that is who signed it before (``rules.signing.seal_document``)."""
    addons: tuple[Mapping[str, Any], ...] = ()
    """What its addons would do to others, if granted, and those of others to it."""
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The operator's: key → its other names."""


class Edge(Struct, frozen=True):
    """One key that the Pack would call, and who provides it now (``""``: nobody yet).

    ``wanted``: the range of versions that it needs; ``why_not``: a sentence where the provider's is out of it.
    """

    key: str
    required: bool
    provider: str
    wanted: str = ""
    why_not: str = ""


class PermissionDifference(Struct, frozen=True):
    """Permissions against the approved version, each as its document."""

    added: tuple[Mapping[str, Any], ...]
    removed: tuple[Mapping[str, Any], ...]


class Review(Struct, frozen=True):
    """The basis of a decision; ``digest`` is what ``approve`` must be given to bind exactly this."""

    pack_id: str
    state: State
    cause: str
    digest: str
    version: str
    pack_identity: str
    identity_changed: bool
    display_name: str
    description: str
    author: str
    license: str
    files: int
    total_bytes: int
    permissions: tuple[Mapping[str, Any], ...]
    provides: tuple[str, ...]
    requires: tuple[str, ...]
    uses: tuple[str, ...]
    edges: tuple[Edge, ...]
    replaces: Mapping[str, str]
    host_keys: Mapping[str, str]
    dependencies: Mapping[str, str]
    rating: Rating
    findings: tuple[Finding, ...]
    combination: Combination | None
    approved_version: str | None
    approved_isolation: str | None
    file_changes: TreeDifference | None
    permission_changes: PermissionDifference | None
    listing: tuple[FileEntry, ...] = ()
    pending_update: Mapping[str, Any] = field(default_factory=dict)
    flows: tuple[Mapping[str, Any], ...] = ()
    """Each of its files about flows: which it adds, which it modifies, why it would be refused."""
    packages: tuple[Mapping[str, Any], ...] = ()
    """The Python packages of the lock, each with what is known of its wheels."""
    package_changes: PackageDifference | None = None
    contracts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Of its keys that promise more than to exist: ``{version, input, output}``."""
    contract_changes: tuple[ContractChange, ...] | None = None
    """Against the approved version; None where there is none."""
    unsuited: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other approved Packs that could not use its keys in these versions → why not, in sentences."""
    signature: Mapping[str, Any] = field(default_factory=dict)
    """Who signed it, apart from everything above: it says whom the files are from, never what they may do."""
    addons: tuple[Mapping[str, Any], ...] = ()
    """Each addon on each component, its own on others' and others' on its own: outcome, reason, what changes, and the
    effective digest that comes of it.
    """
    aliases: tuple[Concerned, ...] = ()
    """The operator's aliases that hide what it provides, or lead to it."""

    def as_dict(self) -> dict[str, Any]:
        """JSON for the faces; the list of files is left out (``listing`` has it)."""
        result: dict[str, Any] = thaw(self)
        del result["listing"]
        result["combination"] = self.combination and {**result["combination"], "sentence": self.combination.sentence()}
        result["state"] = self.state.value
        return result


def build_review(facts: ReviewFacts) -> Review:
    """Put everything side by side."""
    metadata, before = facts.metadata, facts.before
    findings = (*facts.findings, *facts.packages.findings())
    requests = requests_of(metadata)
    provides = metadata.provides()
    replaces = {key: facts.owners[key] for key in sorted(provides) if key in facts.owners}
    targets = [target for one in facts.brought for target in one.modifies]
    joining = (*facts.others, *with_supplier(facts.flows, facts.pack_id, targets))
    risk = combination(PackNode.asked(facts.pack_id, provides, requests), joining)
    return Review(
        pack_id=facts.pack_id,
        state=facts.state,
        cause=facts.cause,
        digest=facts.digest,
        version=metadata.version,
        pack_identity=metadata.pack_identity,
        identity_changed=before is not None and before.pack_identity != metadata.pack_identity,
        display_name=metadata.display_name,
        description=metadata.description,
        author=metadata.author,
        license=metadata.license,
        files=len(facts.entries),
        total_bytes=sum(entry.size for entry in facts.entries),
        permissions=tuple(describe(request) for request in requests),
        provides=tuple(sorted(provides)),
        requires=tuple(sorted(metadata.requires())),
        uses=tuple(sorted(metadata.uses())),
        edges=tuple(_edges(metadata, facts)),
        replaces=replaces,
        host_keys={key: kind for key in sorted(provides) if (kind := host_key_permission(key))},
        dependencies=dict(metadata.dependencies),
        rating=rate(requests, findings, replaces=tuple(replaces), risk=risk),
        findings=findings,
        combination=risk,
        approved_version=before.version if before else None,
        approved_isolation=f"{before.isolation.driver.value}/{before.isolation.level.name.lower()}" if before else None,
        file_changes=difference(before.files, fingerprints(facts.entries)) if before else None,
        permission_changes=_permission_changes(before, requests) if before else None,
        listing=facts.entries,
        flows=tuple({name: value for name, value in asdict(one).items() if value} for one in facts.brought),
        packages=tuple(facts.packages.documents()),
        package_changes=package_difference(before.dependencies, metadata.packages) if before else None,
        contracts=contract_documents(metadata.contracts()),
        contract_changes=None
        if facts.contracts_before is None
        else contract_changes(facts.contracts_before, metadata.contracts()),
        unsuited=_unsuited(metadata, facts.peers),
        signature=facts.signature,
        addons=facts.addons,
        aliases=concerned(provides, facts.aliases, facts.owners),
    )


def _edges(metadata: PackMetadata, facts: ReviewFacts) -> list[Edge]:
    provider = {key: node.pack_id for node in reversed(facts.others) for key in node.provides}
    terms, required = Terms.of(metadata), metadata.requires()
    found = []
    for key in sorted((required | metadata.uses()) - metadata.provides()):
        other = provider.get(key, "")
        version = facts.peers[other].version(key) if other in facts.peers else ""
        why_not = terms.why_not(key, version, other) if other and not terms.admits(key, version) else ""
        found.append(Edge(key, key in required, other, terms.ranges.get(key, ""), why_not))
    return found


def _unsuited(metadata: PackMetadata, peers: Mapping[str, Terms]) -> dict[str, tuple[str, ...]]:
    mine, pack_id = Terms.of(metadata), metadata.pack_id
    found: dict[str, tuple[str, ...]] = {}
    for other, terms in sorted(peers.items()):
        keys = sorted(terms.ranges.keys() & metadata.provides())
        why_not = [terms.why_not(k, mine.version(k), pack_id) for k in keys if not terms.admits(k, mine.version(k))]
        if why_not:
            found[other] = tuple(why_not)
    return found


def _permission_changes(before: Grant, requests: Sequence[Any]) -> PermissionDifference:
    """What is asked now against what was asked then, so that a permission once refused is not news again."""
    old = [_plain(item) for item in before.requested]
    granted_calls = [permission_document(p) for p in before.of_type("interface.call")]
    old += [{"type": "interface.call", "keys": document["keys"]} for document in granted_calls]
    new = [_plain({"type": request.type, **request.params}) for request in requests]
    return PermissionDifference(
        added=tuple(item for item in new if item not in old),
        removed=tuple(item for item in old if item not in new),
    )


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: thaw(value) for name, value in item.items() if name != "reason"}
