"""The room that one Pack has for calls, and which other Pack holds how much of it.

Invariants:
  * No more than ``limits.in_flight`` calls, and no more than ``limits.in_flight_bytes`` of arguments, are owed at once:
    a Pack reads everything it is sent, so what waits inside it takes of its memory. Arguments below ``SHORT_BYTES``
    are not added up: of ``limits.in_flight`` calls they take a megabyte.
  * A Pack holds no more of another's room than is free, in number and in bytes, so that any number of Packs that flood
    leave some over. The host itself may fill it, and so may one value that is as large as values may be: beside that
    there is a ``SPARE`` of the bytes for who holds little.

Not here: what becomes of a call that finds no room (``router``).
"""

from __future__ import annotations

from core_runtime.rules.frames import BusLimits

SHORT_BYTES = 1024
LITTLE_CALLS = 16
LITTLE_BYTES = 256 * 1024
"""Of one caller, beside a backlog of ``limits.backlog_bytes`` that others made: a hundred of them stay below
``limits.backlog_hard_bytes``, where the Pack would be cut off."""
SPARE = 8
"""One part in so many, beyond the bytes that there are; of which again one in so many is little for one caller."""


class Places:
    """Of one session; belongs to the event loop's thread."""

    __slots__ = ("_by", "_bytes_left", "_left", "_limits", "_little", "_spare")

    def __init__(self, limits: BusLimits) -> None:
        self._limits = limits
        self._spare = limits.in_flight_bytes // SPARE
        self._little = min(LITTLE_BYTES, self._spare // SPARE)
        self.clear()

    def clear(self) -> None:
        """Nothing is owed any more."""
        self._left = self._limits.in_flight
        self._bytes_left = self._limits.in_flight_bytes
        self._by: dict[str | None, list[int]] = {}
        """Caller → calls, bytes; one that has none stays: this runs twice for each call."""

    def take(self, caller: str | None, size_bytes: int, *, congested: bool = False) -> bool:
        """Room for a call with so many bytes of arguments, if there is. ``caller``: a Pack, None for the host."""
        left = self._left
        held = self._by.get(caller)
        if held is None:
            held = self._by[caller] = [0, 0]
        calls = held[0]
        # what nearly every call meets is looked at first: short, and more is free than its caller holds
        if size_bytes >= SHORT_BYTES or calls >= left or congested:
            counted = size_bytes if size_bytes >= SHORT_BYTES else 0
            bytes_left, taken = self._bytes_left, held[1] + counted
            little = taken <= self._little and counted <= bytes_left + self._spare
            if left <= 0 or (counted > max(0, bytes_left) and not little):
                return False
            if caller is not None and calls and (calls >= left or (taken > bytes_left and not little)):
                return False
            if congested and (calls >= LITTLE_CALLS or taken > LITTLE_BYTES):
                return False
            held[1] = taken
            self._bytes_left = bytes_left - counted
        held[0] = calls + 1
        self._left = left - 1
        return True

    def give_back(self, caller: str | None, size_bytes: int) -> None:
        """The call was answered by the Pack, or never reached it."""
        self._left += 1
        held = self._by[caller]
        held[0] -= 1
        if size_bytes >= SHORT_BYTES:
            self._bytes_left += size_bytes
            held[1] -= size_bytes
