"""What Packs spent of their budgets of connections, kept when the host ends: ``permissions/budgets.json``, signed.

Invariants:
  * Replaced whole and durably: what ``store`` returned from is what the next host finds, whatever ended this one.
  * Time that passes while no host runs counts; a clock that was set back makes nothing younger than it was.

Not here: what is spent, and how far ahead of the spending it is written (``rules.budgets``, ``egress.accounts``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backend_core.errors import TrustError
from core_runtime.drivers.keys import Keyring
from core_runtime.rules.budgets import Spent
from core_runtime.rules.seals import Fault

FILE: Final = "budgets.json"
PURPOSE: Final = "budgets"


class SpentFile:
    """Reads once, writes what is given; the caller keeps them apart."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._path = keyring.folder / FILE

    def load(self, wall_s: float) -> dict[str, Spent]:
        """By Pack, as old as it is at ``wall_s``. Raises ``TrustError`` for a file that can't be believed."""
        document = self._keyring.read(self._path, PURPOSE, PURPOSE)
        if document is None:
            return {}
        if isinstance(document, Fault):
            raise _unusable(document.cause, document.detail)
        try:
            passed_s = max(0.0, wall_s - float(document["at"]))
            return {str(pack_id): _aged(spent, passed_s) for pack_id, spent in document["packs"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _unusable("budgets_malformed", str(error)) from error

    def store(self, spent: Mapping[str, Spent], wall_s: float) -> None:
        """Replace the file. Raises ``OSError`` or ``TrustError``; the old one stays then."""
        packs = {pack_id: {n: list(line) for n, line in lines.items()} for pack_id, lines in spent.items() if lines}
        self._keyring.write(self._path, {"at": wall_s, "packs": packs}, PURPOSE)


def _aged(spent: Mapping[str, tuple[float, int]], passed_s: float) -> Spent:
    return {str(name): (max(0.0, float(age)) + passed_s, int(total)) for name, (age, total) in spent.items()}


def _unusable(cause: str, detail: str) -> TrustError:
    return TrustError(
        "What Packs spent of their budgets can't be read",
        code=cause,
        detail=f"{FILE}: {detail}",
        hint="Nothing to do: the budgets begin anew.",
    )
