"""Ending a process with ``kill -9`` while a journalled flow runs, and going on with it in another one.

A *zygote* imports everything once and forks: a child runs the flow and dies at an answer of its choice or whenever the
parent's timer says so; another child resumes what is left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from core_runtime.drivers import faults
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.run_journal import read_account
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.kernel import Kernel
from tests.support.hosts import bare_host, with_bus

ROOT = Path(__file__).resolve().parents[2]
FLOW = {
    "flow": "t.flow",
    "journal": "file",
    "steps": [
        {"id": "a", "call": "acme.act", "with": {"name": "a"}, "as": "a", "once": "a"},
        {"id": "many", "each": {"in": [1, 2, 3, 4], "parallel": 2, "collect": "${got}"}, "as": "all", "do": [
            {"id": "x", "call": "acme.act", "with": {"name": "x${item}"}, "as": "got", "once": "x${item}"}]},
        {"id": "any", "parallel": {"wait": "any", "branches": {
            "slow": [{"id": "s", "call": "acme.slow"}], "fast": [{"id": "f", "call": "acme.act", "with": {"name": "f"}, "once": "f"}]}}},
        {"id": "s", "call": "acme.items", "stream": {"collect": "${item}", "as": "last"}},
        {"id": "l", "loop": {"max": 3}, "do": [{"id": "y", "call": "acme.act", "with": {"name": "y"}, "as": "y", "once": "y"}]},
        {"id": "z", "call": "acme.act", "with": {"name": "z", "after": "${last}"}, "as": "z", "once": "z"},
    ],
    "output": {"a": "${a}", "all": "${all}", "last": "${last}", "y": "${y}", "z": "${z}"},
}  # fmt: skip


def keys(ledger: Path) -> dict[str, Any]:
    """Handlers that honour their idempotency key: what was done under it is not done again."""

    async def act(args: Any, ctx: Any) -> Any:
        await asyncio.sleep(0)
        line = f"{args['name']} {ctx['idempotency_key']}\n".encode()
        acts = ledger / "acts"
        if not acts.exists() or line not in acts.read_bytes().splitlines(keepends=True):
            fd = os.open(acts, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
            os.write(fd, line)  # one system call: it happened or it did not
            os.close(fd)
        return {"did": args["name"]}

    async def slow(_args: Any, _ctx: Any) -> Any:
        await asyncio.sleep(30)

    async def items(_args: Any, _ctx: Any) -> Any:
        for number in range(4):
            yield number

    return {"acme.act": act, "acme.slow": slow, "acme.items": items}


async def story(home: Path, resume: str) -> Any:
    """Run the flow, or go on with ``resume``; the report."""
    host = await with_bus(bare_host(home))
    kernel = Kernel(host)
    for key, fn in keys(home / "ledger").items():
        host.registry.register(key, fn)
    report = await (kernel.resume(resume) if resume else kernel.run("t.flow"))
    await host.close()
    return report


class FlowKiller:
    """Drives a zygote."""

    def __init__(self, base: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._zygote = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.flow_kills import serve; serve()", str(base)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._zygote.stdin.close()
        self._zygote.wait(10)
        self._zygote.stdout.close()

    def kill(self, *, at: list[int], delay_s: float = 0.0) -> dict[str, Any]:
        """Kill a run at an answer (by number, -1 never), then each resumption likewise; what came of it."""
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._zygote.stdin.write(json.dumps({"at": at, "delay_s": delay_s}) + "\n")
        self._zygote.stdin.flush()
        answer = self._zygote.stdout.readline()
        assert answer, "the zygote ended"
        return dict(json.loads(answer))


def serve() -> None:
    """The zygote's loop: an order a line, an answer a line."""
    base = Path(sys.argv[1])
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_one(base / str(number), json.loads(line))), flush=True)


def _one(home: Path, order: dict[str, Any]) -> dict[str, Any]:
    (home / "user_data" / "flows").mkdir(parents=True)
    (home / "ledger").mkdir()
    (home / "user_data" / "flows" / "t.flow.json").write_text(json.dumps(FLOW))
    killed = 0
    told: dict[str, Any] = {}
    began = time.monotonic()
    for at in [*order["at"], -1]:
        # of a run that was killed before its first line an empty journal is left, beside that of the one begun after it
        cut = [path for path in sorted((home / "user_data" / "runs").glob("*.jsonl")) if path.stat().st_size]
        resume = cut[0].name.partition(".")[0] if cut else ""
        if resume and (account := read_account(cut[0], RunSeals.of(Keyring(home / "user_data" / "permissions")))).end is not None:  # killed between its end and its answer
            told = {"killed": False, "status": account.end["end"], "output": account.end["output"], "answers": 0}
            break
        told = _child(home, resume, at, order["delay_s"] if at >= 0 else 0.0)
        killed += told["killed"]
        if not told["killed"]:
            break
    lines = (home / "ledger" / "acts").read_text().splitlines() if (home / "ledger" / "acts").exists() else []
    acts = [line.partition(" ")[0] for line in lines]
    return {**told, "kills": killed, "acts": acts, "took_s": time.monotonic() - began}


def _child(home: Path, resume: str, at: int, delay_s: float) -> dict[str, Any]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _live(home, resume, at, write)
    os.close(write)
    if delay_s:
        time.sleep(delay_s)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return {"killed": killed, **(json.loads(text) if text and not killed else {})}


def _live(home: Path, resume: str, at: int, pipe: int) -> None:
    passed = 0

    def hook(name: str) -> None:
        nonlocal passed
        if name == "run.answered":
            if passed == at:
                os.kill(os.getpid(), signal.SIGKILL)
            passed += 1

    try:
        faults.install(hook)
        report = asyncio.run(story(home, resume))
        told = {"status": report.status.value, "output": report.output, "answers": passed}
    except BaseException as error:  # noqa: BLE001 - told to the test, which asserts that there was none
        told = {"status": f"{type(error).__name__}: {error}", "output": None, "answers": passed}
    os.write(pipe, json.dumps(told).encode())
    os._exit(0)
