"""What the operator called, in the audit trail: who by which door, which key, when, and how it came out.

The first call of a key is on record when it has ended. Those that follow within ``WINDOW_S`` are counted and are one
record at the end of that time, so that neither a script that asks all day nor a flood fills the trail.

Invariants:
  * Nothing of arguments and answers is on record, and no text of a Pack's but the type of its failure, which is none of
    the words that the host has for an end.
  * A call is counted once, by who made it, its key, and whether it went well. ``MOST`` such counts there are at a time;
    what is beyond them is counted together, for ``OTHERS``. So a window has a bounded number of records.
  * Counting is no work for the disk. Records are written on a thread and not waited for; one that can't be written is
    an issue, and ends no call.

Not here: calls of Packs (``bus``), runs of flows, which have a history of their own (``drivers.past_runs``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from backend_core.errors import PackError, RumiError

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

CALLED: Final = "interface.called"
"""``{actor, key, outcome, count}``: a word for the end, or the (last) type of failure; ``pack_id`` of who answers."""
WINDOW_S: Final = 600.0
MOST: Final = 64
OTHERS: Final = "(other keys)"
OUTCOME_CHARS: Final = 100
OK: Final = "ok"
CANCELLED: Final = "cancelled"
"""Whoever asked went away, or stopped reading."""
CUT: Final = "cut"
"""A reader that shows so much of a stream and no more had that."""
STOPPING: Final = "stopping"
"""The host stopped meanwhile."""
INTERNAL: Final = "internal"
"""A fault of the host's."""
_WORDS: Final = frozenset({OK, CANCELLED, CUT, STOPPING, INTERNAL})

_Place = tuple[str, str, bool]


class Enough(Exception):  # noqa: N818  nothing is wrong
    """Thrown into a call that streams, by a reader that takes no more of it."""

    code: Final = CUT


class _Counted(Struct):
    """What came since the last record of a place, and when that is written."""

    due: asyncio.TimerHandle
    count: int = 0
    outcome: str = OK


class Called:
    """One per host. For the event loop's thread."""

    def __init__(self, host: Host, *, stops: Callable[[], bool] = bool, window_s: float = WINDOW_S) -> None:
        """``stops``: whether the host is stopping, which ends what nobody gave up."""
        self.stops = stops
        self._host = host
        self._window_s = window_s
        self._counted: dict[_Place, _Counted] = {}
        self._writing: set[asyncio.Task[None]] = set()

    def by(self, actor: str, key: str) -> Calling:
        """Around one call."""
        return Calling(self, actor, key)

    def ended(self, actor: str, key: str, outcome: str) -> None:
        """One call has ended: ``ok``, or the type of its failure."""
        place = (actor, key, outcome == OK)
        counted = self._counted.get(place)
        if counted is None and len(self._counted) >= MOST:
            place = (actor, OTHERS, outcome == OK)
            counted = self._counted.get(place)
        if counted is not None:
            counted.count += 1
            counted.outcome = outcome
            return
        self._counted[place] = _Counted(self._later(place))
        self._write(place, 1, outcome)

    async def close(self) -> None:
        """What was counted until now is on record."""
        for place, counted in self._counted.items():
            counted.due.cancel()
            if counted.count:
                self._write(place, counted.count, counted.outcome)
        self._counted.clear()
        await asyncio.gather(*self._writing, return_exceptions=True)

    def _later(self, place: _Place) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._window_s, self._due, place)

    def _due(self, place: _Place) -> None:
        """The window is over: what came in it is a record, and the next one begins; where nothing came, none does."""
        counted = self._counted.pop(place)
        if counted.count:
            self._write(place, counted.count, counted.outcome)
            self._counted[place] = _Counted(self._later(place))

    def _write(self, place: _Place, count: int, outcome: str) -> None:
        actor, key, _ = place
        pack_id = self._provider(key)
        record = partial(
            self._host.audit.happened, CALLED, sync=False, actor=actor, key=key, outcome=outcome[:OUTCOME_CHARS],
            count=count, **({"pack_id": pack_id} if pack_id else {}),
        )  # fmt: skip
        task = self._host.in_background(asyncio.to_thread(record), CALLED)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    def _provider(self, key: str) -> str:
        if key == OTHERS:  # whatever a Pack may have registered under that name
            return ""
        entry = self._host.registry.resolve(key)
        return entry.pack if entry is not None else self._host.registry.owner(key) or ""


class Calling:
    """For ``with``: what leaves the block is how the call came out."""

    __slots__ = ("_actor", "_called", "_key")

    def __init__(self, called: Called, actor: str, key: str) -> None:
        self._called = called
        self._actor = actor
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._called.ended(self._actor, self._key, OK if error is None else self._outcome(error))

    def _outcome(self, error: BaseException) -> str:
        if isinstance(error, PackError) and error.code in _WORDS:
            return f"error/{error.code}"
        if isinstance(error, RumiError | Enough):
            return error.code
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return STOPPING if self._called.stops() else CANCELLED
        return INTERNAL
