"""``aliases.json`` can't be used: what was in force stays so, over starts as well, until it is mended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.aliases import FILE
from backend_core.errors import HostError
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.handlers.aliases import instead, written

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "aliases.json"
TITLE_JA = "aliases.json"


def look(host: Host) -> Iterator[Found]:
    try:
        written(host)
    except HostError as error:
        told = instead(host, error)
        yield Found(FILE, told.title, told.detail, told.hint, Severity.ERROR, told.fields, mend="write_aliases")
