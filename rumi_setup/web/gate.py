"""Decides whether a request may be answered. No I/O: values in, a refusal or None out.

Invariants
- The token in the printed address works once, for whoever comes first, and never again.
- Every page but the style sheets needs the cookie that the token was exchanged for.
- A request that changes something also needs our own Origin and the CSRF token of that cookie's session: a page on
  another port of this machine is "same site" to a browser, so SameSite alone would not keep it out.
- A Host that is not ours is refused before anything else, which is what stops DNS rebinding.

Not here: cookies of other programs on 127.0.0.1 (browsers share them over ports; ours carries its port in its name).
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

BODY_LIMIT_BYTES = 8 << 10
TARGET_LIMIT_CHARACTERS = 1024
_SECRET_BYTES = 32
_FORM = "application/x-www-form-urlencoded"


class Refusal(Enum):
    """Why a request is not answered; the value is its HTTP status."""

    HOST = 421
    TARGET = 414
    METHOD = 405
    NO_SESSION = 401
    USED = 403
    FOREIGN = 409
    FORM = 415
    SIZE = 413
    LENGTH = 411


@dataclass(frozen=True)
class Asked:
    """A request line and headers, names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class Gate:
    """The one session of one run of the wizard."""

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(_SECRET_BYTES)
        self.csrf = secrets.token_urlsafe(_SECRET_BYTES)
        self.cookie_name = f"rumi_setup_{port}"
        self._cookie = secrets.token_urlsafe(_SECRET_BYTES)
        self._hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
        self._used = False
        self._guard = threading.Lock()

    def refuse_outsider(self, asked: Asked) -> Refusal | None:
        """What holds for every request, also those without a session."""
        if asked.headers.get("host", "").lower() not in self._hosts:
            return Refusal.HOST
        if len(asked.target) > TARGET_LIMIT_CHARACTERS:
            return Refusal.TARGET
        if asked.method not in {"GET", "HEAD", "POST"}:
            return Refusal.METHOD
        return self._refuse_write(asked) if asked.method == "POST" else None

    def _refuse_write(self, asked: Asked) -> Refusal | None:
        if asked.headers.get("origin", "").lower() != f"http://{asked.headers['host'].lower()}":
            return Refusal.FOREIGN
        if asked.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return Refusal.FOREIGN
        if asked.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
            return Refusal.FORM
        length = asked.headers.get("content-length", "")
        if "transfer-encoding" in asked.headers or not (length.isascii() and length.isdigit()):
            return Refusal.LENGTH
        # a longer number is no body of ours, and turning it into an integer would cost time
        return Refusal.SIZE if len(length) > len(str(BODY_LIMIT_BYTES)) or int(length) > BODY_LIMIT_BYTES else None

    def exchange(self, asked: Asked, token: str) -> Refusal | None:
        """Uses the token up. A HEAD request or a browser fetching ahead of the click does not."""
        if not _same(token, self.token):
            return Refusal.NO_SESSION
        ahead = asked.headers.get("sec-purpose", "") + asked.headers.get("purpose", "")
        if asked.method != "GET" or "prefetch" in ahead.lower():
            return Refusal.METHOD
        with self._guard:
            if self._used:
                return Refusal.USED
            self._used = True
        return None

    def set_cookie(self) -> str:
        """The header's value; a session cookie, gone with the browser's window or this process."""
        return f"{self.cookie_name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"

    def knows(self, asked: Asked) -> bool:
        """Whether the request carries the session's cookie."""
        for part in asked.headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie_name and self._used:
                return _same(value, self._cookie)
        return False

    def form_is_ours(self, csrf: str) -> bool:
        return _same(csrf, self.csrf)


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
