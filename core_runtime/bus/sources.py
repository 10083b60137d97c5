"""Streams in the arguments of a call, as the host's own code gives them.

An iterator that host code passes in ``args`` becomes a function that answers its one reader with the items; from there
on it is a stream like any other (``host_functions``).

Invariant: an iterator that may block is asked for its items on a thread, never on the event loop.

Not here: which call a stream belongs to and when it ends (``references``, ``in_flight``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

_END: Final = object()


def reader_of(items: Iterator[Any] | AsyncIterator[Any]) -> Callable[[Any, Any], Awaitable[AsyncIterator[Any]]]:
    """The function that stands for ``items`` on the bus."""

    async def read(_args: Any, _ctx: Any) -> AsyncIterator[Any]:
        return items if isinstance(items, AsyncIterator) else _on_threads(items)

    return read


async def _on_threads(items: Iterator[Any]) -> AsyncIterator[Any]:
    try:
        while (item := await asyncio.to_thread(next, items, _END)) is not _END:
            yield item
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            await asyncio.to_thread(close)
