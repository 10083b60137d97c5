"""Approval of Packs: what may run, decided by the operator, bound to bytes, signed, and checked again at each start.

Invariants:
  * A Pack starts only from a copy in the store whose bytes were hashed a moment ago and match its valid grant.
  * Every state comes from ``rules.approval.judge`` over facts read from disk; in memory live only what a restart may
    forget (that it runs, that it could not be kept running, that its review was seen).
  * Every decision is one critical section per Pack, persisted step by step so that a crash leaves the old state or
    the new.
  * Metadata that counts is read from the copy, never from the folder: the folder may be another one a moment later.
  * What can't be recorded is not granted; a rejection counts even where it can't be recorded.

Not here: new versions and the way back (``approval_manager``), starting anything, judging single uses
(``permission_manager``), showing (``api``).
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.metadata import PACK_ID, read_metadata
from backend_core.ecosystem.requirements import LockedPackage
from backend_core.ecosystem.spec.models import Contract, PackFolder, PackMetadata
from backend_core.errors import (
    AuthorError,
    ConflictError,
    HostError,
    RequestError,
    RumiError,
    TrustError,
    quote,
)
from backend_core.files import private_folder
from core_runtime.drivers import pack_folders
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.counters import Counters
from core_runtime.drivers.faults import hit
from core_runtime.drivers.findings import scan_contents
from core_runtime.drivers.grants import GrantFiles, identity_fingerprint
from core_runtime.drivers.inspection import AMBIGUOUS, Inspection, Inspector, Packs
from core_runtime.drivers.latest_time import LatestTime
from core_runtime.drivers.packages import Packages, wheels_folder
from core_runtime.drivers.status import PackStatus, checked_id, must_exist, status_of, unusable
from core_runtime.drivers.store import Stored, TreeStore
from core_runtime.drivers.tree import read_tree
from core_runtime.drivers.updates import UpdateFiles
from core_runtime.flow_composer import flow_ids
from core_runtime.rules.approval import Event, Facts, Mark, State, Verdict
from core_runtime.rules.combination import PackNode
from core_runtime.rules.contracts import Terms, schema_faults
from core_runtime.rules.decisions import (
    check_digest,
    check_identity,
    check_isolation,
    check_removed,
    check_startable,
    check_transition,
    isolation_words,
)
from core_runtime.rules.dependencies import Dependencies
from core_runtime.rules.digest import TreeLimits, fingerprints
from core_runtime.rules.grants import Grant, Permission, flow_claim, freeze, is_flow_claim, trees_of
from core_runtime.rules.narrowing import as_choices, with_added
from core_runtime.rules.permissions import (
    Decision,
    decide,
    forbidden,
    in_force,
    narrow,
    parse_choices,
    requests_of,
    unspent,
    with_replaced,
)
from core_runtime.rules.review import Review, ReviewFacts, build_review
from core_runtime.rules.sandbox import Isolation
from core_runtime.rules.seals import Fault
from core_runtime.rules.wheels import Target

__all__ = ["Approvals", "Known", "PackStatus", "VerifiedCopy"]

MAX_REASON_CHARS: Final = 1000
REPLACE: Final = "interface.replace"
_RUN_EVENTS: Final = {"started": Event.STARTED, "stopped": Event.STOPPED, "gave_up": Event.GAVE_UP}


Statuses: TypeAlias = list[PackStatus]


@dataclass(frozen=True, slots=True)
class VerifiedCopy:
    """What a sandbox may mount: read and verified now."""

    pack_id: str
    path: Path
    digest: str
    grant: Grant
    metadata: PackMetadata
    packages: Path | None = None
    """Its unpacked Python packages, verified as well; None for a Pack without any."""


@dataclass(slots=True)
class _Live:
    """What the process knows of a Pack beside its files. ``opened``, ``trial``, ``running``: digests in use, and of the
    packages in use with them.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    opened: str = ""
    trial: str = ""
    running: str = ""
    packages: str = ""
    trial_packages: str = ""
    run_fault: str = ""
    reviewed: str = ""

    def in_use(self) -> tuple[str, ...]:
        """Digests of what sandboxes may have mounted now."""
        packages = (self.packages if self.opened or self.running else "", self.trial_packages if self.trial else "")
        return tuple(digest for digest in (self.opened, self.trial, self.running, *packages) if digest)


@dataclass(frozen=True, slots=True)
class Known:
    """A Pack as last looked at."""

    status: PackStatus
    inspection: Inspection
    facts: Facts

    @property
    def grant(self) -> Grant | None:
        return self.inspection.loaded.grant


