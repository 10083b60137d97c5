"""What keeps journals of runs from being read, written or moved by others than this host.

Invariants:
  * Each line is bound by a keyed hash to the run's id and to every line before it: none can be changed, taken out, put
    in, moved or brought from another run or another host. The newest ones can be cut off, as a crash does.
  * What a run was answered with, its input and its output are encrypted: a journal may hold what a Pack returned, and
    nobody can say beforehand that no secret is in it.
  * Both keys are derived from the installation's key, each for its purpose; with another key, a journal is no account
    of anything.

Not here: lines and what they mean (``run_journal``), the installation's key (``keys``), a new one (``run_reseal``).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core_runtime.rules.seals import key_for

LINES: Final = "run-journal"
VALUES: Final = "run-values"
_TAG_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_BEFORE: Final = b',"m":"'
_AFTER: Final = b'"}'
_MARK_BYTES: Final = len(_BEFORE) + 2 * _TAG_BYTES + len(_AFTER)


class KeySource(Protocol):
    """Who has the installation's key (``keys.Keyring``)."""

    def ensure_fresh(self) -> bool:
        """Make the key of a new installation."""

    def text(self) -> str:
        """The key; ``TrustError`` ``key_*`` without one that can be trusted."""


class RunSeals:
    """Seals under one key."""

    __slots__ = ("_cipher", "_keyed")

    def __init__(self, key_text: str) -> None:
        self._keyed = hashlib.blake2b(key=bytes.fromhex(key_for(key_text, LINES)), digest_size=_TAG_BYTES)
        self._cipher = AESGCM(bytes.fromhex(key_for(key_text, VALUES)))

    @classmethod
    def of(cls, keys: KeySource) -> RunSeals:
        """Those of the installation. ``TrustError`` ``key_*`` without a key that can be trusted."""
        keys.ensure_fresh()
        return cls(keys.text())

    def begin(self, run_id: str) -> bytes:
        """What the first line of a run's journal is bound to."""
        return run_id.encode()

    def marked(self, body: bytes, before: bytes) -> tuple[bytes, bytes]:
        """A JSON object with its mark as the last entry, and what the next line is bound to."""
        tag = self._tag(body, before)
        return body[:-1] + _BEFORE + tag.hex().encode() + _AFTER, tag

    def checked(self, line: bytes, before: bytes) -> tuple[bytes, bytes] | None:
        """The object without its mark, and what the next line is bound to; None for a line that is not ours."""
        body, mark = line[:-_MARK_BYTES] + b"}", line[-_MARK_BYTES:]
        tag = self._tag(body, before)
        if len(line) <= _MARK_BYTES or not hmac.compare_digest(mark, _BEFORE + tag.hex().encode() + _AFTER):
            return None
        return body, tag

    def hidden(self, data: bytes) -> bytes:
        """Encrypted."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, None)

    def shown(self, data: bytes) -> bytes:
        """The reverse; ``ValueError`` for what was not encrypted here."""
        try:
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], None)
        except InvalidTag as error:
            raise ValueError("not encrypted with this key") from error

    def _tag(self, body: bytes, before: bytes) -> bytes:
        hashed = self._keyed.copy()  # the key's block was taken in once
        hashed.update(before + b"\n" + body)
        return hashed.digest()
