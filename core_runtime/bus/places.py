"""The room that one Pack has for calls, and which other Pack holds how much of it.

Invariants:
  * No more than ``limits.in_flight`` calls, and no more than ``limits.in_flight_bytes`` of arguments, are owed at once:
    a Pack reads everything it is sent, so what waits inside it takes of its memory.
  * A Pack holds no more of another's room than is free, in number and in bytes, so that any number of Packs that flood
    leave some over. The host itself may fill it.

Not here: what becomes of a call that finds no room (``router``).
"""

from __future__ import annotations

from core_runtime.rules.frames import BusLimits


class Places:
    """Of one session; belongs to the event loop's thread."""

    __slots__ = ("_by", "_bytes_left", "_left", "_limits")

    def __init__(self, limits: BusLimits) -> None:
        self._limits = limits
        self.clear()

    def clear(self) -> None:
        """Nothing is owed any more."""
        self._left = self._limits.in_flight
        self._bytes_left = self._limits.in_flight_bytes
        self._by: dict[str, tuple[int, int]] = {}

    def has_room(self, caller: str | None, size_bytes: int) -> bool:
        """Whether one more call with so many bytes of arguments fits. ``caller``: a Pack, None for the host."""
        if caller is None:
            return self._left > 0 and size_bytes <= self._bytes_left
        count, held_bytes = self._by.get(caller, _NOTHING)
        return count < self._left and held_bytes + size_bytes <= self._bytes_left

    def take(self, caller: str | None, size_bytes: int) -> None:
        """The call was sent."""
        self._left -= 1
        self._bytes_left -= size_bytes
        if caller is not None:
            count, held_bytes = self._by.get(caller, _NOTHING)
            self._by[caller] = (count + 1, held_bytes + size_bytes)

    def give_back(self, caller: str | None, size_bytes: int) -> None:
        """The call was answered by the Pack."""
        self._left += 1
        self._bytes_left += size_bytes
        if caller is not None:
            count, held_bytes = self._by[caller]
            if count > 1:
                self._by[caller] = (count - 1, held_bytes - size_bytes)
            else:
                del self._by[caller]


_NOTHING = (0, 0)
