"""What a Pack's files say about flows, for the decision about it: flows of its own, and changes to others'. Pure."""

from __future__ import annotations

from msgspec import Struct


class Brought(Struct, frozen=True):
    """One file. ``modifies``: ids and globs; ``fault``: why it says nothing, so that it would be refused."""

    file: str
    adds: tuple[str, ...] = ()
    modifies: tuple[str, ...] = ()
    fault: str = ""
