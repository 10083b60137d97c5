"""A client that measures the server and not itself: HTTP/1.1 over kept connections, one request at a time on each."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

LIMIT_S = 120.0


class Client:
    """Sends one prepared request to a port of this machine, again and again."""

    def __init__(self, port: int, method: str, path: str, body: Any = None) -> None:
        self._port = port
        self._head = f"{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\n"
        self._request = self._with(body)

    async def timed(self, n: int, clients: int) -> float:
        """Seconds for ``n`` requests over so many connections at once."""
        opened = [await self._open() for _ in range(clients)]
        start = time.perf_counter()
        await asyncio.gather(*(self._repeat(one, n // clients) for one in opened))
        took = time.perf_counter() - start
        for _, writer in opened:
            writer.close()
        return took * n / (n // clients * clients)

    async def each(self, n: int) -> list[float]:
        """Microseconds of each of ``n`` requests, one after the other."""
        reader, writer = await self._open()
        took = []
        for _ in range(n):
            start = time.perf_counter()
            await self._exchange(reader, writer, self._request)
            took.append((time.perf_counter() - start) * 1e6)
        writer.close()
        return took

    async def once(self, body: Any) -> bytes:
        """The answer's body."""
        reader, writer = await self._open()
        answer = await self._exchange(reader, writer, self._with(body), bad=True)
        writer.close()
        return answer

    def _with(self, body: Any) -> bytes:
        data = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else "Content-Type: application/json\r\n"
        return f"{self._head}{kind}Content-Length: {len(data)}\r\n\r\n".encode() + data

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._port, limit=64 * 1024 * 1024)

    async def _repeat(self, opened: tuple[asyncio.StreamReader, asyncio.StreamWriter], n: int) -> None:
        for _ in range(n):
            await self._exchange(*opened, self._request)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, *, bad: bool = False
    ) -> bytes:
        """Raises ``RuntimeError`` for another status than 200, unless it may be ``bad``."""
        async with asyncio.timeout(LIMIT_S):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"transfer-encoding" in head:
                raise RuntimeError("the server sends chunks, which this client does not read")
            length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
        if not bad and head.split(b" ", 2)[1] != b"200":
            raise RuntimeError(f"the server answered {head[:40]!r}: {body[:200]!r}")
        return body
