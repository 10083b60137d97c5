"""What the operator decides about a Pack, and the verified copy that a start gets for it.

Invariants:
  * A Pack starts only from a copy in the store whose bytes were hashed a moment ago and match its valid grant.
  * Every decision is one critical section per Pack. A rejection counts even where it can't be recorded.

Not here: new versions and the way back (``approval_manager``), starting anything, judging single uses
(``permission_manager``), showing (``api``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import ConflictError, RequestError, RumiError, quote
from core_runtime.approvals.packages import Packaging
from core_runtime.approvals.patching import Copy
from core_runtime.approvals.standing import MAX_REASON_CHARS, unrecorded
from core_runtime.drivers import pack_folders
from core_runtime.drivers.faults import hit
from core_runtime.drivers.side_work import costs_only_itself
from core_runtime.drivers.status import PackStatus
from core_runtime.rules.addons import UNPATCHED, Patched
from core_runtime.rules.approval import Event, Mark, State
from core_runtime.rules.decisions import check_digest, check_identity, check_isolation, check_transition
from core_runtime.rules.grants import Grant, trees_of
from core_runtime.rules.narrowing import as_choices, with_added
from core_runtime.rules.permissions import decide, narrow, parse_choices, requests_of, unspent
from core_runtime.rules.sandbox import Isolation
from core_runtime.rules.wheels import Target

_RUN_EVENTS: Final = {"started": Event.STARTED, "stopped": Event.STOPPED, "gave_up": Event.GAVE_UP}


class VerifiedCopy(Struct, frozen=True):
    """What a sandbox may mount: read and verified now."""

    pack_id: str
    path: Path
    digest: str
    grant: Grant
    metadata: PackMetadata
    packages: Path | None = None
    """Its unpacked Python packages, verified as well; None for a Pack without any."""
    patched: Patched = UNPATCHED
    """What addons made of it: ``path`` and ``metadata`` are those of the copy with them, ``digest`` is the approved."""

    @property
    def effective_digest(self) -> str:
        """The digest of what lies at ``path``."""
        return self.patched.digest or self.digest


class Approvals(Packaging):
    """Decisions about all Packs of one installation. Thread-safe."""

    def approve(
        self,
        pack_id: str,
        *,
        digest: str | None = None,
        permissions: Sequence[Any] | None = None,
        replaces: Sequence[str] = (),
        isolation: Isolation,
        actor: str,
        until: float | None = None,
        accept_weaker: bool = False,
        target: Target | None = None,
        fetched: Path | None = None,
    ) -> Grant:
        """Bind the files of now to a signed grant. ``digest`` is what the operator was shown.

        Args:
            pack_id: the Pack.
            digest: a different one on disk is ``ConflictError`` ``digest_stale``; None binds what is read now.
            permissions: types or objects (``rules.permissions.parse_choices``); None grants what is declared and plain.
            replaces: keys of other Packs that it may take over, beside ``permissions``.
            isolation: what this machine offers now; recorded, and less than before needs ``accept_weaker``.
            actor: who decides.
            until: wall time in seconds at which the granted permissions end.
            accept_weaker: the operator agrees to weaker isolation than was approved.
            target: the sandbox's Python, for which packages are chosen; None where there is no sandbox.
            fetched: a folder of wheels that were fetched for it, beside those that the Pack brings.
        """
        with self._locked(pack_id) as live:
            known = self._decidable(pack_id, Event.APPROVED)
            with self._ingested(pack_id) as stored:
                check_digest(digest, stored.digest)
                metadata = self._metadata(stored, pack_id)
                hit("approve.ingested")
                seal = self._checked_seal(stored.path, stored.tree, metadata, actor)
                same = self._same_identity(known, metadata)
                check_identity(pack_id, same=same, explicit=digest is not None, now=metadata.pack_identity)
                check_isolation(known.grant, isolation, accept_weaker=accept_weaker)
                decision = self._decide(metadata, permissions, replaces, until)
                before = known.grant if same else None
                draft = self._draft(metadata, stored, decision, isolation, actor, before)
                with self._with_packages(draft, metadata, stored, before, target, fetched) as draft:
                    self._audit.append(
                        "pack.approving", pack_id=pack_id, actor=actor, digest=stored.digest, signed_by=seal.key
                    )
                    if not same:
                        self._set_data_aside(pack_id)
                    self._updates.superseded(pack_id, stored.digest)
                    self._remember_publisher(seal, actor)
                    grant = self._persist(draft, points="approve")
                    live.run_fault = ""
                    self._record("pack.approved", grant, withheld=[item.type for item in decision.withheld])
                    self._look(pack_id)  # while its trees are still pinned: until now nothing else says they are needed
        self._collect()
        return grant

    def narrow(self, pack_id: str, *, permissions: Sequence[Any], actor: str) -> Grant:
        """Replace the granted permissions by fewer; acts on the next use. Files, isolation and identity stay.

        If the smaller grant can't be written (full disk), the whole grant is revoked: less is always possible.
        """
        with self._locked(pack_id):
            held = self._startable(self._look(pack_id))
            with self.grants.deciding(pack_id) as used:
                chosen = narrow(held.permissions, parse_choices(permissions), spent=used)
                try:
                    grant = self.grants.grant(replace(held, permissions=chosen, actor=actor), points="narrow")
                except OSError as error:
                    self._revoke(pack_id, Mark.REVOKED, points="revoke")
                    what = "The smaller grant could not be written, so the Pack lost its approval."
                    raise pack_folders.storage_error(error, what) from error
            self._look(pack_id)
            self._record("pack.narrowed", grant)
            return grant

    def widen(self, pack_id: str, *, permissions: Sequence[Any], actor: str) -> Grant:
        """Add to what is granted, of what the approved version declares; acts on the next use. Nothing else changes.

        What is held stays as it is, without what is used up or over: a new decision does not make that fresh again,
        also where the Pack uses it meanwhile.
        """
        added = parse_choices(permissions)
        with self._locked(pack_id):
            held = self._startable(self._look(pack_id))
            stored = self._store.verify(held.digest)
            metadata = self._metadata(stored, pack_id)
            with self.grants.deciding(pack_id) as used:
                kept = [p for p in unspent(held.permissions, used) if self._holds(p)]
                choices = with_added(as_choices(kept), added)
                decision = decide(requests_of(metadata), choices, instance=self.instance)
                self._audit.append("pack.widening", pack_id=pack_id, actor=actor, digest=held.digest)
                wider = replace(
                    held,
                    permissions=decision.granted,
                    actor=actor,
                    approved_at=self._clock(),
                    effects=self._effects(Copy(stored, metadata), decision.granted),
                )
                grant = self._persist(wider, points="widen")
            self._look(pack_id)
            self._record("pack.widened", grant)
            return grant

    def reject(self, pack_id: str, *, reason: str, actor: str) -> PackStatus:
        """Block the Pack and void its grant. It counts as soon as the counter is raised."""
        with self._locked(pack_id) as live:
            self._decidable(pack_id, Event.REJECTED)
            self._prepare()
            hit("revoke.before_counter")
            self._revoke(pack_id, Mark.BLOCKED, points="revoke")
            live.run_fault = live.reviewed = ""
            with costs_only_itself(self._report, unrecorded(pack_id)):  # must not undo what the counter already says
                self._updates.superseded(pack_id, "")
                self.grants.record_rejection(pack_id, reason[:MAX_REASON_CHARS], self._clock())
            status = self._look(pack_id).status
            self._audit.happened("pack.rejected", pack_id=pack_id, actor=actor, reason=quote(reason, MAX_REASON_CHARS))
        self._collect()
        return status

    def restore(self, pack_id: str, *, actor: str) -> PackStatus:
        """Put the approved bytes back into the folder; what lay there is set aside. A signed decision."""
        with self._locked(pack_id):
            known = self._decidable(pack_id, Event.RESTORED)
            if known.grant is None:
                raise ConflictError("Nothing to restore", code="no_grant", detail="The Pack has no valid grant.")
            stored = self._store.verify(known.grant.digest)
            self._audit.append("pack.restoring", pack_id=pack_id, actor=actor, digest=stored.digest)
            folder = self._packs.packs_dir / pack_id
            pack_folders.put_back(self._store, stored, folder, self._user_data / "store" / "set_aside")
            with self.grants.deciding(pack_id) as used:
                kept = unspent(known.grant.permissions, used)
                renewed = replace(known.grant, permissions=kept, actor=actor, restored_at=self._clock())
                grant = self._persist(renewed, points="approve")
            self._record("pack.restored", grant)
            return self._look(pack_id).status

    def remove(self, pack_id: str, *, actor: str, forget: Callable[[], object] = lambda: None) -> None:
        """Uninstall: grant void, folder and copy gone. The Pack's data stays (see ``install_journal``).

        It counts as soon as the counter is raised; after an interruption only removing again may follow
        (``unfinished_removals``). ``forget`` takes along what others keep for the Pack, and may be repeated.
        """
        with self._locked(pack_id):
            self._lookup(pack_id)
            self._prepare()
            self._revoke(pack_id, Mark.REMOVING, points="remove")
            forget()
            hit("remove.forgotten")
            self._updates.remove(pack_id)
            pack_folders.remove(self._packs.packs_dir / pack_id)
            hit("remove.folder_gone")
            self._forget(pack_id)
            self._audit.append("pack.removed", pack_id=pack_id, actor=actor)
            hit("remove.recorded")
            self.grants.removed(pack_id)
            hit("remove.done")
        self._collect()

    def unfinished_removals(self) -> Sequence[str]:
        """Packs of which something may be left though they were removed: to be removed again, before anything else."""
        return self.grants.removing()

    # --- running ------------------------------------------------------------------------------------------------------

    def open_for_start(self, pack_id: str, *, isolation: Isolation, target: Target | None = None) -> VerifiedCopy:
        """Hash folder, copy and unpacked packages again; what to run. ``target``: the sandbox's Python.

        Raises:
            DeniedError: the Pack is undecided or rejected.
            TrustError: with the cause: files, grant, key, counters, store or isolation are not what was approved.
            HostError: ``dependencies_missing``: Python packages are not there, or not for this Python.
        """
        with self._locked(pack_id) as live:
            try:
                grant = self._startable(self._look(pack_id))
                check_isolation(grant, isolation, accept_weaker=False)
                stored = self._store.verify(grant.digest)
                metadata = self._metadata(stored, pack_id)
                packages = self._packages.open(pack_id, metadata, grant.dependencies, target)
                if not live.running and not live.trial:
                    live.overlays = frozenset()
                overlaid = self._overlaid(live, Copy(stored, metadata, grant))
            except RumiError as error:
                self._audit.append("pack.start_refused", pack_id=pack_id, cause=error.code)
                raise
            if self.base_runtime and grant.base_runtime not in {"", self.base_runtime}:
                then, now = quote(grant.base_runtime), quote(self.base_runtime)
                self._audit.append("pack.runtime_changed", pack_id=pack_id, approved=then, now=now)
            live.opened, live.patched = stored.digest, overlaid.patched
            live.packages = grant.dependencies.tree if grant.dependencies else ""
            return VerifiedCopy(
                pack_id, overlaid.stored.path, stored.digest, grant, overlaid.metadata, packages, overlaid.patched
            )

    def check_running(self, pack_id: str) -> None:
        """Hash folder and copies of a Pack that runs again, before more of its code does; raises as a start does."""
        with self._locked(pack_id) as live:
            grant = self._startable(self._look(pack_id))
            if live.running != grant.digest:
                raise ConflictError(
                    "This version does not run", code="not_running", detail=f"{quote(pack_id)} may run another one.",
                    hint=f"Start it: rumi pack start {pack_id}",
                )  # fmt: skip
            for digest in {grant.digest, live.patched.digest} - {""}:
                self._store.verify(digest)

    def mark(self, pack_id: str, event: str, cause: str = "") -> PackStatus:
        """Tell what became of a start: ``started``, ``stopped`` or ``gave_up``. ``ConflictError`` where it can't be.

        That something stopped after its Pack was edited or rejected follows from that and changes no state.
        """
        kind = _RUN_EVENTS.get(event)
        if kind is None:
            raise RequestError("Unknown event", code="event_unknown", detail=f"{quote(event)} is none of the three.")
        with self._locked(pack_id) as live:
            known = self._lookup(pack_id)
            state = known.status.state
            if kind is Event.STARTED:
                self._startable(known)
                if state is not State.RUNNING:
                    check_transition(pack_id, state, kind)
                live.running, live.run_fault = known.grant.digest if known.grant else "", ""
                live.packages = trees_of(known.grant)[-1] if known.grant else ""
                if live.trial == live.running:
                    live.patched = live.trial_patched
            else:
                live.opened = live.running = ""
                live.overlays = live.overlays if live.trial else frozenset()
                if kind is Event.GAVE_UP and state in {State.APPROVED, State.RUNNING}:
                    live.run_fault = cause or "gave_up"
            self._audit.append(f"pack.{event}", pack_id=pack_id, cause=cause)
            status = self._judge(pack_id, known.inspection).status
        if kind is not Event.STARTED:
            self._collect()
        return status
