"""The main job without HTTP: handlers, kernel, trust, bus and real embedded sandboxes, from an empty home to answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import DeniedError, NotFoundError, PackError, RumiError
from core_runtime.component_lifecycle import ComponentState
from core_runtime.flow_reports import RunReport
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.kernel import Kernel
from core_runtime.rules.approval import State
from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.settings import Settings, run_dir_for
from tests.support.documents import ROOT
from tests.support.packs import manifest, minimal_pack, pack

pytestmark = pytest.mark.embedded

PROVIDER = """
import os, time

def run(context):
    ir = context["interface_registry"]

    def count(args, ctx):
        for number in range(args["n"]):
            yield number

    def fail(args, ctx):
        raise LookupError("nothing under " + args["name"])

    def sleep(args, ctx):
        time.sleep(30)

    ir.register("a.echo", lambda args, ctx: {"got": args, "caller": ctx["caller"]})
    ir.register("a.count", count)
    ir.register("a.fail", fail)
    ir.register("a.sleep", sleep)
    ir.register("a.pid", lambda args, ctx: {"uid": os.getuid(), "files": sorted(os.listdir("/"))})
    print("provider is up")
"""

CONSUMER = """
def run(context):
    ir = context["interface_registry"]

    def relay(args, ctx):
        return ir.get("a.echo")(args, ctx)

    def total(args, ctx):
        return sum(ir.get("a.count")({"n": args["n"]}, ctx))

    def wrong(args, ctx):
        try:
            ir.get("a.fail")({"name": "x"}, ctx)
        except Exception as error:
            return {"type": getattr(error, "type", ""), "class": type(error).__name__}

    ir.register("b.relay", relay)
    ir.register("b.total", total)
    ir.register("b.wrong", wrong)
