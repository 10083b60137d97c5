"""Real sandboxes for the isolation suites: either driver, a stand-in agent inside, plain function calls outside.

A `Cell` is one running sandbox. `cell.run(source)` executes Python source in it and returns what it assigned to `answer`,
or raises `InsideError` with the text of the exception. The event loop runs in a thread, so that tests stay plain.
"""

import ast
import asyncio
import concurrent.futures
import contextlib
import json
import os
import secrets
import shutil
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from core_runtime.containers import _admit, socket_name
from core_runtime.drivers.bubblewrap import BubblewrapDriver
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.drivers.runtime_folder import AGENT_SOURCE, RuntimeFolder
from core_runtime.drivers.tree import read_tree
from core_runtime.rules.sandbox import DriverKind, Limits, SandboxSpec
from tests.support import engine, relay

STANDIN = Path(__file__).with_name("sandbox_standin.py")
DOCKER = pytest.param("docker", marks=pytest.mark.docker)
EMBEDDED = pytest.param("embedded", marks=pytest.mark.embedded)
DRIVERS = [DOCKER, EMBEDDED]
STDIO = pytest.param("docker-stdio", marks=pytest.mark.docker)
TRANSPORTS = [*DRIVERS, STDIO]
"""Docker twice: with a mounted socket, and reached over TCP, where the bus runs over the container's attached stdio."""
GVISOR = pytest.param("docker-gvisor", marks=pytest.mark.gvisor)
"""Docker with a kernel of its own for each sandbox, into which Debian's runtime mounts no socket: attached stdio too."""
EVERYWHERE = [*TRANSPORTS, GVISOR]
DEADLINE_S = 60.0


class InsideError(Exception):
    """Code inside raised."""


class Loop:
    """An event loop in a thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def __call__(self, coroutine, timeout_s=DEADLINE_S):
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            future.cancel()
            raise

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()


class Yard:
    """A driver with its folders. `home` lies below a 0700 folder: no dropped uid can pass it."""

    def __init__(self, kind, *, installation=None, **options):
        self.run = Loop()
        self.name = kind
        self.kind = DriverKind(kind.partition("-")[0])
        self._held = contextlib.ExitStack()
        if kind == "docker-stdio":
            options["url"] = self._held.enter_context(relay.over_tcp(engine.address()))
        elif kind == "docker-gvisor":
            options = {"url": engine.with_gvisor(), "runtime": "runsc", "transport": "stdio"} | options
        self.base = Path(tempfile.mkdtemp(prefix="rumi-test-"))  # 0700
        self.state = Path(tempfile.mkdtemp(prefix="rumi-t-", dir="/run" if os.geteuid() == 0 else None))
        self.state.chmod(0o711)
        self.installation = installation or secrets.token_hex(8)  # several suites share this machine
        driver = DockerDriver if self.kind is DriverKind.DOCKER else BubblewrapDriver
        self.driver = driver(self.installation, self.state, **options)
        self.status = self.run(self.driver.probe())
        self.pack = self.base / "pack"
        self.pack.mkdir()
        (self.pack / "marker.txt").write_text("approved")
        self.pack.chmod(0o755)
        self._generation = 0
        self._first_uid = 200_000 + 100 * secrets.randbelow(600)  # limits count per uid, whoever else runs

    def spec(self, *, pack_id="hello", limits=None, uid=None):
        self._generation += 1
        runtime = RuntimeFolder(self.base / "runtime", agent=self._agent()).build(self.run(self.driver.python()))
        own = uid or (
            self._first_uid + self._generation if os.geteuid() == 0 or self.kind is DriverKind.DOCKER else os.geteuid()
        )
        return SandboxSpec(
            pack_id=pack_id,
            generation=self._generation,
            installation_id=self.installation,
            uid=own,
            gid=own if own != os.geteuid() else os.getegid(),
            pack_dir=str(self.pack),
            runtime_dir=str(runtime),
            socket_path=str(self.state / socket_name(pack_id, self._generation)),
            digest=read_tree(self.pack).digest,
            limits=limits or Limits(),
        )

    def _agent(self):
        """The stand-in with the wall that the agent itself puts up: its functions, word for word."""
        path = self.base / "agent/standin.py"
        if not path.exists():
            real = AGENT_SOURCE.read_text(encoding="utf-8")
            tree = ast.parse(real)
            found = {node.name: ast.get_source_segment(real, node) for node in tree.body if isinstance(node, ast.FunctionDef)}
            walls = "\n\n\n".join(found[name] for name in ("apply_landlock", "c_function"))
            head = "from __future__ import annotations\nimport posix\nfrom struct import Struct\n"
            path.parent.mkdir()
            path.write_text(f"{head}{STANDIN.read_text(encoding='utf-8')}\n\n{walls}\n", encoding="utf-8")
        return path

    def cell(self, **options):
        return Cell(self, self.spec(**options))

    def close(self):
        self.run(self.driver.close())
        self.run.close()
        self._held.close()
        shutil.rmtree(self.base)
        shutil.rmtree(self.state)


class Streaming(asyncio.StreamReaderProtocol):
    """What reads an attached bus, for `streams`."""

    def get_buffer(self, _sizehint):
        self.room = memoryview(bytearray(65_536))
        return self.room

    def carried(self, nbytes, *, full, began):
        self.data_received(bytes(self.room[:nbytes]))


def streams(connection, limit):
    """Reader and writer over a bus that a sandbox was started with."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = Streaming(reader, loop=loop)
    connection.serve(protocol)
    return reader, asyncio.StreamWriter(protocol._transport, protocol, reader, loop)


