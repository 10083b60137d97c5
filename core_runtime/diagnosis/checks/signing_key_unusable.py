"""The key that signs every grant can't be trusted: nothing that it signed counts until it can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "The signing key"
TITLE_JA = "署名鍵"
READABLE = "key_readable_by_others"


def look(host: Host) -> Iterator[Found]:
    keyring = host.approvals.grants.keyring
    cause = keyring.fault()
    if cause and not (cause == "key_missing" and not host.approvals.grants.pack_ids()):
        yield Found(
            ".secret_key",
            "The signing key can't be trusted",
            f"{cause}: user_data/permissions/.secret_key. No Pack starts while this is so.",
            "If somebody may have read it, close it and make a new one: rumi trust rotate-key"
            if cause == READABLE
            else "Put the key back from a backup, or approve the Packs again.",
            Severity.ERROR,
            {"cause": cause},
            mend="close_signing_key" if cause == READABLE else "",
        )
