"""What a privilege is: an operation with a schema, a risk and an executor. Never a shell, never a path of the Pack's
choice.

Invariants: arguments are validated against ``parameters`` before the executor sees them; what the operator chose when
granting (``options``) comes from the signed grant, never from the Pack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct

from core_runtime.drivers.desktop import Desktop


class Effects(Protocol):
    """What of the host an executor may use."""

    def notify(self, pack_id: str, title: str, text: str) -> None:
        """Show a notice to the operator, marked with the Pack that sent it."""

    def restart(self, pack_id: str) -> None:
        """Have the Pack's sandbox restarted, after the answer was sent."""


class Call(Struct, frozen=True):
    """One execution: who, with which validated arguments, under which options of the grant."""

    pack_id: str
    args: Mapping[str, Any]
    options: Mapping[str, Any]
    effects: Effects | None
    desktop: Desktop | None = None


class Privilege(Struct, frozen=True):
    """One operation. ``parameters``, ``options``: JSON Schemas; ``needs_effects``: acts through the running host.

    ``disturbs``: a person notices each of them, so a Pack has few. ``programs``: those of the operator's desktop of
    which it needs one, each with its own arguments.
    """

    id: str
    title: Mapping[str, str]
    risk: str
    parameters: Mapping[str, Any]
    options: Mapping[str, Any]
    execute: Callable[[Call], Mapping[str, Any]]
    needs_effects: bool = False
    disturbs: bool = False
    programs: tuple[tuple[str, ...], ...] = ()


TABLE: dict[str, Privilege] = {}


def register(privilege: Privilege) -> Privilege:
    """Add an operation; two of one id are a mistake of ours."""
    if privilege.id in TABLE:
        raise ValueError(f"privilege {privilege.id} is registered twice")
    TABLE[privilege.id] = privilege
    return privilege
