"""Stable identifiers: one identity gives the same UUID on every machine, without anybody who hands them out."""

from __future__ import annotations

import uuid
from typing import Final

NAMESPACE: Final = uuid.UUID("a3e9f8c2-7b4d-5e1a-9c6f-2d8b4a7e3f1c")
"""Fixed for the whole ecosystem; every derived identifier changes with it."""


def pack_uuid(pack_identity: str) -> str:
    """UUID of the Pack with this identity (``github:author/my_pack``)."""
    return str(uuid.uuid5(NAMESPACE, pack_identity))


def component_uuid(of_pack: str, component_type: str, component_id: str) -> str:
    """UUID of a component of the Pack whose UUID is ``of_pack``."""
    return str(uuid.uuid5(uuid.UUID(of_pack), f"component:{component_type}:{component_id}"))


def addon_uuid(of_pack: str, addon_id: str) -> str:
    """UUID of an addon of the Pack whose UUID is ``of_pack``."""
    return str(uuid.uuid5(uuid.UUID(of_pack), f"addon:{addon_id}"))


def component_full_id(pack_id: str, component_type: str, component_id: str) -> str:
    """``pack:type:id``."""
    return f"{pack_id}:{component_type}:{component_id}"


def split_full_id(full_id: str) -> tuple[str, str, str]:
    """The three parts of ``pack:type:id``. Raises ``ValueError`` for anything else."""
    parts = full_id.split(":")
    if len(parts) != 3 or not all(parts):
        msg = "a full component id has the form pack:type:id"
        raise ValueError(msg)
    return parts[0], parts[1], parts[2]
