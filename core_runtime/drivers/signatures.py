"""Publishers' keys and signatures over Packs: making a key, signing a folder, checking what a tree carries.

Invariants:
  * A private key's file is made 0600 and never in the place of another; one that others can read is not used.
  * Only Ed25519 keys are taken, whatever else the file holds.
  * ``seal_of`` never raises for what the Pack says: a signature that can't be checked is one that is wrong.

Not here: the form of a signature and what it is worth (``rules.signing``), which keys were seen (``publishers``).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from backend_core.canonical import sha256_hex
from backend_core.errors import RequestError, RumiError, quote
from backend_core.files import fsync_folder, read_bounded, write_all, write_atomic
from core_runtime.drivers.tree import Tree
from core_runtime.rules.signing import (
    ENVELOPE_BYTES,
    FILE,
    Flaw,
    Seal,
    Statement,
    envelope,
    fits,
    key_bytes,
    key_text,
    message_of,
    name_fault,
    payload_of,
    read_envelope,
    signed_digest,
)

KEY_FILE_BYTES: Final = 16 * 1024


def new_key(path: Path) -> str:
    """Make a key in a new file; the public part of it. ``RequestError`` where something of that name is."""
    # it imports all that OpenSSH's keys need, which no start of a host does
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    made = Ed25519PrivateKey.generate()
    text = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _no_key("key_not_made", f"{quote(str(path))} can't be made: {error.strerror}.") from error
    try:
        os.fchmod(fd, 0o600)
        write_all(fd, text)
        os.fsync(fd)
    except OSError as error:
        path.unlink()
        raise _no_key("key_not_made", f"{quote(str(path))} can't be written: {error.strerror}.") from error
    finally:
        os.close(fd)
    fsync_folder(path.parent)
    return _public(made)


def read_key(path: Path, password: str = "") -> Ed25519PrivateKey:
    """The key of a file. Raises ``RequestError`` ``key_*``; ``key_locked`` where it needs a (or another) password."""
    try:
        status = path.stat(follow_symlinks=False)
        if status.st_mode & 0o077 or status.st_uid not in {os.geteuid(), 0} or not stat.S_ISREG(status.st_mode):
            mode = stat.S_IMODE(status.st_mode)
            raise _no_key("key_readable_by_others", f"{quote(str(path))} has mode {mode:04o}; expected a file, 0600.")
        raw = read_bounded(path, KEY_FILE_BYTES)
    except OSError as error:
        raise _no_key("key_unreadable", f"{quote(str(path))} can't be read: {error.strerror}.") from error
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415  see new_key

    try:
        found = load_pem_private_key(raw, password.encode() or None)
    except TypeError as error:
        raise _no_key("key_locked", "The key is kept under a password.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        code = "key_locked" if password else "key_malformed"
        raise _no_key(code, "It is no private key in PEM, or the password is another one.") from error
    if not isinstance(found, Ed25519PrivateKey):
        raise _no_key("key_of_other_kind", "The key is of another algorithm; only Ed25519 is taken.")
    return found


def sign(folder: Path, tree: Tree, key: Ed25519PrivateKey, *, pack_id: str, version: str, publisher: str) -> Statement:
    """Write ``signature.dsse.json`` into a folder that was just read as ``tree``; the one before is replaced."""
    if name_fault(publisher):
        raise RequestError(
            "Nobody can be called so",
            code="publisher_name",
            detail=f"{quote(publisher, 120)} {name_fault(publisher)}.",
            hint="Choose a short, printable name.",
        )
    statement = Statement(pack_id, version, signed_digest(tree.entries), _public(key), publisher)
    signature = key.sign(message_of(payload_of(statement)))
    write_atomic(folder / FILE, envelope(statement, signature), mode=0o644)
    return statement


def seal_of(folder: Path, tree: Tree, *, pack_id: str, version: str) -> Seal:
    """What the signature in a copy of ours says, checked against the tree that was read of it."""
    entry = next((one for one in tree.entries if one.path == FILE), None)
    if entry is None:
        return Seal(signed_digest=tree.digest)
    digest = signed_digest(tree.entries)
    if entry.executable:
        return Seal(flaw=Flaw("envelope_executable", f"{FILE} is marked executable."), signed_digest=digest)
    try:
        raw = read_bounded(folder / FILE, ENVELOPE_BYTES)
    except (OSError, RumiError):  # a flaw that the review shows
        found: Statement | Flaw = Flaw("envelope_too_large", f"{FILE} has more than {ENVELOPE_BYTES} bytes.")
    else:
        changed = Flaw("envelope_malformed", f"{FILE} changed while it was being read.")
        found = _verified(raw) if sha256_hex(raw) == entry.sha256 else changed
    if isinstance(found, Flaw):
        return Seal(flaw=found, signed_digest=digest)
    flaw = fits(found, pack_id=pack_id, version=version, digest=digest)
    return Seal(flaw=flaw, signed_digest=digest) if flaw else Seal(found, signed_digest=digest)


def _verified(raw: bytes) -> Statement | Flaw:
    signed = read_envelope(raw)
    if isinstance(signed, Flaw):
        return signed
    key = key_bytes(signed.statement.key)
    assert key is not None  # read_envelope refuses the others
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, signed.message)
    except (InvalidSignature, ValueError):
        return Flaw("signature_wrong", f"The signature was not made with {signed.statement.key}.")
    return signed.statement


def _public(key: Ed25519PrivateKey) -> str:
    return key_text(key.public_key().public_bytes_raw())


def _no_key(code: str, detail: str) -> RequestError:
    return RequestError(
        "The publisher's key can't be used",
        code=code,
        detail=detail,
        hint="Make one with: rumi publisher new FILE — it must be yours alone (chmod 600).",
    )