"""
A_KEYS = ["a.echo", "a.count", "a.fail", "a.sleep", "a.pid"]


class Home:
    """One home folder; ``running`` is a host that went through its startup flow."""

    def __init__(self, root: Path, isolation: str = "embedded") -> None:
        self.root = root
        self.packs = root / "ecosystem" / "packs"
        self.packs.mkdir(parents=True)
        run_dir = run_dir_for(root, "", os.getuid())
        self.settings = Settings(ROOT, root, run_dir, isolation=isolation)
        self.report: RunReport | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Host]:
        host = Host(self.settings)
        try:
            self.report = await Kernel(host).run("rumi.startup")
            yield host
        finally:
            async with asyncio.timeout(60):
                await host.close()

    def put_provider(self, text: str = PROVIDER) -> None:
        links = {"provides": A_KEYS, "requires": []}
        self._component("pack_a", "provider", links, text)

    def put_consumer(self) -> None:
        links = {"provides": ["b.relay", "b.total", "b.wrong"], "requires": A_KEYS[:3]}
        self._component("pack_b", "consumer", links, CONSUMER)

    def _component(self, pack_id: str, name: str, links: dict[str, Any], setup: str) -> None:
        component = manifest("service", name, connectivity=links)
        folder = f"components/{name}"
        pack(self.packs, pack_id, files={f"{folder}/manifest.json": component, f"{folder}/setup.py": setup})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    tmp_path.chmod(0o755)
    return Home(tmp_path / "home")


async def until(holds: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
    async with asyncio.timeout(limit_s):
        while not (found := holds()):  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.02)
    assert found, what
    return found


def uids_of(pid: int) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("Uid:")]
    return {int(uid) for uid in line.split()[1:]}


def test_a_strangers_pack_answers(home: Home) -> None:
    async def story() -> None:
        minimal_pack(home.packs)
        async with home.running() as host:
            assert home.report is not None
            assert home.report.status is RunStatus.OK, home.report
            assert host.ready_to_serve.is_set()
            [found] = await packs.list_packs(host)
            assert (found.pack_id, found.state) == ("my_pack", State.INSTALLED)
            assert host.sandboxes.list() == []
            with pytest.raises(NotFoundError):
                await packs.call(host, "service.hello", {"name": "Bob"})

            found = await packs.approve(host, "my_pack")
            assert (found.state, found.cause) == (State.RUNNING, ""), host.diagnostics.issues()
            assert await packs.call(host, "service.hello", {"name": "Bob"}) == {"message": "Hello, Bob!"}
            assert await packs.call(host, "service.hello", {}) == {"message": "Hello, World!"}

            [info] = host.sandboxes.list()
            assert info.driver == "embedded"
            uids = await asyncio.to_thread(uids_of, info.pid)
            assert info.pid != os.getpid()
            if os.geteuid() == 0:
                assert 0 not in uids
            view = home.root / "ecosystem" / "docker" / "my_pack"
            await until(lambda: (view / "sandbox").is_dir() and list((view / "sandbox").iterdir()), "operator view")
            assert {"grants", "handlers", "sandbox", "scopes", "README.md"} == {p.name for p in view.iterdir()}
            [described] = [entry for entry in await packs.interfaces(host) if entry["key"] == "service.hello"]
            assert (described["owner"], described["callable"]) == ("my_pack", True)

        async with home.running() as host:
            assert (await packs.status(host, "my_pack")).state is State.RUNNING
            assert await packs.call(host, "service.hello", {"name": "again"}) == {"message": "Hello, again!"}

    asyncio.run(story())


def test_one_changed_byte_stops_it_until_it_is_approved_again(home: Home) -> None:
    async def story() -> None:
        folder = minimal_pack(home.packs)
        setup = folder / "backend/components/hello/setup.py"
        async with home.running() as host:
            await packs.approve(host, "my_pack")
            setup.write_text(setup.read_text().replace("Hello", "Howdy"))
            [found] = await packs.scan(host, "my_pack")
            assert found.state is State.MODIFIED
            assert found.changed_paths == ("backend/components/hello/setup.py",)
            assert host.sandboxes.list() == []
            [issue] = [i for i in host.diagnostics.issues("my_pack") if i.code == "pack_modified"]
            assert "backend/components/hello/setup.py" in issue.detail
            with pytest.raises(NotFoundError):
                await packs.call(host, "service.hello", {})
            with pytest.raises(RumiError):
                await packs.start(host, "my_pack")

            found = await packs.approve(host, "my_pack")
            assert found.state is State.RUNNING
            assert await packs.call(host, "service.hello", {"name": "Bob"}) == {"message": "Howdy, Bob!"}
            assert not [i for i in host.diagnostics.issues("my_pack") if i.code == "pack_modified"]

    asyncio.run(story())


def test_packs_meet_on_the_bus_in_dependency_order(home: Home) -> None:
    async def story() -> None:
        home.put_provider()
        home.put_consumer()
        async with home.running() as host:
            waiting = await packs.approve(host, "pack_b")
            assert waiting.state is State.APPROVED
            assert waiting.cause.startswith("waiting for a.")
            assert host.sandboxes.list() == []
            assert (await packs.approve(host, "pack_a")).state is State.RUNNING
            await until(lambda: host.registry.resolve("b.relay"), "the waiting Pack starts by itself")

            assert await packs.call(host, "b.relay", {"n": 1}) == {"got": {"n": 1}, "caller": "pack_b"}
            assert await packs.call(host, "b.total", {"n": 5}) == 10
            assert (await packs.call(host, "b.wrong", {}))["type"] == "error/LookupError"
            items = [item async for item in await packs.call(host, "a.count", {"n": 3})]
            assert items == [0, 1, 2]
            with pytest.raises(PackError) as caught:
                await packs.call(host, "a.fail", {"name": "y"})
            assert caught.value.code == "error/LookupError"
            await until(lambda: packs.logs(host, "pack_a", 10), "its output")
            assert packs.logs(host, "pack_a", 10)[0]["text"] == "provider is up"

        async with home.running() as host:
            states = {found.pack_id: found.state for found in await packs.list_packs(host)}
            assert states == {"pack_a": State.RUNNING, "pack_b": State.RUNNING}
            assert await packs.call(host, "b.total", {"n": 4}) == 6

    asyncio.run(story())


def test_a_killed_sandbox_gives_a_typed_error_at_once_and_comes_back(home: Home) -> None:
    async def story() -> None:
        home.put_provider()
        async with home.running() as host:
            await packs.approve(host, "pack_a")
            [before] = host.sandboxes.list()
            pending = asyncio.create_task(packs.call(host, "a.sleep", {}, 25.0))
            await until(lambda: host.bus.statistics()["packs"]["pack_a"]["in_flight"], "the call is under way")
            os.kill(before.pid, signal.SIGKILL)
            with pytest.raises(PackError) as caught:
                async with asyncio.timeout(5):
                    await pending
            assert (caught.value.code, caught.value.retryable) == ("unavailable", True)
            await until(lambda: host.registry.resolve("a.echo"), "its restart")
            assert (await packs.call(host, "a.echo", 7))["got"] == 7
            # the new generation answers a moment before its start is complete and listed
            await until(lambda: host.sandboxes.list()[0].generation > before.generation, "the new generation's start")
            assert (await packs.status(host, "pack_a")).state is State.RUNNING

    asyncio.run(story())


def test_a_component_that_raises_is_disabled_and_the_rest_serves(home: Home) -> None:
    async def story() -> None:
        pack(
            home.packs,
            "mixed",
            files={
                "components/good/manifest.json": manifest("service", "good", connectivity={"provides": ["m.good"]}),
                "components/good/setup.py": "def run(context):\n"
                "    context['interface_registry'].register('m.good', lambda args, ctx: 'served')\n",
                "components/bad/manifest.json": manifest("service", "bad", connectivity={"provides": ["m.bad"]}),
                "components/bad/setup.py": "def run(context):\n"
                "    context['interface_registry'].register('m.bad', lambda args, ctx: 'half')\n"
                "    raise RuntimeError('broken on purpose')\n",
            },
        )
        async with home.running() as host:
            assert (await packs.approve(host, "mixed")).state is State.RUNNING
            assert await packs.call(host, "m.good") == "served"
            with pytest.raises(NotFoundError):
                await packs.call(host, "m.bad")
            states = {record.full_id: record.state for record in host.lifecycle.records("mixed")}
            assert states == {"mixed:service:good": ComponentState.LOADED, "mixed:service:bad": ComponentState.DISABLED}
            [issue] = [i for i in host.diagnostics.issues() if i.code == "component_disabled"]
            assert issue.subject == "mixed:service:bad"
            assert "broken on purpose" in issue.detail
            assert "setup.py" in issue.evidence["trace"]

    asyncio.run(story())


def test_custom_handlers_are_registered_when_declared(home: Home) -> None:
    async def story() -> None:
        pack(
            home.packs,
            "handy",
            connectivity={"provides": ["handy.double"]},
            files={
                "handlers/double.py": "def run(args, ctx):\n    return args['n'] * 2\n",
                "handlers/hidden.py": "raise SystemExit('never loaded')\n",
            },
        )
        async with home.running() as host:
            assert (await packs.approve(host, "handy")).state is State.RUNNING
            assert await packs.call(host, "handy.double", {"n": 21}) == 42
            assert host.registry.resolve("handy.hidden") is None

    asyncio.run(story())


def test_reject_stop_and_remove(home: Home) -> None:
    async def story() -> None:
        minimal_pack(home.packs)
        async with home.running() as host:
            with pytest.raises(DeniedError) as denied:
                await packs.start(host, "my_pack")
            assert denied.value.code == "not_approved"
            await packs.approve(host, "my_pack")
            stopped = await packs.stop(host, "my_pack")
            assert (stopped.state, host.sandboxes.list()) == (State.APPROVED, [])
            assert (await packs.start(host, "my_pack")).state is State.RUNNING
            rejected = await packs.reject(host, "my_pack", reason="changed my mind")
            assert (rejected.state, host.sandboxes.list()) == (State.BLOCKED, [])
            assert (await packs.approve(host, "my_pack")).state is State.RUNNING
            await packs.remove(host, "my_pack")
            assert host.sandboxes.list() == []
            assert not (home.packs / "my_pack").exists()
            assert not (home.root / "ecosystem/docker/my_pack").exists()
            for use in (packs.status, packs.approve, packs.reject, packs.remove, packs.start, packs.stop):
                with pytest.raises(NotFoundError):
                    await use(host, "my_pack")  # each of them

    asyncio.run(story())


def test_without_any_isolation_the_host_lives_and_nothing_of_a_pack_runs(tmp_path: Path, monkeypatch) -> None:
    home = Home(tmp_path / "home", isolation="docker")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")

    async def story() -> None:
        minimal_pack(home.packs)
        async with home.running() as host:
            assert host.ready_to_serve.is_set()
            assert home.report is not None
            assert home.report.status in {RunStatus.OK, RunStatus.DEGRADED}
            [issue] = [i for i in host.diagnostics.issues() if i.code == "docker_required"]
            assert issue.title == "Docker is required but not available"
            assert issue.hint
            found = await packs.approve(host, "my_pack")
            assert (found.state, found.cause) == (State.APPROVED, "Docker is required but not available")
            with pytest.raises(RumiError, match="Docker is required but not available"):
                await packs.start(host, "my_pack")
            assert host.registry.resolve("service.hello") is None
            assert host.sandboxes.list() == []

    asyncio.run(story())


def test_a_hanging_pack_delays_nobody_else(home: Home) -> None:
    async def story() -> None:
        minimal_pack(home.packs)
        links = {"provides": ["slow.key"]}
        home._component("slow", "slow", links, "import time\ndef run(context):\n    time.sleep(60)\n")
        async with home.running() as host:
            await packs.approve(host, "my_pack")
            hanging = asyncio.create_task(packs.approve(host, "slow"))
            await until(lambda: host.bus.statistics()["packs"].get("slow"), "its sandbox is up")
            async with asyncio.timeout(5):
                assert await packs.call(host, "service.hello", {"name": "Bob"}) == {"message": "Hello, Bob!"}
            await packs.scan(host)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)

    asyncio.run(story())
