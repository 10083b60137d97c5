"""``network``: bytes between a channel and a connection, untouched but for the first ones.

Invariants:
  * To a granted *name*, nothing of what the Pack sends leaves before it was judged: where TLS is spoken, the whole
    ClientHello, whose server name must be the granted one. On a port of TLS anything else than TLS is refused.
  * Each direction reads only what the other end takes: neither a Pack nor a server that does not read costs memory.
  * Whoever ends a direction ends that direction only; an error ends both.

Not here: what is said inside TLS, nor the host named inside an unencrypted protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from core_runtime.bus.channels import ITEM_BYTES, Channel
from core_runtime.egress.connections import Connection, CutError
from core_runtime.rules.client_hello import ClientHello, Fault, Hello
from core_runtime.rules.egress import TLS_PORTS, Refused, Target

HELLO_S = 20.0
CLOSE_S = 5.0
_TLS_FIRST_BYTE = b"\x16"


async def carry(channel: Channel, connection: Connection, sock: socket.socket) -> None:
    """Move bytes until both directions have ended. Takes ``sock`` over. Raises ``CutError``, ``ChannelReset``."""
    reader, writer = await asyncio.open_connection(sock=sock, limit=2 * ITEM_BYTES)
    try:
        channel.open()
        async with asyncio.TaskGroup() as both:
            both.create_task(_down(channel, connection, reader))
            both.create_task(_up(channel, connection, writer))
        writer.close()
        with contextlib.suppress(TimeoutError, OSError):  # closed already, or cut
            async with asyncio.timeout(CLOSE_S):
                await writer.wait_closed()
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        writer.transport.abort()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended the first of the two directions; the other one was cancelled for it."""
    error = group.exceptions[0]
    if isinstance(error, BaseExceptionGroup):
        return _first(error)
    if isinstance(error, OSError):
        return CutError(Refused("reset", f"the other side broke it off: {error.strerror or error}"))
    return error


async def _down(channel: Channel, connection: Connection, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(ITEM_BYTES):
        await connection.passes(down=len(data))
        await channel.write(data)
    channel.end()


async def _up(channel: Channel, connection: Connection, writer: asyncio.StreamWriter) -> None:
    for data in await _judged(channel, connection):
        writer.write(data)
    while True:
        await writer.drain()
        data = await channel.read()
        if not data:
            break
        await connection.passes(up=len(data))
        writer.write(data)
    with contextlib.suppress(OSError):  # the far end hung up
        writer.write_eof()


async def _judged(channel: Channel, connection: Connection) -> list[bytes]:
    """The first bytes, once they may leave."""
    target = connection.target
    if not target.name:
        return []
    first = await channel.read() if target.port not in TLS_PORTS else b""
    if target.port not in TLS_PORTS and first[:1] != _TLS_FIRST_BYTE:
        await connection.passes(up=len(first))
        return [first] if first else []
    held = [first] if first else []
    try:
        async with asyncio.timeout(HELLO_S):
            await _hello(channel, target, held)
    except TimeoutError:
        raise CutError(Refused("tls_required", f"no complete ClientHello came within {HELLO_S:g} s")) from None
    await connection.passes(up=sum(map(len, held)))
    return held


async def _hello(channel: Channel, target: Target, held: list[bytes]) -> None:
    """Read into ``held`` until the ClientHello is complete, and compare its name."""
    parser = ClientHello()
    found = parser.feed(held[0]) if held else None
    while found is None:
        data = await channel.read()
        if not data:
            raise CutError(Refused("tls_required", "it ended before a complete ClientHello"))
        held.append(data)
        found = parser.feed(data)
    if isinstance(found, Fault):
        raise CutError(Refused("tls_required", found.reason, f"Port {target.port} of a granted name is for TLS."))
    fault = _name_fault(found, target)
    if fault:
        raise CutError(Refused("sni_mismatch", fault, "Connect to the name that the certificate is for."))


def _name_fault(hello: Hello, target: Target) -> str:
    if not hello.name:
        return f"its ClientHello names no server; {target.name} is expected"
    if hello.name.removesuffix(".") != target.name:
        return f"its ClientHello names another server than {target.name}"
    return ""
