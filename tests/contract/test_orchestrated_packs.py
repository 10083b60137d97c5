"""Orchestrator, bus, agent and each real driver together: a Pack's handler is called, killed, and called again."""

import asyncio
import contextlib
import os
import secrets
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import RumiError
from core_runtime import supervision
from core_runtime.bus.hub import Bus
from core_runtime.container_orchestrator import ContainerOrchestrator
from core_runtime.containers import ContainerEvent, ContainerState, LaunchRequest
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers import cgroup_reading, proc_view
from core_runtime.drivers.bubblewrap import BubblewrapDriver
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.drivers.tree import read_tree
from core_runtime.event_bus import EventBus
from core_runtime.interface_registry import InterfaceRegistry
from core_runtime.rules.permissions import Rights
from core_runtime.rules.restart import RestartPolicy
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from tests.support import engine, relay
from tests.support.sandboxes import EVERYWHERE, STDIO, TRANSPORTS

SETUP = """
import os
def run(context):
    def hello(args, ctx):
        if args.get("strike"):
            os.kill(os.getpid(), args["strike"])
        for _ in range(args.get("noise", 0)):
            print("x" * 4000)
            os.write(1, bytes(range(256)) * 16)
            os.write(2, b"y" * 4000)
        if args.get("noise"):
            os.system("echo from a child; head -c 100000 /dev/zero")
        return {"hello": args["name"], "pid": os.getpid()}
    context["interface_registry"].register("service.hello", hello)
"""
INSTALLATION = secrets.token_hex(8)


class House:
    """What the host wires together, without HTTP."""

    def __init__(self, kind, folder, state):
        self.folder = folder
        self.events: list[ContainerEvent] = []
        component = folder / "pack/components/main"
        component.mkdir(parents=True)
        (component / "setup.py").write_text(SETUP)
        for path in (folder / "pack", folder / "pack/components", component):
            path.chmod(0o755)
        diagnostics = Diagnostics()
        registry = InterfaceRegistry(diagnostics)
        registry.set_owner("service.hello", "hello")
        self.bus = Bus(registry, EventBus(diagnostics), diagnostics)
        self.kind = DriverKind(kind.partition("-")[0])
        self.held = contextlib.ExitStack()
        self.relay: relay.Relay | None = None
        driver: Any
        if self.kind is DriverKind.EMBEDDED:
            driver = BubblewrapDriver(INSTALLATION, state)
        elif kind == "docker-gvisor":
            driver = DockerDriver(INSTALLATION, state, url=engine.with_gvisor(), runtime="runsc", transport="stdio")
        else:
            if kind == "docker-stdio":
                self.relay = self.held.enter_context(relay.running(engine.address()))
            driver = DockerDriver(INSTALLATION, state, url=self.relay.address if self.relay is not None else "")
        self.driver = driver
        self.it = ContainerOrchestrator(
            [driver], self.bus, installation_id=INSTALLATION, state_dir=state, runtime_dir=folder / "runtime",
            uids=lambda _: 200_777, on_event=self.events.append, policy=RestartPolicy(base_s=0.01),
        )  # fmt: skip

    async def prepare(self, session):
        component = {
            "full_id": "hello:service:main",
            "type": "service",
            "id": "main",
            "pack_id": "hello",
            "dir": "components/main",
        }
        outcome = await session.run_phase(
            component, "setup.py", {"phase": "setup", "ts": time.time(), "mounts": {}, "register": None}, 10
        )
        assert outcome.ok, outcome

    def request(self, level=Level.STANDARD):
        return LaunchRequest(
            "hello",
            self.folder / "pack",
            read_tree(self.folder / "pack").digest,
            Rights(provides=frozenset({"service.hello"})),
            Isolation(self.kind, level),
        )

    async def call(self, name="world", noise=0):
        return await self.bus.call("service.hello", {"name": name, "noise": noise}, timeout_s=10)

    async def strike(self, info, number):
        """Signal everything of a sandbox; where the host may not reach into a container, the agent from inside."""
        try:
            for pid in (info.pid, *proc_view.descendants(info.pid)):
                with contextlib.suppress(ProcessLookupError):  # the first one's end took it along
                    os.kill(pid, number)
        except PermissionError:
            assert os.geteuid() != 0
            assert self.kind is DriverKind.DOCKER
            with contextlib.suppress(RumiError):
                await self.bus.call("service.hello", {"name": "", "strike": number}, timeout_s=1)


everywhere = pytest.mark.parametrize("play", EVERYWHERE, indirect=True)
"""Where a kernel of its own could make a difference, too."""


@pytest.fixture(params=TRANSPORTS)
def play(request, tmp_path):
    with tempfile.TemporaryDirectory(prefix="rumi-t-", dir="/run" if os.geteuid() == 0 else None) as state:

        def run(story):
            async def main():
                house = House(request.param, tmp_path, Path(state))
                if await house.it.choose() is None:
                    pytest.skip(house.it.unavailable().detail)
                await house.bus.start()
                try:
                    await story(house)
                finally:
                    await house.it.close()
                    await house.bus.close()
                    house.held.close()

            asyncio.run(main())

        yield run


def test_a_handler_inside_is_called_through_the_bus(play):
    async def story(house):
        info = await house.it.start(house.request(), house.prepare)
        assert (info.state, info.level) == (ContainerState.RUNNING, Level.STANDARD), info.isolation
        assert (await house.call())["hello"] == "world"
        view = house.it.operator_view("hello")
        assert '"level": "standard"' in view["sandbox/isolation.json"]

    play(story)


