"""Addons at work: the copy of a Pack that runs with them, and what a decision about them pins.

Invariants:
  * What is patched is a tree of its own in the store, under its own digest, read again in full before each start. The
    Pack's folder and its approved copy stay as they are, so what an addon did is gone with the addon.
  * Addons and their targets are read from verified copies, never from folders.
  * An addon can stop nothing: where what comes of it is refused, its target runs as it was approved, and is told so.
  * What a Pack may do never comes from a patched file: a copy that declares other rights than the approved one is
    refused.

Not here: patches themselves (``backend_core.ecosystem.addon_manager``), whether one may act (``rules.addons``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from backend_core.canonical import sha256_hex
from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.ecosystem.addon_manager import AddonManager, AddonResult, Effective, EffectiveComponent, reaches
from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import AuthorError, RumiError, TrustError
from core_runtime.approvals.standing import Live, Standings
from core_runtime.drivers.store import Stored
from core_runtime.rules.addons import (
    UNPATCHED,
    Patched,
    documents,
    failed,
    of_pack,
    requested_targets,
    targets_of,
    why_not,
)
from core_runtime.rules.digest import FileEntry, tree_digest
from core_runtime.rules.grants import Grant, Permission
from core_runtime.rules.permission_kinds import MAX_ITEMS

_DECIDED: Final = (
    "pack_id", "pack_identity", "version", "pack_type", "permissions", "connectivity", "dependencies", "packages",
    "handlers", "addons",
)  # fmt: skip
"""What a decision is about; beside it, the connectivity of each component."""


class Copy(Struct, frozen=True):
    """A Pack's verified copy with its metadata, and the grant that allows it (None while that is being decided)."""

    stored: Stored
    metadata: PackMetadata
    grant: Grant | None = None


class Overlaid(Struct, frozen=True):
    """What a start runs: the approved copy, or that with addons."""

    stored: Stored
    metadata: PackMetadata
    patched: Patched


