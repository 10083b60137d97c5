"""Files of an update: the staged version, the data as it was before, and the signed record that leads back.

``user_data/staging/<pack_id>/`` holds the bytes that wait for a decision; they never run. ``user_data/rollback/
<pack_id>-<token>/`` holds the Pack's data as it was, and ``permissions/<pack_id>.update.json`` the grant of the version
before, signed.

Invariants:
  * From the record's first write to ``finish`` the update is *being tried*: whatever ends the process in between, the
    next opening returns to the version before, code and data together (``recover``). Each step may be repeated.
  * What needs room is done before the grant is written; what follows is renames.
  * Going back never gives more than was granted: a right taken away since then stays away.

Not here: who may decide and when (``approval_manager``), starting and probing (``handlers.updates``).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from backend_core.errors import ConflictError, RequestError, RumiError, TrustError, quote
from backend_core.files import fsync_folder, private_folder, sync_file_system
from core_runtime.drivers import archive, pack_folders
from core_runtime.drivers.faults import hit
from core_runtime.drivers.grants import GrantFiles
from core_runtime.drivers.keys import UPDATE_SUFFIX
from core_runtime.drivers.store import Stored, TreeStore, discard, ordinary_modes
from core_runtime.drivers.tree import Tree, read_tree
from core_runtime.rules.approval import Mark, Verdict
from core_runtime.rules.digest import TreeLimits
from core_runtime.rules.grants import Grant, common, grant_document, read_grant, seconds, timestamp, trees_of

PURPOSE: Final = "update"
INCOMING: Final = ".incoming-"


class Phase(StrEnum):
    """``trying``: not answered for yet. ``done``: the way back. ``returning``: on the way back."""

    TRYING = "trying"
    DONE = "done"
    RETURNING = "returning"


class Record(Struct, frozen=True):
    """One update of one Pack. ``digest`` and ``counter`` are of the newer version's grant, ``snapshot`` is a token."""

    pack_id: str
    phase: Phase
    digest: str
    counter: int
    previous: Grant
    snapshot: str
    at: float
    actor: str


