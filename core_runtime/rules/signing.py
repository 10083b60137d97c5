"""Who signed a Pack: the one form of a signature, and what a key that was seen before says about it. Pure.

A signature is the file ``signature.dsse.json`` at the top of the Pack: a DSSE envelope around an in-toto statement,
whose subject is the Pack's *signed digest*. That is its digest over every file but this one, so a signed Pack stays one
folder whichever way it comes in. What is approved is the whole digest, this file included.

Invariants:
  * One algorithm (Ed25519), one signature, one spelling: an envelope counts only when writing it again gives the same
    bytes. So nobody without the key can put anything into it, and nothing in it chooses how it is checked.
  * The key that counts is in the signed statement; a key for which anybody could sign is none.
  * A signature decides no approval. It can only refuse: one that is wrong, of another key than before, or gone.

Not here: the mathematics and the files (``drivers.signatures``), remembering keys (``drivers.publishers``).
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from backend_core.canonical import canonical_json
from backend_core.document import Limits
from backend_core.errors import AuthorError, TrustError, quote
from backend_core.parsing import parse_json
from core_runtime.rules.digest import PREFIX, FileEntry, normal_digest, tree_digest

FILE: Final = "signature.dsse.json"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "rumi:pack-release:v1"
DIGEST_NAME: Final = "rumiTreeSha256"
KEY_PREFIX: Final = "ed25519:"
SIGNATURE_BYTES: Final = 64
ENVELOPE_BYTES: Final = 8 * 1024
NAME_CHARS: Final = 100
_LIMITS: Final = Limits(depth=8, values=64)
"""Its bytes are counted before: an envelope by ``ENVELOPE_BYTES``, and what it carries is shorter."""
_KEY: Final = re.compile(r"ed25519:[0-9a-f]{64}")
_P: Final = 2**255 - 19
_Y8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
"""A coordinate y of a point of order eight; the others of that order have ``-y``, or these with another sign."""
_SMALL: Final = frozenset({0, 1, _P - 1, _Y8, _P - _Y8})


class Statement(Struct, frozen=True):
    """What is signed. ``digest``: the signed digest; ``key``: the publisher's; ``publisher``: what it calls itself."""

    pack_id: str
    version: str
    digest: str
    key: str
    publisher: str


class Flaw(Struct, frozen=True):
    """Why a signature counts for nothing. ``code`` is a slug that never changes."""

    code: str
    detail: str


class Signed(Struct, frozen=True):
    """An envelope of the right form; whether ``signature`` is one over ``message`` is still to be checked."""

    statement: Statement
    message: bytes
    signature: bytes


class Standing(StrEnum):
    """What a signature is worth beside what was seen of the Pack before."""

    UNSIGNED = "unsigned"
    FIRST = "first_use"
    KNOWN = "known"
    CHANGED = "publisher_changed"
    MISSING = "signature_missing"
    INVALID = "signature_invalid"


class Seal(Struct, frozen=True):
    """What was found on one tree: a statement that verified, or a flaw, or neither."""

    statement: Statement | None = None
    flaw: Flaw | None = None
    signed_digest: str = ""

    @property
    def key(self) -> str:
        """Whose signature it is, ``""`` without one that is right."""
        return self.statement.key if self.statement else ""


class Pin(Struct, frozen=True):
    """The publisher's key that a Pack was first approved with; ``since`` in seconds since 1970."""

    key: str
    publisher: str
    version: str
    since: float


def signed_digest(entries: Iterable[FileEntry]) -> str:
    """The digest that a signature is about: of every file but the signature itself."""
    return tree_digest(entry for entry in entries if entry.path != FILE)


def key_text(raw: bytes) -> str:
    """A public key as it is written, shown and compared: ``ed25519:<64 hex>``."""
    return KEY_PREFIX + raw.hex()


def key_bytes(text: str) -> bytes | None:
    """The reverse; None for what is no key of this algorithm, or one for which anybody could sign."""
    if not _KEY.fullmatch(text):
        return None
    raw = bytes.fromhex(text.removeprefix(KEY_PREFIX))
    coordinate = (int.from_bytes(raw, "little") & (2**255 - 1)) % _P
    return None if coordinate in _SMALL else raw


def name_fault(name: str) -> str:
    """Why a publisher can't call itself so, or ``""``."""
    if len(name) > NAME_CHARS or not name.isprintable():
        return f"is longer than {NAME_CHARS} characters, or has invisible ones"
    return "" if unicodedata.normalize("NFC", name) == name else "is not in the usual Unicode form"


def payload_of(statement: Statement) -> bytes:
    """The statement as it is signed: canonical JSON."""
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": statement.pack_id, "digest": {DIGEST_NAME: statement.digest.removeprefix(PREFIX)}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "publisher": {"key": statement.key, "name": statement.publisher},
                "version": statement.version,
            },
        }
    )


