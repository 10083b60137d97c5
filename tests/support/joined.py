"""A whole agent on a bus of the real host: as a plain subprocess (isolation has tests of its own)."""

from __future__ import annotations

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from core_runtime.bus.sessions import Session
from tests.support.raw_agent import Grant, Rig
from tests.support.vectors import AGENT

WAIT_S = 20.0
RUMIS = (sys.executable, "-I", "-S", str(AGENT))


@asynccontextmanager
async def running(
    r: Rig, folder: Path, pack_id: str, setup: str, generation: int = 1, *,
    program: Sequence[str] = RUMIS, suffix: str = "py", **grant: object,
) -> AsyncIterator[tuple[Session, asyncio.subprocess.Process]]:
    """``setup``: what the one component of the Pack is, in the language of ``program``, under a name with ``suffix``."""
    root = folder / f"{pack_id}-{generation}-files"
    (root / "backend" / "components" / "main").mkdir(parents=True)
    (root / "backend" / "components" / "main" / f"setup.{suffix}").write_text(textwrap.dedent(setup))
    r.grants[pack_id] = Grant(**grant)  # type: ignore[arg-type]
    endpoint = await r.bus.open(
        pack_id, generation, lambda: r.grants[pack_id], socket_path=str(folder / f"{pack_id}.{generation}")
    )
    process = await asyncio.create_subprocess_exec(
        *program, "--socket", endpoint.path, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        session = await endpoint.connected(WAIT_S)
        assert session.hello["protocols"] == [1]
        await session.welcome({"paths": {"pack": str(root)}})
        component = {
            "full_id": f"{pack_id}:service:main", "type": "service", "id": "main",
            "pack_id": pack_id, "dir": "backend/components/main",
        }  # fmt: skip
        context = {"phase": "setup", "ts": 0.0, "mounts": {}, "register": None}
        outcome = await session.run_phase(component, "setup.py", context, WAIT_S)
        assert outcome.ok, outcome.error
        yield session, process
    finally:
        await endpoint.close()
        if process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()
