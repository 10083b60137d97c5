"""The secret values that this run of the host knows, held in memory so that they can be hidden in what it keeps.

Invariants:
  * A value that was ever known stays known until the host ends: a Pack that received it does not forget it either.
  * ``hide`` looks for the values of one Pack. It is for texts that other Packs may read, so that nobody can find out a
    foreign value by having guesses blanked out. ``hide_any`` looks for all of them: for the operator's eyes only.
  * Values are never shown, logged or compared by their text elsewhere; this object has no ``repr`` of its content.

Not here: which forms of a value are looked for, and what that can't do (``rules.redaction``).
"""

from __future__ import annotations

import threading
from typing import Any

from core_runtime.rules import redaction


class Redactions:
    """Thread-safe. A host without secrets pays one look at an empty mapping for each text."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._by_pack: dict[str, tuple[str, ...]] = {}
        self._all: tuple[str, ...] = ()

    def learn(self, pack_id: str, value: str) -> None:
        """From now on ``value`` is hidden."""
        forms = redaction.forms_of(value)
        with self._mutex:
            known = self._by_pack.get(pack_id, ())
            self._by_pack[pack_id] = _longest_first({*known, *forms})
            self._all = _longest_first({*self._all, *forms})

    def knows(self, pack_id: str) -> bool:
        """Whether there is anything to hide for this Pack."""
        return pack_id in self._by_pack

    def hide(self, pack_id: str, text: str) -> str:
        """``text`` without the values of this Pack."""
        forms = self._by_pack.get(pack_id)
        return redaction.hide(text, forms) if forms else text

    def hide_any(self, text: str) -> str:
        """``text`` without any known value."""
        return redaction.hide(text, self._all) if self._all else text

    def hide_in(self, pack_id: str, value: Any) -> Any:
        """A JSON-like value without the values of this Pack."""
        if pack_id not in self._by_pack:
            return value
        return redaction.hidden(value, lambda text: self.hide(pack_id, text))

    def hide_any_in(self, value: Any) -> Any:
        """A JSON-like value without any known value."""
        return redaction.hidden(value, self.hide_any) if self._all else value


def _longest_first(forms: set[str]) -> tuple[str, ...]:
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))
