"""Files that carry a one-time code into the operator's browser: one page with one form, readable by its owner only.

A code on a command line is seen by every user of the machine, one in an address stays in the browser's history. A file
of mode 0600 is opened by the browser of the user who may read it, and its form sends the code in a request's body.

Invariants:
  * The folder is a real one of this user with mode 0700, or nothing is written. Each file is new (``O_EXCL``), under a
    name nobody could foresee; no link is followed.
  * The page runs one script that only its own hash admits, sends to one address, and loads nothing.

It lies below ``user_data`` rather than in the run folder: browsers that are confined by their packaging read neither
``/run`` nor ``/tmp``. Not here: codes and their life (``api.console_access``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import os
import secrets
import stat
from pathlib import Path

from backend_core.errors import HostError, TrustError
from backend_core.files import write_all

_NAME = "open-{}.html"
_SCRIPT = "document.forms[0].submit()"
_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'sha256-{hash}'; form-action {url}">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>Rumi</title>
</head>
<body>
<form method="post" action="{url}">
<input type="hidden" name="code" value="{code}">
<button>Open the console / <span lang="ja">コンソールを開く</span></button>
</form>
<script>{script}</script>
</body>
</html>
"""


class RedirectFiles:
    """All files of one folder. Every method may block for a moment on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, url: str, code: str) -> Path:
        """A new file whose form posts ``code`` to ``url``.

        Raises:
            TrustError: ``redirect_folder_unsafe``: somebody else made the folder, or others may enter it.
            HostError: it can't be written. Nothing is left then.
        """
        page = _PAGE.format(hash=_HASH, url=html.escape(url), code=html.escape(code), script=_SCRIPT).encode()
        path = self._folder / _NAME.format(secrets.token_hex(8))
        try:
            self._prepare()
            self._write(path, page)
        except OSError as error:
            raise HostError(
                "The file that opens the console can't be written",
                code="redirect_unwritable",
                detail=f"{path.parent}: {error.strerror or error}",
                hint="Look at the folder's owner and free space.",
            ) from error
        return path

    def remove(self, path: Path) -> None:
        """Whether it is still there or not."""
        with contextlib.suppress(OSError):  # it holds a code of one use that is over soon
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a run that was killed left behind: its codes are dead."""
        for path in self._folder.glob(_NAME.format("*")):
            self.remove(path)

    def _prepare(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        if os.name != "posix":
            return
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise TrustError(
                "The folder of the file that opens the console is not private",
                code="redirect_folder_unsafe",
                detail=f"{self._folder} must be a folder of user {os.getuid()} with mode 0700; "
                f"it belongs to {found.st_uid} with mode {stat.filemode(found.st_mode)}",
                hint=f"Find out who made {self._folder}, remove it, then: ./rumi open",
            )

    def _write(self, path: Path, page: bytes) -> None:
        """Through the folder's descriptor where the system has that: what was checked is what is written to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        if os.open not in os.supports_dir_fd:
            _fill(os.open(path, flags, 0o600), page)
            return
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            try:
                _fill(os.open(path.name, flags, 0o600, dir_fd=folder), page)
            except BaseException:
                with contextlib.suppress(OSError):  # what led here is raised
                    os.unlink(path.name, dir_fd=folder)
                raise
        finally:
            os.close(folder)


def _fill(fd: int, page: bytes) -> None:
    try:
        write_all(fd, page)
    finally:
        os.close(fd)
