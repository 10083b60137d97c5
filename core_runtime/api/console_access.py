"""Who has the console open: its sessions, the codes that open one, and what each is to be told on its next page.

Invariants:
  * Everything is in memory and ends with the host. Only a code's file is on the disk, until it is used or too old.
  * Wrong codes are counted apart for the proven owner and for everybody else, and answered at a limited rate: beyond it
    no code is even compared.
  * Time is that of the machine since its start, sleep included where the system tells: neither setting the clock nor
    closing the lid makes a session last longer.

Not here: the rules (``rules.sessions``, ``rules.identity``), pages (the console). Used on the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from core_runtime.drivers.redirect_file import RedirectFiles
from core_runtime.rules import sessions as rules
from core_runtime.rules.identity import OPEN_PATH, Refuse
from core_runtime.rules.rate import Bucket, Rate, take, wait_s
from core_runtime.rules.sessions import Carrier, Session

WRONG_CODES = Rate(per_second=0.5, burst=5.0)
_HINT = "Open the console with: ./rumi open"


def since_boot_s() -> float:
    """Seconds since the machine started, also those that it slept, where the system counts them."""
    with contextlib.suppress(AttributeError, OSError):  # a system without that clock
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class Invitation(Struct, frozen=True):
    """The file to open in a browser, the address that it leads to, and for how long."""

    path: Path
    url: str
    expires_in_s: float


class Opened(Struct, frozen=True):
    """A session that has just begun: its secret leaves the host once, in this answer."""

    session: Session
    secret: str


class _Told(Struct):
    """What a session is told on its next page."""

    notices: list[Mapping[str, Any]] = field(default_factory=list)


class ConsoleAccess:
    """One per host."""

    def __init__(self, folder: Path, web_port: int, *, clock: Callable[[], float] = since_boot_s) -> None:
        self._files = RedirectFiles(folder)
        self._web_port = web_port
        self._clock = clock
        self._codes: rules.Codes = {}
        self._paths: dict[bytes, Path] = {}
        self._sessions: rules.Sessions = {}
        self._told: dict[bytes, _Told] = {}
        self._wrong: dict[bool, Bucket] = {}
        self._cleared = False

    @property
    def web_port(self) -> int:
        """The port whose name the cookie carries."""
        return self._web_port

    async def invite(self) -> Invitation:
        """A new one-time code in a file of its own. Raises what writing it raises; no code is left then."""
        url = f"http://localhost:{self._web_port}{OPEN_PATH}"
        code = secrets.token_urlsafe(rules.SECRET_BYTES)
        name = rules.named(code.encode())
        if not self._cleared:
            await asyncio.to_thread(self._files.clear)
            self._cleared = True
        path = await asyncio.to_thread(self._files.write, url, code)
        self._codes = rules.with_code(self._codes, name, self._clock())
        self._paths[name] = path
        self._drop_files()
        return Invitation(path, url, rules.CODE_LIFE_S)

    def open(self, code: bytes, *, proven: bool) -> Opened | Refuse:
        """Use a code up. ``proven``: the connection is the owner's, so that a cookie will do."""
        now_s = self._clock()
        bucket = self._wrong.get(proven)
        admitted, after = take(bucket, WRONG_CODES, now_s)
        if not admitted:
            return Refuse(
                429, "too_many_codes", "Too many wrong codes",
                f"the next one is looked at in {wait_s(after, WRONG_CODES):.0f} s", _HINT,
            )  # fmt: skip
        self._codes, good = rules.redeem(self._codes, code, now_s)
        self._drop_files()
        if not good:
            self._wrong[proven] = after
            return Refuse(
                401, "code_wrong", "This code does not open the console",
                f"a code works once, for {rules.CODE_LIFE_S:.0f} s, for the host that made it", _HINT,
            )  # fmt: skip
        secret = secrets.token_urlsafe(rules.SECRET_BYTES)
        session = Session(
            rules.named(secret.encode()), secrets.token_urlsafe(rules.SECRET_BYTES),
            Carrier.COOKIE if proven else Carrier.HEADER, now_s, now_s,
        )  # fmt: skip
        self._sessions = rules.with_session(self._sessions, session, now_s)
        return Opened(session, secret)

    def living(self) -> rules.Sessions:
        """The sessions that have not ended."""
        if self._sessions:
            self._sessions = rules.living(self._sessions, self._clock())
        return self._sessions

    def use(self, session: Session) -> None:
        """The gate admitted a request of it."""
        self._sessions = rules.used(self._sessions, session.name, self._clock())

    def end(self, session: Session) -> None:
        """It counts for nothing from now on."""
        self._sessions = {name: kept for name, kept in self._sessions.items() if name != session.name}
        self._told.pop(session.name, None)

    def cookie_session(self, cookies: tuple[bytes, ...]) -> Session | None:
        """The session that a browser's cookie names, to end it when a new one is opened there."""
        secret = rules.secret_in_cookies(cookies, self._web_port)
        return self.living().get(rules.named(secret)) if secret else None

    def tell(self, session: Session, notice: Mapping[str, Any]) -> None:
        """Show this on the session's next page, once."""
        told = self._told.setdefault(session.name, _Told())
        told.notices = [*told.notices, notice][-5:]

    def told(self, session: Session) -> list[Mapping[str, Any]]:
        """What was to be told, which is told by this."""
        found = self._told.pop(session.name, None)
        return found.notices if found is not None else []

    def sweep(self) -> None:
        """Called once a second: files of codes that are too old go, and what ended sessions were to be told."""
        if self._codes:
            self._codes = rules.good_codes(self._codes, self._clock())
        if self._paths:
            self._drop_files()
        if self._told:
            self._told = {name: told for name, told in self._told.items() if name in self.living()}

    def close(self) -> None:
        """The host ends: no file with a code outlives it."""
        self._codes, self._sessions = {}, {}
        self._drop_files()

    def _drop_files(self) -> None:
        for name in [name for name in self._paths if name not in self._codes]:
            self._files.remove(self._paths.pop(name))
