"""``mounts.json`` can't be used: the next start would not know the mounts that the operator chose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.mounts import load_mounts
from backend_core.errors import HostError
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "mounts.json"
TITLE_JA = "mounts.json"


def look(host: Host) -> Iterator[Found]:
    try:
        load_mounts(host.settings.user_data / "mounts.json", host.settings.home)
    except HostError as error:
        yield Found(
            "mounts.json", error.title, error.detail, error.hint, Severity.ERROR, error.fields, mend="replace_mounts"
        )
