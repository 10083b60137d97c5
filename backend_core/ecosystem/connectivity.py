"""``connectivity`` of a manifest: interface keys, and what is promised and needed of them.

An entry of ``provides`` is a key, or ``{key, version, input, output}``; one of ``requires`` and ``uses`` is a key, or
``{key, version}`` with a range. A plain key promises and needs nothing but that it exists.

Invariants:
  * A key stands once in a list, and has one contract in the whole Pack.
  * Versions and ranges can be read.

Not here: whether a schema is one that the host would use (``core_runtime.rules.contracts``), what a range means
(``versions``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from backend_core.document import Document, Path
from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.spec.models import ComponentManifest, Connectivity, Contract, joined_ranges
from backend_core.ecosystem.spec.validate import Kind, invalid
from backend_core.ecosystem.versions import is_version_range
from backend_core.errors import quote


def read_connectivity(kind: Kind, document: Document, value: Mapping[str, Any], base: Path = ()) -> Connectivity:
    """The links of ``value``, which stands at ``base`` and has the form of its schema. Raises ``AuthorError``."""
    given = value.get("connectivity", {})
    lists = {name: _entries(kind, document, given, name, base) for name in ("accepts", "provides", "requires", "uses")}
    contracts = {
        key: Contract(one.get("version", ""), freeze(one.get("input")), freeze(one.get("output")))
        for key, one in lists["provides"].items()
        if len(one) > 1
    }
    return Connectivity(
        **{name: tuple(entries) for name, entries in lists.items()},
        contracts=MappingProxyType(contracts),
        ranges=MappingProxyType(joined_ranges(_ranges(lists["requires"]), _ranges(lists["uses"]))),
    )


def same_contracts(document: Document, own: Connectivity, components: Iterable[ComponentManifest]) -> None:
    """Refuse a Pack of which two parts promise different things of one key."""
    known = {key: (contract, document.source) for key, contract in own.contracts.items()}
    for component in components:
        for key, contract in component.connectivity.contracts.items():
            other, where = known.setdefault(key, (contract, component.full_id))
            if other != contract:
                raise invalid(
                    Kind.ECOSYSTEM, document, (), expected=f"one version and one schema of {quote(key)}",
                    found=f"two different ones, in {quote(where)} and {quote(component.full_id)}",
                    hint="Let one component state them; the others name the key alone.",
                )  # fmt: skip


def _entries(
    kind: Kind, document: Document, given: Mapping[str, Any], name: str, base: Path
) -> dict[str, Mapping[str, Any]]:
    """Key → entry as a map, in order."""
    found: dict[str, Mapping[str, Any]] = {}
    for index, entry in enumerate(given.get(name, ())):
        one: Mapping[str, Any] = {"key": entry} if isinstance(entry, str) else entry
        path: Path = (*base, "connectivity", name, index)
        if one["key"] in found:
            raise invalid(kind, document, path, expected="each key once", found=f"{quote(one['key'])} again")
        if name in {"requires", "uses"} and not is_version_range(one.get("version", "*")):
            raise invalid(
                kind, document, (*path, "version"), expected="a range of versions such as >=1.0.0,<2.0.0",
                found=quote(one["version"], 80),
            )  # fmt: skip
        found[one["key"]] = one
    return found


def _ranges(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {key: one["version"] for key, one in entries.items() if "version" in one}
