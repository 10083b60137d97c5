"""The isolation of this machine is weaker than it could be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.rules.sandbox import Level

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "How well Packs are isolated"
TITLE_JA = "Packの隔離の強さ"


def look(host: Host) -> Iterator[Found]:
    chosen = host.isolation
    if chosen is not None and chosen.level is Level.REDUCED:
        yield Found(
            "isolation",
            f"The isolation of this machine is reduced ({chosen.driver.value})",
            "; ".join(chosen.findings) or "A part of what the standard level needs is not there.",
            "See what is missing: rumi doctor; what the levels mean: docs/reference/isolation.md",
            evidence={"driver": chosen.driver.value, "level": chosen.level.name.lower()},
        )