class Patching(Standings):
    """What addons make of Packs."""

    def addons_due(self, pack_id: str) -> bool:
        """Whether the next start of what runs would come to another result of addons than its last one did."""
        known, grant = self._known.get(pack_id), self.grant(pack_id)
        metadata = known.status.metadata if known else None
        if grant is None or metadata is None:
            return False
        before = self._live[pack_id].patched
        if not before.tried and not self._guest_ids(metadata) and not reaches(metadata, metadata):
            return False
        stored = self._store.verify(grant.digest)
        copy = Copy(stored, self._metadata(stored, pack_id), grant)
        now = self._effective(copy, self._guests(copy))
        return _digests(now.components) != dict(before.tried)

    def _effects(self, copy: Copy, permissions: Sequence[Permission]) -> Mapping[str, str]:
        """What this version's addons alone make of each component that these permissions let them patch."""
        granted = targets_of(permissions)
        if not granted or not copy.metadata.addons:
            return MappingProxyType({})
        found: dict[str, str] = {}
        for host in self._hosts(copy.metadata, granted):
            alone = self._alone(host, copy, granted)
            found |= {name: one.digest for name, one in alone.components.items() if name in granted}
        return MappingProxyType(found)

    def _overlaid(self, live: Live, copy: Copy) -> Overlaid:
        """The copy to run: with the addons that are approved now. It is noted as in use before it is there."""
        guests = self._guests(copy)
        if not guests:
            return Overlaid(copy.stored, copy.metadata, UNPATCHED)
        effective = self._effective(copy, guests)
        tried = _digests(effective.components)
        try:
            made = self._put_in_place(live, copy, effective)
        except (AuthorError, TrustError) as error:
            made = self._without_misfits(live, copy, guests, error)
        if made.patched.digest:
            applied = sorted({name for one in made.patched.components.values() for name in one.applied})
            self._audit.append(
                "addons.applied", pack_id=copy.metadata.pack_id, digest=made.patched.digest, addons=applied
            )
        return replace(made, patched=replace(made.patched, tried=tried))

    def _put_in_place(self, live: Live, copy: Copy, effective: Effective) -> Overlaid:
        """The copy with what these addons come to. Raises where no Pack may be like that."""
        results = of_pack(effective, copy.metadata.pack_id)
        files = {path: data for one in effective.components.values() for path, data in one.files.items()}
        if not files:
            return Overlaid(copy.stored, copy.metadata, Patched("", results, effective.components))
        stored = self._tree_with(live, copy.stored, files)
        metadata = self._metadata(stored, copy.metadata.pack_id)
        _same_rights(copy.metadata, metadata)
        return Overlaid(stored, metadata, Patched(stored.digest, results, effective.components))

    def _without_misfits(self, live: Live, copy: Copy, guests: Sequence[Copy], error: RumiError) -> Overlaid:
        """What is left where all together can't be put in place: one Pack after another is tried, the target's own
        addons first, and whose addons do not fit is left out, so that it takes nobody else's along.
        """
        made = Overlaid(copy.stored, copy.metadata, UNPATCHED)
        fitting: list[Copy] = []
        misfits: list[AddonResult] = []
        for guest in sorted(guests, key=lambda guest: guest.metadata.pack_id != copy.metadata.pack_id):
            try:
                made = self._put_in_place(live, copy, self._effective(copy, [*fitting, guest]))
                fitting.append(guest)
            except (AuthorError, TrustError) as refused:
                error = refused
                alone = of_pack(self._effective(copy, [guest]), copy.metadata.pack_id)
                misfits += failed(alone, str(error))
        self._audit.append("addons.refused", pack_id=copy.metadata.pack_id, cause=error.code)
        return replace(made, patched=replace(made.patched, results=(*made.patched.results, *misfits)))

    def _addon_documents(self, copy: Copy) -> tuple[Mapping[str, Any], ...]:
        """For a review: what the addons of this version would do if all that it asks were granted, and what those of
        approved Packs would do to it.
        """
        granted = requested_targets(copy.metadata.permissions)
        found: list[dict[str, Any]] = []
        for host in self._hosts(copy.metadata, granted):
            alone = self._alone(host, copy, granted)
            found += documents(of_pack(alone, host.metadata.pack_id), alone.components)
        guests = self._guests(copy)
        if guests:
            here = self._effective(copy, guests)
            found += documents(of_pack(here, copy.metadata.pack_id), here.components)
        return tuple(found)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _effective(self, copy: Copy, guests: Sequence[Copy]) -> Effective:
        """What ``guests`` make of ``copy``, each as far as it was granted and comes to what was approved."""
        reasons: dict[tuple[str, str], str] = {}
        for guest in guests:
            if guest.grant is None or guest.metadata.pack_id == copy.metadata.pack_id:
                continue
            granted = targets_of(p for p in guest.grant.permissions if self._holds(p))
            alone = self._alone(copy, guest, granted)
            for component in copy.metadata.components:
                name, would = component.full_id, alone.components.get(component.full_id)
                reasons[guest.metadata.pack_id, name] = why_not(
                    guest.metadata.pack_id,
                    name,
                    granted=granted,
                    pinned=guest.grant.effects.get(name),
                    found=would.digest if would else None,
                )
        manager = AddonManager(
            _reader(copy.stored), lambda guest, name: reasons.get((guest, name), "not approved"), self.active
        )
        return manager.apply([copy.metadata], [guest.metadata for guest in guests])

    @staticmethod
    def _alone(host: Copy, guest: Copy, granted: frozenset[str]) -> Effective:
        """What one guest makes of one Pack, whatever others do and whatever the operator has switched off."""

        def refused(pack_id: str, name: str) -> str:
            return why_not(pack_id, name, granted=granted, pinned=None, found=None)

        manager = AddonManager(_reader(host.stored), refused, ActiveEcosystem())
        return manager.apply([host.metadata], [guest.metadata])

    def _guests(self, copy: Copy) -> list[Copy]:
        """Other approved Packs whose addons mean this one, and this very version where its own do."""
        own = [copy] if reaches(copy.metadata, copy.metadata) else []
        return [*self._approved(self._guest_ids(copy.metadata)), *own]

    def _guest_ids(self, metadata: PackMetadata) -> list[str]:
        """By what the last look read of their folders, which are what was approved: cheap, asked at each start."""
        with self._mutex:
            known = [item.status for item in self._known.values()]
        bring = [s for s in known if s.metadata and s.metadata.addons and self.grant(s.pack_id) is not None]
        meant = {s.pack_id for s in bring if s.metadata and reaches(s.metadata, metadata)}
        return sorted(meant - {metadata.pack_id})

    def _hosts(self, metadata: PackMetadata, targets: frozenset[str]) -> list[Copy]:
        """Other approved Packs with one of these components that addons of this one mean."""
        named = sorted({target.split(":")[0] for target in targets} - {metadata.pack_id})[:MAX_ITEMS]
        return [copy for copy in self._approved(named) if reaches(metadata, copy.metadata)]

    def _approved(self, pack_ids: Sequence[str]) -> Iterator[Copy]:
        """Their verified copies, as far as they are approved; a copy that does not verify is no part of anything."""
        for pack_id in pack_ids:
            grant = self.grant(pack_id)
            if grant is None:
                continue
            with contextlib.suppress(RumiError), self._store.pinned((grant.digest,)):  # its own start tells
                stored = self._store.verify(grant.digest)
                yield Copy(stored, self._metadata(stored, pack_id), grant)

    def _tree_with(self, live: Live, stored: Stored, files: Mapping[str, bytes]) -> Stored:
        """``stored`` with ``files``, verified: as it lies in the store already, or made now."""
        expected = _digest_with(stored, files)
        live.overlays |= {expected}
        with contextlib.suppress(TrustError):  # not there yet, or damaged: made anew
            return self._store.verify(expected)
        made = self._store.overlay(stored, files)
        try:
            if made.digest != expected:
                raise TrustError("The copy with addons is another than it should be", code="addon_copy")
            return self._store.verify(made.digest)
        finally:
            self._store.release(made.digest)


def _digests(components: Mapping[str, EffectiveComponent]) -> dict[str, str]:
    return {name: one.digest for name, one in components.items()}


def _reader(stored: Stored) -> _Reader:
    return _Reader(FolderReader(str(stored.path), READ_LIMITS))


class _Reader(Struct, frozen=True):
    """Files of one verified copy, whichever Pack is named: an application has one target."""

    folder: FolderReader

    def __call__(self, _pack_id: str, path: str) -> bytes | None:
        return self.folder.read(path)


def _digest_with(stored: Stored, files: Mapping[str, bytes]) -> str:
    entries = {entry.path: entry for entry in stored.tree.entries}
    for path, data in files.items():
        executable = path in entries and entries[path].executable
        entries[path] = FileEntry(path, executable, len(data), sha256_hex(data))
    return tree_digest(entries.values())


def _same_rights(approved: PackMetadata, patched: PackMetadata) -> None:
    """What was decided about must be the same in both."""
    for name in _DECIDED:
        if getattr(approved, name) != getattr(patched, name):
            raise TrustError("Addons change what the Pack may do", code="addon_rights", detail=f"{name} differs.")
    links = [{one.full_id: one.connectivity for one in metadata.components} for metadata in (approved, patched)]
    if links[0] != links[1]:
        raise TrustError("Addons change what the Pack may do", code="addon_rights", detail="connectivity differs.")
