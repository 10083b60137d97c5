"""The installation's signing key and the documents that it signs.

Invariants:
  * The key file is made 0600, whole or not at all, and never in the place of another; one that another user can read,
    that belongs to somebody else or that is not 64 hex digits is no key: everything that it signed counts for nothing,
    with that cause.
  * The key is read again for each use, so that weakening it shows at once. It is never logged and never leaves this
    class.
  * Rotation finishes after a crash: while ``.secret_key.next`` exists, ``recover`` signs again whatever the old key
    signed, then switches. A document that verified under neither key is left alone and stays refused. Secrets of Packs
    (``user_data/secrets``) and journals of runs (``user_data/runs``), whose keys are derived from this one, are
    encrypted again in the same step.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from backend_core.errors import TrustError
from backend_core.files import TEMPORARY_PREFIX, fsync_folder, private_folder, read_bounded, write_all, write_atomic
from core_runtime.drivers import run_reseal, secret_box
from core_runtime.drivers.faults import hit
from core_runtime.rules.seals import GRANT, Fault, encode, encode_line, key_for, open_document, sealed, well_formed_key

KEY_FILE = ".secret_key"
NEXT_FILE = ".secret_key.next"
GRANT_SUFFIX = ".grants.json"
UPDATE_SUFFIX = ".update.json"
DOCUMENT_LIMIT_BYTES = 16 * 1024 * 1024

_HINTS: Final = {
    "key_missing": "Put the key back from a backup, or approve the Packs again (a new key is made then).",
    "key_readable_by_others": (
        "Run: chmod 600 user_data/permissions/.secret_key — start the host again, and if somebody may have read it: "
        "rumi trust rotate-key"
    ),
    "key_foreign": "Give the file to the user who runs the host (chown), or approve the Packs again after removing it.",
    "key_malformed": "Put the key back from a backup, or remove it and approve the Packs again.",
    "key_unreadable": "Check the file and its folder (owner, permissions, disk), then scan again.",
}


class Keyring:
    """Signs and opens documents below one folder (``user_data/permissions``)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / KEY_FILE

    def text(self) -> str:
        """The key. Raises ``TrustError`` with ``key_*`` when there is no trustworthy one."""
        return self._read(self._path)

    def fault(self) -> str:
        """Why there is no trustworthy key, or ``""``."""
        try:
            self.text()
        except TrustError as error:
            return error.code
        return ""

    def ensure(self) -> bool:
        """Make a key where none is; True when one was made. An unusable key is not replaced but raised."""
        private_folder(self.folder)
        made = False
        if not os.path.lexists(self._path):  # looked at first: on a full disk nothing can be made, and need not be
            with contextlib.suppress(FileExistsError):
                _create(self._path, secrets.token_hex(32))
                made = True
        if not made:
            self.text()
            return False
        fsync_folder(self.folder)
        return True

    def ensure_fresh(self) -> bool:
        """Make the key of a new installation: only where nothing was ever signed. True when one was made.

        A key that is missing beside signed files was lost or taken; that is for the operator to see, not to paper over.
        """
        private_folder(self.folder)
        signed = any(purpose_of(path.name) for path in self.folder.iterdir())
        return not signed and not self._path.exists() and self.ensure()

    def seal(self, document: Mapping[str, Any], purpose: str) -> dict[str, Any]:
        """``document`` with its signature for ``purpose``."""
        return sealed(document, key_for(self.text(), purpose))

    def open(self, raw: bytes, purpose: str, kind: str) -> dict[str, Any] | Fault:
        """The verified document, or why there is none (``key_*`` included)."""
        try:
            key = self.text()
        except TrustError as error:
            return Fault(error.code, error.detail)
        return open_document(raw, key_for(key, purpose), kind)

    def write(self, path: Path, document: Mapping[str, Any], purpose: str) -> None:
        """Seal and replace ``path`` durably."""
        write_atomic(path, encode(self.seal(document, purpose)))

    def read(self, path: Path, purpose: str, kind: str) -> dict[str, Any] | Fault | None:
        """The verified document at ``path``; None without a file; ``<kind>_unreadable`` where it can't be read."""
        try:
            raw = read_bounded(path, DOCUMENT_LIMIT_BYTES)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - a file that can't be read is a refusal with a cause, never a crash
            return Fault(f"{kind}_unreadable", str(error))
        return self.open(raw, purpose, kind)

    def rotate(self) -> int:
        """Make a new key and sign everything again that verifies now; the number of documents."""
        self.prepare_rotation()
        return self.recover()

    def prepare_rotation(self) -> None:
        """Make the next key, with which ``recover`` signs everything again. ``TrustError`` without a key to replace."""
        self.text()
        with contextlib.suppress(FileExistsError):
            _create(self.folder / NEXT_FILE, secrets.token_hex(32))
        fsync_folder(self.folder)
        hit("rotate.prepared")

    def recover(self) -> int:
        """Finish a rotation that a crash interrupted; 0 when there was none. No flow may be running."""
        following = self.folder / NEXT_FILE
        if not following.exists():
            return 0
        old, new = self.text(), self._read(following)
        run_reseal.reseal(self.folder.parent / "runs", old, new)  # the largest first: what fails for room fails here
        count = sum(self._resign(path, old, new) for path in sorted(self.folder.iterdir()))
        hit("rotate.resigned")
        secret_box.rekey(self.folder.parent / "secrets", old, new)
        hit("rotate.rekeyed")
        following.rename(self._path)
        fsync_folder(self.folder)
        hit("rotate.switched")
        return count

    def _resign(self, path: Path, old: str, new: str) -> int:
        """Sign one file again. Slot files are rewritten by the same rule: one document a line."""
        purpose = purpose_of(path.name)
        if not purpose or not path.is_file() or path.is_symlink():
            return 0
        raw = read_bounded(path, DOCUMENT_LIMIT_BYTES)
        if path.name.endswith(".json"):
            document = open_document(raw, key_for(old, purpose), "document")
            if isinstance(document, Fault):
                return 0
            write_atomic(path, encode(sealed(document, key_for(new, purpose))))
            return 1
        resigned = _resign_slots(raw, key_for(old, purpose), key_for(new, purpose))
        if resigned is None:
            return 0
        write_atomic(path, resigned)
        return 1

    def _read(self, path: Path) -> str:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _no_key("key_missing", "There is no signing key.") from error
        except OSError as error:
            raise _no_key("key_unreadable", f"The signing key can't be opened: {error.strerror}.") from error
        try:
            return _checked(fd)
        except OSError as error:
            raise _no_key("key_unreadable", f"The signing key can't be read: {error.strerror}.") from error
        finally:
            os.close(fd)


