"""Where each Pack stands: read from the disk, judged by the rules, remembered until the next look.

Invariants:
  * Every state comes from ``rules.approval.judge`` over facts read from disk; in memory live only what a restart may
    forget (that it runs, that it could not be kept running, that its review was seen).
  * The locks of the Packs and what is remembered of them are touched here only: every layer above enters by
    ``_locked`` and looks by ``_look``.

Not here: deciding (``deciding``), bytes and drafts of grants (``drafting``).
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.ecosystem.folder import READ_LIMITS, FolderReader
from backend_core.ecosystem.metadata import PACK_ID, read_metadata
from backend_core.ecosystem.spec.models import PackFolder, PackMetadata
from backend_core.errors import AuthorError, RumiError, TrustError, quote
from backend_core.files import private_folder
from core_runtime.drivers import pack_folders
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.counters import Counters
from core_runtime.drivers.grants import GrantFiles
from core_runtime.drivers.inspection import AMBIGUOUS, Inspection, Inspector, Packs
from core_runtime.drivers.latest_time import LatestTime
from core_runtime.drivers.packages import Packages
from core_runtime.drivers.side_work import Mishap, Report, unheard
from core_runtime.drivers.status import PackStatus, checked_id, must_exist, status_of, unusable
from core_runtime.drivers.store import Stored, TreeStore
from core_runtime.drivers.tree import read_tree
from core_runtime.drivers.updates import UpdateFiles
from core_runtime.rules.addons import UNPATCHED, Patched
from core_runtime.rules.approval import Event, Facts, State, Verdict
from core_runtime.rules.contracts import schema_faults
from core_runtime.rules.decisions import check_removed, check_startable, check_transition
from core_runtime.rules.digest import TreeLimits
from core_runtime.rules.grants import Grant, Permission, is_flow_claim, trees_of
from core_runtime.rules.permissions import forbidden, in_force
from core_runtime.rules.seals import Fault
from core_runtime.rules.signing import Seal

MAX_REASON_CHARS: Final = 1000
MAX_TOLD: Final = 50
REPLACE: Final = "interface.replace"
Statuses: TypeAlias = list[PackStatus]


def unrecorded(pack_id: str) -> Mishap:
    """Tells of a rejection without its record, until the next decision about that Pack."""
    return Mishap(
        "rejection_unwritable", pack_id, "A rejection counts, but its record could not be written",
        "Make room on the disk that holds user_data. The Pack stays blocked; only the reason was lost.",
    )  # fmt: skip


class Live(Struct):
    """What the process knows of a Pack beside its files. ``opened``, ``trial``, ``running``: digests in use, and of the
    packages in use with them; ``overlays``: of the copies with addons that may be, until nothing of it runs.
    ``patched``: what its last start found of addons.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    opened: str = ""
    trial: str = ""
    running: str = ""
    packages: str = ""
    trial_packages: str = ""
    overlays: frozenset[str] = frozenset()
    patched: Patched = UNPATCHED
    trial_patched: Patched = UNPATCHED
    run_fault: str = ""
    reviewed: str = ""
    signed: Seal | None = None
    """The signature of the version on trial, to be remembered once that has proved itself."""

    def in_use(self) -> tuple[str, ...]:
        """Digests of what sandboxes may have mounted now."""
        packages = (self.packages if self.opened or self.running else "", self.trial_packages if self.trial else "")
        found = (self.opened, self.trial, self.running, *packages, *self.overlays)
        return tuple(digest for digest in found if digest)


class Known(Struct, frozen=True):
    """A Pack as last looked at."""

    status: PackStatus
    inspection: Inspection
    facts: Facts

    @property
    def grant(self) -> Grant | None:
        return self.inspection.loaded.grant


