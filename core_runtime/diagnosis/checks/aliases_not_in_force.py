"""``aliases.json`` was edited while the host runs: what it says holds from the next start or change on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.aliases import FILE
from backend_core.errors import HostError, quote
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity
from core_runtime.handlers.aliases import TOLD, written
from core_runtime.rules.aliases import difference

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Aliases that are not in force yet"
TITLE_JA = "まだ効いていない別名"


def look(host: Host) -> Iterator[Found]:
    try:
        changed = difference(host.aliases.list_all_mappings(), written(host).list_all_mappings())
    except HostError:  # another check tells that
        return
    if any(changed.values()):
        said = [f"{word} {quote(', '.join(pairs[:TOLD]), 300)}" for word, pairs in changed.items() if pairs]
        yield Found(
            FILE,
            "Aliases in aliases.json are not in force yet",
            f"Changed since it was read: {'; '.join(said)}.",
            "Have the file read, or start the host again.",
            Severity.INFO,
            mend="read_aliases",
        )
