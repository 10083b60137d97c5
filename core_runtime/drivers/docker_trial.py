"""The probe's container: it runs under the production settings, and proves that the bus gets in and out of it.

It prints what its Python is and what the kernel says of it to stderr, then sends a word of the host's back over the
bus.

Not here: what follows from it (``docker_engine``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

from msgspec import Struct

from backend_core.errors import SandboxUnavailable, quote
from core_runtime.drivers.docker_sandbox import DockerSandbox
from core_runtime.drivers.runtime_folder import ABI_QUESTION
from core_runtime.ports import TRIAL_PREFIX, Exit
from core_runtime.rules.docker_transport import Transport
from core_runtime.rules.sandbox import SOCKET_MOUNT

TRIAL_S = 60.0
BACKLOG = 1
_BUS = {
    Transport.SOCKET: (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({SOCKET_MOUNT!r}); i = o = s.makefile('rwb', 0)"
    ),
    Transport.STDIO: "i, o = os.fdopen(os.dup(0), 'rb', 0), os.fdopen(os.dup(1), 'wb', 0)",
}


class Answer(Struct, frozen=True):
    """What the container said. ``echoed``: the word came back; ``visible``: the host could look at it while it ran."""

    abi: str
    status: dict[str, str]
    ended: Exit
    output: str
    echoed: bool
    visible: bool

    @property
    def kernel(self) -> str:
        """Release of the kernel that it ran on."""
        return self.status.get("Kernel", "")

    def passed(self, *, guest: bool) -> bool:
        """Whether it ran as it must. ``guest``: on a kernel of its own, whose word on filters is its own matter."""
        filtered = self.status.get("Seccomp") == "2" and self.status.get("NoNewPrivs") == "1"
        return (filtered or guest) and self.echoed and self.ended.code == 0

    def failure(self) -> SandboxUnavailable:
        """Why it did not."""
        bus = "" if self.echoed else "; the bus did not get through"
        said = quote(self.output.strip()[-300:], 300)
        return SandboxUnavailable(
            "A trial container did not run under our settings",
            detail=f"{self.ended.cause} {self.ended.code} {self.ended.detail}{bus}; it said {said}",
            hint="rumi doctor",
        )


def command(transport: Transport) -> list[str]:
    """Arguments of the trial's Python."""
    report = f"import os, sys; sys.stdout = sys.stderr; {ABI_QUESTION}; print('Kernel:\\t' + os.uname().release); "
    report += "print(open('/proc/self/status').read(), flush=True)"
    return ["-I", "-S", "-c", f"{report}; {_BUS[transport]}; o.write(i.readline())"]


class Place:
    """The folder of one trial, with the socket that its container connects to."""

    def __init__(self, folder: Path, listener: socket.socket | None) -> None:
        self.folder = folder
        self._listener = listener
        self._visible = False

    @property
    def socket_path(self) -> str:
        """Short, since a socket's path has at most 107 bytes."""
        return str(self.folder / "s")

    async def ask(self, sandbox: DockerSandbox) -> Answer:
        """Send the word, wait for the end."""
        word = f"{secrets.token_hex(8)}\n".encode()
        echo = asyncio.ensure_future(self._echo(sandbox, word))
        try:
            ended = await asyncio.wait_for(sandbox.wait(), TRIAL_S)
        except TimeoutError:
            ended = await sandbox.stop(0)
        with contextlib.suppress(TimeoutError, OSError):  # then it did not echo, which is the finding
            await asyncio.wait_for(asyncio.shield(echo), 1.0)
        echoed = echo.done() and not echo.cancelled() and echo.exception() is None and echo.result() == word
        echo.cancel()
        await asyncio.gather(echo, return_exceptions=True)
        output = await sandbox.output_tail()
        first, _, rest = output.partition("\n")
        status = dict(line.partition(":\t")[::2] for line in rest.splitlines())
        return Answer(first, status, ended, output, echoed, self._visible)

    async def _echo(self, sandbox: DockerSandbox, word: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        attached = sandbox.connection()
        if attached is not None:
            echo = _Echo(len(word))
            attached.serve(echo)
            self._visible = await sandbox.visible()  # it waits for the word, so it runs
            return await echo.of(word)
        if self._listener is None:
            return b""
        connection, _ = await loop.sock_accept(self._listener)
        connection.setblocking(False)
        with connection:
            self._visible = await sandbox.visible()
            await loop.sock_sendall(connection, word)
            got = b""
            while len(got) < len(word) and (data := await loop.sock_recv(connection, 64)):
                got += data
            return got


class _Echo:
    """Port ``BusReader``: one word there and back."""

    def __init__(self, size: int) -> None:
        self._buffer = memoryview(bytearray(size + 1))  # never without room: what is longer is no echo either
        self._got = 0
        self._done = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    async def of(self, word: bytes) -> bytes:
        """What comes back."""
        assert self._transport is not None, "it is served before"
        self._transport.write(word)
        await self._done
        self._transport.close()
        return bytes(self._buffer[: self._got])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Port ``BusReader``."""
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  the port's signature
        """Port ``BusReader``."""
        return self._buffer[min(self._got, len(self._buffer) - 1) :]

    def carried(self, nbytes: int, *, full: bool, began: float) -> None:  # noqa: ARG002  the port's signature
        """Port ``BusReader``."""
        self._got = min(self._got + nbytes, len(self._buffer))
        if self._got >= len(self._buffer) - 1:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the port's signature
        """Port ``BusReader``."""
        self._finish()

    def pause_writing(self) -> None:
        """Port ``BusReader``: a word is little."""

    def resume_writing(self) -> None:
        """Port ``BusReader``."""

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


@contextlib.asynccontextmanager
async def place(state_dir: Path, transport: Transport) -> AsyncIterator[Place]:
    """A folder for one trial; gone afterwards."""
    folder = await asyncio.to_thread(_folder, state_dir)
    listener = _listen(folder / "s") if transport is Transport.SOCKET else None
    try:
        yield Place(folder, listener)
    finally:
        if listener is not None:
            listener.close()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _folder(state_dir: Path) -> Path:
    state_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=TRIAL_PREFIX, dir=state_dir))
    for name in ("pack", "runtime"):
        (folder / name).mkdir(mode=0o755)
    return folder


def _listen(path: Path) -> socket.socket:
    """For everybody who reaches it, which is the container: the folder is ours alone."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