class Standings:
    """States and grants of all Packs of one installation. Thread-safe."""

    def __init__(
        self,
        home: Path,
        registry: Packs,
        audit: AuditLog,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        limits: TreeLimits | None = None,
        report: Report = unheard,
    ) -> None:
        self.instance = secrets.token_hex(8)
        """This run of the host: what "until restart" means."""
        self.keep_modified = False
        """Whether a verified copy that runs keeps its rights when the files beside it are edited. Nothing starts so."""
        self.active = ActiveEcosystem()
        """What the operator switched off; of it, this layer asks for addons."""
        self.base_runtime = ""
        """What sandboxes run on beside a Pack's bytes (image id, or interpreter); recorded in each grant."""
        self._packs = registry
        self._audit = audit
        self._report = report
        self._clock = clock
        self._user_data = home / "user_data"
        self._user_data.mkdir(parents=True, exist_ok=True)
        self.grants = GrantFiles(private_folder(self._user_data / "permissions"))
        self._limits = bounds = limits or TreeLimits()
        self._store = TreeStore(self._user_data / "store", limits=bounds)
        self._packages = Packages(self._user_data / "store")
        self._inspector = Inspector(registry, self.grants, bounds, self.instance)
        self._mutex = threading.Lock()
        self._live: dict[str, Live] = {}
        self._known: dict[str, Known] = {}
        self._scanned = False
        self._seen: dict[str, str] = {}
        self._staged: dict[str, Mapping[str, str]] = {}
        self._prepare_fresh()
        self.latest = LatestTime(
            self.grants.ledger, audit, clock=clock, monotonic=monotonic, report=report
        )
        self._updates = UpdateFiles(self._user_data, registry.packs_dir, self._store, self.grants, bounds)
        self._recover()

    # --- reading ------------------------------------------------------------------------------------------------------

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
        found = results + [unusable(folder) for name, folder in sorted(folders.items()) if name not in names]
        self._tell_news(found)
        return found

    def _tell_news(self, found: Statuses) -> None:
        """On record where it differs from the scan before: a poll that finds nothing new leaves no trace."""
        before, now = self._seen, {status.pack_id: status.state.value for status in found}
        self._seen = now
        if before == now:
            return
        news = sorted(f"{quote(name)[1:-1]}: {state}" for name, state in now.items() if before.get(name) != state)
        gone = sorted(quote(name)[1:-1] for name in before.keys() - now.keys())
        self._audit.happened(
            "packs.scanned", sync=False, count=len(now), news=news[:MAX_TOLD], gone=gone[:MAX_TOLD],
            more=len(news) > MAX_TOLD,
        )  # fmt: skip

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
        state = known.status.state
        if state is State.RUNNING or state is State.APPROVED:  # a set would hash both
            return known.grant
        if state is State.MODIFIED:
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

    # --- for the layers above -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, pack_id: str) -> Iterator[Live]:
        with self._mutex:
            live = self._live.setdefault(checked_id(pack_id), Live())
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
        status = replace(
            status_of(pack_id, inspection, facts), pending_update=self._pending_update(pack_id), patched=live.patched
        )
        known = Known(status, inspection, facts)
        with self._mutex:
            self._known[pack_id] = known
        return known

    def _forget(self, pack_id: str) -> None:
        """The Pack is gone: nothing is remembered of it."""
        live = self._live[pack_id]
        live.opened = live.running = live.run_fault = live.reviewed = ""
        live.patched, live.overlays = UNPATCHED, frozenset()
        self._report(unrecorded(pack_id), None)
        self._staged.pop(pack_id, None)
        with self._mutex:
            self._known.pop(pack_id, None)
        self._packs.rescan(pack_id)

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

    def _grants_in_force(self) -> tuple[Grant, ...]:
        with self._mutex:
            known = [item for _, item in sorted(self._known.items())]
        valid = (item.grant for item in known if item.inspection.loaded.verdict is Verdict.VALID)
        return tuple(grant for grant in valid if grant is not None)

    def _holds(self, permission: Permission) -> bool:
        return in_force(permission, now=self.latest.now(permission.until))

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
        unusable_schemas = schema_faults(metadata)
        if unusable_schemas:
            raise AuthorError(
                "The Pack declares schemas that are not used here",
                code="contract_invalid",
                detail="; ".join(unusable_schemas),
                hint="Correct connectivity.provides of its manifests, then scan again.",
            )
        return metadata

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

    def _prepare_fresh(self) -> None:
        """A new installation gets key and counters now; an interrupted rotation of the key is finished."""
        self.grants.keyring.ensure_fresh()
        ledger = self.grants.folder / ".counters"
        if not ledger.exists() and not self.grants.pack_ids() and not self.grants.keyring.fault():
            self.grants.ledger.ensure()
        with contextlib.suppress(TrustError):  # an unusable key is the cause that each grant will show
            self.grants.keyring.recover()

    def _recover(self) -> None:
        """What a crash left half done: folders beside the Packs' own, and updates on trial."""
        pack_folders.sweep(self._packs.packs_dir)

        def tell(pack_id: str, what: str) -> None:
            self._audit.happened("pack.update_interrupted", pack_id=pack_id, what=what[:MAX_REASON_CHARS])

        self._updates.recover(tell, at=self._clock())

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
