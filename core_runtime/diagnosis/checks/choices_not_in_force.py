"""``active_ecosystem.json`` was edited while the host runs: what it says holds from the next start on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.active_ecosystem import load_active_ecosystem
from backend_core.errors import HostError
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Choices that are not in force yet"
TITLE_JA = "まだ効いていない選択"


def look(host: Host) -> Iterator[Found]:
    try:
        written = load_active_ecosystem(host.settings.user_data / "active_ecosystem.json").as_dict()
    except HostError:
        return  # another check tells that
    held = host.active.as_dict()
    differing = sorted(name for name in written if written[name] != held[name])
    if differing:
        yield Found(
            "active_ecosystem.json",
            "Choices in active_ecosystem.json are not in force yet",
            f"Changed since the host started: {', '.join(differing)}.",
            "Start the host again: rumi down, then rumi up",
            Severity.INFO,
        )
