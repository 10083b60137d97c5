"""Names that mean other names. One canonical name, any number of aliases, no chains.

Invariants: an alias belongs to at most one canonical name; a canonical name is never an alias; reads take no lock
(both maps are replaced, never changed).
Not here: who may register aliases, and of which names (``handlers.aliases``, ``rules.aliases``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Self

from backend_core.errors import ConflictError, RequestError, quote

MAX_NAME_CHARS = 256


class FunctionAlias:
    """Thread-safe alias table."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._canonical_of: Mapping[str, str] = {}
        self._aliases_of: Mapping[str, tuple[str, ...]] = {}

    @classmethod
    def of(cls, mappings: Mapping[str, Iterable[str]]) -> Self:
        """A table of canonical name → its aliases. Raises as ``register_aliases``."""
        table = cls()
        for canonical, aliases in mappings.items():
            table.register_aliases(canonical, aliases)
        return table

    def register_aliases(self, canonical: str, aliases: Iterable[str]) -> None:
        """Add every alias, or none: raises ``ConflictError`` when one already means something else."""
        wanted = tuple(dict.fromkeys(_name(a) for a in aliases if a != canonical))
        _name(canonical)
        with self._lock:
            if canonical in self._canonical_of:
                raise ConflictError(
                    f"{quote(canonical)} is an alias itself",
                    code="alias_conflict",
                    detail=f"It means {quote(self._canonical_of[canonical])}.",
                    hint="Register the aliases on that name.",
                )
            for alias in wanted:
                taken = self._canonical_of.get(alias, alias if alias in self._aliases_of else canonical)
                if taken != canonical:
                    raise ConflictError(
                        f"{quote(alias)} is taken",
                        code="alias_conflict",
                        detail=f"It already means {quote(taken)}, so it can't mean {quote(canonical)}.",
                        hint="Remove the other meaning first, or choose another alias.",
                    )
            known = self._aliases_of.get(canonical, ())
            self._aliases_of = {**self._aliases_of, canonical: tuple(dict.fromkeys((*known, *wanted)))}
            self._canonical_of = {**self._canonical_of, **dict.fromkeys(wanted, canonical)}

    def add_alias(self, canonical: str, alias: str) -> None:
        """Add one alias."""
        self.register_aliases(canonical, (alias,))

    def resolve(self, name: str) -> str:
        """The canonical name; ``name`` itself when it is no alias."""
        return self._canonical_of.get(name, name)

    def find_all(self, name: str) -> list[str]:
        """Every name that means the same as ``name``, sorted, canonical included."""
        canonical = self.resolve(name)
        return sorted({canonical, *self._aliases_of.get(canonical, ())})

    def is_alias_of(self, name: str, canonical: str) -> bool:
        """Whether both mean the same."""
        return self.resolve(name) == self.resolve(canonical)

    def get_canonical(self, name: str) -> str | None:
        """The canonical name of a known name; None for an unknown one."""
        if name in self._aliases_of:
            return name
        return self._canonical_of.get(name)

    def list_all_canonicals(self) -> list[str]:
        """Canonical names, sorted."""
        return sorted(self._aliases_of)

    def list_all_mappings(self) -> dict[str, list[str]]:
        """Canonical name → its aliases, sorted."""
        return {canonical: sorted(aliases) for canonical, aliases in sorted(self._aliases_of.items())}

    def remove_alias(self, alias: str) -> bool:
        """Forget one alias; False when it was none."""
        with self._lock:
            canonical = self._canonical_of.get(alias)
            if canonical is None:
                return False
            self._canonical_of = {a: c for a, c in self._canonical_of.items() if a != alias}
            rest = tuple(a for a in self._aliases_of[canonical] if a != alias)
            self._aliases_of = {**self._aliases_of, canonical: rest}
            return True

    def remove_canonical(self, canonical: str) -> bool:
        """Forget a canonical name with all of its aliases; False when unknown."""
        with self._lock:
            if canonical not in self._aliases_of:
                return False
            self._aliases_of = {c: a for c, a in self._aliases_of.items() if c != canonical}
            self._canonical_of = {a: c for a, c in self._canonical_of.items() if c != canonical}
            return True


def _name(name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
        raise RequestError(
            "Not a name",
            code="alias_invalid",
            detail=f"A name is a text of 1 to {MAX_NAME_CHARS} characters; {quote(name)} is none.",
            hint="Give the name that the interface or handler is registered under.",
        )
    return name
