"""What became of each operation of each modifier. Pure data; shown by ``explain``."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from msgspec import Struct


class Status(StrEnum):
    """``overridden``: it was applied, and somebody else's change of the same place counts instead."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    OVERRIDDEN = "overridden"
    REFUSED = "refused"


class Change(Struct, frozen=True):
    """One operation at one step. ``before``, ``after``: the step's own words; ``why``: a sentence, unless applied."""

    modifier: str
    op: str
    target: str
    step: str
    status: Status
    why: str = ""
    before: Any = None
    after: Any = None
    source: str = ""
    line: int = 0
    pack: str = ""
    layer: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON for faces."""
        return {
            "modifier": self.modifier, "op": self.op, "target": self.target, "step": self.step,
            "status": self.status.value, "why": self.why, "before": self.before, "after": self.after,
            "source": self.source, "line": self.line, "pack": self.pack, "layer": self.layer,
        }  # fmt: skip
