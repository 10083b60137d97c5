"""A whole host in this process, with Packs of the bench's own, so that rows are measured through every check."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.kernel import Kernel
from core_runtime.rules.settings import settings_from

ROOT = Path(__file__).resolve().parent.parent
PAYLOAD = {"text": "x" * 80}

ECHO = """
def run(context):
    context["interface_registry"].register("bench.echo", lambda args, ctx: args)
"""
CALLER = """
import time

def run(context):
    ir = context["interface_registry"]
    echo = ir.get("bench.echo")

    def calls(args, ctx):
        payload = args["payload"]
        start = time.perf_counter()
        for _ in range(args["n"]):
            echo(payload, ctx)
        return time.perf_counter() - start

    ir.register("bench.calls", calls)
    ir.register("bench.relay", lambda args, ctx: echo(args, ctx))
"""
CROWD = """
import asyncio
import time

def run(context):
    ir = context["interface_registry"]
    echo = ir.get("bench.echo")

    async def crowd(args, ctx):
        each, payload = args["n"] // args["in_flight"], args["payload"]

        async def one():
            for _ in range(each):
                await echo(payload, ctx)

        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(args["in_flight"])))
        return time.perf_counter() - start

    ir.register("bench.crowd", crowd)
"""
PACKS = ("echo", "caller", "crowd")


@contextlib.asynccontextmanager
async def host_with_packs(isolation: str) -> AsyncIterator[Host]:
    """A started host with the three Packs running: one answers, one calls in plain code, one in coroutines.

    Its home is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder:
        home = Path(folder)
        os.chmod(home, 0o755)  # noqa: PTH101  the sandbox's own user must pass through; nothing else runs on this loop
        _pack(home, "echo", ECHO, provides=["bench.echo"])
        _pack(home, "caller", CALLER, provides=["bench.calls", "bench.relay"], requires=["bench.echo"])
        _pack(home, "crowd", CROWD, provides=["bench.crowd"], requires=["bench.echo"])
        environment = {
            **os.environ,
            "RUMI_HOME": folder,
            "RUMI_ISOLATION": isolation,
            "RUMI_API_PORT": str(_free_port()),
        }
        settings = settings_from(environment, [], project_root=ROOT, working_dir=home, uid=os.getuid())
        host = Host(settings)
        try:
            await Kernel(host).run("rumi.startup")
            for pack_id in PACKS:
                status = await packs.approve(host, pack_id, actor="bench")
                if status.state.value != "running":
                    raise RuntimeError(f"{pack_id} does not run with {isolation}: {status.cause}")
            yield host
        finally:
            await host.close()


def _pack(home: Path, pack_id: str, setup: str, **connectivity: list[str]) -> None:
    backend = home / "ecosystem" / "packs" / pack_id / "backend"
    component = backend / "components" / "main"
    component.mkdir(parents=True)
    manifest = {"type": "service", "id": "main", "version": "1.0.0", "connectivity": connectivity}
    # Two processors each: a throttled sandbox would measure its limit and not the bus.
    room: dict[str, str | int] = {"type": "resources", "cpu": 2, "reason": "the bench measures the bus, not the limit"}
    (backend / "ecosystem.json").write_text(json.dumps({"pack_id": pack_id, "version": "1.0.0"}))
    (backend / "permissions.json").write_text(json.dumps({"pack_id": pack_id, "permissions": [room]}))
    (component / "manifest.json").write_text(json.dumps(manifest))
    (component / "setup.py").write_text(setup)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
