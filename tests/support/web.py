"""Servers of the tests' own little internet: one TLS web server that says what it was sent, with WebSockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import struct
import threading
from typing import Any

from tests.support.certificates import Authority
from tests.support.networks import Internet, NameServer

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebServer:
    """``/echo`` answers what it got, ``/bytes/N`` N bytes, ``/redirect?to=URL``, ``/ws`` a WebSocket echo, ``/hang``.

    It runs an event loop in a thread on the world's side. ``seen`` are the requests, as ``(host, method, target, headers,
    body)``.
    """

    def __init__(self, net: Internet, address: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.seen: list[tuple[str, str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self._sock = net.listen(address, port)
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._sock.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(lambda _loop, _context: None)  # clients that go away are what is tested
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._sock, ssl=self._tls))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {n.lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await self._body(reader, headers)
        self.seen.append((headers.get("host", ""), method, target, headers, body))
        if headers.get("upgrade", "").lower() == "websocket":
            await _websocket(reader, writer, headers["sec-websocket-key"])
            return False
        if target.startswith("/hang"):
            await asyncio.sleep(600)
        if target.startswith("/drip"):
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                writer.write(b"X-Slow: 1\r\n")
                await writer.drain()
                await asyncio.sleep(0.05)
        if target.startswith("/redirect?to="):
            writer.write(_head(302, {"Location": target.partition("to=")[2], "Content-Length": "0"}))
        elif target.startswith("/bytes/"):
            await _bytes(writer, int(target.split("/")[2].partition("?")[0]))
        else:
            answer = {"host": headers.get("host"), "method": method, "target": target, "headers": headers, "body": body.decode("latin-1")}
            data = json.dumps(answer).encode()
            writer.write(_head(200, {"Content-Type": "application/json", "Content-Length": str(len(data))}))
            writer.write(b"" if method == "HEAD" else data)
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(await reader.readline(), 16):
                body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readline()
            return body
        return await reader.readexactly(int(headers.get("content-length", "0")))


def _head(status: int, headers: dict[str, Any]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _bytes(writer: asyncio.StreamWriter, count: int) -> None:
    writer.write(_head(200, {"Content-Length": count}))
    block = bytes(64 * 1024)
    while count:
        part = block[: min(count, len(block))]
        writer.write(part)
        count -= len(part)
        await writer.drain()


async def _websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
    accept = base64.b64encode(hashlib.sha1(key.encode() + MAGIC).digest()).decode()
    writer.write(_head(101, {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}))
    while True:
        first, second = await reader.readexactly(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack("!H", await reader.readexactly(2))
        mask = await reader.readexactly(4)
        data = bytes(byte ^ mask[i % 4] for i, byte in enumerate(await reader.readexactly(size)))
        if first & 15 == 8:
            writer.write(bytes([0x88, len(data)]) + data)
            await writer.drain()
            return
        head = bytes([first, size]) if size < 126 else bytes([first, 126]) + struct.pack("!H", size)
        writer.write(head + data)
        await writer.drain()


class NamedServers:
    """A name server, and for each name a TLS server on 443 and a plain one on 80."""

    def __init__(self, net: Internet, authority: Authority) -> None:
        self.net = net
        self.authority = authority
        self.names = NameServer(net)
        self.tls: dict[str, WebServer] = {}
        self.plain: dict[str, WebServer] = {}

    def serve(self, name: str, address: str) -> None:
        self.names.zone[name] = [address]
        self.tls[name] = WebServer(self.net, address, 443, self.authority.server_context(name))
        self.plain[name] = WebServer(self.net, address, 80, None)

    def close(self) -> None:
        for server in (*self.tls.values(), *self.plain.values()):
            server.close()
        self.names.close()