class Cell:
    """One running sandbox."""

    def __init__(self, yard, spec):
        self.yard, self.spec = yard, spec
        self.sandbox: Any = None
        self.probe: dict[str, Any] = {}
        yard.run(self._start())

    def run(self, source, timeout_s=30.0):
        reply = self.yard.run(self._ask(textwrap.dedent(source)), timeout_s)
        if "error" in reply:
            raise InsideError(reply["error"])
        return reply["ok"]

    def close(self):
        ended = self.yard.run(self.sandbox.stop(0))
        self.yard.run(self._close())
        return ended

    async def _start(self):
        connected = asyncio.get_running_loop().create_future()

        async def arrived(reader, writer):
            connected.set_result((reader, writer))

        self._server = None
        try:
            if not self.yard.driver.attaches:
                self._server = await asyncio.start_unix_server(arrived, self.spec.socket_path, limit=1 << 24)
                await asyncio.to_thread(_admit, self.spec)
            self.sandbox = await self.yard.driver.start(self.spec)
        except BaseException:
            if self._server is not None:
                self._server.close()
            raise
        if self._server is None:
            connected.set_result(streams(self.sandbox.connection(), limit=1 << 24))
        ended = asyncio.ensure_future(self.sandbox.wait())
        await asyncio.wait([ended, connected], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        if not connected.done():
            raise AssertionError(f"sandbox did not connect: {ended}, {await self.sandbox.output_tail()}")
        ended.cancel()
        self._reader, self._writer = connected.result()
        self.probe = json.loads(await self._reader.readline())["ok"]

    async def _ask(self, source):
        self._writer.write(json.dumps(source).encode() + b"\n")
        await self._writer.drain()
        line = await self._reader.readline()
        if not line:
            raise InsideError("the sandbox is gone")
        return json.loads(line)

    async def _close(self):
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        await asyncio.to_thread(Path(self.spec.socket_path).unlink, missing_ok=True)


@contextlib.contextmanager
def yard(kind, **options):
    """A yard, or a skip that says why this machine can't have one."""
    made = Yard(kind, **options)
    try:
        if not made.status.available:
            pytest.skip(f"{kind}: {made.status.reason}")
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def cell(made, **options):
    """A cell that ends with the block."""
    one = made.cell(**options)
    try:
        yield one
    finally:
        one.close()
