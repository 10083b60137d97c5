"""The operator's choices among what is installed: what is switched off, and which Pack answers a contested interface.

Invariant: all approved Packs run, with every component that is not switched off. ``active_pack_identity`` and
``overrides`` (type → id) are kept as an older installation wrote them, and decide nothing.

Not here: applying the choices (registry, lifecycle, addon_manager).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from msgspec import Struct, field
from msgspec.structs import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from backend_core.ecosystem.frozen import freeze, thaw
from backend_core.ecosystem.operator_file import load_operator_file
from backend_core.ecosystem.spec.models import EMPTY
from backend_core.ecosystem.spec.validate import Kind
from backend_core.files import write_atomic


class ActiveEcosystem(Struct, frozen=True):
    """``active_ecosystem.json``. ``interface_overrides`` maps an interface key to the Pack that answers it."""

    active_pack_identity: str | None = None
    overrides: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    interface_overrides: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    disabled_components: frozenset[str] = frozenset()
    disabled_addons: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=lambda: EMPTY)

    def is_component_enabled(self, full_id: str) -> bool:
        """Whether the component ``pack:type:id`` may start."""
        return full_id not in self.disabled_components

    def is_addon_enabled(self, pack_id: str, addon_id: str, uuid: str = "") -> bool:
        """Whether an addon may be applied; the file may name it by id, by ``pack:id`` or by UUID."""
        return self.disabled_addons.isdisjoint({addon_id, f"{pack_id}:{addon_id}", uuid})

    def with_component(self, full_id: str, *, enabled: bool) -> ActiveEcosystem:
        """These choices with one component switched on or off."""
        change = self.disabled_components.difference if enabled else self.disabled_components.union
        return replace(self, disabled_components=change({full_id}))

    def with_addon(self, addon_id: str, *, enabled: bool) -> ActiveEcosystem:
        """These choices with one addon switched on or off."""
        change = self.disabled_addons.difference if enabled else self.disabled_addons.union
        return replace(self, disabled_addons=change({addon_id}))

    def with_interface(self, key: str, pack_id: str | None) -> ActiveEcosystem:
        """These choices with ``key`` answered by ``pack_id``, or by its owner again."""
        others = {other: pack for other, pack in self.interface_overrides.items() if other != key}
        chosen = others if pack_id is None else {**others, key: pack_id}
        return replace(self, interface_overrides=MappingProxyType(chosen))

    def as_dict(self) -> dict[str, Any]:
        """The document as it is written."""
        return {
            "active_pack_identity": self.active_pack_identity,
            "overrides": dict(self.overrides),
            "interface_overrides": dict(self.interface_overrides),
            "disabled_components": sorted(self.disabled_components),
            "disabled_addons": sorted(self.disabled_addons),
            "metadata": thaw(self.metadata),
        }


def load_active_ecosystem(file: Path) -> ActiveEcosystem:
    """The choices in ``file``, none where it does not exist. Raises ``HostError`` when it can't be read."""
    document = load_operator_file(file, Kind.ACTIVE_ECOSYSTEM)
    if document is None:
        return ActiveEcosystem()
    value = document.value
    return ActiveEcosystem(
        active_pack_identity=value.get("active_pack_identity"),
        overrides=freeze(value.get("overrides", {})),
        interface_overrides=freeze(value.get("interface_overrides", {})),
        disabled_components=frozenset(value.get("disabled_components", ())),
        disabled_addons=frozenset(value.get("disabled_addons", ())),
        metadata=freeze(value.get("metadata", {})),
    )


def save_active_ecosystem(file: Path, active: ActiveEcosystem) -> None:
    """Write ``active`` atomically."""
    write_atomic(file, (json.dumps(active.as_dict(), indent=2, ensure_ascii=False) + "\n").encode("utf-8"))
