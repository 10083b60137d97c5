"""The proxy inside a sandbox, for ordinary clients: CONNECT, absolute-form HTTP/1 and SOCKS5 on one port of 127.0.0.1.

This end only translates: it looks no name up, it decides nothing; every connection is a request to the host over the
bus, which does both.

Invariants:
  * One thread serves all connections. It waits for sockets and for the bus together and never for one of them alone;
    what a connection holds is bounded by ``ROOM_BYTES`` and the credit of its channel.
  * One request per connection where the message itself is touched (absolute-form), so that a second one can't travel
    under the first one's decision.

Not here: channels (``container_channel``), reading bodies (``container_message``).
"""

from __future__ import annotations

from _collections import deque  # type: ignore[import-not-found]  # as in the agent

from container_channel import (  # type: ignore[import-not-found]  # beside this file, not on the path
    ITEM_BYTES,
    open_channel,
    reason_of,
    status_of,
)
from container_message import Body, body_of, split_port  # type: ignore[import-not-found]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from container_channel import Channel

ROOM_BYTES = 64 * 1024
HEAD_BYTES = 64 * 1024
DRAIN_BYTES = 1024 * 1024
BACKLOG = 128
AT_ONCE = b"\1\0\0\0\0\0\0\0"
"""``struct linger {1, 0}``: closing sends a reset, so that half an answer is not taken for a whole one."""

STATUS = {400: "Bad Request", 403: "Forbidden", 429: "Too Many Requests", 502: "Bad Gateway", 504: "Gateway Timeout"}
SOCKS_REPLY = {400: 1, 403: 2, 429: 2, 502: 4, 504: 6}
HOP_BY_HOP = frozenset(
    {"connection", "expect", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade"}
)


class Proxy:
    """The listener and the one thread."""

    def __init__(self, agent: Any) -> None:
        import _socket
        import select

        self.agent = agent
        self.socket = _socket
        self.select = select
        self.listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(BACKLOG)
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]
        self.awake, self.bell = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.awake.setblocking(False)
        self.bell.setblocking(False)
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.changed: deque[Connection] = deque()

    def ring(self, connection: Connection) -> None:
        """From any thread: look at ``connection``."""
        self.changed.append(connection)
        try:
            self.bell.send(b"\0")
        except OSError:
            return  # the bell is full: it has been heard

    def main(self, started: Any) -> None:
        self.epoll.register(self.listener.fileno(), self.select.EPOLLIN)
        self.epoll.register(self.awake.fileno(), self.select.EPOLLIN)
        started.release()
        while True:
            try:
                self.turn()
            except Exception as exc:  # noqa: BLE001 - one turn that fails must not end every connection
                self.agent.log_failure("the proxy inside the sandbox", exc)

    def turn(self) -> None:
        for fd, mask in self.epoll.poll():
            if fd == self.listener.fileno():
                self.accept()
            elif fd == self.awake.fileno():
                self.silence()
            elif fd in self.connections:
                self.guarded(self.connections[fd], mask)
        while self.changed:
            connection = self.changed.popleft()
            if connection.sock is not None:
                self.guarded(connection, 0)

    def guarded(self, connection: Connection, mask: int) -> None:
        try:
            connection.look(mask)
        except OSError:
            connection.close()
        except Exception as exc:  # noqa: BLE001 - whatever a client sent
            self.agent.log_failure("the proxy inside the sandbox", exc)
            connection.close()

    def accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                # what `socket.accept` calls; `socket` itself costs its imports
                fd, _address = self.listener._accept()  # type: ignore[attr-defined]  # noqa: SLF001
            except BlockingIOError:
                return
            except OSError as exc:
                self.agent.noticed(exc)
                return
            sock = self.socket.socket(fileno=fd)
            sock.setblocking(False)
            sock.setsockopt(self.socket.IPPROTO_TCP, self.socket.TCP_NODELAY, 1)
            connection = Connection(self, sock)
            self.connections[fd] = connection
            self.epoll.register(fd, self.select.EPOLLIN)

    def silence(self) -> None:
        try:
            while len(self.awake.recv(4096)) == 4096:
                pass
        except OSError:
            return


