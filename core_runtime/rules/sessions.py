"""The console's sessions and the one-time codes that open them, as values. Pure.

Invariants:
  * Neither a session's secret nor a code is kept: both are known by their SHA-256 only.
  * A code opens once, within ``CODE_LIFE_S``. A session ends after ``IDLE_LIMIT_S`` without a request and after
    ``LIFE_LIMIT_S`` in any case. Both are bounded in number: a new one ends the one that was used least recently.
  * A cookie counts only where it stands once and has the form of a secret. Any page of this machine can plant a cookie
    beside ours (cookies ignore ports), so a wrong one is no credential rather than a wrong credential.

Not here: randomness and the clock (``api.console_access``), who may use a session (``rules.identity``).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

SECRET_BYTES: Final = 32
CODE_LIFE_S: Final = 60.0
CODES_MOST: Final = 4
IDLE_LIMIT_S: Final = 30 * 60.0
LIFE_LIMIT_S: Final = 12 * 3600.0
SESSIONS_MOST: Final = 8

_SECRET = re.compile(rb"[A-Za-z0-9_-]{43}")
"""32 bytes in the URL's alphabet, without padding."""
_CODE_FIELD: Final = b"code="
CODE_BODY_BYTES: Final = len(_CODE_FIELD) + 43


class Carrier(StrEnum):
    """How a session travels. A cookie reaches every port of this machine, so it needs the user's proof beside it."""

    COOKIE = "cookie"
    HEADER = "header"


class Session(Struct, frozen=True):
    """One open console. ``name`` is the SHA-256 of its secret; times are seconds of one steady clock."""

    name: bytes
    csrf: str
    carrier: Carrier
    opened_at_s: float
    used_at_s: float


Sessions = Mapping[bytes, Session]
Codes = Mapping[bytes, float]
"""The SHA-256 of each code that is still good, with the time it was made."""


def named(secret: bytes) -> bytes:
    """What a secret is known by."""
    return hashlib.sha256(secret).digest()


def living(sessions: Sessions, now_s: float) -> dict[bytes, Session]:
    """Those that have not ended."""
    return {
        name: session
        for name, session in sessions.items()
        if 0 <= now_s - session.used_at_s < IDLE_LIMIT_S and 0 <= now_s - session.opened_at_s < LIFE_LIMIT_S
    }


def with_session(sessions: Sessions, new: Session, now_s: float) -> dict[bytes, Session]:
    """``new`` beside the living ones; those used least recently make room."""
    kept = living(sessions, now_s)
    for name in sorted(kept, key=lambda name: kept[name].used_at_s)[: max(0, len(kept) + 1 - SESSIONS_MOST)]:
        del kept[name]
    return {**kept, new.name: new}


def used(sessions: Sessions, name: bytes, now_s: float) -> dict[bytes, Session]:
    """The session of that name was used now; an unknown one stays unknown."""
    found = sessions.get(name)
    return dict(sessions) if found is None else {**sessions, name: replace(found, used_at_s=now_s)}


def good_codes(codes: Codes, now_s: float) -> dict[bytes, float]:
    """Those that still open."""
    return {name: made_at_s for name, made_at_s in codes.items() if 0 <= now_s - made_at_s < CODE_LIFE_S}


def with_code(codes: Codes, name: bytes, now_s: float) -> dict[bytes, float]:
    """One more; the oldest make room."""
    kept = sorted(good_codes(codes, now_s).items(), key=lambda item: item[1])[-(CODES_MOST - 1) :]
    return {**dict(kept), name: now_s}


def redeem(codes: Codes, code: bytes, now_s: float) -> tuple[dict[bytes, float], bool]:
    """The codes that are left, and whether ``code`` was one of them."""
    left = good_codes(codes, now_s)
    return left, left.pop(named(code), None) is not None


def code_of(body: bytes) -> bytes:
    """The code in the one form that a redirect file sends it (``code=`` and 43 characters), else ``b""``."""
    code = body.removeprefix(_CODE_FIELD)
    return code if len(body) == CODE_BODY_BYTES and _SECRET.fullmatch(code) and body.startswith(_CODE_FIELD) else b""


def same_csrf(session: Session, given: str) -> bool:
    """Whether a form comes from a page of this very session."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), session.csrf.encode())


# --- how a secret travels --------------------------------------------------------------------------------------------


def cookie_name(web_port: int) -> str:
    """``__Host-``: no other host name may set it, nor a page that the browser distrusts. The port keeps hosts apart."""
    return f"__Host-rumi-{web_port}"


def set_cookie(web_port: int, secret: str) -> str:
    """The header's value: until the browser ends, for scripts out of reach, never sent along from other sites."""
    return f"{cookie_name(web_port)}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict"


def clear_cookie(web_port: int) -> str:
    """The header's value that makes the browser forget it."""
    return f"{cookie_name(web_port)}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"


def secret_in_cookies(headers: tuple[bytes, ...], web_port: int) -> bytes:
    """The secret of our cookie, ``b""`` where it is absent, repeated or of another form."""
    wanted = cookie_name(web_port).encode()
    pairs = (part.strip(b" \t").partition(b"=") for header in headers for part in header.split(b";"))
    found = [value for name, _, value in pairs if name == wanted]
    return found[0] if len(found) == 1 and _SECRET.fullmatch(found[0]) else b""


def secret_in_header(values: tuple[bytes, ...]) -> bytes:
    """The secret of the one header, ``b""`` where it is repeated or of another form."""
    return values[0] if len(values) == 1 and _SECRET.fullmatch(values[0]) else b""
