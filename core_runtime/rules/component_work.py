"""What of a Pack has to be loaded: its components and its handler files, as units of the order of starts. Pure.

That a Pack depends on another one, in a range of versions, is a key like any other in the order of starts of Packs
(``pack_key``): the other Pack provides it, in its own version. There is one version of each Pack on a machine, so there
is nothing to choose and no solver: a range is met or it is not.

Not here: the order (``rules.resolve``), loading (``component_lifecycle``).
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from backend_core.ecosystem.spec.models import (
    ComponentManifest,
    Connectivity,
    HandlerFile,
    PackMetadata,
    joined_ranges,
)
from core_runtime.rules.resolve import Unit

_PACK: Final = "Pack "


class Work(Struct, frozen=True):
    """A unit with what its phases need: a component's own files, or one handler file."""

    unit: Unit
    component: Mapping[str, Any]
    handler_file: str = ""
    handler_key: str = ""


def works_of(metadata: PackMetadata) -> list[Work]:
    """Its components, then the handler files whose keys it declares."""
    library = metadata.pack_type == "library"
    found = [_component_work(metadata, component, library=library) for component in metadata.components]
    declared = metadata.provides()
    for handler in metadata.handlers:
        key = f"{metadata.pack_id}.{handler.name}"
        if key in declared:
            found.append(_handler_work(metadata, handler, key, library=library))
    return found


def pack_key(pack_id: str) -> str:
    """What a Pack as a whole provides. No interface key has a space."""
    return f"{_PACK}{pack_id}"


def pack_of(key: str) -> str:
    """The Pack that a key of ``pack_key`` stands for; "" for any other key."""
    return key.removeprefix(_PACK) if key.startswith(_PACK) else ""


def units_of(metadata: PackMetadata) -> list[Unit]:
    """What of a Pack takes part in the order of starts, each of it with what the whole Pack depends on.

    A Pack without components is one unit.
    """
    own = pack_key(metadata.pack_id)
    needed = {pack_key(name): wanted for name, wanted in metadata.dependencies.items()}
    units = [work.unit for work in works_of(metadata)]
    return [
        replace(
            unit,
            provides=unit.provides | {own},
            requires=unit.requires.union(needed),
            versions=unit.versions | {(own, metadata.version)},
            ranges=unit.ranges.union(needed.items()),
        )
        for unit in units or [Unit(metadata.pack_id, metadata.pack_id, library=metadata.pack_type == "library")]
    ]


def _component_work(metadata: PackMetadata, component: ComponentManifest, *, library: bool) -> Work:
    links = component.connectivity
    unit = _unit(metadata, component.full_id, frozenset(links.provides), links, library=library)
    return Work(unit, _wire(component.full_id, component.type, component.id, metadata.pack_id, component.directory))


def _handler_work(metadata: PackMetadata, handler: HandlerFile, key: str, *, library: bool) -> Work:
    full_id = f"{metadata.pack_id}:handlers:{handler.name}"
    directory, file = posixpath.split(handler.path)
    unit = _unit(metadata, full_id, frozenset({key}), Connectivity(), library=library)
    return Work(unit, _wire(full_id, "handlers", handler.name, metadata.pack_id, directory), file, key)


def _unit(
    metadata: PackMetadata, full_id: str, provides: frozenset[str], links: Connectivity, *, library: bool
) -> Unit:
    """``links`` are its own; what the Pack requires as a whole, each of its units requires."""
    contracts = metadata.contracts()
    requires = frozenset(links.requires) | frozenset(metadata.connectivity.requires)
    ranges = joined_ranges(metadata.connectivity.ranges, links.ranges)
    return Unit(
        full_id,
        metadata.pack_id,
        provides,
        requires,
        library,
        frozenset((key, contracts[key].version) for key in provides if key in contracts),
        frozenset((key, wanted) for key, wanted in ranges.items() if key in requires),
    )


def _wire(full_id: str, kind: str, name: str, pack_id: str, directory: str) -> dict[str, Any]:
    return {"full_id": full_id, "type": kind, "id": name, "pack_id": pack_id, "dir": directory}
