"""One HTTP request that the host makes for a Pack: what it asks, and whether a grant covers it. Pure.

Invariants:
  * A path is judged in the one form in which it is sent; a path that a server could read as another one (dot segments,
    encoded slashes, dots or backslashes, double encoding, empty segments) is refused.
  * Headers that say how the message travels are the host's; a header that a grant fills with a secret is nobody else's.
  * A grant without ``methods`` covers GET and HEAD, one without ``path_prefixes`` every path.

Not here: the connection (``rules.egress``, ``rules.addresses``), the value of a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct

from backend_core.errors import quote
from core_runtime.rules.egress import Refused, parse_host

DEFAULT_METHODS: Final = ("GET", "HEAD")
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND", "REPORT")
HTTPS_PORT: Final = 443
MAX_URL_CHARS: Final = 8_192
MAX_HEADERS: Final = 100
MAX_HEADER_CHARS: Final = 16_384

HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
     "transfer-encoding", "upgrade", "http2-settings", "expect"}
)  # fmt: skip
"""Belong to one connection. They are dropped from what a Pack sends and from what it receives."""
_HOSTS_OWN: Final = frozenset({"host", "content-length"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PATH = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]|^`{}\"<>-]|%[0-9A-Fa-f]{2})*")
_CONFUSING = re.compile(r"%(?:2[eEfF]|5[cC]|00|25)")
_AROUND = r"([\x20-\x7a\x7c\x7e]*)"
_SECRET = re.compile(rf"([!#$%&'*+.^_`|~0-9A-Za-z-]{{1,100}}): ?{_AROUND}\{{([A-Za-z0-9_.-]{{1,64}})\}}{_AROUND}")


class Request(Struct, frozen=True):
    """A request in the form in which it is judged and sent. ``url`` always means https."""

    method: str
    host: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    length: int | None
    """Of the body in bytes; None: sent in chunks, as it comes. 0: none."""

    @property
    def target(self) -> str:
        """What stands in the request line."""
        return f"{self.path}?{self.query}" if self.query else self.path


class Injection(Struct, frozen=True):
    """``header: before + the secret's value + after``."""

    header: str
    before: str
    secret: str
    after: str

    def value(self, secret: str) -> str:
        """The header's whole value."""
        return f"{self.before}{secret}{self.after}"


def parse_request(args: Mapping[str, Any]) -> Request | Refused:
    """``{method, url, headers: [[name, value], …], length}`` as a Pack sent it."""
    method = args.get("method", "GET")
    if method not in METHODS:
        return Refused("method_refused", f"{quote(method, 40)} is no method that the host sends")
    where = parse_url(args.get("url"))
    if isinstance(where, Refused):
        return where
    headers = _headers(args.get("headers") or [])
    if isinstance(headers, Refused):
        return headers
    length = args.get("length", 0)
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or length < 0):
        return Refused("body_invalid", f"{quote(length, 40)} is no length of a body")
    return Request(method, *where, headers, length)


def parse_url(url: Any) -> tuple[str, str, str] | Refused:
    """``http(s)://host[:443 or 80]/path?query`` as ``(host, path, query)``. A fragment never leaves the Pack."""
    if not isinstance(url, str) or len(url) > MAX_URL_CHARS or not url.isascii():
        return Refused("url_invalid", f"{quote(url, 80)} is no ASCII URL of at most {MAX_URL_CHARS} characters")
    scheme, _, rest = url.partition("://")
    if scheme.lower() not in {"http", "https"}:
        return Refused("url_invalid", f"{quote(url, 80)} is no http or https URL")
    ends = [rest.index(mark) for mark in "/?#" if mark in rest]
    authority, tail = (rest[: min(ends)], rest[min(ends) :]) if ends else (rest, "")
    name, _, port = authority.partition(":")
    if port not in {"", "443", "80"} or (":" in authority and not port):
        return Refused("url_invalid", f"{quote(authority, 80)}: the host fetches from port 443 only")
    host = parse_host(name)
    if isinstance(host, Refused):
        return host
    if not isinstance(host, str):
        return Refused("url_invalid", f"{quote(authority, 80)} is an address; a fetch needs a name")
    path, _, query = tail.partition("#")[0].partition("?")
    path = path or "/"
    fault = path_fault(path)
    if fault:
        return Refused("path_refused", f"{quote(path, 120)} {fault}")
    if not _QUERY.fullmatch(query):
        return Refused("url_invalid", "the query holds a character that must be percent-encoded")
    return host, path, query


