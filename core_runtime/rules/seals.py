"""Signatures over JSON documents, and what each way of failing is called. Pure.

The signature is the one that grants of this ecosystem have always had: HMAC-SHA256, the key is the UTF-8 *text* of
the key file (64 hex digits), the message is ``json.dumps`` of the document without its top-level keys that begin
with ``_hmac`` (sorted keys, no ASCII escaping, Python's default separators), written as hex in ``_hmac_signature``.

Invariants:
  * Grants are signed with the key itself; every other purpose has a derived key, so that one document can't pass as
    another.
  * ``open_document`` never raises: it returns the document or the cause why there is none.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

SIGNATURE = "_hmac_signature"
GRANT = "grant"
"""The purpose whose key is the key file's text itself."""


class Fault(Struct, frozen=True):
    """Why a document counts for nothing. ``cause`` is a slug that never changes, such as ``grant_forged``."""

    cause: str
    detail: str = ""


def key_for(key_text: str, purpose: str) -> str:
    """The signing key (as text) of one purpose."""
    if purpose == GRANT:
        return key_text
    return hmac.new(key_text.encode(), f"rumi/1/{purpose}".encode(), hashlib.sha256).hexdigest()


def well_formed_key(text: str) -> bool:
    """64 lower-case hex digits, nothing else."""
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def signature_of(document: Mapping[str, Any], key_text: str) -> str:
    """Signature of ``document``; its own ``_hmac…`` keys don't matter."""
    message = {name: value for name, value in document.items() if not name.startswith("_hmac")}
    data = json.dumps(message, sort_keys=True, ensure_ascii=False).encode("utf-8")
    return hmac.new(key_text.encode(), data, hashlib.sha256).hexdigest()


def sealed(document: Mapping[str, Any], key_text: str) -> dict[str, Any]:
    """``document`` with its signature."""
    body = {name: value for name, value in document.items() if not name.startswith("_hmac")}
    return {**body, SIGNATURE: signature_of(body, key_text)}


def encode(document: Mapping[str, Any]) -> bytes:
    """How signed documents are written: readable, one final newline."""
    return (json.dumps(document, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode("utf-8")


def encode_line(document: Mapping[str, Any]) -> bytes:
    """How signed documents are written where each has one line."""
    return json.dumps(document, ensure_ascii=False, sort_keys=True).encode("utf-8")


def open_document(raw: bytes, key_text: str, kind: str) -> dict[str, Any] | Fault:
    """The verified document in ``raw``, or a fault ``<kind>_truncated|_unsigned|_forged``."""
    try:
        document = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_twice, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return Fault(f"{kind}_truncated", "It is no complete JSON document.")
    if not isinstance(document, dict):
        return Fault(f"{kind}_truncated", "It is no JSON object.")
    found = document.get(SIGNATURE)
    if found is None:
        return Fault(f"{kind}_unsigned", "It carries no signature.")
    try:
        expected = signature_of(document, key_text)
    except (UnicodeEncodeError, RecursionError):
        return Fault(f"{kind}_forged", "It holds text that was never signed here.")
    if not isinstance(found, str) or not hmac.compare_digest(found.encode("utf-8", "replace"), expected.encode()):
        return Fault(f"{kind}_forged", "Its signature does not match its content.")
    return document


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key appears twice")
    return document


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
