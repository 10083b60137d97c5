"""The bearer token of the management API: one file, mode 0600, made when absent, re-read when it changes.

Invariant: a token that anyone else could have read is no token. It is then not usable, and the reason is kept for the
operator; the host goes on, since the owner's own connections need none.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from backend_core.errors import TrustError

TOKEN_LIMIT_BYTES = 256
_SHORTEST_BYTES = 32


class TokenFile:
    """Reads through to the file, so that replacing it takes effect with the next request."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._token = b""
        self.problem: TrustError | None = None

    def ensure(self) -> None:
        """Create the file where there is none. Its folder exists or is made, closed to others."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            target = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return
        with os.fdopen(target, "wb") as file:
            file.write(secrets.token_hex(32).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def current(self) -> bytes:
        """The token, or nothing when there is no usable one (``problem`` says why)."""
        try:
            found = os.lstat(self._path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_mode)
            if seen != self._seen:
                self._token = self._read()
                self._seen, self.problem = seen, None
        except (OSError, TrustError) as exc:
            self._token, self._seen = b"", None
            self.problem = exc if isinstance(exc, TrustError) else self._error(str(exc.strerror))
        return self._token

    def _read(self) -> bytes:
        source = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(source, "rb") as file:
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise self._error("it is not a plain file")
            if os.name == "posix" and (found.st_mode & 0o077 or found.st_uid != os.getuid()):
                raise self._error(
                    f"other users can reach it (mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid})"
                )
            token = file.read(TOKEN_LIMIT_BYTES + 1).strip()
        if not _SHORTEST_BYTES <= len(token) <= TOKEN_LIMIT_BYTES or not token.isalnum():
            raise self._error(f"expected {_SHORTEST_BYTES} to {TOKEN_LIMIT_BYTES} letters and digits")
        return token

    def _error(self, detail: str) -> TrustError:
        return TrustError(
            "The API token can't be used", code="token_unusable", detail=f"{self._path.name}: {detail}",
            hint=f"Remove {self._path}; the host makes a new one at its next start.",
        )  # fmt: skip
