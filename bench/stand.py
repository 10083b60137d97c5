"""A whole host in this process, with Packs of the bench's own, so that rows are measured through every check."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class BenchPack:
    """A Pack of the bench's own. ``roomy``: with two processors, since a throttled one would measure its limit."""

    setup: str
    provides: Sequence[str]
    requires: Sequence[str] = ()
    roomy: bool = True
    permissions: Sequence[Mapping[str, Any]] = ()


THREE = {
    "echo": BenchPack(ECHO, ["bench.echo"]),
    "caller": BenchPack(CALLER, ["bench.calls", "bench.relay"], ["bench.echo"]),
    "crowd": BenchPack(CROWD, ["bench.crowd"], ["bench.echo"]),
}
PACKS = tuple(THREE)


@contextlib.asynccontextmanager
async def host_with_packs(isolation: str, chosen: Mapping[str, BenchPack] = THREE) -> AsyncIterator[Host]:
    """A started host with these Packs running: by default one answers, one calls in plain code, one in coroutines.

    Its home is removed afterwards.
    """
    with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder:
        home = Path(folder)
        os.chmod(home, 0o755)  # noqa: PTH101  the sandbox's own user must pass through; nothing else runs on this loop
        for pack_id, pack in chosen.items():
            write_pack(home, pack_id, pack)
        (home / "user_data").mkdir(exist_ok=True)
        unlimited = {"bytes_per_s": 1 << 50, "bytes_per_hour": 1 << 50, "bytes_per_hour_and_host": 1 << 50}
        (home / "user_data" / "egress.json").write_text(json.dumps({"budgets": unlimited}))
        environment = {
            **os.environ,
            "RUMI_HOME": folder,
            "RUMI_ISOLATION": isolation,
        }
        settings = settings_from(environment, [], project_root=ROOT, working_dir=home, uid=os.getuid())
        host = Host(settings)
        try:
            await Kernel(host).run("rumi.startup")
            for pack_id in chosen:
                status = await packs.approve(host, pack_id, actor="bench")
                if status.state.value != "running":
                    raise RuntimeError(f"{pack_id} does not run with {isolation}: {status.cause}")
            yield host
        finally:
            await host.close()


def write_pack(home: Path, pack_id: str, pack: BenchPack) -> None:
    """Put a Pack where the host of that home looks for it."""
    backend = home / "ecosystem" / "packs" / pack_id / "backend"
    component = backend / "components" / "main"
    component.mkdir(parents=True)
    connectivity = {"provides": list(pack.provides), "requires": list(pack.requires)}
    manifest = {"type": "service", "id": "main", "version": "1.0.0", "connectivity": connectivity}
    room: dict[str, str | int] = {"type": "resources", "cpu": 2, "reason": "the bench measures the bus, not the limit"}
    asked = {"pack_id": pack_id, "permissions": [*([room] if pack.roomy else []), *pack.permissions]}
    (backend / "ecosystem.json").write_text(json.dumps({"pack_id": pack_id, "version": "1.0.0"}))
    (backend / "permissions.json").write_text(json.dumps(asked))
    (component / "manifest.json").write_text(json.dumps(manifest))
    (component / "setup.py").write_text(pack.setup)
