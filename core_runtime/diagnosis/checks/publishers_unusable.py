"""The list of known publishers can't be believed: no Pack is added or approved until it can, or is begun anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import TrustError
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.drivers.publishers import FILE

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Publishers of signed Packs"
TITLE_JA = "署名付きPackの発行者"


def look(host: Host) -> Iterator[Found]:
    try:
        host.approvals.publishers()
    except TrustError as error:
        detail = f"{error.code}: {error.detail}"
        yield Found(FILE, error.title, detail, error.hint, Severity.ERROR, {"cause": error.code})
