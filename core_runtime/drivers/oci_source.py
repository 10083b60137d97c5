"""Fetching a Pack's archive from a registry by the OCI distribution protocol: two requests, and one for a token.

Invariants:
  * Addresses are checked before each connection, and what was checked is what is connected to. The operator's own
    registry may be anywhere but where nothing may lead; what *it* sends us to (redirects, token services) must be
    public.
  * A token goes to the registry's own host and port and to nobody else, whatever redirects say. So does the user's
    log-in, and to the token service that this registry names over TLS; never on the way of a redirect.
  * Bounded in time as a whole, in bytes of each answer and in the number of hops. TLS is verified by the system's
    roots; without TLS is spoken with loopback addresses alone.
  * A file is only there when its size and digest are those of the manifest.

Not here: references, manifests, where redirects may lead (``rules.oci``); unpacking (``drivers.archive``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import BinaryIO, Final

import h11
from msgspec import Struct

from backend_core.errors import RumiError, quote
from backend_core.files import read_bounded
from core_runtime.drivers import pack_folders
from core_runtime.drivers.resolver import look_up as system_look_up
from core_runtime.rules.addresses import Address, Machine, dial_fault
from core_runtime.rules.digest import PREFIX
from core_runtime.rules.oci import (
    MANIFEST_BYTES,
    MANIFEST_TYPE,
    TOKEN_BYTES,
    Layer,
    Origin,
    Place,
    Reference,
    asks_for_login,
    failed,
    follow,
    login_of,
    mismatch,
    read_manifest,
    token_of,
    token_place,
)

FETCH_S: Final = 300.0
IDLE_S: Final = 30.0
CONNECT_S: Final = 10.0
HEAD_BYTES: Final = 64 * 1024
CHUNK_BYTES: Final = 256 * 1024
MAX_HOPS: Final = 5
LOGINS_BYTES: Final = 1024 * 1024
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_MEANING: Final = {
    401: "it wants a log-in", 403: "it refuses", 404: "it has no such thing", 429: "it was asked too often",
}  # fmt: skip

LookUp = Callable[[str], tuple[Address, ...]]
Connect = Callable[[Address, int, float], socket.socket]


class Fetched(Struct, frozen=True):
    """``archive`` lies in the caller's folder; ``manifest`` and ``layer`` are digests that were checked.

    ``as_user``: the user's own log-in was needed.
    """

    archive: Path
    manifest: str
    layer: str
    as_user: bool = False


def fetch(
    reference: Reference,
    folder: Path,
    machine: Machine,
    *,
    fetch_s: float = FETCH_S,
    look_up: LookUp | None = None,
    connect: Connect | None = None,
) -> Fetched:
    """Fetch into ``folder``, an empty one of ours. ``machine``: what belongs to this machine. Blocks.

    Raises ``HostError`` (``oci_failed``), ``TrustError`` (``oci_mismatch``), ``AuthorError`` (``oci_refused``).
    """
    client = _Client(reference, machine, time.monotonic() + fetch_s, look_up or _look_up, connect or _connect)
    body = io.BytesIO()
    head = client.get(reference.manifest, body, MANIFEST_BYTES, accept=MANIFEST_TYPE)
    told = head.get("docker-content-digest", "")
    manifest = read_manifest(body.getvalue(), head.get("content-type", ""), reference, told)
    archive = folder / "pack.archive"
    with archive.open("xb") as out:
        sink = _Hashed(out)
        client.get(reference.blob(manifest.layer.digest), sink, manifest.layer.size)
    _check(sink, manifest.layer)
    return Fetched(archive, manifest.digest, manifest.layer.digest, client.as_user)


def _check(sink: _Hashed, layer: Layer) -> None:
    found = PREFIX + sink.sha256.hexdigest()
    if sink.size != layer.size or found != layer.digest:
        raise mismatch("layer", f"{layer.digest} ({layer.size} bytes)", f"{found} ({sink.size} bytes)")


class _Hashed(io.RawIOBase):
    """Counts and hashes what is written through it."""

    def __init__(self, out: BinaryIO) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._out = out

    def write(self, data: bytes) -> int:  # type: ignore[override]  # whole buffers, as this module writes them
        self.sha256.update(data)
        self.size += len(data)
        try:
            return self._out.write(data)
        except OSError as error:
            raise pack_folders.storage_error(error, "The Pack's archive could not be written.") from error


@dataclass(slots=True)
class _Client:
    """Asks one registry, each request over a connection of its own."""

    reference: Reference
    machine: Machine
    deadline: float
    look_up: LookUp
    connect: Connect
    as_user: bool = False
    _authorization: str = field(default="", repr=False)

    def get(self, place: Place, sink: io.BytesIO | _Hashed, limit: int, *, accept: str = "*/*") -> Mapping[str, str]:
        """The body of ``place`` into ``sink``, at most ``limit`` bytes; the head of the answer."""
        asked_for_token = False
        for _ in range(MAX_HOPS + 2):
            own = place.origin == self.reference.origin
            with self._asked(place, accept, self._authorization if own else "") as (status, head, body):
                if status == 200:
                    _drain(body, head, sink, limit)
                    return head
                if status == 401 and own and not asked_for_token:
                    challenge, asked_for_token = head.get("www-authenticate", ""), True
                elif status in _MOVED:
                    place = follow(head.get("location", ""), place)
                    continue
                else:
                    meaning = _MEANING.get(status, "it gave no answer that means anything here")
                    whom, what = place.origin.authority, quote(place.target, 200)
                    raise failed(f"{whom} answered {status} to {what}: {meaning}.")
            self._authorization = self._authorized(challenge)
        raise failed(f"It sent us on more than {MAX_HOPS} times.")

    def _authorized(self, challenge: str) -> str:
        """What the registry wants to see: a token, or the user's log-in where he has one for it. Asked once, and only
        when the registry itself asks, not from where a redirect leads.
        """
        login = login_of(_logins(), self.reference.origin)
        self.as_user = bool(login)
        if login and asks_for_login(challenge):
            return f"Basic {login}"
        place, body = token_place(challenge, self.reference), io.BytesIO()
        with self._asked(place, "application/json", f"Basic {login}" if login else "") as (status, head, answer):
            if status != 200:
                raise failed(f"The token service {place.origin.authority} answered {status}.")
            _drain(answer, head, body, TOKEN_BYTES)
        return f"Bearer {token_of(body.getvalue())}"

    @contextlib.contextmanager
    def _asked(
        self, place: Place, accept: str, authorization: str
    ) -> Iterator[tuple[int, Mapping[str, str], Iterator[bytes]]]:
        """One request: status, head, body as it comes."""
        headers = [
            ("Host", place.origin.authority), ("User-Agent", "rumi"), ("Accept", accept),
            ("Accept-Encoding", "identity"), ("Connection", "close"),
        ]  # fmt: skip
        if authorization:
            headers.append(("Authorization", authorization))
        shown = place.origin.authority
        try:
            with self._connected(place.origin) as sock:
                http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
                sock.sendall(http.send(h11.Request(method="GET", target=place.target, headers=headers)) or b"")
                sock.sendall(http.send(h11.EndOfMessage()) or b"")
                response = self._response(sock, http)
                head = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
                yield response.status_code, head, self._body(sock, http)
        except (h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            raise failed(f"{shown} does not speak HTTP/1.1: {quote(str(error), 200)}.") from error
        except ssl.SSLError as error:
            raise failed(f"No trustworthy TLS with {shown}: {quote(str(error), 200)}.") from error
        except TimeoutError as error:
            raise failed(f"{shown} took too long.") from error
        except OSError as error:
            raise failed(f"{shown} broke the connection off: {error.strerror or error}.") from error

    def _response(self, sock: socket.socket, http: h11.Connection) -> h11.Response:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(self._received(sock))
            elif isinstance(event, h11.Response):
                return event
            elif not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("no answer")

    def _body(self, sock: socket.socket, http: h11.Connection) -> Iterator[bytes]:
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(self._received(sock))
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            else:
                return

    def _received(self, sock: socket.socket) -> bytes:
        sock.settimeout(self._left(IDLE_S))
        return sock.recv(CHUNK_BYTES)

    def _left(self, most_s: float) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, most_s)

    @contextlib.contextmanager
    def _connected(self, origin: Origin) -> Iterator[socket.socket]:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(self._dialled(origin))
            if origin.plain:
                yield sock
                return
            sock.settimeout(self._left(CONNECT_S))
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.set_alpn_protocols(["http/1.1"])
            yield stack.enter_context(context.wrap_socket(sock, server_hostname=origin.host))

    def _dialled(self, origin: Origin) -> socket.socket:
        """A connection to the first address that is allowed and answers."""
        own = origin == self.reference.origin
        try:
            addresses = self.look_up(origin.host)
        except (OSError, UnicodeError) as error:
            raise failed(f"{quote(origin.host, 100)} has no address: {error}.") from error
        faults = [dial_fault(address, origin.port, self.machine, literal=own) for address in addresses]
        faults += [f"{one} is not this machine" for one in addresses if origin.plain and not one.is_loopback]
        why = next((fault for fault in faults if fault), "")
        if why:  # one that may not be reached among several is no accident
            who = "" if own else ", and only the registry that you named may lead there"
            raise failed(f"{origin.authority} is not connected to: {why}{who}.")
        causes = []
        for address in addresses:
            try:
                return self.connect(address, origin.port, self._left(CONNECT_S))
            except OSError as error:
                causes.append(f"{address}: {error.strerror or 'no answer'}")
        raise failed(f"{origin.authority} can't be reached: {'; '.join(causes)[:300]}.")


def _drain(body: Iterator[bytes], head: Mapping[str, str], sink: io.BytesIO | _Hashed, limit: int) -> None:
    if head.get("content-encoding", "identity") != "identity":
        raise failed("It sent an encoded answer, which was not asked for.")
    left = limit
    for chunk in body:
        left -= len(chunk)
        if left < 0:
            raise failed(f"It sent more than the {limit} bytes that there should be.")
        sink.write(chunk)


def _logins() -> bytes:
    """What ``docker login`` of this user wrote, or nothing."""
    folder = os.environ.get("DOCKER_CONFIG") or "~/.docker"
    try:
        return read_bounded(Path(folder).expanduser() / "config.json", LOGINS_BYTES)
    except (OSError, RuntimeError, RumiError):  # none, no home, too large: nobody is logged in
        return b""


def _look_up(host: str) -> tuple[Address, ...]:
    """Addresses of a name; an address is itself, and ``localhost`` is what it says."""
    if host == "localhost":
        return ip_address("127.0.0.1"), ip_address("::1")
    with contextlib.suppress(ValueError):
        return (ip_address(host),)
    return system_look_up(host)


def _connect(address: Address, port: int, timeout_s: float) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(timeout_s)
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock
