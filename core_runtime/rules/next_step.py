"""What an operator can do about a Pack of which nothing can start. Pure.

Not here: why it can't start (``rules.resolve``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backend_core.errors import quote
from core_runtime.rules.component_work import pack_of
from core_runtime.rules.resolve import MORE, Blocked

ABSENT: Final = "Approve or start what provides it, or add a Pack that does; this Pack then starts by itself."
TOLD_PACKS: Final = 5
"""Packs of a circle that are named."""
_NO_USE: Final = "Approving or starting does not help."
_BRING: Final = "rumi pack add FOLDER, then rumi pack update ID"


def next_step(blocked: Blocked, owner: Callable[[str], str | None]) -> str:
    """One or two sentences with the command. ``owner``: the Pack that provides a key now, if one does."""
    if blocked.cycle:
        return _of_circle(_on_circle(blocked.path))
    return _of_misfit(blocked, owner) if blocked.misfit else ABSENT


def _on_circle(path: tuple[str, ...]) -> list[str]:
    """The Packs on the circle in which a way ends, ``MORE`` last where some of them are not told."""
    units = path[::2]
    start = units.index(path[-1]) if path[-1] != MORE else 0
    packs = dict.fromkeys(unit.partition(":")[0] for unit in units[start:] if unit != MORE)
    told = sorted(packs)[:TOLD_PACKS]
    return [*told, MORE] if MORE in path or len(told) < len(packs) else told


def _of_circle(packs: list[str]) -> str:
    if len(packs) == 1:
        return (
            f"{_NO_USE} {quote(packs[0])} needs what only it itself provides: bring a version of it that does not "
            f"({_BRING})."
        )
    names = ", ".join(quote(name) for name in packs if name != MORE)
    others = " and others" if packs[-1] == MORE else ""
    return (
        f"{_NO_USE} {names}{others} need each other: bring a version of one that needs none of the others "
        f"({_BRING})."
    )


def _of_misfit(blocked: Blocked, owner: Callable[[str], str | None]) -> str:
    last, key = blocked.path[-2:]
    needing = last.partition(":")[0]
    pack_id = pack_of(key)
    provider = pack_id or blocked.provider or owner(key)
    given = "" if pack_id else f" that gives {quote(key)}"
    who = quote(provider) if provider else "what provides it"
    return (
        f"{_NO_USE} Bring a version of {who}{given} in {blocked.wanted}, or one of {quote(needing)} that accepts what "
        f"is there ({_BRING})."
    )
