"""Listening sockets on this machine only: both loopback families of a port, and the command-line tool's Unix socket.

Invariants:
  * Every loopback family that the machine has is bound, or nothing is: a browser turns ``localhost`` into either, and
    whoever holds the other one receives its traffic.
  * The API port never moves; the web port may, and the caller is told.
  * The run folder is a real folder of this user with mode 0700, or it is not used. One host per run folder, by a lock
    that the kernel drops when the process ends.

Not here: who may use what is accepted (``drivers.peer``, ``rules.identity``).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from backend_core.errors import HostError

BACKLOG = 256
WEB_PORT_TRIES = 20
_LOCK_NAME = "host.lock"
_LOCK_TRIES = 5
_FAMILIES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPFNOSUPPORT, errno.EPROTONOSUPPORT}


def loopback_families() -> list[tuple[socket.AddressFamily, str]]:
    """The loopback addresses that this machine has, found by binding a port of the system's choice."""
    return [(family, address) for family, address in _FAMILIES if _has(family, address)]


def bind_port(port: int) -> list[socket.socket]:
    """Listening, non-blocking sockets on every loopback family. Raises ``HostError``; nothing stays bound then."""
    with contextlib.ExitStack() as undo:
        sockets = []
        for family, address in loopback_families():
            try:
                sockets.append(undo.enter_context(_listen(family, address, port)))
            except OSError as exc:
                raise _taken(port, address, exc) from exc
        if not sockets:
            raise HostError(
                "No loopback address",
                code="loopback_missing",
                detail="neither 127.0.0.1 nor ::1 can be bound",
                hint="Bring the loopback interface up: ip link set lo up",
            )
        undo.pop_all()
    return sockets


def bind_first_free(port: int, *, avoid: int, tries: int = WEB_PORT_TRIES) -> tuple[int, list[socket.socket]]:
    """Like ``bind_port``, but a taken port gives way to the next free one, never to ``avoid``."""
    last: HostError | None = None
    for candidate in range(port, min(port + tries, 65536)):
        if candidate == avoid:
            continue
        try:
            return candidate, bind_port(candidate)
        except HostError as exc:
            if exc.code != "port_taken":
                raise
            last = exc
    raise HostError(
        "No free port for the web pages", code="port_taken",
        detail=f"ports {port} to {min(port + tries, 65536) - 1} are all taken",
        hint="Choose another with --web-port N.",
    ) from last  # fmt: skip


def bind_unix(path: Path) -> tuple[socket.socket, Callable[[], None]]:
    """Make the run folder, lock it and listen at ``path`` in it; also what gives it all back."""
    folder = path.parent
    lock = _lock(folder)
    try:
        path.unlink(missing_ok=True)  # left by a run that was killed: the lock says that nobody serves it
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(path))
            path.chmod(0o600)
            sock.listen(BACKLOG)
            sock.setblocking(False)
        except BaseException:
            sock.close()
            raise
    except OSError as exc:
        os.close(lock)
        raise HostError(
            "The command-line socket can't be made",
            code="socket_failed",
            detail=f"{path}: {exc.strerror or exc}",
            hint="Look at the folder's owner and free space, or choose another RUMI_HOME.",
        ) from exc

    def give_back() -> None:
        sock.close()
        # The lock is still held: whoever waits for it finds that its name is gone and makes a new one.
        for made in (path, folder / _LOCK_NAME):
            made.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put something else there; it is not ours to remove
            folder.rmdir()
        os.close(lock)

    return sock, give_back


def private_folder(folder: Path) -> None:
    """Make ``folder`` with mode 0700, or accept the one that is there if it is ours and closed."""
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as exc:
        raise _run_dir_failed(folder, exc) from exc
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise HostError(
            "The run folder is not private",
            code="run_dir_unsafe",
            detail=f"{folder} must be a folder of user {os.getuid()} with mode 0700; "
            f"it belongs to {found.st_uid} with mode {stat.filemode(found.st_mode)}",
            hint=f"Find out who made {folder}, remove it, start again.",
        )


def _run_dir_failed(path: Path, exc: OSError) -> HostError:
    return HostError(
        "The run folder can't be made",
        code="run_dir_failed",
        detail=f"{path}: {exc.strerror}",
        hint="Set XDG_RUNTIME_DIR to a private folder of yours.",
    )


def supports_unix() -> bool:
    """Whether asyncio serves Unix sockets here."""
    return hasattr(socket, "AF_UNIX") and sys.platform != "win32"


def _has(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError as exc:
        if exc.errno in _ABSENT:
            return False
        raise HostError(
            "A loopback address can't be bound", code="loopback_failed", detail=f"{address}: {exc.strerror}",
            hint="Both families are needed: another user could otherwise answer in the host's place.",
        ) from exc  # fmt: skip
    return True


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # There, "reuse" would let a second process take the port over.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Here it only ignores old connections of a finished run; a listening socket still refuses a second one.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def _taken(port: int, address: str, exc: OSError) -> HostError:
    if exc.errno == errno.EACCES:
        return HostError(
            "The port needs more rights",
            code="port_refused",
            detail=f"{address} port {port}: {exc.strerror}",
            hint="Choose a port above 1023.",
        )
    return HostError(
        "The port is taken",
        code="port_taken",
        detail=f"{address} port {port}: {exc.strerror}. Every loopback address of this machine must be free.",
        hint=f"See who holds it (ss -ltnp 'sport = :{port}'), stop it, or choose another port.",
    )


def _lock(folder: Path) -> int:
    """Hold the folder's lock file, and be sure that it is still the one that has this name."""
    path = folder / _LOCK_NAME
    for _ in range(_LOCK_TRIES):
        private_folder(folder)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue  # the host that is just ending removed the folder in between
        except OSError as exc:
            raise _run_dir_failed(path, exc) from exc
        if _locked(lock) and _same_file(lock, path):
            return lock
        os.close(lock)
    raise HostError(
        "A host of this home is already running",
        code="already_running",
        detail=f"{folder} is locked",
        hint="Use it, or stop it first (rumi down). Another home: RUMI_HOME=DIR.",
    )


def _locked(lock: int) -> bool:
    import fcntl  # noqa: PLC0415 - absent on Windows, where there is no Unix socket either

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same_file(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        return False
