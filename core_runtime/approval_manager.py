"""Approvals, and updates of what was approved: staged versions, trials, the way back.

Invariants:
  * A staged version changes nothing of the approved one until the operator decides; it never runs from staging.
  * What is tried beside the approved version (``open_trial``) is a verified copy too, and decides nothing.
  * From ``begin_update`` to ``finish_update`` the new version is on trial: a crash or ``return_update`` leads back to
    the version before, code, grant and data together.
  * Nothing that was taken away since comes back with an older version.

Not here: states, decisions and starts (``approvals``), the files of an update (``drivers.updates``), stopping and
probing (``handlers.updates``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from backend_core.ecosystem.metadata import PACK_ID
from backend_core.ecosystem.requirements import LockedPackage
from backend_core.ecosystem.spec.models import EMPTY, PackMetadata
from backend_core.errors import AuthorError, ConflictError, NotFoundError, quote
from core_runtime.approvals import MAX_REASON_CHARS, Approvals, Known, PackStatus, VerifiedCopy
from core_runtime.approvals.patching import Copy
from core_runtime.drivers import pack_folders
from core_runtime.drivers.status import must_exist
from core_runtime.drivers.store import Stored
from core_runtime.drivers.tree import Tree
from core_runtime.drivers.updates import Phase, Record
from core_runtime.rules.approval import Event
from core_runtime.rules.combination import PackNode
from core_runtime.rules.decisions import check_digest, check_isolation, check_removed
from core_runtime.rules.grants import Grant, Mode
from core_runtime.rules.permissions import unspent
from core_runtime.rules.review import Review, build_review
from core_runtime.rules.sandbox import Isolation
from core_runtime.rules.wheels import Target

__all__ = ["ApprovalManager", "PackStatus", "VerifiedCopy"]


class ApprovalManager(Approvals):
    """Everything that an operator decides about Packs of one installation. Thread-safe."""

    def add(self, source: Path, *, actor: str, fetched: bool = False, publisher: str = "") -> PackStatus:
        """Copy a folder or archive in: as a new Pack, or into staging beside the approved version, which stays as it
        is. ``fetched``: it lies in a folder of ``fetching``. ``publisher``: the key that it must be signed with.
        """
        incoming, tree = self._updates.receive(source, ours=fetched)
        try:
            metadata = self._added_metadata(incoming, source)
            with self._locked(metadata.pack_id):
                return self._place(incoming, tree, metadata, actor, publisher)
        finally:
            pack_folders.delete(incoming)

    def review_update(
        self, pack_id: str, *, flows: Sequence[PackNode] = (), aliases: Mapping[str, Sequence[str]] = EMPTY
    ) -> Review:
        """``review`` of the staged version, against what is approved."""
        with self._locked(pack_id), self._ingested(pack_id, self._staged_folder(pack_id)) as stored:
            metadata = self._metadata(stored, pack_id)
            facts = self._review_facts(self._look(pack_id), stored, metadata, flows, aliases)
            return build_review(facts)

    def bill_of_update(self, pack_id: str) -> dict[str, Any]:
        """``bill`` of the staged version."""
        return self.bill(pack_id, source=self._staged_folder(pack_id))

    def wanted_packages_of_update(
        self, pack_id: str, target: Target | None, *, digest: str | None = None
    ) -> tuple[LockedPackage, ...]:
        """``wanted_packages`` of the staged version."""
        return self.wanted_packages(pack_id, target, digest=digest, source=self._staged_folder(pack_id))

    def check_update(self, pack_id: str, **options: Any) -> None:
        """Everything that would refuse ``begin_update``, with nothing changed: asked before anything is stopped."""
        with self._locked(pack_id), self._drafted_update(pack_id, **options):
            pass

    def open_trial(self, pack_id: str, **options: Any) -> VerifiedCopy:
        """The staged version, to be tried beside the approved one, with the grant that it would get; ``close_trial``.

        Nothing is decided: the grant is not in force, and one-use rights are not in it. Refuses what ``begin_update``
        would refuse.
        """
        with (
            self._locked(pack_id) as live,
            self._drafted_update(pack_id, unpack=True, **options) as (_, stored, draft),
        ):
            metadata = self._metadata(self._store.verify(stored.digest), pack_id)
            self._audit.append("pack.trying", pack_id=pack_id, actor=draft.actor, digest=stored.digest)
            lasting = tuple(permission for permission in draft.permissions if permission.mode is not Mode.ONCE)
            packages = self._packages.open(pack_id, metadata, draft.dependencies, options.get("target"))
            live.trial, live.trial_packages = stored.digest, draft.dependencies.tree if draft.dependencies else ""
            tried = replace(draft, permissions=lasting)
            overlaid = self._overlaid(live, Copy(stored, metadata, tried))
            live.trial_patched = overlaid.patched
            return VerifiedCopy(
                pack_id, overlaid.stored.path, stored.digest, tried, overlaid.metadata, packages, overlaid.patched
            )

    def on_trial(self, pack_id: str) -> bool:
        """Whether an update was begun and neither finished nor taken back."""
        with self._locked(pack_id):
            record = self._updates.record(pack_id)
            return record is not None and record.phase is Phase.TRYING

    def close_trial(self, pack_id: str) -> None:
        """Nothing runs of that copy any more, or it is the approved one now."""
        with self._locked(pack_id) as live:
            live.trial = ""
        self._collect()

    def begin_update(self, pack_id: str, **options: Any) -> Grant:
        """Approve the staged version on trial; the options are those of ``approve``. Nothing of the Pack may run now.

        Until ``finish_update``, a crash or ``return_update`` leads back to the version before, with its data.
        """
        with (
            self._locked(pack_id) as live,
            self._drafted_update(pack_id, unpack=True, **options) as (known, stored, draft),
        ):
            assert known.grant is not None
            before = known.grant
            held = unspent(before.permissions, known.inspection.loaded.used)
            signed_by = live.signed.key if live.signed is not None else ""
            self._audit.append(
                "pack.updating", pack_id=pack_id, actor=draft.actor, digest=stored.digest, signed_by=signed_by
            )
            try:
                self._prepare()
                grant = self._updates.apply(stored, draft, replace(before, permissions=held), at=self._clock())
            except OSError as error:
                raise pack_folders.storage_error(error, "The update could not be written.") from error
            finally:
                live.run_fault = live.opened = live.running = ""
                self._look(pack_id)
            return grant

    def finish_update(self, pack_id: str) -> PackStatus:
        """The new version proved itself: the trial is over, the way back is kept for ``rollback``."""
        with self._locked(pack_id) as live:
            grant = self._startable(self._look(pack_id))
            self._audit.append("pack.update_proved", pack_id=pack_id, digest=grant.digest)
            self._remember_publisher(live.signed, grant.actor)
            self._updates.finish(pack_id)
            self._staged.pop(pack_id, None)
            self._record("pack.approved", grant, update=True)
            status = self._look(pack_id).status
        self._collect()
        return status

    def return_update(self, pack_id: str, *, cause: str) -> PackStatus:
        """The new version did not prove itself: code and data as before the trial. It stays staged."""
        told = quote(cause, MAX_REASON_CHARS)
        return self._go_back(pack_id, "pack.update_returning", "pack.update_returned", actor="host", cause=told)

    def reject_update(self, pack_id: str, *, actor: str) -> PackStatus:
        """Throw the staged version away."""
        with self._locked(pack_id):
            self._staged_folder(pack_id)
            self._audit.append("pack.update_rejected", pack_id=pack_id, actor=actor)
            self._updates.drop_staged(pack_id)
            self._staged.pop(pack_id, None)
            return self._look(pack_id).status

    def has_previous(self, pack_id: str) -> bool:
        """Whether an update that can be taken back is recorded. Its files are verified by ``check_rollback`` alone."""
        with self._locked(pack_id):
            known = self._look(pack_id)
            return self._way_back(pack_id, known.grant) is not None

    def check_rollback(self, pack_id: str) -> None:
        """``ConflictError`` where ``rollback`` has nothing to go back to: asked before anything is stopped."""
        with self._locked(pack_id):
            known = self._look(pack_id)
            must_exist(known.status)
            record = self._way_back(pack_id, known.grant)
            if record is None:
                raise ConflictError(
                    "There is no version to go back to",
                    code="no_previous_version",
                    detail=f"What is approved of {quote(pack_id)} did not come by an update that can be taken back.",
                    hint=f"See what is approved: rumi pack show {pack_id}",
                )
            self._store.verify(record.previous.digest)

    def rollback(self, pack_id: str, *, actor: str) -> PackStatus:
        """Return to the approved version before the last update: code and the Pack's data. Nothing of it may run now.

        Rights that were taken away since then stay away.
        """
        with self._locked(pack_id):
            self.check_rollback(pack_id)
            return self._go_back(pack_id, "pack.rolling_back", "pack.rolled_back", actor=actor)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _way_back(self, pack_id: str, grant: Grant | None) -> Record | None:
        """The finished update that put what is approved now in place, if there is one."""
        record = self._updates.record(pack_id)
        fits = record is not None and grant is not None and record.digest == grant.digest
        return record if record is not None and fits and record.phase is Phase.DONE else None

    def _added_metadata(self, incoming: Path, source: Path) -> PackMetadata:
        """The metadata of a received folder, whose name on the operator's disk does not matter."""
        try:
            return self._metadata_at(incoming, source.name)
        except AuthorError as error:
            named = str(error.fields.get("pack_id", ""))
            if not PACK_ID.fullmatch(named) or named == source.name:
                raise
            return self._metadata_at(incoming, named)

    def _place(self, incoming: Path, tree: Tree, metadata: PackMetadata, actor: str, publisher: str) -> PackStatus:
        pack_id = metadata.pack_id
        known = self._look(pack_id)
        check_removed(pack_id, known.facts.mark)
        self._checked_seal(incoming, tree, metadata, actor, publisher)
        folder = self._packs.packs_dir / pack_id
        if known.grant is not None:
            if known.grant.digest == tree.digest:
                raise _conflict("nothing_new", "These files are the approved version already.", pack_id)
            if not self._same_identity(known, metadata):
                raise _conflict("identity_changed", "Its identity is another one, so this is no update.", pack_id)
            self._audit.append("pack.staging", pack_id=pack_id, actor=actor, digest=tree.digest)
            self._updates.place(incoming, self._updates.staged(pack_id))
            self._staged[pack_id] = MappingProxyType({"version": metadata.version, "digest": tree.digest})
        elif folder.exists():
            raise _conflict("pack_exists", "Another folder of that name waits in ecosystem/packs.", pack_id)
        else:
            self._audit.append("pack.adding", pack_id=pack_id, actor=actor, digest=tree.digest)
            self._updates.place(incoming, folder)
        return self._look(pack_id).status

    def _staged_folder(self, pack_id: str) -> Path:
        folder = self._updates.staged(pack_id)
        if not folder.is_dir():
            raise NotFoundError(
                "No update waits",
                code="no_update",
                detail=f"Nothing is staged for {quote(pack_id)}.",
                hint="Bring a new version with: rumi pack add FOLDER",
            )
        return folder

    @contextlib.contextmanager
    def _drafted_update(
        self,
        pack_id: str,
        *,
        isolation: Isolation,
        actor: str,
        digest: str | None = None,
        permissions: Sequence[Any] | None = None,
        replaces: Sequence[str] = (),
        until: float | None = None,
        accept_weaker: bool = False,
        target: Target | None = None,
        fetched: Path | None = None,
        unpack: bool = False,
    ) -> Iterator[tuple[Known, Stored, Grant]]:
        """The staged version copied into the store and judged, with the grant that approving it would write."""
        known = self._decidable(pack_id, Event.APPROVED)
        with self._ingested(pack_id, self._staged_folder(pack_id)) as stored:
            check_digest(digest, stored.digest)
            metadata = self._metadata(stored, pack_id)
            if known.grant is None or not self._same_identity(known, metadata):
                raise _conflict("no_update", "What is approved is no older version of this.", pack_id)
            self._live[pack_id].signed = self._checked_seal(stored.path, stored.tree, metadata, actor)
            check_isolation(known.grant, isolation, accept_weaker=accept_weaker)
            decision = self._decide(metadata, permissions, replaces, until)
            draft = self._draft(metadata, stored, decision, isolation, actor, known.grant)
            if not unpack:
                yield known, stored, draft
                return
            with self._with_packages(draft, metadata, stored, known.grant, target, fetched) as complete:
                yield known, stored, complete

    def _go_back(self, pack_id: str, intent: str, event: str, *, actor: str, **fields: Any) -> PackStatus:
        with self._locked(pack_id) as live:
            self._audit.append(intent, pack_id=pack_id, actor=actor)
            live.run_fault = live.opened = live.running = ""
            needed = self._updates.kept() or ()
            with self._store.pinned(needed), self._packages.pinned(needed):  # the record goes before the grant is seen
                grant = self._updates.back(pack_id, at=self._clock(), actor=actor)
                self._record(event, grant, **fields)
                status = self._look(pack_id).status
        self._collect()
        return status


def _conflict(code: str, detail: str, pack_id: str) -> ConflictError:
    return ConflictError(
        "This can't be added as an update",
        code=code,
        detail=f"{quote(pack_id)}: {detail}",
        hint=f"See what there is: rumi pack show {pack_id}; to begin anew: rumi pack remove {pack_id}",
    )
