"""Publishers with keys of their own, and envelopes written by hand where the host's own code refuses to."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core_runtime.drivers import signatures
from core_runtime.drivers.tree import read_tree
from core_runtime.rules.signing import FILE, PAYLOAD_TYPE, Statement, key_text, message_of, payload_of, signed_digest


class Publisher:
    """One key and a name."""

    def __init__(self, name: str = "A. Uthor") -> None:
        self.name = name
        self.private = Ed25519PrivateKey.generate()
        self.key = key_text(self.private.public_key().public_bytes_raw())

    def sign(self, folder: Path) -> Statement:
        """As ``rumi pack sign`` does."""
        told = json.loads((folder / "backend/ecosystem.json").read_text())
        return signatures.sign(
            folder, read_tree(folder), self.private, pack_id=told["pack_id"], version=told["version"], publisher=self.name
        )

    def statement(self, folder: Path, **other: Any) -> Statement:
        """What it would sign, or something else."""
        told = json.loads((folder / "backend/ecosystem.json").read_text())
        fields = {
            "pack_id": told["pack_id"], "version": told["version"], "digest": signed_digest(read_tree(folder).entries),
            "key": self.key, "publisher": self.name, **other,
        }  # fmt: skip
        return Statement(**fields)

    def signature(self, payload: bytes) -> bytes:
        return self.private.sign(message_of(payload))


def written(folder: Path, document: Any) -> None:
    """Any document as the signature of a folder, in the spelling that is asked for."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def document(payload: bytes, *signatures_: tuple[str, bytes], payload_type: str = PAYLOAD_TYPE) -> dict[str, Any]:
    """An envelope around anything."""
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key, "sig": base64.b64encode(one).decode()} for key, one in signatures_],
    }


def of(publisher: Publisher, statement: Statement) -> dict[str, Any]:
    """A well-formed envelope of any statement, signed by any publisher."""
    payload = payload_of(statement)
    return document(payload, (statement.key, publisher.signature(payload)))
