"""How often granted permissions were used, kept over restarts of the host: ``permissions/usage.json``, signed.

Invariants:
  * It informs the operator and allows nothing: a lost, damaged or forged file begins the count anew, from now.
  * It is written whole and durably, at most once in a while and at the end; a crash loses what was counted since.
  * At most ``MAX_ENTRIES`` are kept.

Not here: counting (``permission_manager``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from core_runtime.drivers.keys import Keyring

FILE: Final = "usage.json"
PURPOSE: Final = "usage"
MAX_ENTRIES: Final = 50_000
Counts: TypeAlias = dict[tuple[str, str, str], tuple[int, float]]
"""``(pack_id, type, item)`` → how often, and when last in seconds."""


class UsageFile:
    """Reads once, writes what is given; the caller keeps them apart."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._path = keyring.folder / FILE

    def load(self, now: float) -> tuple[float, Counts]:
        """Since when is counted, and what; ``now`` and nothing where the file can't be believed."""
        document = self._keyring.read(self._path, PURPOSE, PURPOSE)
        if not isinstance(document, dict):
            return now, {}
        try:
            counts = {(str(p), str(t), str(i)): (int(n), float(at)) for p, t, i, n, at in document["counts"]}
            return min(now, float(document["since"])), counts
        except (KeyError, TypeError, ValueError):
            return now, {}

    def store(self, since: float, counts: Mapping[tuple[str, str, str], tuple[int, float]]) -> None:
        """Replace the file. Raises ``OSError`` or ``TrustError``; the old one stays then."""
        newest = sorted(counts.items(), key=lambda entry: -entry[1][1])[:MAX_ENTRIES]
        lines = [[*key, number, at] for key, (number, at) in sorted(newest)]
        self._keyring.write(self._path, {"since": since, "counts": lines}, PURPOSE)
