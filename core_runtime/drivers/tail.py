"""The last bytes of a pipe that a hostile process writes to: always drained, never stored beyond a bound.

Not here: a Pack's own log lines, which travel over the bus.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

SHOWN_LIMIT_BYTES = 16 * 1024
DRAIN_S = 0.5


def escape(data: bytes) -> str:
    """Undecodable bytes and everything that a terminal would obey appear as escapes; line ends stay."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


class OutputTail:
    """Reads a non-blocking descriptor, which it owns, within the running loop."""

    def __init__(self, fd: int, kept_limit_bytes: int) -> None:
        self._fd = fd
        self._limit = min(kept_limit_bytes, SHOWN_LIMIT_BYTES)
        self._data = b""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(fd, self._on_readable)

    def text(self) -> str:
        """What was kept, escaped."""
        return escape(self._data)

    def feed(self, data: bytes) -> None:
        """Keep the end of it."""
        self._data = (self._data + data)[-self._limit :]

    async def finished(self) -> None:
        """Read what is still in the pipe, then close it. A descriptor that leaked elsewhere can't hold this up."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._ended), DRAIN_S)
        self.close()

    def close(self) -> None:
        """Stop reading."""
        if self._fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if not self._ended.done():
            self._ended.set_result(None)

    def _on_readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, 65536)
            if data:
                self.feed(data)
            else:
                self.close()
