"""Which names the operator may give to interfaces, and how two tables differ. Pure.

Not here: the table itself (``function_alias``), its file (``backend_core.ecosystem.aliases``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from core_runtime.rules.permission_kinds import HOST_CALLS, host_key_permission

MAX_ALIASES: Final = 1000
"""Of one host. As the schema of ``aliases.json``; together they stay far below what is read of a file."""
MAX_NAME_CHARS: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_FLOWS: Final = "flow."


def name_fault(name: str) -> str:
    """Why nothing may be an alias of this name nor this name one, or ``""``.

    Names that the host itself gives a meaning to keep it: its own handlers (``kernel:``, which is no key's form), flows
    that are registered, hooks, constructs, routes.
    """
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        return f"is no interface key: parts of letters, digits, _ or -, joined by dots, at most {MAX_NAME_CHARS}"
    if name.startswith(_FLOWS) or name in HOST_CALLS or host_key_permission(name):
        return "has a meaning to the host itself"
    return ""


def difference(before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """``{added, removed}``, each alias with what it means, as ``alias = key``, sorted."""
    old, new = _pairs(before), _pairs(after)
    return {"added": sorted(new - old), "removed": sorted(old - new)}


def _pairs(aliases: Mapping[str, Sequence[str]]) -> set[str]:
    return {f"{alias} = {key}" for key, names in aliases.items() for alias in names}
