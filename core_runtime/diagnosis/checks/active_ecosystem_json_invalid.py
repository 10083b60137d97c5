"""``active_ecosystem.json`` can't be used: the next start would be refused rather than forget what was switched off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.active_ecosystem import load_active_ecosystem
from backend_core.errors import HostError
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "active_ecosystem.json"
TITLE_JA = "active_ecosystem.json"


def look(host: Host) -> Iterator[Found]:
    try:
        load_active_ecosystem(host.settings.user_data / "active_ecosystem.json")
    except HostError as error:
        yield Found(
            "active_ecosystem.json",
            error.title,
            error.detail,
            error.hint,
            Severity.ERROR,
            error.fields,
            mend="write_active_ecosystem",
        )
