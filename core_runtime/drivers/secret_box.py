"""One secret as the bytes of a file: JSON with an AES-256-GCM ciphertext that is bound to everything beside it.

Invariants:
  * The key is derived from the installation's key for this purpose alone. Nonces are random, 96 bits, one per write.
  * ``open_record`` never raises for what the bytes hold: the record and its value, or a ``Fault`` that names why not.
  * ``rekey`` may be repeated: what the new key opens already stays, what neither opens stays and is refused when read.

Not here: files and folders of a store (``secret_store``), the installation's key (``keys``).
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from backend_core.files import read_bounded, write_atomic
from core_runtime.rules.seals import Fault, key_for
from core_runtime.rules.secret import MAX_VALUE_BYTES, Record, binding, record_of

PURPOSE: Final = "secrets"
SUFFIX: Final = ".secret"
FILE_LIMIT_BYTES: Final = 2 * MAX_VALUE_BYTES + 4096
_NONCE_BYTES: Final = 12


def seal_record(record: Record, value: str, key_text: str) -> bytes:
    """The file's bytes."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return _encoded(record, nonce + _cipher(key_text).encrypt(nonce, value.encode(), binding(record)))


def open_record(raw: bytes, key_text: str) -> tuple[Record, str] | Fault:
    """The reverse of ``seal_record``."""
    read = read_record(raw)
    if isinstance(read, Fault):
        return read
    record, sealed = read
    try:
        value = _cipher(key_text).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], binding(record)).decode()
    except (InvalidTag, ValueError):
        return Fault("secret_forged", "It was edited, or sealed under another key.")
    return record, value


def read_record(raw: bytes) -> tuple[Record, bytes] | Fault:
    """What the file says of itself, unproven, and its ciphertext."""
    try:
        document = json.loads(raw.decode("utf-8"))
        record = record_of(document)
        sealed = base64.b64decode(document["sealed"], validate=True)
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
        return Fault("secret_truncated", "It is no complete record of a secret.")
    if raw != _encoded(record, sealed):
        return Fault("secret_forged", "It was written by something else.")
    if len(sealed) <= _NONCE_BYTES:
        return Fault("secret_truncated", "Its ciphertext is incomplete.")
    return record, sealed


def rekey(folder: Path, old: str, new: str) -> int:
    """Seal everything below ``folder`` (one folder a Pack) under ``new`` that opens under ``old``; how many."""
    count = 0
    for path in sorted(folder.glob(f"*/*{SUFFIX}")):
        if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
            continue
        found = open_record(read_bounded(path, FILE_LIMIT_BYTES), old)
        if not isinstance(found, Fault):
            write_atomic(path, seal_record(*found, new))
            count += 1
    return count


def _encoded(record: Record, sealed: bytes) -> bytes:
    document = {**record.document(), "sealed": base64.b64encode(sealed).decode("ascii")}
    return json.dumps(document, sort_keys=True).encode() + b"\n"


def _cipher(key_text: str) -> AESGCM:
    return AESGCM(bytes.fromhex(key_for(key_text, PURPOSE)))
