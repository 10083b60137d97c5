"""Programs of the operator's desktop, run without a shell: found in trusted folders only, with a clean environment.

Invariants:
  * A program is one of a fixed list, in a folder that root owns and nobody else may write to; ``PATH`` is not asked.
  * What a Pack sent is one argument after the program's own, or its standard input; never a command, never an option.
  * Its environment holds what a desktop needs to be found (display, session bus, home) and nothing else of the host's.
  * Where there is no such program or no desktop, a ``HostError`` says so; nothing is done in some other way.

Not here: which operations there are and who may have them (``privileges``, ``host_privilege_manager``).
"""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from backend_core.errors import HostError, quote

FOLDERS: Final = (Path("/usr/bin"), Path("/bin"), Path("/usr/local/bin"))
DESKTOP_VARIABLES: Final = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS",
                            "XDG_CURRENT_DESKTOP", "HOME", "LANG")  # fmt: skip
LIMIT_S: Final = 10.0
_NO_DESKTOP: Final[Mapping[str, str]] = {
    "en": "The host was started without a desktop (neither DISPLAY nor WAYLAND_DISPLAY is set).",
    "ja": "ホストはデスクトップなしで起動されました (DISPLAY も WAYLAND_DISPLAY もありません)。",
}


class Desktop:
    """One machine's desktop. ``folders`` and ``environment`` are where to look, for tests of their own programs."""

    def __init__(
        self,
        folders: Sequence[Path] = FOLDERS,
        environment: Mapping[str, str] = os.environ,
        *,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._folders = tuple(folders)
        self._environment = environment
        self._limit_s = limit_s

    def run(
        self, choices: Sequence[Sequence[str]], *, last: str | None = None, data: bytes = b"", lasting: bool = False
    ) -> str:
        """Run the first of ``choices`` (program and its own arguments) that is there; which one it was.

        ``last`` is added as the last argument. ``lasting``: one that has not ended in time did what was asked, and is
        left alone, as a browser that was started by it; any other is ended then.
        """
        found = next(self._found(choices), None)
        lack = self.lack(choices)
        if lack or found is None:
            raise _unavailable(lack.get("en", "The program is gone."))
        path, name, arguments = found
        self._run([str(path), *arguments, *([] if last is None else [last])], data, lasting=lasting)
        return name

    def lack(self, choices: Sequence[Sequence[str]]) -> Mapping[str, str]:
        """Why none of ``choices`` could be run now, a sentence for each language; empty where one could."""
        if not any(self._environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
            return _NO_DESKTOP
        if any(self._found(choices)):
            return {}
        names = ", ".join(choice[0] for choice in choices)
        return {
            "en": f"None of {names} is installed in a trusted folder.",
            "ja": f"{names} のいずれも、信頼できるフォルダーにありません。",
        }

    def _found(self, choices: Sequence[Sequence[str]]) -> Iterator[tuple[Path, str, Sequence[str]]]:
        for name, *arguments in choices:
            path = self._trusted(name)
            if path is not None:
                yield path, name, arguments

    def _trusted(self, name: str) -> Path | None:
        for folder in self._folders:
            path = folder / name
            try:
                found, holder = path.stat(), folder.stat()
            except OSError:  # not in this folder
                continue
            program = stat.S_ISREG(found.st_mode) and found.st_mode & 0o111
            if program and found.st_uid == holder.st_uid == 0 and not (_loose(found) or _loose(holder)):
                return path
        return None

    def _run(self, command: list[str], data: bytes, *, lasting: bool) -> None:
        environment = {name: self._environment[name] for name in DESKTOP_VARIABLES if self._environment.get(name)}
        environment["PATH"] = "/usr/bin:/bin"
        try:
            process = subprocess.Popen(
                command, env=environment, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise _failed(command[0], error.strerror or type(error).__name__) from error
        try:
            process.communicate(data, timeout=self._limit_s)
        except subprocess.TimeoutExpired as error:
            if lasting:
                threading.Thread(target=process.wait, daemon=True, name="a desktop's program").start()
                return
            process.kill()
            process.communicate()
            raise _failed(command[0], f"It did not end within {self._limit_s:g} s.") from error
        if process.returncode:
            raise _failed(command[0], f"It ended with {process.returncode}.")


def _loose(found: os.stat_result) -> bool:
    return bool(found.st_mode & 0o022)


def _unavailable(detail: str) -> HostError:
    return HostError(
        "There is no desktop for this",
        code="desktop_unavailable",
        detail=detail,
        hint="Start the host within a desktop session, or take the privilege away from the Pack.",
    )


def _failed(program: str, detail: str) -> HostError:
    return HostError("The desktop's program failed", code="desktop_failed", detail=f"{quote(program)}: {detail}")
