"""A plain relay of bytes in front of an engine's socket, so that tests can reach it as others would: over TCP on the
loopback, or as an ordinary user in the group of a socket. Half-closed connections stay half-closed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 65_536


class Relay:
    """Accepts on `listener` and copies both ways to the Unix socket `target` until it is closed."""

    def __init__(self, listener: socket.socket, target: str) -> None:
        self._listener = listener
        self._target = target
        self._held: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.served = 0

    def close(self) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            held = list(self._held)
        for one in held:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(self._target)
            except OSError:
                near.close()
                far.close()
                continue
            with self._lock:
                self._held |= {near, far}
                self.served += 1
            thread = threading.Thread(target=self._serve, args=(near, far), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=_copy, args=(far, near), daemon=True)
        back.start()
        _copy(near, far)
        back.join()
        with self._lock:
            self._held -= {near, far}
        near.close()
        far.close()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _path_of(engine: str) -> str:
    assert engine.startswith("unix://"), f"a relay leads to an engine on this machine, got {engine}"
    return engine.removeprefix("unix://")


@contextlib.contextmanager
def over_tcp(engine: str) -> Iterator[str]:
    """`tcp://127.0.0.1:PORT` of an engine on a Unix socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    relay = Relay(listener, _path_of(engine))
    try:
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        relay.close()


@contextlib.contextmanager
def for_group(engine: str, folder: Path, gid: int) -> Iterator[str]:
    """`unix://…` of a socket that root and the group `gid` may use, as an engine's own socket is."""
    path = folder / "engine.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chown(path, 0, gid)
    path.chmod(0o660)
    listener.listen(64)
    relay = Relay(listener, _path_of(engine))
    try:
        yield f"unix://{path}"
    finally:
        relay.close()
        path.unlink()
