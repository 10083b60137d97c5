"""Python packages of Packs: which have to be fetched before a decision, and choosing them anew.

Invariant: nothing is fetched for files other than those that the operator was shown.

Not here: resolving, unpacking and verifying (``drivers.packages``), fetching itself (``handlers.dependencies``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from backend_core.ecosystem.requirements import LockedPackage
from backend_core.ecosystem.spec.models import PackMetadata
from core_runtime.approvals.drafting import Drafting
from core_runtime.drivers.store import Stored
from core_runtime.rules.decisions import check_digest
from core_runtime.rules.dependencies import Dependencies
from core_runtime.rules.grants import Grant
from core_runtime.rules.permissions import unspent
from core_runtime.rules.wheels import Target


class Packaging(Drafting):
    """Packages of what is approved or about to be."""

    def wanted_packages(
        self, pack_id: str, target: Target | None, *, digest: str | None = None, source: Path | None = None
    ) -> tuple[LockedPackage, ...]:
        """The Python packages that an approval of now would find no wheel for: what has to be fetched before.

        ``digest``: what the operator was shown; for other files it is ``ConflictError`` ``digest_stale``, and no fetch.
        """
        if target is None:
            return ()
        with self._locked(pack_id):
            known = self._look(pack_id)
            folder = known.inspection.folder.metadata if known.inspection.folder else None
            shown = folder if source is None else self._metadata_at(source, pack_id)
            if shown is None or not shown.lock_file:
                return ()  # copying the whole Pack to learn that costs as much as the approval
            before = known.grant.dependencies if known.grant else None
            with self._ingested(pack_id, source) as stored:
                check_digest(digest, stored.digest)
                metadata = self._metadata(stored, pack_id)
                return self._packages.wanted(metadata, stored.path, target=target, before=before)

    @contextlib.contextmanager
    def fetching(self) -> Iterator[Path]:
        """A folder for wheels on their way; gone afterwards."""
        with self._packages.scratch() as folder:
            yield folder

    def renew_packages(self, pack_id: str, *, target: Target | None, fetched: Path | None, actor: str) -> Grant:
        """Choose and unpack the packages of what is approved anew; a signed decision, everything else of it stays."""
        with self._locked(pack_id):
            known = self._look(pack_id)
            held = self._startable(known)
            stored = self._store.verify(held.digest)
            metadata = self._metadata(stored, pack_id)
            kept = replace(held, permissions=unspent(held.permissions, known.inspection.loaded.used), actor=actor)
            with self._with_packages(kept, metadata, stored, held, target, fetched) as draft:
                if draft.dependencies == held.dependencies:
                    return held
                grant = self._persist(draft, points="approve")
                self._look(pack_id)
            self._record("pack.packages_renewed", grant)
        self._collect()
        return grant

    # --- for the layers above -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _with_packages(
        self,
        draft: Grant,
        metadata: PackMetadata,
        stored: Stored,
        before: Grant | None,
        target: Target | None,
        fetched: Path | None,
    ) -> Iterator[Grant]:
        """The draft with its packages chosen and unpacked; they are kept at least until the block ends."""
        held: Dependencies | None = before.dependencies if before else None
        found, pinned = self._packages.resolve(metadata, stored.path, target=target, fetched=fetched, before=held)
        try:
            yield replace(draft, dependencies=found)
        finally:
            self._packages.release(pinned)
