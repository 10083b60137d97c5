"""Secrets of Packs on disk: ``user_data/secrets/<pack_id>/<name>.secret``, one encrypted file each.

Invariants:
  * Folders are 0700 and files 0600, whatever the umask; each write is atomic and durable.
  * A value is given out only for the Pack, the name and the identity that it was entered for: a file that was copied to
    another Pack or name, edited or cut is refused with its cause, and an identity that took over a Pack's id gets
    nothing of the one before.
  * Every value that is read or written is made known to ``Redactions`` first.
  * No error names a value.

Not here: whether a Pack may have it (``secret_manager``), the format (``secret_box``).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from backend_core.errors import ConflictError, HostError, NotFoundError, RequestError, TrustError, quote
from backend_core.files import fsync_folder, private_folder, read_bounded, write_atomic
from core_runtime.drivers.faults import hit
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.redactions import Redactions
from core_runtime.drivers.secret_box import FILE_LIMIT_BYTES, SUFFIX, open_record, seal_record
from core_runtime.rules.seals import Fault
from core_runtime.rules.secret import MAX_SECRETS, Record, name_fault, value_fault


class Kept(Struct, frozen=True):
    """One stored secret without its value. ``cause`` says why it can't be used, ``""`` when it can."""

    name: str
    set_at: float | None = None
    handed_at: float | None = None
    cause: str = ""


