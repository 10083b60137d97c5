"""Taking away a part of what was granted, and adding to it: permissions in, permissions out. Pure.

Invariants:
  * Taking away never leaves more than was held: what remains are the held permissions with fewer items.
  * "Unused" is judged only for types whose single uses are counted; the others are left to the operator.

Not here: whether an addition was declared (``rules.permissions.decide``), whether less is really less
(``rules.permissions.narrow``): both check again what is made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from core_runtime.rules.grants import Permission
from core_runtime.rules.permissions import Choice, item_params, items_of

Permissions = tuple[Permission, ...]


def without(held: Sequence[Permission], removals: Sequence[Choice]) -> Permissions:
    """``held`` less each removal: a type alone takes all of it, parameters take just those items."""
    left = tuple(held)
    for removal in removals:
        left = tuple(
            kept
            for permission in left
            for kept in ([permission] if permission.type != removal.type else _less(permission, removal.params))
        )
    return left


def without_unused(held: Sequence[Permission], used: Callable[[str, str], bool]) -> Permissions:
    """``held`` less each path, key and topic of which ``used(type, item)`` is false."""
    left = []
    for permission in held:
        items = items_of(permission)
        kept = tuple(item for item in items if used(permission.type, item))
        if not items or kept == items:
            left.append(permission)
        elif kept:
            left.append(replace(permission, params=_with_items(permission, kept)))
    return tuple(left)


def as_choices(held: Sequence[Permission]) -> tuple[Choice, ...]:
    """The held permissions as a new decision would name them."""
    return tuple(Choice(p.type, p.params, p.mode, p.until) for p in held)


def with_added(held: Sequence[Choice], added: Sequence[Choice]) -> tuple[Choice, ...]:
    """``held`` and ``added``, each once."""
    return (*held, *(choice for choice in added if choice not in held))


def _less(permission: Permission, params: Mapping[str, Any] | None) -> list[Permission]:
    if not params:
        return []
    left: dict[str, Any] = {}
    for name, value in permission.params.items():
        gone = params.get(name)
        if gone is None:
            left[name] = value
        elif isinstance(value, tuple):
            gone_items = gone if isinstance(gone, tuple) else (gone,)
            kept = tuple(item for item in value if item not in gone_items)
            if kept:
                left[name] = kept
    emptied = any(name not in left for name, value in permission.params.items() if isinstance(value, tuple))
    counted = item_params(permission.type)
    if emptied and len(counted) > 1:  # of domains and addresses one may go by itself; a limit that goes is no less
        emptied = not any(name in left for name in counted) or any(
            name not in left for name in permission.params if name not in counted
        )
    return [] if emptied or not left else [replace(permission, params=MappingProxyType(left))]


def _with_items(permission: Permission, kept: tuple[str, ...]) -> Mapping[str, Any]:
    counted = item_params(permission.type)
    params = {
        name: tuple(item for item in value if item in kept) if name in counted else value
        for name, value in permission.params.items()
    }
    return MappingProxyType({name: value for name, value in params.items() if value or name not in counted})
