"""A plain relay of bytes in front of an engine's socket, so that tests can reach it as others would: over TCP on the
loopback, or as an ordinary user in the group of a socket. Half-closed connections stay half-closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
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
        self.address = ""
        self._attached: list[socket.socket] = []

    def cut_attached(self) -> int:
        """End each connection that a container's stdio is attached to, and no other; how many those were."""
        with self._lock:
            cut, self._attached = self._attached, []
        for one in cut:
            with contextlib.suppress(OSError):  # it has ended
                one.shutdown(socket.SHUT_RDWR)
        return len(cut)

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
        _copy(near, far, lambda data: self._sent(near, data))
        back.join()
        with self._lock:
            self._held -= {near, far}
            if near in self._attached:
                self._attached.remove(near)
        near.close()
        far.close()

    def _sent(self, near: socket.socket, data: bytes) -> None:
        line, _, _ = data[:300].partition(b"\r\n")
        if line.startswith(b"POST ") and b"/attach?" in line:
            with self._lock:
                self._attached.append(near)


def _copy(source: socket.socket, sink: socket.socket, seen: Callable[[bytes], None] = lambda _: None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK_BYTES):
            seen(data)
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _path_of(engine: str) -> str:
    assert engine.startswith("unix://"), f"a relay leads to an engine on this machine, got {engine}"
    return engine.removeprefix("unix://")


@contextlib.contextmanager
def running(engine: str) -> Iterator[Relay]:
    """One in front of an engine on a Unix socket; its `address` is `tcp://127.0.0.1:PORT`."""
    listener = socket.create_server(("127.0.0.1", 0))
    relay = Relay(listener, _path_of(engine))
    relay.address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield relay
    finally:
        relay.close()


@contextlib.contextmanager
def over_tcp(engine: str) -> Iterator[str]:
    """`tcp://127.0.0.1:PORT` of an engine on a Unix socket."""
    with running(engine) as relay:
        yield relay.address


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


# ---- with TLS, as an engine on another machine asks for it


def make_certificates(folder: Path, authority: str = "ca") -> None:
    """`ca.pem`, a server's pair for 127.0.0.1 and a client's `cert.pem`, `key.pem`, all new."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    folder.mkdir(parents=True, exist_ok=True)
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-days", "2", "-subj", f"/CN={authority}")
    for name, usage, files in (
        ("server", "serverAuth\nsubjectAltName=IP:127.0.0.1", ("server-key.pem", "server.pem")),
        ("client", "clientAuth", ("key.pem", "cert.pem")),
    ):
        (folder / "ext").write_text(f"extendedKeyUsage={usage}\n")
        openssl("req", "-new", *key, "-keyout", files[0], "-out", "request.pem", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-out", files[1], "-days", "2", "-extfile", "ext")  # fmt: skip


@contextlib.contextmanager
def over_tls(engine: str, certificates: Path) -> Iterator[str]:
    """`tcp://127.0.0.1:PORT` of an engine; only clients with a certificate of that authority get through."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "server.pem", certificates / "server-key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    target = _path_of(engine)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # clients without a certificate are this relay's purpose
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(target)
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    async def start() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        mine = asyncio.current_task()
        left = [task for task in asyncio.all_tasks() if task is not mine]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