class Approvals:
    """States, grants and verified copies of all Packs of one installation. Thread-safe."""

    def __init__(
        self,
        home: Path,
        registry: Packs,
        audit: AuditLog,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        base_runtime: str = "",
        limits: TreeLimits | None = None,
    ) -> None:
        """``base_runtime`` (image id or interpreter version) is recorded in each grant."""
        self.instance = secrets.token_hex(8)
        """This run of the host: what "until restart" means."""
        self.keep_modified = False
        """Whether a verified copy that runs keeps its rights when the files beside it are edited. Nothing starts so."""
        self._packs = registry
        self._audit = audit
        self._clock = clock
        self._base_runtime = base_runtime
        self._user_data = home / "user_data"
        self._user_data.mkdir(parents=True, exist_ok=True)
        self.grants = GrantFiles(private_folder(self._user_data / "permissions"))
        self._limits = bounds = limits or TreeLimits()
        self._store = TreeStore(self._user_data / "store", limits=bounds)
        self._packages = Packages(self._user_data / "store")
        self._inspector = Inspector(registry, self.grants, bounds, self.instance)
        self._mutex = threading.Lock()
        self._live: dict[str, _Live] = {}
        self._known: dict[str, Known] = {}
        self._scanned = False
        self._staged: dict[str, Mapping[str, str]] = {}
        self._prepare_fresh()
        self.latest = LatestTime(self.grants.ledger, audit, clock=clock, monotonic=monotonic)
        self._updates = UpdateFiles(self._user_data, registry.packs_dir, self._store, self.grants, bounds)
        self._recover()

    # --- reading -----------------------------------------------------------------------------------------------------

    def scan(self, pack_id: str | None = None) -> Statuses:
        """Read folders and grants, compare approved files with their grant; all Packs, or one."""
        if pack_id is not None:
            known = self._look(checked_id(pack_id))
            must_exist(known.status)
            return [known.status]
        folders = self._packs.scan()
        counters = self.grants.ledger.read()
        names = {name for name in folders if PACK_ID.fullmatch(name)} | {*self.grants.pack_ids()}
        with self._mutex:
            self._known = {name: known for name, known in self._known.items() if name in names}
        results = [self._look(name, folders.get(name), counters, scanned=True).status for name in sorted(names)]
        self._scanned = True
        self._collect()
        return results + [unusable(folder) for name, folder in sorted(folders.items()) if name not in names]

    def list(self) -> Statuses:
        """Every Pack as of the last look; the first call scans."""
        if not self._scanned:
            return self.scan()
        with self._mutex:
            return [self._known[name].status for name in sorted(self._known)]

    def status(self, pack_id: str) -> PackStatus:
        """One Pack as of the last look. Raises ``NotFoundError``, ``RequestError`` for an impossible id."""
        return self._lookup(checked_id(pack_id)).status

    def grant(self, pack_id: str) -> Grant | None:
        """The grant in force, or None: approved, running, or opened for another start after it was given up.

        Cheap: asked at each use of a right.
        """
        known = self._known.get(pack_id)
        if known is None:
            return None
        if known.status.state in {State.APPROVED, State.RUNNING}:
            return known.grant
        if known.status.state is State.MODIFIED:
            return known.grant if self._kept(known) else None
        return known.grant if self._live[pack_id].opened and self._gave_up(known) else None

    def copy_path(self, digest: str) -> Path:
        """Where the approved copy of ``digest`` lies. Not verified: whoever reads from it compares with the grant."""
        return self._store.path(digest)

    def owners(self) -> dict[str, str]:
        """Interface key → the Pack that owns it now: the first approved provider, or who was granted to replace it."""
        claims: dict[str, tuple[int, float, str]] = {}
        for grant in self._grants_in_force():
            replaced = {key for p in grant.of_type(REPLACE) if self._holds(p) for key in p.texts("keys")}
            for key, since in grant.since.items():
                if is_flow_claim(key):
                    continue
                claim = (0, -grant.approved_at, grant.pack_id) if key in replaced else (1, since, grant.pack_id)
                claims[key] = min(claims.get(key, claim), claim)
        return {key: claim[2] for key, claim in sorted(claims.items())}

    def owners_change_in(self) -> float | None:
        """Seconds until a granted replacement ends by time, by the clock of now; None while none will."""
        timed = [p for grant in self._grants_in_force() for p in grant.of_type(REPLACE) if p.until and self._holds(p)]
        ends = [permission.until for permission in timed if permission.until is not None]
        return max(0.0, min(ends) - self.latest.now()) if ends else None

    def review(self, pack_id: str) -> Review:
        """Everything for the decision, from one consistent copy; an ``installed`` Pack becomes ``pending``."""
        with self._locked(pack_id) as live:
            must_exist(self._look(pack_id).status)
            with self._ingested(pack_id) as stored:
                metadata = self._metadata(stored, pack_id)
                live.reviewed = stored.digest
                review = build_review(self._review_facts(self._look(pack_id), stored, metadata))
                return replace(review, pending_update=self._pending_update(pack_id))

    # --- deciding ----------------------------------------------------------------------------------------------------

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
                same = self._same_identity(known, metadata)
                check_identity(pack_id, same=same, explicit=digest is not None, now=metadata.pack_identity)
                check_isolation(known.grant, isolation, accept_weaker=accept_weaker)
                decision = self._decide(metadata, permissions, replaces, until)
                before = known.grant if same else None
                draft = self._draft(metadata, stored, decision, isolation, actor, before)
                with self._with_packages(draft, metadata, stored, before, target, fetched) as draft:
                    self._audit.append("pack.approving", pack_id=pack_id, actor=actor, digest=stored.digest)
                    if not same:
                        self._set_data_aside(pack_id)
                    self._updates.superseded(pack_id, stored.digest)
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
            metadata = self._metadata(self._store.verify(held.digest), pack_id)
            with self.grants.deciding(pack_id) as used:
                kept = [p for p in unspent(held.permissions, used) if self._holds(p)]
                choices = with_added(as_choices(kept), added)
                decision = decide(requests_of(metadata), choices, instance=self.instance)
                self._audit.append("pack.widening", pack_id=pack_id, actor=actor, digest=held.digest)
                wider = replace(held, permissions=decision.granted, actor=actor, approved_at=self._clock())
                grant = self._persist(wider, points="widen")
            self._look(pack_id)
            self._record("pack.widened", grant)
            return grant

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

    def reject(self, pack_id: str, *, reason: str, actor: str) -> PackStatus:
        """Block the Pack and void its grant. It counts as soon as the counter is raised."""
        with self._locked(pack_id) as live:
            self._decidable(pack_id, Event.REJECTED)
            self._prepare()
            hit("revoke.before_counter")
            self._revoke(pack_id, Mark.BLOCKED, points="revoke")
            live.run_fault = live.reviewed = ""
            with contextlib.suppress(OSError):  # a full disk must not undo what the counter already says
                self._updates.superseded(pack_id, "")
                self.grants.record_rejection(pack_id, reason[:MAX_REASON_CHARS], self._clock())
            status = self._look(pack_id).status
            with contextlib.suppress(HostError):
                self._audit.append(
                    "pack.rejected", pack_id=pack_id, actor=actor, reason=quote(reason, MAX_REASON_CHARS)
                )
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
        with self._locked(pack_id) as live:
            self._lookup(pack_id)
            self._prepare()
            self._revoke(pack_id, Mark.REMOVING, points="remove")
            forget()
            hit("remove.forgotten")
            self._updates.remove(pack_id)
            pack_folders.remove(self._packs.packs_dir / pack_id)
            hit("remove.folder_gone")
            live.opened = live.running = live.run_fault = live.reviewed = ""
            self._staged.pop(pack_id, None)
            with self._mutex:
                self._known.pop(pack_id, None)
            self._packs.rescan(pack_id)
            self._audit.append("pack.removed", pack_id=pack_id, actor=actor)
            hit("remove.recorded")
            self.grants.removed(pack_id)
            hit("remove.done")
        self._collect()

    def unfinished_removals(self) -> Sequence[str]:
        """Packs of which something may be left though they were removed: to be removed again, before anything else."""
        return self.grants.removing()

    # --- running -----------------------------------------------------------------------------------------------------

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
            except RumiError as error:
                self._audit.append("pack.start_refused", pack_id=pack_id, cause=error.code)
                raise
            live.opened = stored.digest
            live.packages = grant.dependencies.tree if grant.dependencies else ""
            return VerifiedCopy(pack_id, stored.path, stored.digest, grant, metadata, packages)

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
            else:
                live.opened = live.running = ""
                if kind is Event.GAVE_UP and state in {State.APPROVED, State.RUNNING}:
                    live.run_fault = cause or "gave_up"
            self._audit.append(f"pack.{event}", pack_id=pack_id, cause=cause)
            status = self._judge(pack_id, known.inspection).status
        if kind is not Event.STARTED:
            self._collect()
        return status

    # --- inside ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, pack_id: str) -> Iterator[_Live]:
        with self._mutex:
            live = self._live.setdefault(checked_id(pack_id), _Live())
        with live.lock:
            yield live

    def _look(
        self,
        pack_id: str,
        folder: PackFolder | None = None,
        counters: Counters | Fault | None = None,
        *,
        scanned: bool = False,
    ) -> Known:
        """Read everything about one Pack now and remember the outcome."""
        with self._locked(pack_id) as live:
            found = folder if scanned else self._packs.rescan(pack_id)
            inspection = self._inspector.inspect(pack_id, found, counters, reviewed=live.reviewed)
            if inspection.news:
                paths = [quote(path) for path in inspection.changed[:50]]
                self._audit.append("pack.modified", pack_id=pack_id, paths=paths, count=len(inspection.changed))
            return self._judge(pack_id, inspection)

    def _judge(self, pack_id: str, inspection: Inspection) -> Known:
        """State and status from what was found and from what runs; remembered."""
        live = self._live[pack_id]
        grant = inspection.loaded.grant
        running = grant is not None and live.running == grant.digest
        facts = inspection.facts(reviewed=live.reviewed, running=running, run_fault=live.run_fault)
        status = replace(status_of(pack_id, inspection, facts), pending_update=self._pending_update(pack_id))
        known = Known(status, inspection, facts)
        with self._mutex:
            self._known[pack_id] = known
        return known

    def _lookup(self, pack_id: str) -> Known:
        known = self._known.get(pack_id) or self._look(pack_id)
        must_exist(known.status)
        return known

    def _decidable(self, pack_id: str, event: Event) -> Known:
        """A fresh look at a Pack about which the operator may decide this now."""
        known = self._look(pack_id)
        must_exist(known.status)
        if known.facts.ambiguous and event is not Event.REJECTED:
            raise TrustError(
                "Two folders claim one Pack id",
                code=AMBIGUOUS,
                detail=known.status.detail,
                hint="Remove or rename all but the one that you mean, then scan again.",
            )
        check_removed(pack_id, known.facts.mark)
        check_transition(pack_id, known.status.state, event)
        return known

    def _startable(self, known: Known) -> Grant:
        """The grant of a Pack that may start; one that gave up may, by the operator."""
        status = known.status
        state = State.APPROVED if self._gave_up(known) else status.state
        check_startable(status.pack_id, state, status.cause, status.detail, status.changed_paths)
        if known.grant is None:
            raise TrustError("The Pack has no grant", code="grant_missing", detail="Its state and grant disagree.")
        return known.grant

    def _kept(self, known: Known) -> bool:
        """Whether just the copy that its valid grant names goes on running."""
        running = self._live[known.status.pack_id].running
        return self.keep_modified and known.grant is not None and running == known.grant.digest

    def _gave_up(self, known: Known) -> bool:
        """Whether nothing but its own crashes stands against it."""
        status, live = known.status, self._live[known.status.pack_id]
        return status.state is State.ERROR and bool(live.run_fault) and status.cause == live.run_fault

    @contextlib.contextmanager
    def _ingested(self, pack_id: str, source: Path | None = None) -> Iterator[Stored]:
        stored = self._store.ingest(source or self._packs.packs_dir / pack_id)
        try:
            yield stored
        finally:
            self._store.release(stored.digest)

    def _metadata(self, stored: Stored, pack_id: str) -> PackMetadata:
        """The metadata of a copy, with every declaration checked. Raises ``AuthorError``."""
        return self._metadata_at(stored.path, pack_id)

    def _metadata_at(self, path: Path, pack_id: str) -> PackMetadata:
        metadata = read_metadata(FolderReader(str(path), READ_LIMITS), pack_id)
        faults = forbidden(metadata)
        if faults:
            raise AuthorError(
                "The Pack asks for what nobody may grant",
                code="permission_forbidden",
                detail="; ".join(faults[:5]),
                hint="Correct permissions.json, then scan again.",
            )
        unusable = schema_faults(metadata)
        if unusable:
            raise AuthorError(
                "The Pack declares schemas that are not used here",
                code="contract_invalid",
                detail="; ".join(unusable),
                hint="Correct connectivity.provides of its manifests, then scan again.",
            )
        return metadata

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
            base_runtime=self._base_runtime,
        )

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

    def _revoke(self, pack_id: str, mark: Mark, *, points: str) -> None:
        """Void the grant; from now on it counts for nothing here either, also where that was written only half."""
        try:
            self.grants.revoke(pack_id, mark, points=points)
        except OSError as error:
            what = "Not all of the decision could be written; what is written of it counts."
            raise pack_folders.storage_error(error, what) from error
        finally:
            self._look(pack_id)

    def _persist(self, draft: Grant, *, points: str) -> Grant:
        try:
            self._prepare()
            return self.grants.grant(draft, points=points)
        except OSError as error:
            raise pack_folders.storage_error(error, "The decision could not be written; nothing changed.") from error

    def rotate_key(self, *, actor: str) -> None:
        """Prepare a new signing key. The next start signs everything again with it; until then the old one holds.

        ``TrustError`` when there is no usable key: then nothing is prepared.
        """
        self.grants.keyring.prepare_rotation()
        self._audit.append("trust.key_rotation", actor=actor)

    def _prepare(self) -> None:
        """Make key and counters where they were lost: the operator's decision to go on without the old grants."""
        lost = self.grants.prepare()
        if lost:
            self._audit.append("trust.renewed", cause=lost)

    def _prepare_fresh(self) -> None:
        """A new installation gets key and counters now; an interrupted rotation of the key is finished."""
        self.grants.keyring.ensure_fresh()
        ledger = self.grants.folder / ".counters"
        if not ledger.exists() and not self.grants.pack_ids() and not self.grants.keyring.fault():
            self.grants.ledger.ensure()
        with contextlib.suppress(TrustError):  # an unusable key is the cause that each grant will show
            self.grants.keyring.recover()

    def _grants_in_force(self) -> tuple[Grant, ...]:
        with self._mutex:
            known = [item for _, item in sorted(self._known.items())]
        valid = (item.grant for item in known if item.inspection.loaded.verdict is Verdict.VALID)
        return tuple(grant for grant in valid if grant is not None)

    def _holds(self, permission: Permission) -> bool:
        return in_force(permission, now=self.latest.now(permission.until))

    def _review_facts(self, known: Known, stored: Stored, metadata: PackMetadata) -> ReviewFacts:
        others = [grant for grant in self._grants_in_force() if grant.pack_id != metadata.pack_id]
        packages = self._packages.look(metadata, stored.path, known.grant.dependencies if known.grant else None)
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
            contracts_before=self._approved_contracts(known.grant),
            peers=self._peers(frozenset(grant.pack_id for grant in others)),
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
        with contextlib.suppress(RumiError):
            copy = self._store.verify(grant.digest)
            return read_metadata(FolderReader(str(copy.path), READ_LIMITS), grant.pack_id).contracts()
        return None

    def _pending_update(self, pack_id: str) -> Mapping[str, str]:
        """What is staged, as of when it was; read from the disk where this run of the host has not staged it."""
        folder = self._updates.staged(pack_id)
        if not folder.is_dir():
            self._staged.pop(pack_id, None)
            return MappingProxyType({})
        if pack_id not in self._staged:
            told = {"version": "", "digest": ""}
            with contextlib.suppress(RumiError):  # damaged: its review says how
                tree = read_tree(folder, limits=self._limits)
                told = {"version": self._metadata_at(folder, pack_id).version, "digest": tree.digest}
            self._staged[pack_id] = MappingProxyType(told)
        return self._staged[pack_id]

    def _recover(self) -> None:
        """What a crash left half done: folders beside the Packs' own, and updates on trial."""
        pack_folders.sweep(self._packs.packs_dir)

        def tell(pack_id: str, what: str) -> None:
            with contextlib.suppress(HostError):
                self._audit.append("pack.update_interrupted", pack_id=pack_id, what=what[:MAX_REASON_CHARS])

        self._updates.recover(tell, at=self._clock())

    def _set_data_aside(self, pack_id: str) -> None:
        """Another identity under the same id is another Pack: it must not find the data of the one before."""
        name = pack_folders.set_aside(self._user_data / "packs" / pack_id)
        if name:
            self._audit.append("pack.data_set_aside", pack_id=pack_id, folder=name)

    def _record(self, event: str, grant: Grant, **fields: Any) -> None:
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

    def _collect(self) -> None:
        """Drop copies that nothing needs; none while a grant can't be read, since it may be readable later."""
        if not self._scanned:
            return

        def needed() -> tuple[str, ...] | None:
            with self._mutex:
                grants = [known.inspection.loaded for known in self._known.values()]
                lives = tuple(self._live.values())
            if any(item.verdict is Verdict.FAULTY for item in grants):
                return None
            # after the grants: the record of an update on trial is written before its grant is looked at
            ways_back = self._updates.kept()
            if ways_back is None:
                return None
            granted = [digest for item in grants if item.grant for digest in trees_of(item.grant)]
            used = [digest for live in lives for digest in live.in_use()]
            return (*granted, *used, *ways_back)

        self._store.collect(needed)
        self._packages.collect(needed)
