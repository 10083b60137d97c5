"""What people and programs meet over HTTP: a call of a Pack through the gateway, the list of a thousand Packs while one
of them floods the bus, the time from the start of the process to the first answer.

The host runs as it does for its users, in a process of its own; its client here, and the peer's, is one that sends the
next request when the answer has come, over kept connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvloop

from bench.harness import Report, Subject, measure, rows_of, tail
from bench.http_client import Client
from bench.ports import free_port
from bench.stand import PAYLOAD, ROOT, BenchPack, write_pack
from core_runtime.drivers import proc_view

REQUESTS = 2_000
CLIENTS = 16
KNOWN, RUNNING = 1_000, 20
LISTS = 200
START_LIMIT_S = 120.0
PEER = "peer: the same handler in Starlette on uvicorn"
OURS = "HTTP → Pack handler → JSON, embedded"
BARE = "peer: `import` of Starlette, uvicorn and uvloop"
KERNEL = "import of the kernel"
START_PEER = "peer: start of Starlette on uvicorn to its first answer"
STARTED = "start to the first answer of the API"
LISTED = "start until GET /api/packs lists all"
ALL_RUN = "start until all run"
LIST = "GET /api/packs"
MEMORY_PEER = "peer: memory of Starlette on uvicorn"
MEMORY = "memory of the host"

HANDLER = """
def run(context):
    context["interface_registry"].register("served.echo", lambda args, ctx: args)
"""
FLOOD = """
def run(context):
    ir = context["interface_registry"]
    echo = ir.get("served.echo")

    def flood(args, ctx):
        import time
        end = time.monotonic() + args["seconds"]
        calls = 0
        while time.monotonic() < end:
            echo(args["payload"], ctx)
            calls += 1
        return calls

    ir.register("served.flood", flood)
"""
IDLE = """
def run(context):
    context["interface_registry"].register("idle.{number:04}", lambda args, ctx: args)