@everywhere
def test_what_a_handler_writes_to_its_descriptors_never_gets_into_the_bus(play):
    async def story(house):
        await house.it.start(house.request(), house.prepare)
        for _ in range(3):
            assert (await house.call(noise=50))["hello"] == "world"
        assert house.it.get("hello").restarts == 0

    play(story)


@everywhere
def test_large_values_and_many_calls_at_once_arrive_whole_in_both_directions(play):
    async def story(house):
        await house.it.start(house.request(), house.prepare)
        names = [chr(97 + number % 26) * size for number, size in enumerate([1, 31_000, 32_768, 65_537, 900_000] * 6)]
        answers = await asyncio.gather(*(house.call(name) for name in names))
        assert [answer["hello"] for answer in answers] == names

    play(story)


@everywhere
def test_a_killed_sandbox_comes_back_and_serves(play):
    async def story(house):
        info = await house.it.start(house.request(), house.prepare)
        await house.strike(info, signal.SIGKILL)
        end = time.monotonic() + 20
        while not (house.it.get("hello").restarts and house.it.get("hello").state is ContainerState.RUNNING):
            assert time.monotonic() < end, house.events
            await asyncio.sleep(0.01)
        assert (await house.call())["hello"] == "world"
        assert house.it.get("hello").generation == 2

    play(story)


@everywhere
def test_a_sandbox_that_stands_still_is_noticed_and_started_anew(play, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.1)
    monkeypatch.setattr(supervision, "HEALTH_DEADLINE_S", 0.2)

    async def story(house):
        info = await house.it.start(house.request(), house.prepare)
        await house.strike(info, signal.SIGSTOP)
        end = time.monotonic() + 20
        while not (house.it.get("hello").restarts and house.it.get("hello").state is ContainerState.RUNNING):
            assert time.monotonic() < end, house.events
            await asyncio.sleep(0.01)
        assert "unhealthy" in {event.kind for event in house.events}
        assert (await house.call())["hello"] == "world"
        assert proc_view.descendants(info.pid) == []

    play(story)


@pytest.mark.parametrize("play", [STDIO], indirect=True)
def test_a_container_that_nobody_is_attached_to_any_more_is_started_anew(play):
    async def story(house):
        info = await house.it.start(house.request(), house.prepare)
        calls = [asyncio.ensure_future(house.call(f"n{number}")) for number in range(50)]
        await asyncio.sleep(0)
        assert house.relay.cut_attached() == 1
        for answer in await asyncio.gather(*calls, return_exceptions=True):  # each ends: with its answer, or saying why
            assert isinstance(answer, RumiError) or answer["pid"], answer
        end = time.monotonic() + 20
        while not (house.it.get("hello").restarts and house.it.get("hello").state is ContainerState.RUNNING):
            assert time.monotonic() < end, house.events
            await asyncio.sleep(0.01)
        assert (await house.call())["hello"] == "world"
        assert not info.pid or proc_view.descendants(info.pid) == []

    play(story)


def take_the_limit_away(pid):
    """As a service manager does that takes these groups for its own."""
    mounts = cgroup_reading.mounts_of(Path("/proc/self/mountinfo").read_text())
    group = cgroup_reading.groups_of(Path(f"/proc/{pid}/cgroup").read_text(), mounts)["pids"]
    (group / "pids.max").write_text("max")


@pytest.mark.root
def test_limits_that_somebody_takes_away_end_the_pack(play, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.1)
    monkeypatch.setattr(supervision, "MEASURE_EVERY", 1)

    async def story(house):
        info = await house.it.start(house.request(), house.prepare)
        await asyncio.sleep(0.5)
        assert house.it.get("hello").state is ContainerState.RUNNING
        take_the_limit_away(info.pid)
        end = time.monotonic() + 20
        while house.it.get("hello").state is not ContainerState.ERROR:
            assert time.monotonic() < end, house.events
            await asyncio.sleep(0.01)
        [told] = [event for event in house.events if event.kind == "weaker"]
        assert "no cgroup limits the sandbox's number of processes" in told.detail
        assert proc_view.descendants(info.pid) == []

    play(story)


@pytest.mark.embedded
@pytest.mark.parametrize("play", ["embedded"], indirect=True)
def test_a_killed_launcher_takes_its_sandboxes_along_and_they_come_back(play):
    async def story(house):
        await house.it.start(house.request(), house.prepare)
        house.driver._launcher._process.kill()
        end = time.monotonic() + 20
        while not (house.it.get("hello").generation == 2 and house.it.get("hello").state is ContainerState.RUNNING):
            assert time.monotonic() < end, house.events
            await asyncio.sleep(0.01)
        assert (await house.call())["hello"] == "world"
        assert {"degraded", "reattached"} <= {event.kind for event in house.events}

    play(story)


def test_stopping_makes_the_interface_missing(play):
    async def story(house):
        await house.it.start(house.request(), house.prepare)
        await house.it.stop("hello", reason="test")
        with pytest.raises(RumiError) as caught:
            await house.call()
        assert caught.value.code == "missing"

    play(story)


def test_a_grant_for_a_stronger_isolation_stops_the_start(play):
    async def story(house):
        with pytest.raises(RumiError) as caught:
            await house.it.start(house.request(Level.STRONG), house.prepare)
        assert caught.value.code == "isolation_weaker"

    play(story)
