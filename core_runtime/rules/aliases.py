"""Which names the operator may give to interfaces, how two tables differ, whom aliases concern. Pure.

Not here: the table itself (``function_alias``), its file (``backend_core.ecosystem.aliases``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from msgspec import Struct

from core_runtime.rules.permission_kinds import HOST_CALLS, host_key_permission

MAX_ALIASES: Final = 1000
"""Of one host. As the schema of ``aliases.json``; together they stay far below what is read of a file."""
MAX_NAME_CHARS: Final = 200
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_][A-Za-z0-9_-]*)*")
_FLOWS: Final = "flow."
HIDES: Final = "hides"
REACHES: Final = "reaches"


class Concerned(Struct, frozen=True):
    """An alias that concerns what a Pack provides.

    ``effect``: it ``hides`` what the Pack provides under the alias's own name, or ``reaches`` what the Pack provides as
    the ``key`` that it means. ``owner``: the other Pack that the key belongs to now, "" without one.
    """

    alias: str
    key: str
    effect: str
    owner: str


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


def concerned(
    provides: Collection[str], aliases: Mapping[str, Sequence[str]], owners: Mapping[str, str]
) -> tuple[Concerned, ...]:
    """Of a table (key → its other names) what concerns a Pack with these keys: what hides one first, each by its name.

    ``owners``: key → other Pack that owns it.
    """
    pairs = sorted((alias, key) for key, names in aliases.items() for alias in names)
    hiding = [Concerned(alias, key, HIDES, owners.get(key, "")) for alias, key in pairs if alias in provides]
    reaching = [Concerned(alias, key, REACHES, owners.get(key, "")) for alias, key in pairs if key in provides]
    return (*hiding, *reaching)


def _pairs(aliases: Mapping[str, Sequence[str]]) -> set[str]:
    return {f"{alias} = {key}" for key, names in aliases.items() for alias in names}
