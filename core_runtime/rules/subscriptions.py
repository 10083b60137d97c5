"""What a subscription asks for, and the bounded queue that waits for its reader. Pure.

A queue that is full loses events by the *policy* that its subscriber chose:

=============== =============================================================================================
``drop_oldest`` the oldest that waits goes; the default: who reads late wants to know what is so now
``drop_newest`` what comes while it is full goes; for those who must read what they get without holes
``latest``      of each topic only the newest waits; the older one is superseded, which is no loss. When too
                many topics wait, the oldest goes
=============== =============================================================================================

No policy lets a reader hold up a publisher.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from msgspec import Struct

from core_runtime.rules.routing import is_glob, pattern_of

QUEUE_EVENTS: Final = 256
QUEUE_MOST: Final = 4_096
QUEUE_BYTES: Final = 4 * 1024 * 1024
OLDEST: Final = "oldest"
"""Instead of an id: everything that is kept."""
EVENT_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})\Z")

ItemT = TypeVar("ItemT")


class Policy(StrEnum):
    """What a full queue does."""

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    LATEST = "latest"


class Options(Struct, frozen=True):
    """How one subscriber wants its events. ``since``: an event's id, ``oldest``, or ``""`` for from now on."""

    queue: int = QUEUE_EVENTS
    policy: Policy = Policy.DROP_OLDEST
    since: str = ""


PLAIN: Final = Options()


def options_of(given: Mapping[Any, Any]) -> Options | str:
    """What a frame asks for, or why that is not usable."""
    unknown = set(given) - {"queue", "policy", "since"}
    if unknown:
        return f"unknown options; there are queue, policy and since ({len(unknown)} others were given)"
    queue, policy, since = given.get("queue"), given.get("policy"), given.get("since")
    if queue is None:
        queue = QUEUE_EVENTS
    if isinstance(queue, bool) or not isinstance(queue, int) or not 1 <= queue <= QUEUE_MOST:
        return f"queue is a number from 1 to {QUEUE_MOST}"
    if policy is None:
        policy = Policy.DROP_OLDEST
    if policy not in list(Policy):
        return f"policy is one of {', '.join(Policy)}"
    if since is None:
        since = ""
    if not isinstance(since, str) or (since not in {"", OLDEST} and not EVENT_ID.match(since)):
        return f"since is an event's id, or {OLDEST}"
    return Options(queue, Policy(policy), since)


def place_of(event_id: str) -> tuple[str, int] | None:
    """The run of the host that gave the id, and its number there; None for what is no id."""
    match = EVENT_ID.match(event_id)
    return (match.group(1), int(match.group(2))) if match else None


def matcher(pattern: str) -> Callable[[str], object]:
    """Truthy for the topics that an exact topic or a glob stands for; compiled once."""
    return pattern_of(pattern).match if is_glob(pattern) else pattern.__eq__


class Queue(Generic[ItemT]):
    """What waits for one subscriber: at most ``options.queue`` events of ``limit_bytes`` together."""

    __slots__ = ("_items", "_limit_bytes", "_number", "_options", "size_bytes")

    def __init__(self, options: Options = PLAIN, limit_bytes: int = QUEUE_BYTES) -> None:
        self._options = options
        self._limit_bytes = limit_bytes
        self._items: OrderedDict[str | int, tuple[ItemT, int]] = OrderedDict()
        self._number = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def policy(self) -> Policy:
        """What happens when it is full."""
        return self._options.policy

    def put(self, topic: str, item: ItemT, size_bytes: int) -> int:
        """Append; how many events were lost by it."""
        latest = self._options.policy is Policy.LATEST
        if latest and topic in self._items:
            self.size_bytes -= self._items.pop(topic)[1]
        lost = 0
        while self._items and self._full(size_bytes):
            if self._options.policy is Policy.DROP_NEWEST:
                return 1
            self.take()
            lost += 1
        if size_bytes > self._limit_bytes:
            return lost + 1
        self._number += 1
        self._items[topic if latest else self._number] = (item, size_bytes)
        self.size_bytes += size_bytes
        return lost

    def take(self) -> ItemT:
        """The oldest. ``KeyError`` when nothing waits."""
        item, size = self._items.popitem(last=False)[1]
        self.size_bytes -= size
        return item

    def clear(self) -> None:
        """Forget everything."""
        self._items.clear()
        self.size_bytes = 0

    def _full(self, more_bytes: int) -> bool:
        return len(self._items) >= self._options.queue or self.size_bytes + more_bytes > self._limit_bytes
