"""Changing ``active_ecosystem.json`` and what is in force together, for fixups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from backend_core.ecosystem.active_ecosystem import ActiveEcosystem, load_active_ecosystem, save_active_ecosystem

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host


def change(host: Host, how: Callable[[ActiveEcosystem], ActiveEcosystem]) -> None:
    """Apply ``how`` to the file and to what is in force, each by itself: the file may hold choices for the next start.

    ``HostError`` when the file can't be read; nothing is changed then.
    """
    file = host.settings.user_data / "active_ecosystem.json"
    save_active_ecosystem(file, how(load_active_ecosystem(file)))
    host.active = how(host.active)
