"""Field names of older files, read as today's. Values are never changed, only the name under which they are found.

Invariant: an old name and its new name together, with different values, are refused: one of them would be a lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from backend_core.document import Document, Path, Position
from backend_core.ecosystem.spec.validate import Kind, invalid

ALIASES: Final[Mapping[Kind, Mapping[str, str]]] = MappingProxyType(
    {Kind.ECOSYSTEM: MappingProxyType({"pack_version": "version"})}
)
"""Old name → today's name, by format."""


def modernise(kind: Kind, document: Document) -> Document:
    """``document`` with today's names. Positions of a renamed field are those of its old name."""
    aliases = ALIASES.get(kind)
    value = document.value
    if not aliases or not isinstance(value, dict) or not aliases.keys() & value.keys():
        return document
    renamed: dict[Path, Path] = {}
    out = dict(value)
    for old, new in aliases.items():
        if old not in out:
            continue
        given = out.pop(old)
        if new in out and out[new] != given:
            raise invalid(
                kind, document, (old,), expected=f'"{old}" and "{new}" to agree, or only "{new}"',
                found="two different values", hint=f'Remove "{old}" from {document.source}, then scan again.',
            )  # fmt: skip
        if new not in out:
            out[new] = given
            renamed[new,] = (old,)
    positions = document.locate

    def locate() -> Mapping[Path, Position]:
        found = dict(positions())
        found.update({new: found[old] for new, old in renamed.items() if old in found})
        return found

    return Document(out, document.source, locate)
