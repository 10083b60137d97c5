"""``http.fetch``: one HTTP request that the host itself makes, over TLS, to the address that was checked.

Invariants:
  * A secret is put into the request here and nowhere else; a Pack that sets that header itself is refused.
  * Nothing is followed: a redirect is an answer, and what the Pack makes of it is a new request with its own decision.
  * The certificate is verified against the system's roots for the granted name; there is no switch to turn that off.
  * Sizes of both bodies and of the answer's head are bounded.

Not here: whether the request is granted (``broker``, ``rules.fetch``).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h11

from backend_core.errors import HostError
from core_runtime.bus.channels import ITEM_BYTES, Channel, ChannelReset
from core_runtime.egress.connections import Connection, CutError
from core_runtime.rules.egress import Refused
from core_runtime.rules.fetch import HOP_BY_HOP, Request, parse_url

HEAD_BYTES = 64 * 1024
TLS_S = 15.0
_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_NOT_FOR_PLAIN = frozenset({"strict-transport-security", "alt-svc", "content-security-policy-report-only"})


async def fetch(
    channel: Channel,
    connection: Connection,
    sock: socket.socket,
    request: Request,
    secrets: Sequence[tuple[str, str]],
    rewrite: Callable[[str], str],
) -> None:
    """Make the request and stream the answer: an item ``{status, reason, headers}``, then the body. Owns ``sock``.

    ``secrets``: headers to add. ``rewrite`` turns a ``Location`` into what the Pack is shown. Raises ``CutError``,
    ``HostError``, ``ChannelReset``.
    """
    reader, writer = await _secured(sock, request.host)
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
    try:
        channel.open()
        writer.write(http.send(_head(request, secrets)) or b"")
        body = asyncio.ensure_future(_send_body(channel, connection, writer, http, request))
        try:
            await _answer(channel, connection, reader, http, rewrite)
        finally:
            body.cancel()
            with contextlib.suppress(asyncio.CancelledError, ChannelReset):
                await body
        channel.end()
    except h11.RemoteProtocolError as exc:
        raise CutError(Refused("answer_malformed", f"the answer is no HTTP/1.1: {exc}")) from exc
    except OSError as exc:
        raise CutError(Refused("reset", f"the other side broke it off: {exc.strerror or exc}")) from exc
    finally:
        writer.transport.abort()


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _secured(sock: socket.socket, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(TLS_S):
            return await asyncio.open_connection(sock=sock, ssl=_tls(), server_hostname=host, limit=2 * ITEM_BYTES)
    except BaseException as exc:
        sock.close()
        if isinstance(exc, TimeoutError):
            raise _no_tls(host, f"no TLS within {TLS_S:g} s") from None
        if isinstance(exc, OSError):
            raise _no_tls(host, str(exc)) from exc
        raise


def _no_tls(host: str, why: str) -> HostError:
    return HostError(
        f"{host} could not be reached over TLS",
        code="tls_failed",
        detail=why[:300],
        hint="The host verifies certificates with the system's roots (package ca-certificates, or SSL_CERT_FILE).",
    )


def _head(request: Request, secrets: Sequence[tuple[str, str]]) -> h11.Request:
    headers = [("Host", request.host), *request.headers, *secrets, ("Connection", "close")]
    named = {name.lower() for name, _ in headers}
    if "user-agent" not in named:
        headers.append(("User-Agent", "rumi"))
    if "accept-encoding" not in named:
        headers.append(("Accept-Encoding", "identity"))
    if request.length is None:
        headers.append(("Transfer-Encoding", "chunked"))
    elif request.length or request.method not in _BODILESS:
        headers.append(("Content-Length", str(request.length)))
    raw = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    return h11.Request(method=request.method, target=request.target, headers=raw)


async def _send_body(
    channel: Channel, connection: Connection, writer: asyncio.StreamWriter, http: h11.Connection, request: Request
) -> None:
    """A fault of the body ends the connection; a server that answers early, or has gone, ends the sending only."""
    try:
        await _stream_body(channel, connection, writer, http, request)
    except CutError as exc:
        connection.finish(exc.why)
    except (OSError, h11.LocalProtocolError):  # the Pack or the far end hung up: the account of the connection tells
        return


async def _stream_body(
    channel: Channel, connection: Connection, writer: asyncio.StreamWriter, http: h11.Connection, request: Request
) -> None:
    """What the Pack streams, exactly as long as announced."""
    left = request.length
    sent = 0
    while left is None or left > 0:
        data = await channel.read()
        if not data:
            break
        sent += len(data)
        if sent > connection.budgets.request_bytes or (left is not None and len(data) > left):
            raise CutError(Refused("request_too_large", "the body is longer than announced, or than a budget allows"))
        left = None if left is None else left - len(data)
        await connection.passes(up=len(data))
        writer.write(http.send(h11.Data(data=data)) or b"")
        await writer.drain()
    if left:
        raise CutError(Refused("body_invalid", "the body is shorter than announced"))
    writer.write(http.send(h11.EndOfMessage()) or b"")
    await writer.drain()


async def _answer(
    channel: Channel,
    connection: Connection,
    reader: asyncio.StreamReader,
    http: h11.Connection,
    rewrite: Callable[[str], str],
) -> None:
    received = 0
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(ITEM_BYTES)
            await connection.passes(down=len(data))
            http.receive_data(data)
        elif isinstance(event, h11.Response):
            await channel.write(_shown(event, rewrite))
        elif isinstance(event, h11.Data):
            received += len(event.data)
            if received > connection.budgets.response_bytes:
                raise CutError(Refused("budget.response_bytes", f"the answer has more than "
                                       f"{connection.budgets.response_bytes} bytes"))  # fmt: skip
            await _pass_on(channel, bytes(event.data))
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return


async def _pass_on(channel: Channel, data: bytes) -> None:
    for at in range(0, len(data), ITEM_BYTES):
        await channel.write(data[at : at + ITEM_BYTES])


def _shown(response: h11.Response, rewrite: Callable[[str], str]) -> Mapping[str, Any]:
    """The answer's head without what belongs to the connection between the host and the server."""
    headers = []
    for raw_name, raw_value in response.headers.raw_items():
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.lower() not in HOP_BY_HOP:
            headers.append([name, rewrite(value) if name.lower() == "location" else value])
    reason = bytes(response.reason).decode("latin-1")
    return {"status": response.status_code, "reason": reason, "headers": headers}


def for_plain_clients(hosts: Sequence[str]) -> Callable[[str], str]:
    """For a client that was given a plain-http base URL: a redirect to a host that is fetched for it stays plain."""

    def rewrite(location: str) -> str:
        if not location.lower().startswith("https://"):
            return location
        where = parse_url(location)
        known = not isinstance(where, Refused) and where[0] in hosts
        return f"http://{location[len('https://') :]}" if known else location

    return rewrite
