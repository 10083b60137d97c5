"""One HTTP connection: uvicorn's httptools protocol, with identity proven at accept and hard limits on the head.

Invariants:
  * The other end is proven in ``connection_made``, before a byte is read; each request carries the outcome in its
    scope.
  * Between requests a connection has ``HEAD_LIMIT_S`` to bring a complete head, however slowly it drips; an answer
    that nobody reads is given up after ``WRITE_STALL_LIMIT_S``. Strangers get few places of their own, so they can't
    take the owner's.
  * Refusals made here, before there is a request, have the envelope too.
  * A request says of itself (``state["whole"]``) once all of its body has come: it needs no deadline to be read.

The body of a request that was refused is read and thrown away instead of closing over it: closing with unread data
resets the connection, and the client would lose the answer that tells it what was wrong.

Not here: deciding who may ask (``rules.identity`` through ``api.gate``), bodies (``api.call``).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from msgspec import Struct, field
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from core_runtime.api.envelope import refusal_body
from core_runtime.rules.identity import PATH_LIMIT_BYTES, Peer, Refuse

HEAD_LIMIT_S = 10.0
HEAD_LIMIT_BYTES = 32 * 1024
HEADER_COUNT_LIMIT = 100
WRITE_STALL_LIMIT_S = 30.0
_ANSWER, _DECLARED, _HEAD_END = b"HTTP/1.1 ", b"\r\ncontent-length: ", b"\r\n\r\n"
STRANGER_CONNECTIONS = 32
OWNER_CONNECTIONS = 512

_TOO_LARGE = Refuse(431, "head_too_large", "The request's head is too large", f"at most {HEAD_LIMIT_BYTES} bytes")
_TOO_LONG = Refuse(414, "path_too_long", "The request target is too long", f"at most {4 * PATH_LIMIT_BYTES} bytes")
_BAD_TARGET = Refuse(400, "target_invalid", "The request target must be a path", "it begins with / and has no fragment")
_BAD_REQUEST = Refuse(400, "request_invalid", "This is not an HTTP/1.1 request")
_TOO_SLOW = Refuse(408, "head_too_slow", "The request's head took too long", f"at most {HEAD_LIMIT_S:.0f} s")
_CROWDED = Refuse(
    503,
    "too_many_connections",
    "Too many connections",
    "connections of this kind are limited",
    "Close some, then try again.",
)


class _Refused(Exception):  # noqa: N818 - leaves the parser's callbacks; the parser turns it into its own error
    pass


class Door(Struct):
    """What every connection of one listening socket shares. ``prove`` looks at the accepted socket."""

    prove: Callable[[socket.socket], Peer]
    owner_uid: int | None
    connections: dict[bool, set[HostProtocol]] = field(default_factory=lambda: {True: set(), False: set()})


class _WholeAnswers:
    """A transport that writes the head of an answer of known length together with what follows.

    uvicorn writes the two apart: a system call more for each answer, which wakes the client for a head alone.
    """

    __slots__ = ("_head", "_inner")

    def __init__(self, inner: asyncio.Transport) -> None:
        self._inner = inner
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.endswith(_HEAD_END) and data.startswith(_ANSWER) and _DECLARED in data:
            self._head = data
            return
        self._inner.write(data)

    def release(self) -> None:
        """The answer is complete: one to HEAD has no body."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.release()
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)


class HostProtocol(HttpToolsProtocol):
    """One connection. Made by ``pack_api_server`` for each accept."""

    def __init__(self, config: Config, server_state: ServerState, door: Door) -> None:
        super().__init__(config, server_state, {})
        self._door = door
        self._peer: Peer | None = None
        self._refused = _BAD_REQUEST
        self._head_open = False
        self._head_bytes = 0
        self._idle_since_s = time.monotonic()
        self._stalled_since_s: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._peer = self._prove(transport)
        super().connection_made(transport)
        self._answers = _WholeAnswers(transport)
        # a cast, no check: of a transport's methods uvicorn uses these
        self.transport = cast("asyncio.Transport", self._answers)
        proven = self._peer.uid is not None and self._peer.uid == self._door.owner_uid
        others = self._door.connections[proven]
        others.add(self)
        if len(others) > (OWNER_CONNECTIONS if proven else STRANGER_CONNECTIONS):
            self._answer_and_close(_CROWDED)

    def connection_lost(self, exc: Exception | None) -> None:
        for connections in self._door.connections.values():
            connections.discard(self)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._head_open:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_LIMIT_BYTES:
                self._answer_and_close(_TOO_LARGE)
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._refused = _BAD_REQUEST
        self._head_open = True
        self._head_bytes = 0
        self.scope["state"] = {"peer": self._peer}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > 4 * PATH_LIMIT_BYTES:
            self._refuse(_TOO_LONG)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if len(self.headers) > HEADER_COUNT_LIMIT or self._head_bytes > 2 * HEAD_LIMIT_BYTES:
            self._refuse(_TOO_LARGE)

    def on_headers_complete(self) -> None:
        self._head_open = False
        if not self.url.startswith(b"/") or b"#" in self.url:
            self._refuse(_BAD_TARGET)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            # Nothing is upgraded here, and what follows would not be HTTP any more.
            self.cycle.keep_alive = False
        if self.expect_100_continue:
            # If the answer comes before our "continue", the body may follow or the next request: no way to tell.
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.scope["state"]["whole"] = True

    def on_response_complete(self) -> None:
        self._answers.release()
        super().on_response_complete()
        self._idle_since_s = time.monotonic()

    def pause_writing(self) -> None:
        self._stalled_since_s = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since_s = None
        super().resume_writing()

    def sweep(self, now_s: float) -> None:
        """Called for every connection once a second: end what has waited too long."""
        if self._stalled_since_s is not None and now_s - self._stalled_since_s > WRITE_STALL_LIMIT_S:
            self.transport.abort()
        elif self._idle and now_s - self._idle_since_s > HEAD_LIMIT_S:
            if self.transport.is_closing():
                self.transport.abort()
            elif self._head_open:
                self._answer_and_close(_TOO_SLOW)
            else:
                self.transport.close()

    def send_400_response(self, msg: str) -> None:
        del msg  # uvicorn's sentence; ours says which limit it was
        self._answer_and_close(self._refused)

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade is simply not made: no finding, and nothing for a log that strangers could fill."""

    @property
    def _idle(self) -> bool:
        """Whether no request is being answered. uvicorn's annotation leaves out that there may have been none yet."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def _prove(self, transport: asyncio.Transport) -> Peer:
        # A duplicate, since uvloop hands out a look-alike without all methods.
        with socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno())) as sock:
            return self._door.prove(sock)

    def _refuse(self, refuse: Refuse) -> None:
        self._refused = refuse
        raise _Refused

    def _answer_and_close(self, refuse: Refuse) -> None:
        body = refusal_body(refuse)
        if self._idle:
            head = (
                b"content-type: application/json\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n"
                b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            )
            self.transport.write(STATUS_LINE[refuse.status] + head + body)
        self.transport.close()
        self._idle_since_s = time.monotonic()


def protocol_factory(config: Config, state: ServerState, door: Door) -> Callable[[], Any]:
    """What the event loop calls for each accepted connection."""

    def make() -> HostProtocol:
        return HostProtocol(config, state, door)

    return make
