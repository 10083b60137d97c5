"""Other systems that call a process: MCP's SDK over standard input and output, gRPC and HTTP over a Unix socket.

Their servers run as plain processes, or in the container that a command starts: the libraries are those of the bench's
environment, shown to the container read-only. What is not installed raises ``RuntimeError``.
"""

from __future__ import annotations

import asyncio
import http.client
import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from bench.peers import PYTHON, docker_command
from bench.stand import PAYLOAD

LIBRARIES = sysconfig.get_path("purelib")
START_LIMIT_S = 60.0
FOLDER = "/peer"
"""Where a container finds the socket's folder."""

BARE_HEAD = b"POST / HTTP/1.1\r\nHost: peer\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

MCP_SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("bench", log_level="ERROR")

@server.tool()
def echo(text: str) -> str:
    return text

server.run("stdio")
"""
GRPC_SERVER = """
import grpc
from concurrent.futures import ThreadPoolExecutor

class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)

server = grpc.server(ThreadPoolExecutor(4), handlers=(Echo(),))
server.add_insecure_port("unix:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""
HTTP_SERVER = """
import json, uvicorn

async def app(scope, receive, send):
    body = (await receive())["body"]
    data = json.dumps(json.loads(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})

uvicorn.run(app, uds=sys.argv[1], log_level="error", access_log=False, lifespan="off", http="httptools", loop="uvloop",
            timeout_keep_alive=3600)
"""


def server_command(code: str, isolation: str, folder: str) -> list[str]:
    """Python with the bench's libraries that runs ``code``; for Docker in the Packs' base image."""
    head = f"import sys; sys.path.insert(0, {'/libraries' if isolation == 'docker' else LIBRARIES!r})\n"
    if isolation != "docker":
        return [PYTHON, "-I", "-S", "-c", head + code]
    places = ["-v", f"{LIBRARIES}:/libraries:ro", *(["-v", f"{folder}:{FOLDER}"] if folder else [])]
    shown = [*places, "--user", "0:0", "-i"]
    return docker_command(head + code, *shown)


class Mcp:
    """A tool of the SDK's own server, called by the SDK's own client; both as their documentation shows."""

    def __init__(self, isolation: str) -> None:
        _needed("mcp")
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        try:
            self._runner.run(self._open(server_command(MCP_SERVER, isolation, "")))
        except Exception as error:
            self.close()
            raise RuntimeError(f"the server does not serve: {error}") from error

    async def _open(self, command: list[str]) -> None:
        mcp: Any = importlib.import_module("mcp")
        server = mcp.StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
        async with asyncio.timeout(START_LIMIT_S):
            read, write = await self._stack.enter_async_context(mcp.stdio_client(server))
            self._session = await self._stack.enter_async_context(mcp.ClientSession(read, write))
            await self._session.initialize()

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""
        return self._runner.run(self._calls(n))

    async def _calls(self, n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            await self._session.call_tool("echo", PAYLOAD)
        return time.perf_counter() - start

    def close(self) -> None:
        """End the server."""
        with suppress(Exception):
            self._runner.run(self._stack.aclose())
        self._runner.close()


class _Served:
    """A server on a Unix socket in a folder of its own."""

    def __init__(self, code: str, isolation: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rumi-peer-")
        self.path = f"{self._folder.name}/s"
        inside = f"{FOLDER}/s" if isolation == "docker" else self.path
        command = [*server_command(code, isolation, self._folder.name), inside]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def _await(self) -> None:
        until = time.monotonic() + START_LIMIT_S
        while True:
            with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
                probe.connect(self.path)
                return
            if self._process.poll() is not None or time.monotonic() > until:
                self._process.kill()
                _, said = self._process.communicate()
                raise RuntimeError(f"the server does not serve: {said.decode(errors='replace')[-300:]}")
            time.sleep(0.01)

    def close(self) -> None:
        """End the server. A container ends with its standard input where its program reads it, else by its command."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()


class Grpc(_Served):
    """A unary call of grpcio's own server and client, with JSON bytes as message."""

    def __init__(self, isolation: str) -> None:
        _needed("grpc")
        super().__init__(GRPC_SERVER, isolation)
        grpc: Any = importlib.import_module("grpc")
        self._channel = grpc.insecure_channel(f"unix:{self.path}")
        self._call = self._channel.unary_unary("/bench.Echo/Call")

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""
        start = time.perf_counter()
        for _ in range(n):
            json.loads(self._call(json.dumps(PAYLOAD).encode(), timeout=30))
        return time.perf_counter() - start

    def close(self) -> None:
        """End channel and server."""
        if hasattr(self, "_channel"):
            self._channel.close()
        super().close()


class BareHttp(_Served):
    """A POST over a kept connection to uvicorn, on a Unix socket: less than the port that a container would publish.

    Its client writes and reads by hand: a floor for HTTP, which no client library reaches.
    """

    def __init__(self, isolation: str) -> None:
        super().__init__(HTTP_SERVER, isolation)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(self.path)

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""
        start = time.perf_counter()
        for _ in range(n):
            data = json.dumps(PAYLOAD).encode()
            self._socket.sendall(BARE_HEAD % len(data) + data)
            answer = self._socket.recv(65_536)
            while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
                answer += self._socket.recv(65_536)
            json.loads(answer.split(b"\r\n\r\n", 1)[1])
        return time.perf_counter() - start

    def close(self) -> None:
        """End connection and server."""
        if hasattr(self, "_socket"):
            self._socket.close()
        super().close()


class Http(_Served):
    """The same POST by the standard library's client."""

    def __init__(self, isolation: str) -> None:
        super().__init__(HTTP_SERVER, isolation)
        self._connection = http.client.HTTPConnection("peer", timeout=30)
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(self.path)

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""
        start = time.perf_counter()
        for _ in range(n):
            self._connection.request("POST", "/", json.dumps(PAYLOAD), {"Content-Type": "application/json"})
            json.loads(self._connection.getresponse().read())
        return time.perf_counter() - start

    def close(self) -> None:
        """End connection and server."""
        if hasattr(self, "_connection"):
            self._connection.close()
        super().close()


PEERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "MCP SDK over stdio": (Mcp, "must > 1, aim ≥ 20"),
    "uvicorn over a Unix socket": (Http, "must > 1, aim ≥ 5"),
    "uvicorn over a Unix socket, by hand": (BareHttp, ""),
    "gRPC over a Unix socket": (Grpc, "must > 1, aim ≥ 7"),
}
"""Name → how to open it for an isolation, and what is asked."""


def _needed(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise RuntimeError(f"{module} is not installed; locks/bench.lock has it")
