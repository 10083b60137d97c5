"""Who may ask the host for something over HTTP: request facts → ``Allow(actor)`` or ``Refuse``. Pure.

Invariants (trust design, "Who may ask the host for something"):
  * Decided from the request line, the headers and what was proven when the connection was accepted; never from a body.
  * Everything a browser may be tricked into is refused before any credential counts: foreign ``Host`` (rebinding, 421),
    foreign ``Origin``, ``Sec-Fetch-Site`` other than absent, ``none`` or ``same-origin`` (a cross-site GET carries no
    Origin), a body that a plain form could send (415). One exception: a cross-site *navigation* to a page of the web
    port.
  * A credential that is present and wrong is refused, even where the connection alone would have sufficed.
  * What could not be proven is not proven: it needs the token.
  * The console changes nothing for a connection alone: its actions need a session, which is a cookie *and* the proven
    owner, or, where no owner can be proven, a header that only the console's own script sends.
  * The console takes plain forms, and only at its own paths: from a page of its own origin, with a session. A redirect
    file's form (its origin is ``null``) is admitted at one path, with a body of one exact length.

Not here: looking at sockets (``drivers.peer``), reading the token (``drivers.token``), sending answers (``api.gate``),
what a session is and when it ends (``rules.sessions``), the form's own token (the console, before any use case).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping, Sequence
from enum import Enum, StrEnum
from functools import lru_cache

from msgspec import Struct, field

from core_runtime.rules.sessions import (
    CODE_BODY_BYTES,
    Carrier,
    Session,
    named,
    secret_in_cookies,
    secret_in_header,
)

BODY_LIMIT_BYTES = 1024 * 1024
FORM_LIMIT_BYTES = 64 * 1024
OPEN_PATH = "/_rumi/open"
CONSOLE_PREFIX = "/_rumi/"
STATIC_PREFIX = "/_rumi/static/"
PATH_LIMIT_BYTES = 2048
_HOW_TO_IDENTIFY = 'Send the token that "rumi token" prints: -H "Authorization: Bearer TOKEN".'
_HOW_TO_OPEN = "Open the console with: ./rumi open"

# A path is either in its one canonical spelling or refused: what a check sees and what a route sees can't differ.
_PATH = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}|/)*")
_FORBIDDEN_ESCAPES = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/\\%" + bytes(range(0x20)) + b"\x7f"
)
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LINES = b"application/x-ndjson"
"""One JSON value a line. Of no type that a page of another site may send without asking first, as JSON is."""
_TAKES_LINES = re.compile(rb"/api/interfaces/[^/]+/call")


class Door(StrEnum):
    """Where the request came in: the management API's port, the web port, or the command-line tool's Unix socket."""

    API = "api"
    WEB = "web"
    SOCKET = "socket"


class Peer(Struct, frozen=True):
    """What was proven about the other end at accept. ``uid`` is None when nothing was; ``unproven`` says why."""

    door: Door
    uid: int | None = None
    unproven: str = ""


class RequestFacts(Struct, frozen=True):
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
    cookie: tuple[bytes, ...] = ()
    session: tuple[bytes, ...] = ()


class Authority(Struct, frozen=True):
    """What this host is: its user id (None where the system can't tell), its ports, its token (empty: none usable),
    the console's sessions that have not ended.
    """

    uid: int | None
    api_port: int
    web_port: int
    token: bytes
    sessions: Mapping[bytes, Session] = field(default_factory=dict)


class Allow(Struct, frozen=True):
    """The request acts as the operator. ``actor`` names the proof, for the audit trail.

    ``session``: the console's, where it has one. ``proven``: the connection is the owner's.
    Two actors are nobody: ``anyone`` gets the console's style sheets, ``opening`` may offer a one-time code.
    """

    actor: str
    session: Session | None = None
    proven: bool = False


class Refuse(Struct, frozen=True):
    """A normal outcome, in the fields of an error."""

    status: int
    code: str
    title: str
    detail: str = ""
    hint: str = ""


class Ask(Enum):
    """What a request is for, by its door, method and path."""

    CALL = "call"
    PAGE = "page"
    FILE = "file"
    OPEN = "open"
    ACT = "act"


def decide(facts: RequestFacts, authority: Authority) -> Allow | Refuse:
    """The whole rule, in the order in which it is documented."""
    ask = ask_of(facts)
    return (
        _path(facts)
        or _host(facts, authority)
        or _origin(facts, ask)
        or _fetch_metadata(facts, ask)
        or (_form(facts, ask) if ask in {Ask.OPEN, Ask.ACT} else _body(facts))
        or _identity(facts, authority, ask)
    )


def ask_of(facts: RequestFacts) -> Ask:
    """Decided on the path as it was sent: one that is not canonical is refused before this counts."""
    if facts.peer.door is not Door.WEB:
        return Ask.CALL
    if facts.method not in _SAFE_METHODS:
        if facts.raw_path == OPEN_PATH.encode() and facts.method == "POST":
            return Ask.OPEN
        return Ask.ACT if facts.raw_path.startswith(CONSOLE_PREFIX.encode()) else Ask.CALL
    return Ask.FILE if facts.raw_path.startswith(STATIC_PREFIX.encode()) else Ask.PAGE


def _path(facts: RequestFacts) -> Refuse | None:
    path = facts.raw_path
    if len(path) > PATH_LIMIT_BYTES:
        return Refuse(
            414, "path_too_long", "The path is too long", f"at most {PATH_LIMIT_BYTES} bytes; got {len(path)}"
        )
    if _canonical(path):
        return None
    return Refuse(
        400, "path_not_canonical", "The path is not in its canonical form",
        "encoded slashes, dots or letters, empty segments, backslashes and control characters are refused",
        "Write the path as GET /api/openapi.json lists it.",
    )  # fmt: skip


@lru_cache(maxsize=256)  # of a bounded length each; whoever calls often calls the same
def _canonical(path: bytes) -> bool:
    return (
        _PATH.fullmatch(path) is not None
        and b"//" not in path
        and not any(segment in {b".", b".."} for segment in path.split(b"/")[1:])
        and not any(int(escape, 16) in _FORBIDDEN_ESCAPES for escape in _ESCAPE.findall(path))
    )


def _host(facts: RequestFacts, authority: Authority) -> Refuse | None:
    port = authority.web_port if facts.peer.door is Door.WEB else authority.api_port
    if len(facts.host) == 1 and facts.host[0].lower() in _allowed_hosts(facts.peer.door, port):
        return None
    return Refuse(
        421, "host_not_served", "This host name is not served here",
        f"expected exactly one Host header: localhost:{port}, 127.0.0.1:{port} or [::1]:{port}",
        f"Open http://localhost:{port}/ itself.",
    )  # fmt: skip


@lru_cache(maxsize=8)  # one host has three doors; every request asks
def _allowed_hosts(door: Door, port: int) -> frozenset[bytes]:
    if door is Door.SOCKET:
        return frozenset({b"localhost", b"rumi"})
    names = ("localhost", "127.0.0.1", "[::1]")
    allowed = {f"{name}:{port}".encode() for name in names}
    return frozenset(allowed | {name.encode() for name in names} if port == 80 else allowed)


def _origin(facts: RequestFacts, ask: Ask) -> Refuse | None:
    if not facts.origin:
        if ask is Ask.ACT:
            return _cross_site("a form of the console comes with an Origin header, and this request has none")
        return None
    # Host has passed already, so "ours" is exactly the address that this very request was sent to.
    if facts.peer.door is not Door.SOCKET and facts.origin == (b"http://" + facts.host[0].lower(),):
        return None
    # A browser says "null" for a file, and for a form of a page whose referrer policy is no-referrer, as ours is.
    # What tells our own form from everybody's "null" is Sec-Fetch-Site, which no page can set.
    ours = ask is Ask.ACT and facts.fetch_site == (b"same-origin",)
    if facts.origin == (b"null",) and (ours or ask is Ask.OPEN):
        return None
    return _cross_site("the Origin header names another site")


def _fetch_metadata(facts: RequestFacts, ask: Ask) -> Refuse | None:
    if not facts.fetch_site or facts.fetch_site == (b"same-origin",):
        return None
    if facts.fetch_site == (b"none",) and ask is not Ask.ACT:
        return None
    navigation = (
        facts.peer.door is Door.WEB
        and (facts.method in {"GET", "HEAD"} or ask is Ask.OPEN)
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
        kind = (facts.content_type[0] if facts.content_type else b"").split(b";")[0].strip().lower()
        if kind == LINES and _TAKES_LINES.fullmatch(facts.raw_path):
            return _declared(facts, most=None)
        if kind != b"application/json":
            return Refuse(
                415, "content_type", "Bodies are accepted as application/json only",
                "expected Content-Type: application/json",
                "Add -H 'Content-Type: application/json', or send no body.",
            )  # fmt: skip
    return _declared(facts, most=BODY_LIMIT_BYTES) if has_body else None


def _declared(facts: RequestFacts, most: int | None) -> Refuse | None:
    """The length that a body declares, where it does. ``most`` None: it is read line by line, as far as it is used."""
    if not facts.content_length:
        return None
    text = facts.content_length[0]
    if not text.isdigit() or len(text) > 19:
        return Refuse(400, "content_length", "Content-Length is not a number")
    return body_too_large() if most is not None and int(text) > most else None


def _form(facts: RequestFacts, ask: Ask) -> Refuse | None:
    """A form's body: its type, a declared length, and for a one-time code exactly its length."""
    kinds = {kind.split(b";")[0].strip().lower() for kind in facts.content_type}
    if len(facts.content_type) != 1 or kinds != {b"application/x-www-form-urlencoded"}:
        return Refuse(
            415, "content_type", "The console takes forms only",
            "expected one Content-Type: application/x-www-form-urlencoded",
            "Programs use the management API, with application/json.",
        )  # fmt: skip
    length = facts.content_length[0] if len(facts.content_length) == 1 else b""
    if facts.transfer_encoding or not length.isdigit() or len(length) > 9:
        return Refuse(411, "length_required", "A form declares its length", "expected one Content-Length, a number")
    if ask is Ask.OPEN and int(length) != CODE_BODY_BYTES:
        return Refuse(400, "code_malformed", "This is no one-time code", "", _HOW_TO_OPEN)
    if int(length) > FORM_LIMIT_BYTES:
        return Refuse(413, "too_large", "The form is too large", f"at most {FORM_LIMIT_BYTES} bytes")
    return None


def body_too_large() -> Refuse:
    """Also used while a body without a declared length arrives."""
    return Refuse(
        413, "too_large", "The body is too large", f"at most {BODY_LIMIT_BYTES} bytes",
        "Put large data into user_data/ and pass its path.",
    )  # fmt: skip


def _identity(facts: RequestFacts, authority: Authority, ask: Ask) -> Allow | Refuse:
    if facts.authorization:
        shown = _bearer(facts.authorization, authority)
        if isinstance(shown, Refuse) or ask not in {Ask.ACT, Ask.OPEN}:
            return shown
    peer = facts.peer
    owner = peer.uid is not None and authority.uid is not None and peer.uid == authority.uid
    if peer.uid is not None and not owner:
        detail = "this connection belongs to another user of this machine than the host"
        return _not_identified(peer.door, detail)
    if peer.door is Door.WEB:
        found = _at_the_console(facts, authority, ask, owner=owner)
        if found is not None:
            return found
    if owner:
        return Allow(f"operator:{'socket' if peer.door is Door.SOCKET else 'uid'}:{peer.uid}", proven=True)
    detail = peer.unproven or "the user at the other end of this connection could not be proven"
    return _not_identified(peer.door, detail)


def _at_the_console(facts: RequestFacts, authority: Authority, ask: Ask, *, owner: bool) -> Allow | Refuse | None:
    """What only the web port knows; None: as at any other door. Nobody but the owner or an unproven peer comes here."""
    if ask is Ask.OPEN:
        return Allow("opening", proven=owner)
    if ask is Ask.FILE and not owner:
        return Allow("anyone")
    session = _session(facts, authority, owner=owner)
    if session is not None:
        return Allow(f"operator:console:{facts.peer.uid}" if owner else "operator:console", session, owner)
    if facts.session:
        return _no_session("the session that the console's page holds has ended, or is of another run of the host")
    if ask is Ask.ACT:
        return _no_session("none was opened in this browser, or it has ended")
    return None


def _session(facts: RequestFacts, authority: Authority, *, owner: bool) -> Session | None:
    """The session that this request may use: by the header from anybody who holds it, by the cookie for the owner."""
    if facts.session:
        carrier, secret = Carrier.HEADER, secret_in_header(facts.session)
    elif owner:
        carrier, secret = Carrier.COOKIE, secret_in_cookies(facts.cookie, authority.web_port)
    else:
        return None
    found = authority.sessions.get(named(secret)) if secret else None
    return found if found is not None and found.carrier is carrier else None


def _no_session(detail: str) -> Refuse:
    return Refuse(401, "session_missing", "This needs an open session of the console", detail, _HOW_TO_OPEN)


def _not_identified(door: Door, detail: str) -> Refuse:
    hint = _HOW_TO_OPEN if door is Door.WEB else _HOW_TO_IDENTIFY
    return Refuse(401, "not_identified", "The host does not know who is asking", detail, hint)


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
