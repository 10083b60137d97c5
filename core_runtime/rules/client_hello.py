"""The name in a TLS ClientHello, read while its bytes arrive. Pure.

Invariants:
  * Nothing is forwarded before the whole ClientHello was read and its name was compared.
  * Whatever the bytes are, ``feed`` answers ``MORE``, a ``Hello`` or a ``Fault``; it keeps at most ``LIMIT_BYTES``.
  * Two server names, an encrypted ClientHello (its outer name is not where it leads) or early data of another form
    than TLS are faults: a check that can't finish is a refusal.

Not here: what is said inside the encrypted connection; nobody outside can see that.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

LIMIT_BYTES: Final = 64 * 1024
RECORD_LIMIT_BYTES: Final = 16_384 + 256
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ENCRYPTED_HELLO: Final = (0xFE0D, 0xFFCE)


class Hello(Struct, frozen=True):
    """A complete ClientHello. ``name`` in lower case, ``""`` when it names no server."""

    name: str


class Fault(Struct, frozen=True):
    """The bytes are no ClientHello that can be judged."""

    reason: str


MORE: Final = None


class ClientHello:
    """Feed it the first bytes of a connection until it answers. The bytes are kept by the caller."""

    __slots__ = ("_message", "_records", "_seen")

    def __init__(self) -> None:
        self._records = bytearray()
        self._message = bytearray()
        self._seen = 0

    def feed(self, data: bytes) -> Hello | Fault | None:
        """More bytes from the client."""
        self._seen += len(data)
        if self._seen > LIMIT_BYTES:
            return Fault("its ClientHello is too long")
        self._records += data
        fault = self._unwrap()
        if fault:
            return Fault(fault)
        return _read(bytes(self._message))

    def _unwrap(self) -> str:
        """Move complete handshake records into the message."""
        records = self._records
        if records and records[0] != _HANDSHAKE:
            return "it does not open with TLS"
        while len(records) >= 5:
            kind, major, size = records[0], records[1], int.from_bytes(records[3:5], "big")
            if kind != _HANDSHAKE or major != 3:
                return "it does not open with TLS"
            if not 0 < size <= RECORD_LIMIT_BYTES:
                return "a TLS record has an impossible length"
            if len(records) < 5 + size:
                return ""
            self._message += records[5 : 5 + size]
            del records[: 5 + size]
            if len(self._message) >= 4 and len(self._message) >= 4 + int.from_bytes(self._message[1:4], "big"):
                return ""
        return ""


class _CutError(ValueError):
    """The message ends before what it announces."""


class _Reader:
    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise _CutError
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    def left(self) -> bool:
        return self.at < len(self.data)


def _read(message: bytes) -> Hello | Fault | None:
    if message and message[0] != _CLIENT_HELLO:
        return Fault("its first TLS message is no ClientHello")
    if len(message) < 4 or len(message) < 4 + int.from_bytes(message[1:4], "big"):
        return MORE
    try:
        return _names(_Reader(message[4 : 4 + int.from_bytes(message[1:4], "big")]))
    except _CutError:
        return Fault("its ClientHello is malformed")


def _names(hello: _Reader) -> Hello | Fault:
    hello.take(2 + 32)
    hello.vector(1)
    hello.vector(2)
    hello.vector(1)
    if not hello.left():
        return Hello("")
    extensions = _Reader(hello.vector(2))
    if hello.left():
        return Fault("its ClientHello is malformed")
    found: list[str] = []
    while extensions.left():
        kind, data = extensions.number(2), extensions.vector(2)
        if kind in _ENCRYPTED_HELLO:
            return Fault("its ClientHello is encrypted (ECH), so the name in it can't be checked")
        if kind == _SERVER_NAME:
            name = _server_name(_Reader(data))
            if name is None:
                return Fault("the server name in its ClientHello is malformed")
            found.append(name)
    if len(found) > 1:
        return Fault("its ClientHello names two servers")
    return Hello(found[0] if found else "")


def _server_name(data: _Reader) -> str | None:
    entries = _Reader(data.vector(2))
    if data.left():
        return None
    if entries.number(1) != 0:
        return None
    raw = entries.vector(2)
    if entries.left() or not raw or len(raw) > 255 or not raw.isascii():
        return None
    return raw.decode("ascii").lower()
