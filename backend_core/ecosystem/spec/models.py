"""Frozen types of every file that a Pack supplies: parsed once at the border, never travelling on as loose dicts.

Not here: reading files (``registry``), checking documents (``spec.validate``), deciding anything from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from msgspec import Struct, field
from types import MappingProxyType
from typing import Any

from backend_core.ecosystem.requirements import LockedPackage

EMPTY: Mapping[str, Any] = MappingProxyType({})


class Contract(Struct, frozen=True):
    """What a Pack promises of a key. ``version``: "" where none is stated; schemas: frozen JSON, None where free."""

    version: str = ""
    input: Mapping[str, Any] | None = None
    output: Mapping[str, Any] | None = None


NO_CONTRACTS: Mapping[str, Contract] = MappingProxyType({})


class Connectivity(Struct, frozen=True):
    """Interface keys, as declared. ``provides`` bounds what a component may register, ``requires`` orders starts.

    ``contracts``: of provided keys that promise more than to exist; ``ranges``: of required and used ones that need a
    version, every condition of theirs.
    """

    accepts: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    contracts: Mapping[str, Contract] = field(default_factory=lambda: NO_CONTRACTS)
    ranges: Mapping[str, str] = field(default_factory=lambda: EMPTY)


class PermissionRequest(Struct, frozen=True):
    """One entry of ``permissions.json``: what the Pack asks for and why. ``params`` is frozen JSON."""

    type: str
    reason: str
    params: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


class ComponentManifest(Struct, frozen=True):
    """One ``components/<id>/manifest.json``. ``directory`` is posix, relative to the Pack's root."""

    type: str
    id: str
    version: str
    full_id: str
    uuid: str
    directory: str
    connectivity: Connectivity = Connectivity()
    display_name: str = ""
    description: str = ""
    author: str = ""
    extensions: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    settings_schema: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    addon_policy: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    storage: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    entry: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    metadata: Mapping[str, Any] = field(default_factory=lambda: EMPTY)


class HandlerFile(Struct, frozen=True):
    """One custom handler, ``backend/handlers/<name>.py``; ``<pack_id>.<name>`` when declared in ``provides``."""

    name: str
    path: str


class PackMetadata(Struct, frozen=True):
    """Everything that the host knows of a Pack without running a byte of it."""

    pack_id: str
    pack_identity: str
    version: str
    uuid: str
    pack_type: str = "pack"
    display_name: str = ""
    description: str = ""
    author: str = ""
    license: str = ""
    dependencies: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    connectivity: Connectivity = Connectivity()
    components: tuple[ComponentManifest, ...] = ()
    handlers: tuple[HandlerFile, ...] = ()
    permissions: tuple[PermissionRequest, ...] = ()
    addons: tuple[Mapping[str, Any], ...] = ()
    packages: tuple[LockedPackage, ...] = ()
    """The Python packages of ``requirements.lock``."""
    lock_file: str = ""
    """Where that file is in the Pack; ``wheels/`` lies beside it. Empty without one."""
    metadata: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    vocabulary: Mapping[str, Any] | tuple[Any, ...] = field(default_factory=lambda: EMPTY)
    notes: tuple[str, ...] = ()
    """Sentences about what was read but has no effect (misspelt fields), for review."""

    def provides(self) -> frozenset[str]:
        """Every key that this Pack may register: its own ``connectivity`` and that of its components."""
        return frozenset(self.connectivity.provides).union(*(c.connectivity.provides for c in self.components))

    def requires(self) -> frozenset[str]:
        """Every key without which some component of this Pack does not start."""
        return frozenset(self.connectivity.requires).union(*(c.connectivity.requires for c in self.components))

    def uses(self) -> frozenset[str]:
        """Every key that this Pack may call when present."""
        return frozenset(self.connectivity.uses).union(*(c.connectivity.uses for c in self.components))

    def contracts(self) -> Mapping[str, Contract]:
        """What it promises of its keys; each key has one contract, wherever in the Pack it is declared."""
        links = (self.connectivity, *(c.connectivity for c in self.components))
        return MappingProxyType({key: one for link in links for key, one in link.contracts.items()})

    def ranges(self) -> Mapping[str, str]:
        """The versions that it needs of other Packs' keys: all conditions of all of its components."""
        links = (self.connectivity, *(c.connectivity for c in self.components))
        return MappingProxyType(joined_ranges(*(link.ranges for link in links)))


def joined_ranges(*ranges: Mapping[str, str]) -> dict[str, str]:
    """Several needs as one: what satisfies the result satisfies each of them."""
    found: dict[str, dict[str, None]] = {}
    for one in ranges:
        for key, wanted in one.items():
            found.setdefault(key, {})[wanted] = None
    return {key: ",".join(conditions) for key, conditions in sorted(found.items())}


class PackFolder(Struct, frozen=True):
    """One folder below ``ecosystem/packs``: its metadata, or why there is none (``RumiError.as_dict()``)."""

    folder: str
    path: str
    metadata: PackMetadata | None = None
    error: Mapping[str, Any] | None = field(default=None)
