"""A bare agent that speaks memory files: it takes the second socket that comes with WELCOME, and sends what it likes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from typing import Any, Self

import msgpack

from tests.support.raw_agent import CALL, HELLO, RESULT, RawAgent

SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_LIMIT = 4 * 1024 * 1024


def mark(number: int, size: int) -> msgpack.ExtType:
    """The body of a frame whose body lies in a memory file."""
    return msgpack.ExtType(3, struct.pack("<II", number, size))


def memory(data: bytes, *, seals: int = SEALS, holes: int = 0) -> int:
    """A memory file; ``holes``: so many bytes of nothing behind the data."""
    fd = os.memfd_create("value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    if holes:
        os.ftruncate(fd, len(data) + holes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


class FileAgent(RawAgent):
    """One connection and its second socket."""

    sock: socket.socket
    second: socket.socket | None = None
    says_ready = True

    @classmethod
    async def connect(cls, path: str) -> Self:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        agent = cls(None, None)  # type: ignore[arg-type]
        agent.sock = sock
        return agent

    def hello(self) -> None:
        told = {"protocols": [1], "agent": "raw", "python": "3", "codec": "c", "chunks": True, "memory": True, "sources": True, "probe": {}}
        body = msgpack.packb([HELLO, 0, told])
        self.sock.sendall(struct.pack("<I", len(body)) + body)

    async def read(self) -> list[Any]:
        if self.reader is None:
            await self._welcomed()
        return await super().read()

    async def _welcomed(self) -> None:
        """The first read: with what came with it. asyncio's own would drop that."""
        self.sock.setblocking(False)
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self.sock, lambda: readable.done() or readable.set_result(None))
        await readable
        loop.remove_reader(self.sock)
        data, files, _, _ = socket.recv_fds(self.sock, 65536, 4)
        for fd in files:
            self.second = socket.socket(fileno=fd)
            self.second.setblocking(False)
            if self.says_ready:
                self.second.send(struct.pack("<II", 0, 1))
        reader = asyncio.StreamReader(limit=_LIMIT)
        reader.feed_data(data)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=self.sock)
        self.reader, self.writer = reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    def put(self, data: bytes, *files: int, keep: bool = False) -> None:
        """One message on the second socket."""
        assert self.second is not None
        socket.send_fds(self.second, [data], list(files))
        if not keep:
            for fd in files:
                os.close(fd)

    def stored(self, number: int, data: bytes, **options: Any) -> msgpack.ExtType:
        """Send a memory file ahead; the body that names it."""
        self.put(struct.pack("<II", number, len(data) + options.get("holes", 0)), memory(data, **options))
        return mark(number, len(data) + options.get("holes", 0))

    def taken(self) -> tuple[int, int, int]:
        """The next message: number, size, and the descriptor that came."""
        assert self.second is not None
        data, files, _, _ = socket.recv_fds(self.second, 64, 4)
        (fd,) = files
        return (*struct.unpack("<II", data), fd)

    async def in_file(self, kind: int) -> tuple[list[Any], int, Any]:
        """The next frame of ``kind``, the descriptor of its file, and its body decoded."""
        assert kind in {CALL, RESULT}
        frame = await self.until(kind)
        number, size = struct.unpack("<II", frame[-1].data)
        assert frame[-1].code == 3
        came, told, fd = self.taken()
        assert (came, told) == (number, size) == (number, os.fstat(fd).st_size)
        return frame, fd, msgpack.unpackb(os.pread(fd, size, 0), strict_map_key=False)

    async def close(self) -> None:
        if self.second is not None:
            self.second.close()
        if self.writer is None:
            self.sock.close()
            return
        await super().close()
