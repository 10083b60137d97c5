"""Grant files, the key that signs them and the counters that outdate them: read together, written in the safe order.

Invariants (the order of effects is the whole point of this module):
  * Granting writes the grant with counter n+1, then raises the counter. A crash between leaves the new grant, which
    counts and heals the counter; a crash before leaves the old state.
  * Revoking raises the counter by two, then unlinks. Each alone suffices; the counter needs no free space. By two,
    since a grant with counter n+1 may exist that no counter knows yet.
  * Reading never raises for what a file says: ``Loaded`` carries the verdict and its cause.
  * Spending and deciding exclude each other (``deciding``): a one-use permission that a decision carries on was unused
    at the moment from which that decision counts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from backend_core.canonical import sha256_hex
from backend_core.files import fsync_folder
from core_runtime.drivers.counters import Counters, Entry, Ledger
from core_runtime.drivers.faults import hit
from core_runtime.drivers.keys import GRANT_SUFFIX, Keyring
from core_runtime.drivers.publishers import Publishers
from core_runtime.rules.approval import Mark, Verdict
from core_runtime.rules.grants import Grant, Imported, Rejection, grant_document, rejection_document, weigh
from core_runtime.rules.seals import GRANT, Fault

_TAKEN = frozenset({Mark.REVOKED, Mark.REMOVING})
"""Marks under which a grant file that is still there is a leftover."""


class Loaded(Struct, frozen=True):
    """What stands for one Pack; ``counter``, ``mark``, ``used`` and ``identity`` are the line of the counters file."""

    verdict: Verdict
    cause: str = ""
    detail: str = ""
    grant: Grant | None = None
    mark: Mark = Mark.NONE
    reason: str = ""
    counter: int = 0
    used: frozenset[int] = frozenset()
    identity: str = ""


def identity_fingerprint(pack_identity: str) -> str:
    """What the counters file keeps of an identity."""
    return sha256_hex(pack_identity.encode())[:16]


class GrantFiles:
    """``user_data/permissions``: one file a Pack, the key, the counters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keyring = Keyring(folder)
        self.ledger = Ledger(self.keyring)
        self.publishers = Publishers(self.keyring, self.ledger)
        self._spending = threading.RLock()

    def path(self, pack_id: str) -> Path:
        """The grant file of a Pack (its id is checked by the caller)."""
        return self.folder / f"{pack_id}{GRANT_SUFFIX}"

    def load(self, pack_id: str, counters: Counters | Fault | None = None) -> Loaded:
        """Read and judge the grant of one Pack. ``counters`` saves reading that file for each of many Packs."""
        known = self.ledger.read() if counters is None else counters
        document = self.keyring.read(self.path(pack_id), GRANT, "grant")
        entry = known.of(pack_id) if isinstance(known, Counters) else Entry()
        epoch = known.epoch if isinstance(known, Counters) else ""
        base = Loaded(Verdict.NONE, mark=entry.mark, counter=entry.counter, used=entry.used, identity=entry.identity)
        if document is None:
            expected = entry.counter and entry.mark not in {Mark.BLOCKED, *_TAKEN}
            return replace(base, cause="grant_missing" if expected else "")
        if isinstance(document, Fault):
            return replace(base, verdict=Verdict.FAULTY, cause=document.cause, detail=document.detail)
        found = weigh(document, pack_id=pack_id, epoch=epoch, counter=entry.counter)
        if isinstance(found, Rejection):
            return replace(base, reason=found.reason)
        if isinstance(found, Imported):
            return replace(base, verdict=Verdict.IMPORTED, cause="grant_imported")
        if isinstance(found, Fault) and entry.mark in _TAKEN and found.cause == "grant_rolled_back":
            return replace(base, cause="grant_revoked")
        if isinstance(found, Fault):
            cause = known if isinstance(known, Fault) and found.cause == "grant_foreign_epoch" else found
            return replace(base, verdict=Verdict.FAULTY, cause=cause.cause, detail=cause.detail)
        if found.counter > entry.counter:  # the marks belong to the decision before this one
            base = replace(base, mark=Mark.NONE, used=frozenset())
        return replace(base, verdict=Verdict.VALID, grant=found)

    def heal(self, pack_id: str, grant: Grant) -> None:
        """Finish an approval that a crash interrupted after the grant was written."""
        line = _line(grant)
        self.ledger.change(pack_id, lambda e: e if e.counter >= grant.counter else line)

    def prepare(self) -> str:
        """Make key and counters where they are missing, by an operator's decision; the fault that was there before."""
        made = self.keyring.ensure()
        fault = self.ledger.ensure()
        return "key_missing" if made and fault not in {"", "counters_missing"} else fault

    def grant(self, grant: Grant, *, points: str) -> Grant:
        """Persist a decision; returns it with its counter and epoch."""
        counters = self.ledger.trusted()
        final = replace(grant, counter=counters.of(grant.pack_id).counter + 1, epoch=counters.epoch)
        hit(f"{points}.before_grant")
        self.keyring.write(self.path(grant.pack_id), grant_document(final), GRANT)
        hit(f"{points}.granted")
        self.ledger.change(grant.pack_id, lambda _: _line(final))
        hit(f"{points}.counted")
        return final

    def revoke(self, pack_id: str, mark: Mark, *, points: str) -> None:
        """Make every grant of the Pack worthless, whatever else fails afterwards; without its file, at least, where
        the counter can't be written.
        """
        try:
            self.ledger.change(pack_id, lambda e: Entry(e.counter + 2, mark, identity=e.identity))
        except OSError:
            self.unlink(pack_id)
            raise
        hit(f"{points}.counted")
        self.unlink(pack_id)
        hit(f"{points}.unlinked")

    def removed(self, pack_id: str) -> None:
        """Everything of a Pack that was to be removed is gone."""
        self.ledger.change(pack_id, lambda e: replace(e, mark=Mark.REVOKED) if e.mark is Mark.REMOVING else e)

    def removing(self) -> list[str]:
        """The Packs whose removal was decided and has not come to its end; none while the counters can't be read."""
        counters = self.ledger.read()
        entries = counters.entries if isinstance(counters, Counters) else {}
        return sorted(pack_id for pack_id, entry in entries.items() if entry.mark is Mark.REMOVING)

    def record_rejection(self, pack_id: str, reason: str, at: float) -> None:
        """Keep the reason where the grant was; only for the reader."""
        self.keyring.write(self.path(pack_id), rejection_document(pack_id, reason, at), GRANT)
        hit("revoke.recorded")

    def mark_modified(self, pack_id: str) -> None:
        """Remember durably that the files differed, so that old bytes that return need a new approval all the same."""
        self.ledger.change(pack_id, lambda e: replace(e, mark=Mark.MODIFIED))

    @contextlib.contextmanager
    def deciding(self, pack_id: str) -> Iterator[frozenset[int]]:
        """The places of the permissions that are used up; no other is before the block ends."""
        with self._spending:
            yield self.load(pack_id).used

    def spend(self, pack_id: str, index: int, counter: int) -> bool:
        """Use up a one-use permission; False when it was spent, or belongs to an older decision."""
        won = False

        def decide(entry: Entry) -> Entry:
            nonlocal won
            won = entry.counter == counter and index not in entry.used
            return replace(entry, used=entry.used | {index}) if won else entry

        with self._spending:
            self.ledger.change(pack_id, decide)
        return won

    def pack_ids(self) -> list[str]:
        """Every Pack that has a grant file, readable or not."""
        with contextlib.suppress(FileNotFoundError):
            names = (path.name for path in self.folder.glob(f"*{GRANT_SUFFIX}"))
            return sorted(name.removesuffix(GRANT_SUFFIX) for name in names)
        return []

    def unlink(self, pack_id: str) -> None:
        """Remove the grant file, durably; none is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.path(pack_id).unlink()
            fsync_folder(self.folder)


def _line(grant: Grant) -> Entry:
    return Entry(grant.counter, identity=identity_fingerprint(grant.pack_identity))