def path_fault(path: str, _pack_id: str = "") -> str:
    """Why ``path`` has more than one reading, or ``""``."""
    if not path.startswith("/"):
        return "does not begin with /"
    if not _PATH.fullmatch(path):
        return "holds a character that no path has, or half of an encoded one"
    if _CONFUSING.search(path):
        return "holds an encoded dot, slash, backslash, percent or zero, which servers read differently"
    parts = path.split("/")[1:]
    if any(part in {".", ".."} or part.startswith(("..;", ".;")) for part in parts):
        return "holds a dot segment"
    return "holds an empty segment" if "" in parts[:-1] else ""


def method_fault(text: str, _pack_id: str = "") -> str:
    """Why ``text`` can't be granted as a method, or ``""``."""
    return "" if text in METHODS else f"is none of {', '.join(METHODS)}"


def secret_fault(text: str, _pack_id: str = "") -> str:
    """Why ``text`` can't be granted as an injection, or ``""``."""
    found = parse_injection(text)
    if found is None:
        return 'is not of the form "Header: text {NAME} text"'
    taken = found.header.lower() in HOP_BY_HOP | _HOSTS_OWN
    return "fills a header that belongs to the host" if taken else ""


def parse_injection(text: str) -> Injection | None:
    """``Authorization: Bearer {API_KEY}`` and the like."""
    found = _SECRET.fullmatch(text)
    return Injection(found[1], found[2], found[3], found[4]) if found else None


def injections(texts: Sequence[str]) -> tuple[Injection, ...]:
    """Those of a grant; what is no injection was refused when it was declared."""
    return tuple(found for text in texts if (found := parse_injection(text)) is not None)


def covers_path(prefixes: Sequence[str], path: str) -> bool:
    """Whether ``path`` lies below one of ``prefixes``, segment by segment; no prefixes: everywhere."""
    return not prefixes or any(_below(prefix, path) for prefix in prefixes)


def covers_request(
    hosts: Sequence[str], methods: Sequence[str], prefixes: Sequence[str], host: str, method: str, path: str
) -> bool:
    """Whether a grant with these parameters covers the request."""
    return host in hosts and method in (methods or DEFAULT_METHODS) and covers_path(prefixes, path)


def request_of(params: Mapping[str, Any]) -> Mapping[str, str]:
    """What a Pack's own question names: ``url`` and ``method`` (GET unless said); nothing where they are none."""
    where = parse_url(params.get("url"))
    if isinstance(where, Refused):
        return {}
    return {"host": where[0], "method": str(params.get("method", DEFAULT_METHODS[0])), "url_path": where[1]}


def secret_names(texts: Sequence[str]) -> tuple[str, ...]:
    """The secrets that a grant's injections name."""
    return tuple(item.secret for item in injections(texts))


def header_clash(request: Request, injected: Sequence[Injection]) -> str:
    """The header that the Pack sets although a secret belongs there, or ``""``."""
    reserved = {item.header.lower() for item in injected}
    return next((name for name, _ in request.headers if name.lower() in reserved), "")


def _below(prefix: str, path: str) -> bool:
    if not path.startswith(prefix):
        return False
    return prefix.endswith("/") or len(path) == len(prefix) or path[len(prefix)] == "/"


def _headers(items: Any) -> tuple[tuple[str, str], ...] | Refused:
    """What travels on, in order; the host's own headers and those of one connection are left out."""
    if not isinstance(items, list) or len(items) > MAX_HEADERS:
        return Refused("headers_invalid", f"headers must be a list of at most {MAX_HEADERS} pairs")
    dropped = HOP_BY_HOP | _HOSTS_OWN | _named_by_connection(items)
    kept: list[tuple[str, str]] = []
    total = 0
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 2 or not all(isinstance(part, str) for part in item):
            return Refused("headers_invalid", "each header must be a pair of texts")
        name, value = item[0], item[1].strip(" \t")
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            return Refused("headers_invalid", f"{quote(name, 60)} or its value is no header")
        total += len(name) + len(value)
        if name.lower() not in dropped:
            kept.append((name, value))
    if total > MAX_HEADER_CHARS:
        return Refused("headers_invalid", f"the headers have more than {MAX_HEADER_CHARS} characters")
    return tuple(kept)


def _named_by_connection(items: Sequence[Any]) -> frozenset[str]:
    pairs = (item for item in items if isinstance(item, list | tuple) and len(item) == 2)
    values = (item[1] for item in pairs if str(item[0]).lower() == "connection" and isinstance(item[1], str))
    return frozenset(token.strip().lower() for value in values for token in value.split(","))