def purpose_of(name: str) -> str:
    """Which purpose signs the file ``name`` of the permissions folder; ``""`` for files that carry no signature."""
    if name.endswith(GRANT_SUFFIX):
        return GRANT
    if name.endswith(UPDATE_SUFFIX):
        return "update"
    return SIGNED_FILES.get(name, "")


SIGNED_FILES: Final = {
    ".counters": "counters",
    ".audit_head": "audit",
    ".journal_head": "journal",
    "privileges.json": "privileges",
    "usage.json": "usage",
    "budgets.json": "budgets",
    "publishers.json": "publishers",
}
"""Every other signed file and its purpose; dot files are slot files (``drivers.counters``)."""


def slot_text(document: Mapping[str, Any], slot_bytes: int) -> bytes | None:
    """One slot: the document on a line, padded; None when it does not fit."""
    line = encode_line(document)
    return line.ljust(slot_bytes - 1, b" ") + b"\n" if len(line) < slot_bytes else None


def _resign_slots(raw: bytes, old_key: str, new_key: str) -> bytes | None:
    half = len(raw) // 2
    slots: list[bytes] = []
    for part in (raw[:half], raw[half:]):
        document = open_document(part.strip(), old_key, "slot")
        text = None if isinstance(document, Fault) else slot_text(sealed(document, new_key), half)
        slots.append(text or b" " * (half - 1) + b"\n")
    return b"".join(slots) if any(slot.strip() for slot in slots) else None


def _create(path: Path, text: str) -> None:
    """A file that is there whole or not at all: a crash in between would leave a key that is none, for good."""
    made = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(fd, 0o600)
            write_all(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.link(made, path)  # refuses where one is, be it a link
    finally:
        made.unlink(missing_ok=True)


def _checked(fd: int) -> str:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise _no_key("key_malformed", "The signing key is no plain file.")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _no_key("key_readable_by_others", f"The signing key has mode {mode:04o}; expected 0600.")
    if status.st_uid not in {os.geteuid(), 0}:
        raise _no_key("key_foreign", f"The signing key belongs to user {status.st_uid}.")
    text = os.read(fd, 4096).decode("utf-8", "replace").strip()
    if not well_formed_key(text):
        raise _no_key("key_malformed", "The signing key is not 64 hex digits.")
    return text


def _no_key(code: str, detail: str) -> TrustError:
    return TrustError("The signing key is not usable", code=code, detail=detail, hint=_HINTS[code])
