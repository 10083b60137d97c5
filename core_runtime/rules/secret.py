"""What a secret is called, how long it may be, and what its ciphertext is bound to. Pure.

Invariant: ``binding`` covers everything that a record says beside the value, so that a record which was moved to
another Pack, another name or another identity, or of which any field was edited, opens for nobody.

Not here: keys and ciphers (``drivers.secret_box``), who gets a value (``secret_manager``), hiding it (``redaction``).
"""

from __future__ import annotations

import re
from typing import Any, Final

from msgspec import Struct

from backend_core.canonical import canonical_json

MAX_VALUE_BYTES: Final = 16 * 1024
"""Room for the largest private keys and service accounts; a value is redacted as text, which costs by its length."""
MAX_SECRETS: Final = 64
"""For each Pack."""
FORMAT: Final = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")


class Record(Struct, frozen=True):
    """All of a stored secret but its value. ``identity`` is a fingerprint; times are wall time in seconds.

    ``handed_at``: when a generation of the Pack received the value last; None: never.
    """

    pack_id: str
    name: str
    identity: str
    set_at: float
    handed_at: float | None = None

    def document(self) -> dict[str, Any]:
        """The fields as they stand in the file."""
        return {
            "format": FORMAT,
            "pack_id": self.pack_id,
            "name": self.name,
            "identity": self.identity,
            "set_at": self.set_at,
            "handed_at": self.handed_at,
        }


def binding(record: Record) -> bytes:
    """The associated data of a record's ciphertext."""
    return b"rumi/1/secret\0" + canonical_json(record.document())


def record_of(document: dict[str, Any]) -> Record:
    """The reverse of ``Record.document``; ``KeyError``, ``TypeError`` or ``ValueError`` for another shape."""
    if document["format"] != FORMAT:
        raise ValueError("another format")
    texts = (document["pack_id"], document["name"], document["identity"])
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not text")
    handed_at = document["handed_at"]
    return Record(*texts, _time(document["set_at"]), None if handed_at is None else _time(handed_at))


def name_fault(name: str) -> str:
    """Why a secret can't have this name, or ``""``."""
    return "" if _NAME.match(name) else "has other characters than 1 to 64 of A-Z, a-z, 0-9, '.', '_' and '-'"


def value_fault(value: str) -> str:
    """Why this can't be a secret's value, or ``""``. Says nothing about the value itself."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "is no valid Unicode text"
    if not size:
        return "is empty"
    return "" if size <= MAX_VALUE_BYTES else f"has {size} bytes; at most {MAX_VALUE_BYTES} are kept"


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("not a time")
    return float(value)
