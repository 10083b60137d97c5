"""The body of a request as items, one JSON value a line, read as fast as they are taken.

Invariants:
  * At most one line and what came with it in one read is held: who does not take items holds the client back.
  * A line has at most ``BODY_LIMIT_BYTES`` and goes through the bounded parser; there may be any number of them.
  * One reader of the connection: ``until_gone`` is what reads, also when the last line has come. While a client is held
    back its connection is not looked at: that it has left is noticed with the next item, or at the call's deadline.

Not here: who takes the items (the bus), and for how long (the call's deadline).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.types import Receive

from backend_core.errors import AuthorError, RequestError, RumiError, TooLargeError
from backend_core.parsing import parse_json
from core_runtime.rules.identity import BODY_LIMIT_BYTES


class Lines(AsyncIterator[Any]):
    """For one request, and one reader of it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._data = bytearray()
        self._searched = 0
        self._number = 0
        self._ended = False
        self._error: RumiError | None = None
        self._wanted = asyncio.Event()
        self._came = asyncio.Event()

    async def __anext__(self) -> Any:
        while self._error is None:
            line = self._next_line()
            if line is None:
                if self._ended:
                    raise StopAsyncIteration
                self._came.clear()
                self._wanted.set()
                await self._came.wait()
            elif line.strip():
                return self._value(line)
        raise self._error

    async def until_gone(self) -> None:
        """Read what is asked for; return when the client has closed the connection: who waits is to be cancelled."""
        while True:
            if not self._ended:
                await self._wanted.wait()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            if self._ended:
                continue
            self._data += message.get("body", b"")
            self._ended = not message.get("more_body", False)
            self._wanted.clear()
            self._came.set()

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """What a call that reads the lines fails with is their fault, where they had one."""
        try:
            yield
        except RumiError as exc:
            raise self._error or exc from exc
        if self._error is not None:
            raise self._error

    def _next_line(self) -> bytes | None:
        """The next line, without its end; the last one may have none."""
        end = self._data.find(b"\n", self._searched)
        if end < 0 and self._ended and self._data:
            end = len(self._data)
        if (end if end >= 0 else len(self._data)) > BODY_LIMIT_BYTES:
            detail = f"line {self._number + 1} has more than {BODY_LIMIT_BYTES} bytes"
            raise self._fail(TooLargeError("A line of the body is too large", detail=detail, hint="Send shorter ones."))
        if end < 0:
            self._searched = len(self._data)
            return None
        line = bytes(self._data[:end])
        del self._data[: end + 1]
        self._searched = 0
        self._number += 1
        return line

    def _value(self, line: bytes) -> Any:
        try:
            return parse_json(line, source=f"line {self._number} of the body")
        except AuthorError as exc:
            fault = RequestError(
                exc.title, code="body_invalid", detail=exc.detail, hint="Send one JSON value a line.", fields=exc.fields
            )
            raise self._fail(fault) from exc

    def _fail(self, error: RumiError) -> RumiError:
        self._error = self._error or error
        self._ended = True
        self._came.set()
        return error
