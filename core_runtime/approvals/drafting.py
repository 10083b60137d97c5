"""From a folder to a signed grant: a Pack's bytes, what a decision about them would write, and writing it.

Invariants:
  * Metadata that counts is read from the copy, never from the folder: the folder may be another one a moment later.
  * Persisting is step by step, so that a crash leaves the old state or the new; what can't be recorded is not granted.

Not here: who may decide what in which state (``deciding``, ``approval_manager``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.metadata import read_metadata
from backend_core.ecosystem.spec.models import EMPTY, Contract, PackMetadata
from backend_core.errors import RumiError, TrustError, quote
from core_runtime.approvals.patching import Copy, Patching
from core_runtime.approvals.standing import Known, unrecorded
from core_runtime.drivers import pack_folders
from core_runtime.drivers.findings import scan_contents
from core_runtime.drivers.grants import identity_fingerprint
from core_runtime.drivers.packages import look as packages_of
from core_runtime.drivers.packages import wheels_folder
from core_runtime.drivers.signatures import seal_of
from core_runtime.drivers.status import must_exist
from core_runtime.drivers.store import Stored
from core_runtime.drivers.tree import Tree
from core_runtime.flow_composer import brought, flow_ids
from core_runtime.rules.approval import Mark
from core_runtime.rules.combination import PackNode
from core_runtime.rules.contracts import Terms
from core_runtime.rules.decisions import isolation_words
from core_runtime.rules.digest import fingerprints
from core_runtime.rules.grants import Grant, flow_claim, freeze
from core_runtime.rules.permissions import Decision, decide, parse_choices, requests_of, with_replaced
from core_runtime.rules.review import Review, ReviewFacts, build_review
from core_runtime.rules.sandbox import Isolation
from core_runtime.rules.sbom import bill_of_materials
from core_runtime.rules.signing import Pin, Seal, check_seal, seal_document


class Drafting(Patching):
    """What every decision needs between the operator's word and the disk."""

    def review(
        self, pack_id: str, *, flows: Sequence[PackNode] = (), aliases: Mapping[str, Sequence[str]] = EMPTY
    ) -> Review:
        """Everything for the decision, from one consistent copy; an ``installed`` Pack becomes ``pending``.

        ``flows``: those that there are, since they join Packs. ``aliases``: the operator's, key → its other names.
        """
        with self._locked(pack_id) as live:
            must_exist(self._look(pack_id).status)
            with self._ingested(pack_id) as stored:
                metadata = self._metadata(stored, pack_id)
                live.reviewed = stored.digest
                review = build_review(self._review_facts(self._look(pack_id), stored, metadata, flows, aliases))
                return replace(review, pending_update=self._pending_update(pack_id))

    def bill(self, pack_id: str, *, source: Path | None = None) -> dict[str, Any]:
        """The bill of materials of what ``review`` is about, or of another folder of the Pack."""
        with self._locked(pack_id):
            known = self._look(pack_id)
            must_exist(known.status)
            with self._ingested(pack_id, source) as stored:
                metadata = self._metadata(stored, pack_id)
                packages = packages_of(metadata, stored.path, known.grant.dependencies if known.grant else None)
                seal = seal_of(stored.path, stored.tree, pack_id=pack_id, version=metadata.version)
                return bill_of_materials(metadata, stored.tree.entries, stored.digest, packages, seal)

    def rotate_key(self, *, actor: str) -> None:
        """Prepare a new signing key. The next start signs everything again with it; until then the old one holds.

        ``TrustError`` when there is no usable key: then nothing is prepared.
        """
        self.grants.keyring.prepare_rotation()
        self._audit.append("trust.key_rotation", actor=actor)

    def publishers(self) -> Mapping[str, Pin]:
        """The publisher's key of each Pack that was ever approved with a signature. ``TrustError`` if unbelievable."""
        return self.grants.publishers.all()

    def forget_publisher(self, pack_id: str, *, actor: str) -> Pin:
        """The next approval of the Pack takes whatever key it is signed with, or none. What is approved stays so."""
        with self._locked(pack_id):
            held = self.publishers().get(pack_id)
            self._audit.append("publisher.forgotten", pack_id=pack_id, actor=actor, key=held.key if held else "")
            return self.grants.publishers.forget(pack_id)

    def reset_publishers(self, *, actor: str) -> None:
        """Begin anew with no publisher known: the way out when the list can't be believed."""
        self._audit.append("publisher.reset", actor=actor)
        self.grants.publishers.reset()

    # --- for the layers above -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _ingested(self, pack_id: str, source: Path | None = None) -> Iterator[Stored]:
        stored = self._store.ingest(source or self._packs.packs_dir / pack_id)
        try:
            yield stored
        finally:
            self._store.release(stored.digest)

    def _same_identity(self, known: Known, metadata: PackMetadata) -> bool:
        remembered = known.inspection.loaded.identity
        if known.grant is not None:
            remembered = identity_fingerprint(known.grant.pack_identity)
        return remembered in {"", identity_fingerprint(metadata.pack_identity)}

    def _decide(
        self, metadata: PackMetadata, permissions: Sequence[Any] | None, replaces: Sequence[str], until: float | None
    ) -> Decision:
        """What the operator's choices grant of what a version declares."""
        requests = requests_of(metadata)
        choices = None if permissions is None else parse_choices(permissions, default_until=until)
        return decide(requests, with_replaced(requests, choices, replaces, until), instance=self.instance, until=until)

    def _draft(
        self,
        metadata: PackMetadata,
        stored: Stored,
        decision: Decision,
        isolation: Isolation,
        actor: str,
        before: Grant | None,
    ) -> Grant:
        now = self._clock()
        known = before.since if before else {}
        owned = {*metadata.provides(), *map(flow_claim, flow_ids(stored.path, metadata.pack_id))}
        return Grant(
            pack_id=metadata.pack_id,
            pack_identity=metadata.pack_identity,
            version=metadata.version,
            digest=stored.digest,
            counter=0,
            epoch="",
            isolation=isolation,
            created_at=before.created_at if before else now,
            approved_at=now,
            actor=actor,
            permissions=decision.granted,
            requested=tuple(freeze({"type": r.type, "reason": r.reason, **r.params}) for r in metadata.permissions),
            files=MappingProxyType(fingerprints(stored.tree.entries)),
            since=MappingProxyType({name: known.get(name, now) for name in sorted(owned)}),
            base_runtime=self.base_runtime,
            effects=self._effects(Copy(stored, metadata), decision.granted),
        )

    def _checked_seal(
        self, folder: Path, tree: Tree, metadata: PackMetadata, actor: str, wanted: str = ""
    ) -> Seal:
        """The signature in a copy of ours; ``TrustError`` where it speaks against the Pack, on record."""
        seal = seal_of(folder, tree, pack_id=metadata.pack_id, version=metadata.version)
        try:
            check_seal(metadata.pack_id, seal, self.grants.publishers.of(metadata.pack_id), wanted)
        except TrustError as error:
            self._audit.append(
                "pack.signature_refused", pack_id=metadata.pack_id, actor=actor, digest=tree.digest, cause=error.code,
                detail=error.detail,
            )  # fmt: skip
            raise
        return seal

    def _remember_publisher(self, seal: Seal | None, actor: str) -> None:
        """A signed Pack is being approved: from now on its publisher is who signed it. Before the grant is written."""
        found = seal.statement if seal is not None else None
        if found is None or self.grants.publishers.of(found.pack_id) is not None:
            return
        self._audit.append(
            "publisher.pinned", pack_id=found.pack_id, actor=actor, key=found.key, publisher=quote(found.publisher)
        )
        try:
            self._prepare()
            self.grants.publishers.pin(found.pack_id, Pin(found.key, found.publisher, found.version, self._clock()))
        except OSError as error:
            raise pack_folders.storage_error(error, "The publisher's key could not be written.") from error

    def _seen_seal(self, stored: Stored, metadata: PackMetadata) -> Mapping[str, Any]:
        """What a review says of the signature; it decides nothing and raises nothing."""
        seal = seal_of(stored.path, stored.tree, pack_id=metadata.pack_id, version=metadata.version)
        try:
            return seal_document(seal, self.grants.publishers.of(metadata.pack_id))
        except TrustError as error:
            shown = seal_document(seal, None)
            return {**shown, "standing": "publishers_unknown", "cause": error.code, "detail": str(error)}

    def _prepare(self) -> None:
        """Make key and counters where they were lost: the operator's decision to go on without the old grants."""
        lost = self.grants.prepare()
        if lost:
            self._audit.append("trust.renewed", cause=lost)

    def _persist(self, draft: Grant, *, points: str) -> Grant:
        try:
            self._prepare()
            return self.grants.grant(draft, points=points)
        except OSError as error:
            raise pack_folders.storage_error(error, "The decision could not be written; nothing changed.") from error

    def _revoke(self, pack_id: str, mark: Mark, *, points: str) -> None:
        """Void the grant; from now on it counts for nothing here either, also where that was written only half."""
        try:
            self.grants.revoke(pack_id, mark, points=points)
        except OSError as error:
            what = "Not all of the decision could be written; what is written of it counts."
            raise pack_folders.storage_error(error, what) from error
        finally:
            self._look(pack_id)

    def _record(self, event: str, grant: Grant, **fields: Any) -> None:
        self._report(unrecorded(grant.pack_id), None)
        self._audit.append(
            event,
            pack_id=grant.pack_id,
            actor=grant.actor,
            digest=grant.digest,
            version=grant.version,
            identity=quote(grant.pack_identity),
            counter=grant.counter,
            permissions=sorted({p.type for p in grant.permissions}),
            isolation=isolation_words(grant.isolation),
            **fields,
        )

    def _review_facts(
        self,
        known: Known,
        stored: Stored,
        metadata: PackMetadata,
        flows: Sequence[PackNode],
        aliases: Mapping[str, Sequence[str]],
    ) -> ReviewFacts:
        others = [grant for grant in self._grants_in_force() if grant.pack_id != metadata.pack_id]
        packages = packages_of(metadata, stored.path, known.grant.dependencies if known.grant else None)
        examined = {f"{wheels_folder(metadata)}/{wheel.filename}" for wheel in packages.wheels}
        found = scan_contents(stored.path, stored.tree.entries)
        return ReviewFacts(
            pack_id=metadata.pack_id,
            state=known.status.state,
            cause=known.status.cause,
            digest=stored.digest,
            entries=stored.tree.entries,
            metadata=metadata,
            before=known.grant,
            owners={key: owner for key, owner in self.owners().items() if owner != metadata.pack_id},
            findings=tuple(one for one in found if one.code != "unscannable" or one.path not in examined),
            packages=packages,
            others=tuple(PackNode.of(grant) for grant in others),
            brought=brought(stored.path, metadata.pack_id),
            flows=tuple(flows),
            contracts_before=self._approved_contracts(known.grant),
            signature=self._seen_seal(stored, metadata),
            peers=self._peers(frozenset(grant.pack_id for grant in others)),
            addons=self._addon_documents(Copy(stored, metadata)),
            aliases=aliases,
        )

    def _peers(self, approved: frozenset[str]) -> Mapping[str, Terms]:
        """What other approved Packs promise and need, as their folders say now."""
        folders = self._packs.scan().values()
        known = [folder.metadata for folder in folders if folder.metadata is not None]
        return MappingProxyType({one.pack_id: Terms.of(one) for one in known if one.pack_id in approved})

    def _approved_contracts(self, grant: Grant | None) -> Mapping[str, Contract] | None:
        """What the approved copy promises; None where there is none, or it can't be read any more."""
        if grant is None:
            return None
        with contextlib.suppress(RumiError):  # a damaged copy is told at its own start
            copy = self._store.verify(grant.digest)
            return read_metadata(FolderReader(str(copy.path), READ_LIMITS), grant.pack_id).contracts()
        return None

    def _set_data_aside(self, pack_id: str) -> None:
        """Another identity under the same id is another Pack: it must not find the data of the one before."""
        name = pack_folders.set_aside(self._user_data / "packs" / pack_id)
        if name:
            self._audit.append("pack.data_set_aside", pack_id=pack_id, folder=name)