class Connection:
    """One client. ``step`` is what the next bytes mean: a method that returns whether it got further."""

    def __init__(self, proxy: Proxy, sock: Any) -> None:
        self.proxy = proxy
        self.sock = sock
        self.fd = sock.fileno()
        self.mask = proxy.select.EPOLLIN
        self.data = bytearray()
        self.out = bytearray()
        self.eof = False
        self.over = False
        """Nothing more will be sent after ``out``."""
        self.shut = False
        self.drained = 0
        self.channel: Channel | None = None
        self.step: Callable[[], bool] = self.greet
        self.socks = False
        self.answered = False
        self.old_client = False
        self.body = Body(0)
        self.chunked = False
        self.head_only = False

    def look(self, mask: int) -> None:
        """Do what can be done now."""
        select = self.proxy.select
        if mask & select.EPOLLERR:
            raise OSError("the client went away")
        if mask & (select.EPOLLIN | select.EPOLLHUP):
            self.receive()
        if mask & select.EPOLLHUP and self.eof:
            raise OSError("the client is gone")
        while self.step():
            pass
        self.transmit()
        if self.sock is not None:
            self.watch()

    def watch(self) -> None:
        """Wait for what is wanted now."""
        select = self.proxy.select
        mask = (select.EPOLLIN if self.hungry() else 0) | (select.EPOLLOUT if self.out else 0)
        if mask != self.mask:
            self.mask = mask
            self.proxy.epoll.modify(self.fd, mask)

    def hungry(self) -> bool:
        return not self.eof and len(self.data) < ROOM_BYTES

    def receive(self) -> None:
        while self.hungry():
            try:
                data = self.sock.recv(ROOM_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.eof = True
                return
            if self.over:
                self.drained += len(data)
                if self.drained > DRAIN_BYTES:
                    raise OSError("the client goes on sending after the end")
            else:
                self.data += data

    def transmit(self) -> None:
        while self.out and self.sock is not None:
            try:
                count = self.sock.send(self.out)
            except BlockingIOError:
                return
            del self.out[:count]
            while len(self.out) < ROOM_BYTES and self.step():
                pass
        if self.over and self.sock is not None:
            if self.eof:
                self.close()
            else:
                self.shut_down()

    def shut_down(self) -> None:
        """Tell the client that nothing more comes."""
        if not self.shut:
            self.shut = True
            self.sock.shutdown(self.proxy.socket.SHUT_WR)

    def close(self, abruptly: bool = False) -> None:  # noqa: FBT001, FBT002
        if self.sock is None:
            return
        if self.channel is not None:
            self.channel.give_up()
        del self.proxy.connections[self.fd]
        self.proxy.epoll.unregister(self.fd)
        if abruptly:
            self.sock.setsockopt(self.proxy.socket.SOL_SOCKET, self.proxy.socket.SO_LINGER, AT_ONCE)
        self.sock.close()
        self.sock = None

    def finish(self) -> None:
        """What is in ``out`` is the last of it."""
        self.over = True
        self.data.clear()
        self.step = self.idle
        if self.channel is not None:
            self.channel.give_up()

    def idle(self) -> bool:
        return False

    def fail(self, status: int, reason: str) -> bool:
        """Answer the client's request with a refusal."""
        if self.socks:
            self.out += bytes([5, SOCKS_REPLY[status], 0, 1, 0, 0, 0, 0, 0, 0])
        else:
            text = reason.encode("utf-8", "replace") + b"\n"
            head = f"HTTP/1.1 {status} {STATUS[status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            self.out += head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(text)
            self.out += b"" if self.head_only else text
        self.finish()
        return False

    def open(self, operation: str, args: dict[str, Any], step: Callable[[], bool]) -> bool:
        self.channel = open_channel(self.proxy.agent, operation, args, lambda: self.proxy.ring(self))
        self.step = step
        return False

    def refused(self) -> bool:
        error = self.channel.error if self.channel is not None else None
        return self.fail(status_of(error), reason_of(error))

    # -- what a client says first

    def greet(self) -> bool:
        if self.eof and not self.data:
            self.close()
            return False
        if not self.data:
            return False
        self.socks = self.data[0] == 5
        self.step = self.socks_greeting if self.socks else self.http_head
        return True

    def socks_greeting(self) -> bool:
        data = self.data
        if len(data) < 2 or len(data) < 2 + data[1]:
            return self.wait_for_more()
        methods = bytes(data[2 : 2 + data[1]])
        del data[: 2 + data[1]]
        if 0 not in methods:
            self.out += b"\x05\xff"
            self.finish()
            return False
        self.out += b"\x05\x00"
        self.step = self.socks_request
        return True

    def socks_request(self) -> bool:
        data = self.data
        if len(data) < 5:
            return self.wait_for_more()
        size = {1: 4, 3: 1 + data[4], 4: 16}.get(data[3], -1)
        if data[0] != 5 or data[1] != 1 or size < 0:
            self.out += bytes([5, 7 if size >= 0 else 8, 0, 1, 0, 0, 0, 0, 0, 0])
            self.finish()
            return False
        if len(data) < 6 + size:
            return self.wait_for_more()
        named = data[3] == 3
        raw = bytes(data[4 : 4 + size])
        port = data[4 + size] << 8 | data[5 + size]
        del data[: 6 + size]
        if named:
            host = raw[1:].decode("latin-1")
        else:
            family = self.proxy.socket.AF_INET if size == 4 else self.proxy.socket.AF_INET6
            host = self.proxy.socket.inet_ntop(family, raw)
        return self.open("network.connect", {"host": host, "port": port}, self.connecting)

    def wait_for_more(self) -> bool:
        if self.eof:
            self.close()
        return False

    def http_head(self) -> bool:
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            if len(self.data) >= HEAD_BYTES:
                return self.fail(400, "the request's head is too long")
            return self.wait_for_more()
        head = bytes(self.data[:end]).decode("latin-1")
        del self.data[: end + 4]
        lines = head.split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return self.fail(400, "the first line is no HTTP/1 request")
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip() or "\n" in line or "\r" in line or "\0" in line:
                return self.fail(400, "a header line is malformed")
            headers.append([name, value.strip(" \t")])
        method, target, self.old_client = words[0], words[1], words[2] == "HTTP/1.0"
        if method == "CONNECT":
            host, port = split_port(target, 0)
            return self.open("network.connect", {"host": host, "port": port}, self.connecting)
        self.head_only = method == "HEAD"
        return self.absolute(method, target, headers)

    # -- a tunnel

    def connecting(self) -> bool:
        channel = self.channel
        if channel is None or not (channel.opened or channel.ended):
            if self.eof and channel is not None:
                self.close()
            return False
        if not channel.opened:
            return self.refused()
        self.out += b"\x05\0\0\x01\0\0\0\0\0\0" if self.socks else b"HTTP/1.1 200 Connection established\r\n\r\n"
        self.step = self.tunnel
        return True

    def tunnel(self) -> bool:
        channel = self.channel
        assert channel is not None
        moved = False
        while self.data and channel.credit > 0:
            channel.write(bytes(self.data[:ITEM_BYTES]))
            del self.data[:ITEM_BYTES]
            moved = True
        if self.eof and not self.data:
            channel.finish()
        while channel.items and len(self.out) < ROOM_BYTES:
            self.out += channel.pop()
            moved = True
        if channel.ended and not channel.items:
            if channel.error is not None:
                self.out.clear()
                self.close(abruptly=True)
                return False
            if self.eof or channel.finished:
                self.finish()
            elif not self.out:
                self.shut_down()
        return moved

    # -- absolute-form

    def absolute(self, method: str, target: str, headers: list[list[str]]) -> bool:
        scheme, _, rest = target.partition("://")
        if scheme.lower() not in ("http", "https") or not rest:
            return self.fail(400, "this is a proxy: it takes CONNECT or absolute URLs")
        lower = [(name.lower(), value) for name, value in headers]
        upgrade = any(name == "upgrade" for name, _ in lower)
        body = body_of(lower)
        if body is None:
            return self.fail(400, "the length of the request's body is malformed")
        self.body = body

        def plain() -> bool:
            return self.forward(method, rest, headers, upgrade)

        if upgrade and scheme.lower() == "http":
            return plain()
        if any(name == "expect" for name, _ in lower):
            self.out += b"HTTP/1.1 100 Continue\r\n\r\n"
        pairs = [[name, value] for name, value in headers if name.lower() not in HOP_BY_HOP]
        args = {"method": method, "url": target, "headers": pairs, "length": body.length, "plain": True}
        return self.open("http.fetch", args, lambda: self.fetching(plain if scheme.lower() == "http" else None))

    def forward(self, method: str, rest: str, headers: list[list[str]], upgrade: bool) -> bool:  # noqa: FBT001
        """Plain HTTP to a host of ``network``: the request as the server expects it, one for each connection."""
        ends = [rest.index(mark) for mark in "/?#" if mark in rest]
        authority, path = (rest[: min(ends)], rest[min(ends) :]) if ends else (rest, "/")
        if not path.startswith("/"):
            path = "/" + path
        host, port = split_port(authority, 80)
        kept = [(n, v) for n, v in headers if n.lower() not in ("host", "proxy-connection", "proxy-authorization")]
        if not upgrade:
            kept = [(n, v) for n, v in kept if n.lower() not in ("connection", "keep-alive")]
            kept.append(("Connection", "close"))
        lines = [f"{method} {path.partition('#')[0]} HTTP/1.1", f"Host: {authority}", *(f"{n}: {v}" for n, v in kept)]
        head = "\r\n".join(lines) + "\r\n\r\n"

        def connected() -> bool:
            channel = self.channel
            if channel is None or not (channel.opened or channel.ended):
                return False
            if not channel.opened:
                return self.refused()
            self.data[:0] = head.encode("latin-1")
            self.step = self.tunnel
            return True

        return self.open("network.connect", {"host": host, "port": port}, connected)

    def fetching(self, otherwise: Callable[[], bool] | None) -> bool:
        """The host makes the request; unless it says that it does not for this host: then ``otherwise``."""
        channel = self.channel
        if channel is None or not (channel.opened or channel.ended):
            if self.eof and channel is not None:
                self.close()
            return False
        if not channel.opened:
            if getattr(channel.error, "type", "") == "not_fetched" and otherwise is not None:
                return otherwise()
            return self.refused()
        moved = self.send_body(channel)
        while channel.items and len(self.out) < ROOM_BYTES:
            self.take(channel.pop())
            moved = True
        if channel.ended and not channel.items:
            if channel.error is not None and not self.answered:
                return self.refused()
            if channel.error is not None:
                self.out.clear()
                self.close(abruptly=True)
                return False
            self.out += b"0\r\n\r\n" if self.chunked else b""
            self.finish()
        return moved

    def send_body(self, channel: Channel) -> bool:
        moved = False
        while channel.credit > 0 and not channel.finished:
            part = self.body.take(self.data)
            if part is None:
                self.close(abruptly=True)
                return False
            if part:
                channel.write(part)
                moved = True
            elif self.body.complete:
                channel.finish()
            elif self.eof:
                self.close()
                return False
            else:
                break
        return moved

    def take(self, item: Any) -> None:
        """The head of an answer, or a part of its body, for the client."""
        if self.answered:
            self.out += b"%x\r\n%b\r\n" % (len(item), item) if self.chunked else item
            return
        self.answered = True
        status, headers = int(item["status"]), item["headers"]
        sized = any(name.lower() == "content-length" for name, _ in headers)
        self.chunked = not (sized or self.old_client or self.head_only or status in (204, 304))
        lines = [f"HTTP/1.1 {status} {item['reason']}", *(f"{name}: {value}" for name, value in headers)]
        lines += ["Transfer-Encoding: chunked"] if self.chunked else []
        self.out += ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1", "replace")