def message_of(payload: bytes) -> bytes:
    """What DSSE signs: type and payload, each with its length, so that neither can pass for the other."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def envelope(statement: Statement, signature: bytes) -> bytes:
    """The bytes of ``signature.dsse.json``."""
    document = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload_of(statement)).decode(),
        "signatures": [{"keyid": statement.key, "sig": base64.b64encode(signature).decode()}],
    }
    return canonical_json(document) + b"\n"


def read_envelope(raw: bytes) -> Signed | Flaw:
    """Take an envelope apart; each way of being another one has its name."""
    if len(raw) > ENVELOPE_BYTES:
        return Flaw("envelope_too_large", f"{FILE} has more than the {ENVELOPE_BYTES} bytes that a signature needs.")
    try:
        document = parse_json(raw, source=FILE, limits=_LIMITS)
        if document["payloadType"] != PAYLOAD_TYPE:
            other = quote(document["payloadType"], 80)
            return Flaw("payload_type_unknown", f"It holds {other}, not {PAYLOAD_TYPE}.")
        if len(document["signatures"]) != 1:
            return Flaw("signatures_not_one", f"Expected one signature, found {len(document['signatures'])}.")
        [one] = document["signatures"]
        payload = base64.b64decode(document["payload"], validate=True)
        signature = base64.b64decode(one["sig"], validate=True)
    except (AuthorError, KeyError, TypeError, IndexError, ValueError, AttributeError, binascii.Error) as error:
        return Flaw("envelope_malformed", f"{FILE} is no DSSE envelope: {quote(str(error), 200)}.")
    statement = _read_statement(payload)
    if isinstance(statement, Flaw):
        return statement
    if one.get("keyid") != statement.key or key_bytes(statement.key) is None or len(signature) != SIGNATURE_BYTES:
        named = quote(str(one.get("keyid")), 100)
        return Flaw("key_unusable", f"{named} is no Ed25519 key that could have signed this.")
    if envelope(statement, signature) != raw:
        return Flaw("envelope_not_canonical", f"{FILE} is not in the one spelling that has room for nothing else.")
    return Signed(statement, message_of(payload), signature)


def _read_statement(payload: bytes) -> Statement | Flaw:
    try:
        document = parse_json(payload, source="statement", limits=_LIMITS)
        if document["_type"] != STATEMENT_TYPE or document["predicateType"] != PREDICATE_TYPE:
            return Flaw("statement_unknown", f"It states {quote(document['predicateType'], 80)}, not {PREDICATE_TYPE}.")
        [subject] = document["subject"]
        predicate, publisher = document["predicate"], document["predicate"]["publisher"]
        digest = normal_digest(subject["digest"][DIGEST_NAME])
        found = Statement(subject["name"], predicate["version"], digest, publisher["key"], publisher["name"])
        if not digest or name_fault(found.publisher) or payload_of(found) != payload:
            return Flaw("statement_malformed", "What is signed is not written in the one form of a statement.")
    except (AuthorError, KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        return Flaw("statement_malformed", f"What is signed is no statement about a Pack: {quote(str(error), 200)}.")
    return found


def fits(statement: Statement, *, pack_id: str, version: str, digest: str) -> Flaw | None:
    """Whether a statement that verified is about this tree."""
    if statement.digest != digest:
        return Flaw("signature_of_other_files", f"It was made over {statement.digest}; these files have {digest}.")
    if (statement.pack_id, statement.version) != (pack_id, version):
        about = f"{quote(statement.pack_id, 80)} {quote(statement.version, 40)}"
        return Flaw("signature_of_other_pack", f"It is about {about}, not about {quote(pack_id)} {quote(version, 40)}.")
    return None


def weigh(seal: Seal, pin: Pin | None) -> Standing:
    """The signature against the key that was first approved for this Pack."""
    if seal.flaw is not None:
        return Standing.INVALID
    if seal.statement is None:
        return Standing.UNSIGNED if pin is None else Standing.MISSING
    if pin is None:
        return Standing.FIRST
    return Standing.KNOWN if seal.statement.key == pin.key else Standing.CHANGED


def check_seal(pack_id: str, seal: Seal, pin: Pin | None, wanted: str = "") -> None:
    """``TrustError`` for a signature that is wrong, and for a publisher that is not the one of before.

    ``wanted``: the key that the operator demands, where he knows it from elsewhere.
    """
    standing = weigh(seal, pin)
    forget = f"If you know why, and mean it: rumi publisher forget {pack_id}"
    if standing is Standing.INVALID:
        assert seal.flaw is not None
        raise TrustError(
            "The Pack's signature is wrong",
            code=Standing.INVALID.value,
            detail=f"{quote(pack_id)}: {seal.flaw.detail}",
            hint=f"Get it again from its publisher. Who wrote it himself signs it anew, or removes {FILE}.",
            fields={"cause": seal.flaw.code},
        )
    if wanted and seal.key != wanted:
        raise TrustError(
            "The Pack is not signed by the publisher that you named",
            code="publisher_unexpected",
            detail=f"{quote(pack_id)} should be signed with {quote(wanted, 100)}; it {_signed_now(seal)}.",
            hint="Nothing was kept. Compare the key with what the publisher says.",
            fields={"wanted": wanted[:100], "found": seal.key},
        )
    if standing in {Standing.CHANGED, Standing.MISSING}:
        assert pin is not None
        now = _signed_now(seal)
        raise TrustError(
            "The Pack is not signed by its publisher of before",
            code=standing.value,
            detail=f"{quote(pack_id)} was approved as signed with {pin.key} ({quote(pin.publisher)}); this one {now}.",
            hint=f"Ask the publisher. {forget}",
            fields={"pinned": pin.key, "found": seal.key},
        )


def _signed_now(seal: Seal) -> str:
    return f"is signed with {seal.key}" if seal.key else "carries no signature"


def seal_document(seal: Seal, pin: Pin | None) -> Mapping[str, Any]:
    """What a review says of it."""
    found = seal.statement
    return {
        "standing": weigh(seal, pin).value,
        "key": found.key if found else "",
        "publisher": found.publisher if found else "",
        "signed_digest": seal.signed_digest,
        "cause": seal.flaw.code if seal.flaw else "",
        "detail": seal.flaw.detail if seal.flaw else "",
        "pinned": pin and {"key": pin.key, "publisher": pin.publisher, "version": pin.version},
    }