"""
SAME = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

async def echo(request):
    body = await request.json()
    return JSONResponse({"success": True, "data": {"result": body["args"]}, "error": None})

uvicorn.run(Starlette(routes=[Route("/echo", echo, methods=["POST"])]), port=int(sys.argv[1]), log_level="error",
            loop="uvloop", http="httptools", access_log=False, timeout_keep_alive=3600)
"""


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows. Only the embedded isolation: what lies between HTTP and bus is the same for both."""
    share = 10 if quick else 1
    known, running = KNOWN // share, RUNNING // (4 if quick else 1)
    _imports(report, 5 if quick else 15)
    try:
        with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder, ExitStack() as opened:
            home = Path(folder)
            home.chmod(0o755)
            port = free_port()
            _packs(home, known, running)
            with running_host(home, port):
                _approve(home, port)
                peer_port = free_port()
                opened.enter_context(_process([sys.executable, "-c", SAME, str(peer_port)], peer_port, home))
                _gateway(report, port, peer_port, REQUESTS // share)
                _listing(report, port, LISTS // share, f"{LIST}, {known:,} Packs")
            _starts(report, home, port, 2 if quick else 5, known, running)
    except (RuntimeError, OSError) as error:
        report.missing["HTTP, boot"] = str(error)


def _imports(report: Report, rounds: int) -> None:
    # where nothing may be written beside the source, every import would compile it anew, which no user's does
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    ours = _runs([sys.executable, "-c", "import core_runtime.kernel"])
    peer = _runs([sys.executable, "-c", "import starlette.applications, starlette.routing, uvicorn, uvloop"])
    bare = _runs([sys.executable, "-c", "pass"])
    subjects: dict[str, Subject] = {"floor: start of Python": bare, BARE: peer, KERNEL: ours}
    wanted = {KERNEL: "250 ms asked, 120 ms aimed at"}
    report.rows += measure(subjects, n=1, rounds=rounds, reference={KERNEL: (BARE, 1.0)}, must=wanted)


def _runs(command: list[str]) -> Subject:
    def timed(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            subprocess.run(command, check=True, cwd=ROOT, timeout=60)
        return time.perf_counter() - start

    return timed


def _gateway(report: Report, port: int, peer_port: int, n: int) -> None:
    call = {"args": PAYLOAD, "timeout": 20}
    name, beside = f"{OURS}, {CLIENTS} clients", f"{PEER}, {CLIENTS} clients"
    ours = Client(port, "POST", "/api/interfaces/served.echo/call", call)
    peer = Client(peer_port, "POST", "/echo", call)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        subjects: dict[str, Subject] = {
            beside: lambda n: runner.run(peer.timed(n, CLIENTS)),
            name: lambda n: runner.run(ours.timed(n, CLIENTS)),
        }
        # 0.4 and 0.7 of its requests a second
        asked = {name: "must ≤ 2.5, aim ≤ 1.43"}
        report.rows += measure(subjects, n=n, reference={name: (beside, 1.0)}, must=asked)


def _listing(report: Report, port: int, n: int, name: str) -> None:
    """One reader of the whole list: in quiet, and while a Pack calls another as fast as it can."""
    lists = Client(port, "GET", "/api/packs")
    flood = Client(port, "POST", "/api/interfaces/served.flood/call")

    async def flooded() -> list[float]:
        busy = asyncio.create_task(flood.once({"args": {"seconds": 15, "payload": PAYLOAD}, "timeout": 30}))
        await asyncio.sleep(0.2)
        took = []
        while len(took) < n and not busy.done():
            took += await lists.each(1)
        await busy
        return took

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(lists.each(max(2, n // 10)))
        quiet = runner.run(lists.each(n))
        loud = runner.run(flooded())
    base = rows_of({f"{name}, quiet": quiet}, {}, {})[0]
    report.rows += [base, tail(f"{name}, while a Pack floods: p99", loud, "20 ms asked", base=base)]


def _starts(report: Report, home: Path, port: int, rounds: int, known: int, running: int) -> None:
    """The whole process, several times, with everything approved before."""
    what = f"{known:,} Packs known, {running} running"
    started, all_run = f"{STARTED}, {what}", f"{ALL_RUN}, {what}"
    memory = f"{MEMORY}, {what}"
    listed = f"{LISTED}, {what}"
    samples: dict[str, list[float]] = {START_PEER: [], started: [], listed: [], all_run: []}
    held: dict[str, list[float]] = {MEMORY_PEER: [], memory: []}
    for _ in range(rounds):
        begun = time.perf_counter()
        peer_port = free_port()
        with _process([sys.executable, "-c", SAME, str(peer_port)], peer_port, home) as peer:
            _answered(peer_port, "/")
            samples[START_PEER].append((time.perf_counter() - begun) * 1e6)
            held[MEMORY_PEER].append(proc_view.memory_bytes([peer.pid]))
        begun = time.perf_counter()
        with running_host(home, port, ready=False) as host:
            _answered(port, "/api/health")
            samples[started].append((time.perf_counter() - begun) * 1e6)
            _until_listed(port, known, begun)
            samples[listed].append((time.perf_counter() - begun) * 1e6)
            _until_ready(port, begun)
            samples[all_run].append((time.perf_counter() - begun) * 1e6)
            _ask(port, "GET", "/api/packs")
            held[memory].append(proc_view.memory_bytes([host.pid]))
    asked = dict.fromkeys((started, listed), "3 s asked, 1 s aimed at")
    report.rows += rows_of(samples, dict.fromkeys((started, listed, all_run), (START_PEER, 1.0)), asked)
    report.rows += rows_of(held, {memory: (MEMORY_PEER, 1.0)}, {}, "B")


def _packs(home: Path, known: int, running: int) -> None:
    """``known`` Packs on disk, of which ``running`` are there to be approved."""
    write_pack(home, "served", BenchPack(HANDLER, ["served.echo"]))
    write_pack(home, "flood", BenchPack(FLOOD, ["served.flood"], ["served.echo"]))
    for number in range(known - 2):
        name = f"{'run' if number < running - 2 else 'idle'}{number:04}"
        write_pack(home, name, BenchPack(IDLE.format(number=number), [f"idle.{number:04}"], roomy=False))


def _approve(home: Path, port: int) -> None:
    names = sorted(path.name for path in (home / "ecosystem" / "packs").iterdir())
    for name in (name for name in names if not name.startswith("idle")):
        answer = _ask(port, "POST", f"/api/packs/{name}/approve")
        if not answer["success"]:
            raise RuntimeError(f"{name} was not approved: {answer['error']}")


@contextmanager
def running_host(
    home: Path, port: int, *, ready: bool = True, isolation: str = "embedded"
) -> Iterator[subprocess.Popen[bytes]]:
    """A host in a process of its own; ``ready``: when everything approved runs."""
    environment = {
        **os.environ,
        "RUMI_HOME": str(home),
        "RUMI_ISOLATION": isolation,
        "RUMI_API_PORT": str(port),
        "RUMI_WEB_PORT": str(free_port()),
    }
    begun = time.perf_counter()
    with _process([sys.executable, str(ROOT / "app.py")], port, home, environment) as process:
        if ready:
            _until_ready(port, begun)
        yield process


@contextmanager
def _process(
    command: list[str], port: int, home: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from the moment it accepts connections; ended afterwards."""
    with (home / "bench.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.perf_counter() + START_LIMIT_S
        while not _accepts(port):
            if process.poll() is not None or time.perf_counter() > deadline:
                said = (home / "bench.log").read_text(errors="replace")[-500:]
                raise RuntimeError(f"{command[-1]} does not serve: {said}")
            time.sleep(0.005)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answered(port: int, path: str) -> None:
    """Any answer will do."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        connection.getresponse().read()


def _until_listed(port: int, known: int, begun: float) -> None:
    while len(_ask(port, "GET", "/api/packs")["data"] or ()) < known:
        if time.perf_counter() - begun > START_LIMIT_S:
            raise RuntimeError(f"the Packs were not listed within {START_LIMIT_S:g} s")
        time.sleep(0.01)


def _until_ready(port: int, begun: float) -> None:
    while _ask(port, "GET", "/api/health")["data"]["phase"] != "ready":
        if time.perf_counter() - begun > START_LIMIT_S:
            raise RuntimeError(f"the host was not ready within {START_LIMIT_S:g} s")
        time.sleep(0.01)


def _ask(port: int, method: str, path: str) -> dict[str, Any]:
    with asyncio.Runner() as runner:
        answer: dict[str, Any] = json.loads(runner.run(Client(port, method, path).once(None)))
        return answer