class SecretStore:
    """The secrets of all Packs of one installation. Thread-safe. Pack ids are checked by the caller."""

    def __init__(
        self,
        user_data: Path,
        keyring: Keyring,
        identity: Callable[[str], str],
        redactions: Redactions,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``identity`` gives the fingerprint of the identity that is approved now for a Pack, ``""`` without one."""
        self._folder = user_data / "secrets"
        self._keyring = keyring
        self._identity = identity
        self._redactions = redactions
        self._clock = clock
        self._mutex = threading.Lock()

    # --- for whoever uses a secret -----------------------------------------------------------------------------------

    def reveal(self, pack_id: str, name: str) -> str:
        """The value. The caller has judged the right to it, keeps it in memory only and shows it to nobody.

        Raises:
            NotFoundError: ``secret_missing``: none was entered.
            TrustError: ``secret_*`` or ``key_*``: what lies there is not what was entered for this Pack.
        """
        return self._opened(pack_id, name, self._identity(pack_id))[1]

    def note_handed_over(self, pack_id: str, name: str) -> None:
        """Record durably that the value goes out now. Raises like ``reveal``, and ``HostError`` on a full disk."""
        with self._mutex:
            record, value = self._opened(pack_id, name, self._identity(pack_id))
            self._write(replace(record, handed_at=self._clock()), value)

    # --- for the operator --------------------------------------------------------------------------------------------

    def put(self, pack_id: str, name: str, value: str, *, identity: str) -> bool:
        """Store or replace a value for this identity; True when there was one under the name."""
        fault = name_fault(name)
        if fault:
            raise RequestError("Not a secret's name", code="secret_name_invalid", detail=f"{quote(name, 80)} {fault}.")
        fault = value_fault(value)
        if fault:
            raise RequestError("Not a secret's value", code="secret_value_invalid", detail=f"The value {fault}.")
        self._redactions.learn(pack_id, value)
        with self._mutex:
            names = self._names(pack_id)
            if name not in names and len(names) >= MAX_SECRETS:
                raise ConflictError(
                    "Too many secrets",
                    code="secrets_full",
                    detail=f"{pack_id} has {len(names)}; at most {MAX_SECRETS} are kept for a Pack.",
                    hint=f"Remove one: rumi secret remove {pack_id} NAME",
                )
            self._write(Record(pack_id, name, identity, self._clock()), value)
        return name in names

    def remove(self, pack_id: str, name: str) -> bool:
        """Delete one; False when there was none. Works for one that can't be opened, too."""
        if name_fault(name):
            return False
        with self._mutex:
            return self._unlink(pack_id, name)

    def drop(self, pack_id: str) -> int:
        """Delete all of a Pack's; how many there were."""
        with self._mutex:
            return sum(self._unlink(pack_id, name) for name in self._names(pack_id))

    def drop_others(self, pack_id: str, identity: str) -> int:
        """Delete those that were entered for another identity under this id; how many."""
        with self._mutex:
            found = [self._kept(pack_id, name, identity) for name in self._names(pack_id)]
            return sum(self._unlink(pack_id, kept.name) for kept in found if kept.cause == "secret_foreign")

    def entries(self, pack_id: str, identity: str) -> list[Kept]:
        """What there is, by name, judged for this identity."""
        with self._mutex:
            return [self._kept(pack_id, name, identity) for name in self._names(pack_id)]

    def load(self) -> int:
        """Make every stored value known to ``Redactions``, for Packs that kept one from an earlier run; how many."""
        with contextlib.suppress(OSError):  # unusable: the check secret_unusable tells
            private_folder(self._folder)
        count = 0
        for path in sorted(self._folder.glob(f"*/*{SUFFIX}")):
            with contextlib.suppress(TrustError, NotFoundError):  # damaged: the check secret_unusable tells
                self._read(path.parent.name, path.name.removesuffix(SUFFIX))
                count += 1
        return count

    # --- inside ------------------------------------------------------------------------------------------------------

    def _path(self, pack_id: str, name: str) -> Path:
        return self._folder / pack_id / f"{name}{SUFFIX}"

    def _names(self, pack_id: str) -> list[str]:
        names = (path.name.removesuffix(SUFFIX) for path in (self._folder / pack_id).glob(f"*{SUFFIX}"))
        return sorted(name for name in names if not name_fault(name))

    def _opened(self, pack_id: str, name: str, identity: str) -> tuple[Record, str]:
        record, value = self._read(pack_id, name)
        if not identity or record.identity != identity:
            raise _fault(pack_id, name, "secret_foreign", "It was entered for another identity under this Pack's id.")
        return record, value

    def _read(self, pack_id: str, name: str) -> tuple[Record, str]:
        if name_fault(name):
            raise _missing(pack_id, name)
        try:
            raw = read_bounded(self._path(pack_id, name), FILE_LIMIT_BYTES)
        except FileNotFoundError:
            raise _missing(pack_id, name) from None
        except Exception as error:
            raise _fault(pack_id, name, "secret_unreadable", type(error).__name__) from error
        found = open_record(raw, self._keyring.text())
        if isinstance(found, Fault):
            raise _fault(pack_id, name, found.cause, found.detail)
        record, value = found
        self._redactions.learn(pack_id, value)
        if (record.pack_id, record.name) != (pack_id, name):
            raise _fault(pack_id, name, "secret_copied", "It was entered for another Pack or another name.")
        return record, value

    def _kept(self, pack_id: str, name: str, identity: str) -> Kept:
        try:
            record, _ = self._opened(pack_id, name, identity)
        except (TrustError, NotFoundError) as error:
            return Kept(name, cause=error.code)
        return Kept(name, record.set_at, record.handed_at)

    def _write(self, record: Record, value: str) -> None:
        try:
            private_folder(self._folder)
            folder = private_folder(self._folder / record.pack_id)
            fsync_folder(self._folder)
            hit("secret.before_write")
            write_atomic(folder / f"{record.name}{SUFFIX}", seal_record(record, value, self._keyring.text()))
            hit("secret.written")
        except OSError as error:
            raise HostError(
                "The secret could not be written",
                code="storage",
                detail=f"{error.strerror or type(error).__name__}; what was there before is still there.",
                hint="Make room on the disk that holds user_data, then try again.",
            ) from error

    def _unlink(self, pack_id: str, name: str) -> bool:
        path = self._path(pack_id, name)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise HostError(
                "The secret could not be removed", code="storage", detail=error.strerror or type(error).__name__
            ) from error
        fsync_folder(path.parent)
        hit("secret.removed")
        with contextlib.suppress(OSError):  # another secret is in it
            os.rmdir(path.parent)  # noqa: PTH106 - only when it is empty
        return True


def _missing(pack_id: str, name: str) -> NotFoundError:
    return NotFoundError(
        "The secret was not entered yet",
        code="secret_missing",
        detail=f"{pack_id} has no secret {quote(name, 80)}.",
        hint=f"The operator enters it: rumi secret set {pack_id} NAME",
    )


def _fault(pack_id: str, name: str, cause: str, detail: str) -> TrustError:
    return TrustError(
        "The secret can't be used",
        code=cause,
        detail=f"{quote(name, 80)} of {pack_id}: {detail}",
        hint=f"Enter it again: rumi secret set {pack_id} NAME",
    )
