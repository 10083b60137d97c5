"""Answers that go on: server-sent events, and pages; one bounded, cancellable stream per response.

Invariants:
  * A stream ends when the client goes, the host stops, or its source ends; its source is closed in each case.
  * At most ``STREAM_LIMIT`` at once. Silence is broken every ``HEARTBEAT_S``, so that a dead connection is found.
  * Nothing is queued here: the source is asked for the next item only after the last one was handed to the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from types import MappingProxyType
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from backend_core.errors import HostError
from core_runtime.api.call import until_gone
from core_runtime.api.lines import Lines
from core_runtime.rules.shown import encode

STREAM_LIMIT = 64
HEARTBEAT_S = 15.0
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Streams:
    """All running streams of one host."""

    def __init__(self) -> None:
        self.closing = asyncio.Event()
        self._running = 0

    @contextlib.contextmanager
    def place(self) -> Any:
        """Count one more stream for as long as it runs."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def admit(self) -> None:
        """Raises ``HostError`` when there is no place left, or the host is stopping."""
        if self._running >= STREAM_LIMIT:
            raise HostError(
                "Too many event streams", code="too_many_streams", detail=f"at most {STREAM_LIMIT} at once",
                hint="Close one, then try again.",
            )  # fmt: skip
        if self.closing.is_set():
            raise HostError("The host is stopping", code="stopping", hint="Start it again: rumi up")


class GoingOn(Response):
    """``source`` yields ready pieces; it is closed here, whatever happens. ``still_here`` is what breaks a silence."""

    still_here: bytes
    last_words: Callable[[], bytes] = bytes
    """What is still said where the host stops."""

    def __init__(
        self,
        streams: Streams,
        source: AsyncGenerator[bytes, None],
        headers: Mapping[str, str] = _NO_HEADERS,
        lines: Lines | None = None,
    ) -> None:
        """``lines``: what the source reads of the request's body meanwhile."""
        super().__init__(headers={"cache-control": "no-store", "x-content-type-options": "nosniff", **headers})
        del self.headers["content-length"]
        self._streams = streams
        self._source = source
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        ends: set[asyncio.Task[Any]] = {
            asyncio.create_task(self._lines.until_gone() if self._lines is not None else until_gone(receive)),
            asyncio.create_task(self._streams.closing.wait()),
        }
        item: asyncio.Task[bytes | None] | None = None
        try:
            with self._streams.place():
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                while True:
                    item = item or asyncio.create_task(_next(self._source))
                    waited = {item, *ends}
                    done, _ = await asyncio.wait(waited, timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                    if done & ends:
                        break
                    chunk: bytes | None = self.still_here
                    if done:
                        chunk, item = item.result(), None
                    if chunk is None:
                        break
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                rest = self.last_words() if self._streams.closing.is_set() else b""
                await send({"type": "http.response.body", "body": rest, "more_body": False})
        finally:
            waiting: set[asyncio.Task[Any]] = ends | ({item} if item is not None else set())
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await self._source.aclose()


class EventStream(GoingOn):
    """Ready events (``event``)."""

    media_type = "text/event-stream"
    still_here = b": still here\n\n"


class PageStream(GoingOn):
    """A page of HTML that is not over yet: its beginning, then what is to follow.

    ``stopped`` gives how it ends where the host stops.
    """

    media_type = "text/html"
    still_here = b"<!-- -->\n"

    def __init__(
        self,
        streams: Streams,
        source: AsyncGenerator[bytes, None],
        headers: Mapping[str, str],
        stopped: Callable[[], bytes] = bytes,
    ) -> None:
        super().__init__(streams, source, headers)
        self.last_words = stopped


def event(name: str, data: Any, event_id: str = "") -> bytes:
    """One event. ``data`` is encoded as one line of JSON, so no text in it can end the event."""
    return event_bytes(name, encode(data), event_id)


def event_bytes(name: str, data: bytes, event_id: str = "") -> bytes:
    """One event of ready JSON."""
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


async def _next(source: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(source, None)
