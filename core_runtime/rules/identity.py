"""Who may ask the host for something over HTTP: request facts → ``Allow(actor)`` or ``Refuse``. Pure.

Invariants (trust design, "Who may ask the host for something"):
  * Decided from the request line, the headers and what was proven when the connection was accepted; never from a body.
  * Everything a browser may be tricked into is refused before any credential counts: foreign ``Host`` (rebinding, 421),
    foreign ``Origin``, ``Sec-Fetch-Site`` other than absent, ``none`` or ``same-origin`` (a cross-site GET carries no
    Origin), a body that a plain form could send (415). One exception: a cross-site *navigation* to a page of the web
    port.
  * A credential that is present and wrong is refused, even where the connection alone would have sufficed.
  * What could not be proven is not proven: it needs the token.

Not here: looking at sockets (``drivers.peer``), reading the token (``drivers.token``), sending answers (``api.gate``).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

BODY_LIMIT_BYTES = 1024 * 1024
PATH_LIMIT_BYTES = 2048
_HOW_TO_IDENTIFY = 'Send the token that "rumi token" prints: -H "Authorization: Bearer TOKEN".'

# A path is either in its one canonical spelling or refused: what a check sees and what a route sees can't differ.
_PATH = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}|/)*")
_FORBIDDEN_ESCAPES = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\%" + bytes(range(0x20)) + b"\x7f"
)
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Door(StrEnum):
    """Where the request came in: the management API's port, the web port, or the command-line tool's Unix socket."""

    API = "api"
    WEB = "web"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class Peer:
    """What was proven about the other end at accept. ``uid`` is None when nothing was; ``unproven`` says why."""

    door: Door
    uid: int | None = None
    unproven: str = ""


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """One request as far as its head. Header fields are tuples: a repeated header is a fact of its own."""

    peer: Peer
    method: str
    raw_path: bytes
    host: tuple[bytes, ...] = ()
    origin: tuple[bytes, ...] = ()
    fetch_site: tuple[bytes, ...] = ()
    fetch_mode: tuple[bytes, ...] = ()
    fetch_dest: tuple[bytes, ...] = ()
    content_type: tuple[bytes, ...] = ()
    content_length: tuple[bytes, ...] = ()
    transfer_encoding: tuple[bytes, ...] = ()
    authorization: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Authority:
    """What this host is: its user id (None where the system can't tell), its ports, its token (empty: none usable)."""

    uid: int | None
    api_port: int
    web_port: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Allow:
    """The request acts as the operator. ``actor`` names the proof, for the audit trail."""

    actor: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """A normal outcome, in the fields of an error."""

    status: int
    code: str
    title: str
    detail: str = ""
    hint: str = ""


def decide(facts: RequestFacts, authority: Authority) -> Allow | Refuse:
    """The whole rule, in the order in which it is documented."""
    return (
        _path(facts)
        or _host(facts, authority)
        or _origin(facts)
        or _fetch_metadata(facts)
        or _body(facts)
        or _identity(facts, authority)
    )


def _path(facts: RequestFacts) -> Refuse | None:
    path = facts.raw_path
    if len(path) > PATH_LIMIT_BYTES:
        return Refuse(
            414, "path_too_long", "The path is too long", f"at most {PATH_LIMIT_BYTES} bytes; got {len(path)}"
        )
    segments = path.split(b"/")[1:]
    canonical = (
        _PATH.fullmatch(path) is not None
        and b"//" not in path
        and not any(segment in {b".", b".."} for segment in segments)
        and not any(int(escape, 16) in _FORBIDDEN_ESCAPES for escape in _ESCAPE.findall(path))
    )
    if canonical:
        return None
    return Refuse(
        400, "path_not_canonical", "The path is not in its canonical form",
        "encoded slashes, dots or letters, empty segments, backslashes and control characters are refused",
        "Write the path as GET /api/openapi.json lists it.",
    )  # fmt: skip


def _host(facts: RequestFacts, authority: Authority) -> Refuse | None:
    if len(facts.host) == 1 and facts.host[0].lower() in _allowed_hosts(facts.peer.door, authority):
        return None
    port = authority.web_port if facts.peer.door is Door.WEB else authority.api_port
    return Refuse(
        421, "host_not_served", "This host name is not served here",
        f"expected exactly one Host header: localhost:{port}, 127.0.0.1:{port} or [::1]:{port}",
        f"Open http://localhost:{port}/ itself.",
    )  # fmt: skip


def _allowed_hosts(door: Door, authority: Authority) -> frozenset[bytes]:
    if door is Door.SOCKET:
        return frozenset({b"localhost", b"rumi"})
    port = authority.web_port if door is Door.WEB else authority.api_port
    names = ("localhost", "127.0.0.1", "[::1]")
    allowed = {f"{name}:{port}".encode() for name in names}
    return frozenset(allowed | {name.encode() for name in names} if port == 80 else allowed)


def _origin(facts: RequestFacts) -> Refuse | None:
    if not facts.origin:
        return None
    # Host has passed already, so "ours" is exactly the address that this very request was sent to.
    if facts.peer.door is not Door.SOCKET and facts.origin == (b"http://" + facts.host[0].lower(),):
        return None
    return _cross_site("the Origin header names another site")


def _fetch_metadata(facts: RequestFacts) -> Refuse | None:
    if not facts.fetch_site or facts.fetch_site in {(b"none",), (b"same-origin",)}:
        return None
    navigation = (
        facts.peer.door is Door.WEB
        and facts.method in {"GET", "HEAD"}
        and facts.fetch_mode == (b"navigate",)
        and facts.fetch_dest == (b"document",)
    )
    if navigation:
        return None
    return _cross_site("the browser says that another site sent this request (Sec-Fetch-Site)")


def _cross_site(detail: str) -> Refuse:
    return Refuse(
        403, "cross_site", "Requests of other web pages are refused", detail,
        "Use the console, the rumi command, or curl without browser headers.",
    )  # fmt: skip


def _body(facts: RequestFacts) -> Refuse | None:
    if len(facts.content_type) > 1 or len(facts.content_length) > 1:
        return Refuse(
            400, "header_repeated", "A header that may stand once was repeated", "Content-Type, Content-Length"
        )
    has_body = bool(facts.transfer_encoding) or facts.content_length not in {(), (b"0",)}
    if (has_body or facts.content_type) and facts.method not in _SAFE_METHODS:
        kind = facts.content_type[0] if facts.content_type else b""
        if kind.split(b";")[0].strip().lower() != b"application/json":
            return Refuse(
                415, "content_type", "Bodies are accepted as application/json only",
                "expected Content-Type: application/json",
                "Add -H 'Content-Type: application/json', or send no body.",
            )  # fmt: skip
    if has_body and facts.content_length:
        text = facts.content_length[0]
        if not text.isdigit() or len(text) > 19:
            return Refuse(400, "content_length", "Content-Length is not a number")
        if int(text) > BODY_LIMIT_BYTES:
            return body_too_large()
    return None


def body_too_large() -> Refuse:
    """Also used while a body without a declared length arrives."""
    return Refuse(
        413, "too_large", "The body is too large", f"at most {BODY_LIMIT_BYTES} bytes",
        "Put large data into user_data/ and pass its path.",
    )  # fmt: skip


def _identity(facts: RequestFacts, authority: Authority) -> Allow | Refuse:
    if facts.authorization:
        return _bearer(facts.authorization, authority)
    peer = facts.peer
    if peer.uid is not None and authority.uid is not None and peer.uid == authority.uid:
        return Allow(f"operator:{'socket' if peer.door is Door.SOCKET else 'uid'}:{peer.uid}")
    if peer.uid is not None:
        detail = "this connection belongs to another user of this machine than the host"
    else:
        detail = peer.unproven or "the user at the other end of this connection could not be proven"
    return Refuse(401, "not_identified", "The host does not know who is asking", detail, _HOW_TO_IDENTIFY)


def _bearer(values: Sequence[bytes], authority: Authority) -> Allow | Refuse:
    scheme, _, given = values[0].partition(b" ")
    # The comparison runs whatever was sent, in time that does not depend on where the first difference is.
    same = hmac.compare_digest(given.strip(), authority.token)
    if len(values) == 1 and scheme.lower() == b"bearer" and authority.token and same:
        return Allow("operator:token")
    return Refuse(
        401,
        "token_wrong",
        "The token is not the one of this host",
        "expected Authorization: Bearer TOKEN",
        _HOW_TO_IDENTIFY,
    )