class UpdateFiles:
    """Staging, snapshots and records of one installation. The caller holds the Pack's lock."""

    def __init__(
        self, user_data: Path, packs_dir: Path, store: TreeStore, grants: GrantFiles, limits: TreeLimits
    ) -> None:
        self._user_data = user_data
        self._packs_dir = packs_dir
        self._store = store
        self._grants = grants
        self._limits = limits
        self._staging = private_folder(user_data / "staging")
        self._snapshots = private_folder(user_data / "rollback")
        for path in self._staging.glob(f"{INCOMING}*"):
            discard(path)  # half copies; only now, since later somebody may be at work on one
        self._sweep()

    # --- the staged version ------------------------------------------------------------------------------------------

    def staged(self, pack_id: str) -> Path:
        """Where the staged version of a Pack lies, if there is one."""
        return self._staging / pack_id

    def receive(self, source: Path, *, ours: bool = False) -> tuple[Path, Tree]:
        """Copy a folder or archive of the operator's choice while hashing it; it waits for ``place`` or ``discard``.

        ``ours``: the host itself fetched it, so it may lie where others may not.
        """
        if not ours:
            self._check_source(source)
        if source.is_dir():
            return self._copied(source)
        unpacked = self._staging / f"{INCOMING}{secrets.token_hex(8)}-unpacked"
        unpacked.mkdir(0o700)
        try:
            return self._copied(archive.unpack(source, unpacked))
        except OSError as error:
            raise pack_folders.storage_error(error, "The archive could not be unpacked; nothing changed.") from error
        finally:
            discard(unpacked)

    def _copied(self, source: Path) -> tuple[Path, Tree]:
        incoming = self._staging / f"{INCOMING}{secrets.token_hex(8)}"
        incoming.mkdir(0o700)
        try:
            tree = read_tree(source, limits=self._limits, copy_to=incoming)
            ordinary_modes(incoming)
            sync_file_system(incoming)
        except OSError as error:
            discard(incoming)
            raise pack_folders.storage_error(error, "The Pack could not be copied; nothing changed.") from error
        except BaseException:
            discard(incoming)
            raise
        hit("stage.copied")
        return incoming, tree

    def place(self, incoming: Path, target: Path) -> None:
        """Give a received copy its name in one step; a staged version that lay there is replaced."""
        try:
            if target.parent != self._staging:  # may be another file system, where moving is copying
                beside = pack_folders.name_beside(target)
                shutil.move(incoming, beside)
                beside.rename(target)
            elif not os.path.lexists(target):
                incoming.rename(target)
            elif not pack_folders.exchange(incoming, target):
                discard(target)
                incoming.rename(target)
            fsync_folder(target.parent)
        except OSError as error:
            raise pack_folders.storage_error(error, "The Pack could not be put in place.") from error
        finally:
            discard(incoming)
        hit("stage.placed")

    def drop_staged(self, pack_id: str) -> None:
        """The staged version is not wanted, or not waiting any more."""
        discard(self.staged(pack_id))

    def _check_source(self, source: Path) -> None:
        if not source.is_absolute() or source.is_symlink() or not (source.is_dir() or source.is_file()):
            raise RequestError(
                "There is no such folder or archive",
                code="not_a_folder",
                detail=f"Expected the absolute path of a folder or archive that is no link; got {quote(str(source))}.",
                hint="Name the folder that holds the Pack (it contains backend/ecosystem.json), or a zip or tar of it.",
            )
        real = source.resolve()
        for ours in (self._user_data.resolve(), self._packs_dir.resolve()):
            if real == ours or real in ours.parents or ours in real.parents:
                raise RequestError(
                    "That folder belongs to this installation",
                    code="folder_ours",
                    detail=f"{quote(str(source))} lies in, or holds, a folder that the host itself writes.",
                    hint="Add a Pack from elsewhere; one that lies in ecosystem/packs already is approved as it is.",
                )

    # --- updating ----------------------------------------------------------------------------------------------------

    def record(self, pack_id: str) -> Record | None:
        """The record of the last update; None without one, and where it can't be believed."""
        document = self._grants.keyring.read(self._record_path(pack_id), PURPOSE, PURPOSE)
        return _decode(document, pack_id) if isinstance(document, dict) else None

    def kept(self) -> list[str] | None:
        """Digests that a way back needs; None when a record can't be read, so that nothing is thrown away."""
        digests: list[str] = []
        for path in self._grants.folder.glob(f"*{UPDATE_SUFFIX}"):
            record = self.record(path.name.removesuffix(UPDATE_SUFFIX))
            if record is None:
                return None
            digests.extend(trees_of(record.previous))
        return digests

    def apply(self, stored: Stored, draft: Grant, previous: Grant, *, at: float) -> Grant:
        """Make ``stored`` the approved version, on trial. On an error nothing has changed, or ``back`` leads back."""
        pack_id = draft.pack_id
        folder = self._packs_dir / pack_id
        token = secrets.token_hex(8)
        counter = self._grants.ledger.trusted().of(pack_id).counter + 1
        record = Record(pack_id, Phase.TRYING, stored.digest, counter, previous, token, at, draft.actor)
        counted = False
        fresh: Path | None = None
        try:
            fresh = pack_folders.lay_out(self._store, stored, folder)
            self._take_snapshot(pack_id, token)
            hit("update.snapshot")
            self._write(record)
            hit("update.recorded")
            grant = self._grants.grant(draft, points="update")
            counted = True
            pack_folders.swap_in(fresh, folder, self._aside, points="update")
        except BaseException as error:
            if not counted:
                self._abandon(pack_id, fresh, token)
            if isinstance(error, OSError):
                raise pack_folders.storage_error(error, "The update could not be written.") from error
            raise
        return grant

    def finish(self, pack_id: str) -> None:
        """The newer version is answered for: from now on the record is the way back, and nothing is staged."""
        record = self._expected(pack_id)
        try:
            self._write(replace(record, phase=Phase.DONE))
        except OSError as error:
            raise pack_folders.storage_error(error, "The update could not be completed.") from error
        hit("update.done")
        self.drop_staged(pack_id)
        hit("update.unstaged")
        self._sweep(pack_id)

    def back(self, pack_id: str, *, at: float, actor: str) -> Grant:
        """Return to the version before: grant, folder and data. May be repeated after any interruption."""
        record = self._expected(pack_id)
        try:
            stored = self._store.verify(record.previous.digest)
            now = self._standing(record)
            if record.phase is not Phase.RETURNING:
                rights = record.previous.permissions
                if now.counter != record.counter:  # something was decided since
                    rights = common(rights, now.permissions)
                record = replace(record, phase=Phase.RETURNING, previous=replace(record.previous, permissions=rights))
                self._write(record)
            hit("rollback.recorded")
            fresh = self._laid_out(stored, record)
            hit("rollback.copied")
            if now.digest != record.previous.digest:
                renewed = replace(record.previous, actor=actor, restored_at=at)
                now = self._grants.grant(renewed, points="rollback")
            if fresh is not None:
                pack_folders.swap_in(fresh, self._packs_dir / pack_id, self._aside, points="rollback")
            self._data_back(record)
            hit("rollback.data")
            self.forget(pack_id)
            hit("rollback.done")
        except OSError as error:
            raise pack_folders.storage_error(error, "The version before could not be put back completely.") from error
        return now

    def recover(self, tell: Callable[[str, str], None], *, at: float) -> None:
        """Finish whatever a crash interrupted; for the opening, before anything is looked at."""
        for path in sorted(self._grants.folder.glob(f"*{UPDATE_SUFFIX}")):
            record = self.record(path.name.removesuffix(UPDATE_SUFFIX))
            if record is None:
                continue
            if record.phase is Phase.DONE:
                self._drop_answered(record)
                continue
            loaded = self._grants.load(record.pack_id)
            if loaded.verdict is not Verdict.VALID or loaded.grant is None:
                continue  # rejected, or the key is unusable: nothing of it starts, and the record can wait
            try:
                if loaded.grant.counter > loaded.counter:
                    self._grants.heal(record.pack_id, loaded.grant)
                if record.phase is Phase.TRYING and loaded.grant.digest != record.digest:
                    self.forget(record.pack_id)  # it came to no decision
                elif record.phase is Phase.TRYING and loaded.mark is Mark.MODIFIED:
                    # going back would let it run again, which nobody has decided since; an operator may roll back
                    self._write(replace(record, phase=Phase.DONE))
                    tell(record.pack_id, "its files were changed while an update was on trial; it waits for a decision")
                else:
                    self.back(record.pack_id, at=at, actor=record.actor)
                    tell(record.pack_id, "an update that was interrupted was taken back")
            except (RumiError, OSError) as error:
                tell(record.pack_id, f"an interrupted update could not be taken back: {error}")
        self._sweep()

    def superseded(self, pack_id: str, digest: str) -> None:
        """Another decision is about to be made about ``digest``: only an answered update to just that stays a way back.

        Before the decision is written, so that no crash leads from it to what was decided before.
        """
        record = self.record(pack_id)
        if record is not None and (record.phase is not Phase.DONE or record.digest != digest):
            self.forget(pack_id)

    def forget(self, pack_id: str) -> None:
        """There is no way back any more. The snapshot goes with the next sweep."""
        with contextlib.suppress(FileNotFoundError):
            self._record_path(pack_id).unlink()
            fsync_folder(self._grants.folder)

    def remove(self, pack_id: str) -> None:
        """The Pack is uninstalled."""
        self.drop_staged(pack_id)
        self.forget(pack_id)
        self._sweep(pack_id)

    # --- inside ------------------------------------------------------------------------------------------------------

    @property
    def _aside(self) -> Path:
        return self._user_data / "store" / "set_aside"

    def _record_path(self, pack_id: str) -> Path:
        return self._grants.folder / f"{pack_id}{UPDATE_SUFFIX}"

    def _write(self, record: Record) -> None:
        self._grants.keyring.write(self._record_path(record.pack_id), _encode(record), PURPOSE)

    def _expected(self, pack_id: str) -> Record:
        record = self.record(pack_id)
        if record is None:
            raise ConflictError(
                "There is no version to go back to",
                code="no_previous_version",
                detail=f"No update of {quote(pack_id)} is recorded, or its record does not verify.",
                hint=f"See what is approved: rumi pack show {pack_id}",
            )
        return record

    def _standing(self, record: Record) -> Grant:
        """The grant in force, which must be of one of the two versions that the record is about."""
        loaded = self._grants.load(record.pack_id)
        if loaded.grant is None or loaded.grant.digest not in {record.digest, record.previous.digest}:
            raise ConflictError(
                "There is no version to go back to",
                code="no_previous_version",
                detail="What is approved now is not what the last update brought.",
                hint=f"See what is approved: rumi pack show {record.pack_id}",
            )
        return loaded.grant

    def _laid_out(self, stored: Stored, record: Record) -> Path | None:
        """The older files beside the folder; None where they lie in it already."""
        folder = self._packs_dir / record.pack_id
        with contextlib.suppress(TrustError):  # unreadable: laid out anew
            if read_tree(folder, limits=self._limits).digest == record.previous.digest:
                return None
        return pack_folders.lay_out(self._store, stored, folder)

    def _take_snapshot(self, pack_id: str, token: str) -> None:
        source, target = self._user_data / "packs" / pack_id, self._snapshot(pack_id, token)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        else:
            target.mkdir(0o700)
        sync_file_system(target)

    def _data_back(self, record: Record) -> None:
        """The snapshot in the data's place, once: without a snapshot that has happened already."""
        snapshot = self._snapshot(record.pack_id, record.snapshot)
        if not snapshot.is_dir():
            return
        data = self._user_data / "packs" / record.pack_id
        data.parent.mkdir(exist_ok=True)
        pack_folders.set_aside(data)
        hit("rollback.data_away")
        snapshot.rename(data)
        fsync_folder(data.parent)

    def _snapshot(self, pack_id: str, token: str) -> Path:
        return self._snapshots / f"{pack_id}-{token}"

    def _drop_answered(self, record: Record) -> None:
        """A staged version that is the approved one was not thrown away in time."""
        staged = self.staged(record.pack_id)
        with contextlib.suppress(RumiError):  # damaged: its review says how
            if staged.is_dir() and read_tree(staged, limits=self._limits).digest == record.digest:
                discard(staged)

    def _abandon(self, pack_id: str, fresh: Path | None, token: str) -> None:
        """Nothing was decided: take away what was prepared."""
        record = self.record(pack_id)
        if record is not None and record.snapshot == token:
            with contextlib.suppress(OSError):  # what led here is raised
                self.forget(pack_id)
        discard(self._snapshot(pack_id, token))
        if fresh is not None:
            pack_folders.delete(fresh)

    def _sweep(self, pack_id: str = "") -> None:
        """Remove snapshots that no record names, of one Pack or, at the opening, of all; none while a record can't be
        read. One of another Pack may be of an update that has not written its record yet.
        """
        wanted = set()
        for path in self._grants.folder.glob(f"*{UPDATE_SUFFIX}"):
            record = self.record(path.name.removesuffix(UPDATE_SUFFIX))
            if record is None:
                return
            wanted.add(self._snapshot(record.pack_id, record.snapshot).name)
        for path in self._snapshots.iterdir():
            if path.name not in wanted and pack_id in {"", path.name.rpartition("-")[0]}:
                discard(path)


def _encode(record: Record) -> dict[str, Any]:
    return {
        "pack_id": record.pack_id,
        "phase": record.phase.value,
        "digest": record.digest,
        "counter": record.counter,
        "previous": grant_document(record.previous),
        "snapshot": record.snapshot,
        "at": timestamp(record.at),
        "actor": record.actor,
    }


def _decode(document: Mapping[str, Any], pack_id: str) -> Record | None:
    """The document is signed by us; one of another Pack or of another shape is no record."""
    try:
        previous = read_grant(document["previous"])
        token = str(document["snapshot"])
        if document["pack_id"] != pack_id or previous.pack_id != pack_id:
            return None
        if not token.isalnum():
            return None
        return Record(
            pack_id=pack_id,
            phase=Phase(document["phase"]),
            digest=str(document["digest"]),
            counter=int(document["counter"]),
            previous=previous,
            snapshot=token,
            at=seconds(document["at"]),
            actor=str(document["actor"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
