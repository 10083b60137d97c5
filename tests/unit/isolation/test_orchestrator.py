"""The orchestrator's decisions, told as short stories over an in-memory driver and bus."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from backend_core.errors import ConflictError, HostError, NotFoundError, SandboxUnavailable, TrustError
from core_runtime import container_orchestrator, supervision
from core_runtime.container_orchestrator import ContainerOrchestrator
from core_runtime.containers import ContainerEvent, ContainerState, LaunchRequest
from core_runtime.drivers.runtime_folder import RuntimeFolder
from core_runtime.rules.restart import RestartPolicy
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from tests.support.fake_isolation import FakeBus, FakeDriver, FakeSession

AGENT = Path(__file__).resolve().parents[2] / "support/sandbox_standin.py"
GRANTED = Isolation(DriverKind.DOCKER, Level.STANDARD)


class Story:
    """An orchestrator with its surroundings."""

    def __init__(self, folder, *drivers, **options):
        self.events: list[ContainerEvent] = []
        self.prepared: list[FakeSession] = []
        self.bus = FakeBus()
        self.drivers = drivers or (FakeDriver(),)
        self.folder = folder
        self.it = ContainerOrchestrator(
            self.drivers, self.bus, installation_id="0123456789abcdef", state_dir=folder / "s", runtime_dir=folder / "rt",
            uids=lambda _: 200_001, on_event=self.events.append, policy=RestartPolicy(base_s=0.001, cap_s=0.002, attempts=3),
            runtime=RuntimeFolder(folder / "rt", agent=AGENT, packages=folder / "none"), **options,
        )  # fmt: skip

    def request(self, pack_id="hello", **changes):
        return replace(LaunchRequest(pack_id, self.folder / "pack", "0" * 64, None, GRANTED), **changes)

    async def prepare(self, session):
        assert session.welcomed
        self.prepared.append(session)

    async def start(self, pack_id="hello", **changes):
        return await self.it.start(self.request(pack_id, **changes), self.prepare)

    def kinds(self):
        return [event.kind for event in self.events]

    async def until(self, condition, deadline_s=10.0):
        end = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end, (self.kinds(), self.it.list())
            await asyncio.sleep(0.001)


@pytest.fixture
def tell(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "none/msgpack").mkdir(parents=True)

    def run(story, *drivers, **options):
        async def play():
            made = Story(tmp_path, *drivers, **options)
            await made.it.choose()
            try:
                await story(made)
            finally:
                await made.it.close()
            assert made.bus.open_paths == set(), "a socket stayed open"
            assert not list((tmp_path / "s").glob("*.sock")), "a socket file stayed"
            assert all(sandbox.ended.done() for driver in made.drivers for sandbox in driver.started), (
                "a sandbox runs on"
            )

        asyncio.run(play())

    return run


def test_a_pack_starts_is_welcomed_and_prepared(tell):
    async def story(s):
        info = await s.start()
        assert (info.state, info.generation, info.driver, info.level) == (
            ContainerState.RUNNING,
            1,
            "docker",
            Level.STANDARD,
        )
        assert len(s.prepared) == 1
        assert s.kinds() == ["started"]
        assert s.it.get("hello") == s.it.list()[0]
        assert await s.it.usage("hello") == {"memory_bytes": 1.0}
        assert "sandbox/docker-compose.yml" in s.it.operator_view("hello")

    tell(story)


def test_weaker_than_granted_is_refused_before_any_pack_byte(tell):
    async def story(s):
        s.drivers[0].level = Level.REDUCED
        with pytest.raises(TrustError) as caught:
            await s.start()
        assert caught.value.code == "isolation_weaker"
        assert not s.bus.sessions[0].welcomed
        assert s.prepared == []
        assert s.it.get("hello").state is ContainerState.ERROR

    tell(story)


def test_no_isolation_at_all_is_refused_even_when_granted(tell):
    async def story(s):
        s.drivers[0].level = Level.NONE
        with pytest.raises(TrustError):
            await s.start(granted=Isolation(DriverKind.EMBEDDED, Level.NONE))

    tell(story)


def test_approved_under_docker_does_not_run_embedded(tell):
    async def story(s):
        with pytest.raises(TrustError):
            await s.start()

    tell(story, FakeDriver(DriverKind.DOCKER, available=False), FakeDriver(DriverKind.EMBEDDED))


def test_auto_takes_docker_then_embedded(tell):
    docker, embedded = FakeDriver(DriverKind.DOCKER), FakeDriver(DriverKind.EMBEDDED)

    async def story(s):
        assert (await s.it.choose()).driver is DriverKind.DOCKER
        docker.available = False
        assert (await s.it.choose()).driver is DriverKind.EMBEDDED

    tell(story, embedded, docker)


def test_a_preference_is_kept_even_when_the_other_would_work(tell):
    async def story(s):
        assert await s.it.choose() is None
        error = s.it.unavailable()
        assert error.title == "Docker is required but not available"
        assert "it is switched off" in error.detail
        assert "switch it on" in error.hint
        with pytest.raises(SandboxUnavailable):
            await s.start()

    tell(story, FakeDriver(DriverKind.DOCKER, available=False), FakeDriver(DriverKind.EMBEDDED), preference="docker")


def test_a_crash_restarts_with_a_new_generation_and_prepares_again(tell):
    async def story(s):
        await s.start()
        s.drivers[0].started[0].end(11)
        await s.until(lambda: len(s.prepared) == 2 and s.it.get("hello").state is ContainerState.RUNNING)
        info = s.it.get("hello")
        assert (info.generation, info.restarts) == (2, 1)
        assert s.kinds() == ["started", "crashed", "restarting", "started"]

    tell(story)


def test_a_closed_connection_counts_as_a_crash(tell):
    async def story(s):
        await s.start()
        container_sandbox = s.drivers[0].started[0]
        s.bus.sessions[0].abort("protocol error")
        container_sandbox.end(0)
        await s.until(lambda: len(s.prepared) == 2)

    tell(story)


def test_gives_up_after_the_policys_number_of_failures(tell):
    async def story(s):
        await s.start()
        s.drivers[0].dead_on_arrival = s.bus.silent = True
        s.drivers[0].started[0].end(1)
        await s.until(lambda: s.it.get("hello").state is ContainerState.ERROR)
        assert s.kinds()[-1] == "gave_up"
        assert "4 failures" in s.it.get("hello").last_error
        s.drivers[0].dead_on_arrival = s.bus.silent = False
        assert (await s.start()).state is ContainerState.RUNNING, "the operator may try again"

    tell(story)


def test_a_restart_that_is_isolated_more_weakly_ends_there(tell):
    async def story(s):
        await s.start()
        s.drivers[0].level = Level.REDUCED
        s.drivers[0].started[0].end(1)
        await s.until(lambda: s.it.get("hello").state is ContainerState.ERROR)
        assert s.kinds()[-1] == "weaker"

    tell(story)


def test_a_pack_that_stops_answering_is_replaced(tell, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.005)

    async def story(s):
        await s.start()
        s.bus.sessions[0].answers = False
        await s.until(lambda: len(s.prepared) == 2)
        assert "unhealthy" in s.kinds()

    tell(story)


def test_a_pack_that_crashes_while_it_is_measured_is_not_called_weaker(tell, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.002)

    async def story(s):
        await s.start()
        driver = s.drivers[0]
        first = driver.started[0]

        async def gone(_probe):
            """Nothing of it can be seen any more, and its end is told a moment later."""
            asyncio.get_running_loop().call_later(0.05, first.end)
            return Isolation(driver.kind, Level.REDUCED)

        first.measure = gone
        await s.until(lambda: len(driver.started) == 2 and s.it.get("hello").state is ContainerState.RUNNING)
        assert "weaker" not in s.kinds()
        assert "crashed" in s.kinds()

    tell(story)


def test_isolation_that_becomes_weaker_while_it_runs_ends_the_pack(tell, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.002)

    async def story(s):
        await s.start()
        driver = s.drivers[0]
        await asyncio.sleep(0.05)
        assert s.it.get("hello").state is ContainerState.RUNNING, "measured again and again, and as good as granted"
        driver.level = Level.REDUCED
        await s.until(lambda: s.it.get("hello").state is ContainerState.ERROR)
        assert driver.started[0].ended.done()
        assert len(driver.started) == 1, "started again though it is weaker"
        [told] = [event for event in s.events if event.kind == "weaker"]
        assert "measured: docker reduced" in told.detail
        assert "crashed" not in s.kinds()
        driver.level = Level.STANDARD
        await s.start()
        assert s.it.get("hello").state is ContainerState.RUNNING

    tell(story)


def test_a_vanished_engine_degrades_and_comes_back(tell, monkeypatch):
    monkeypatch.setattr(supervision, "ENGINE_CHECK_S", 0.002)

    async def story(s):
        await s.start()
        driver = s.drivers[0]
        driver.available = False
        driver.started[0].end(None, "lost")
        await s.until(lambda: s.it.get("hello").state is ContainerState.DEGRADED)
        driver.available = True
        await s.until(lambda: len(s.prepared) == 2 and s.it.get("hello").state is ContainerState.RUNNING)
        assert [k for k in s.kinds() if k in {"degraded", "reattached", "gave_up"}] == ["degraded", "reattached"]
        assert [k for k in s.kinds() if k.startswith("engine_")] == ["engine_gone", "engine_back"]

    tell(story)


def test_an_engine_that_vanishes_while_nothing_runs_is_told_by_the_start_that_meets_it(tell):
    async def story(s):
        driver = s.drivers[0]
        driver.available, driver.fail = False, "engine_unavailable"
        with pytest.raises(HostError):
            await s.start()
        assert not s.it.statuses[driver.kind].available
        [told] = [event for event in s.events if event.kind == "engine_gone"]
        assert (told.pack_id, told.detail) == ("", "it is switched off")
        driver.available, driver.fail = True, None
        await s.start("other")
        assert s.it.statuses[driver.kind].available
        assert s.kinds().count("engine_back") == 1

    tell(story)


def test_stopping_while_degraded_is_prompt(tell):
    async def story(s):
        await s.start()
        s.drivers[0].available = False
        s.drivers[0].started[0].end(None, "lost")
        await s.until(lambda: s.it.get("hello").state is ContainerState.DEGRADED)
        await asyncio.wait_for(s.it.stop("hello", reason="test"), 5)

    tell(story)


def test_a_newer_generation_takes_over_only_when_it_works(tell):
    async def story(s):
        await s.start()
        s.drivers[0].dead_on_arrival = s.bus.silent = True
        with pytest.raises(HostError) as caught:
            await s.start(digest="1" * 64)
        assert caught.value.code == "sandbox_died"
        assert "last words" in caught.value.detail
        assert "\x1b" not in caught.value.detail
        assert s.it.get("hello").generation == 1
        assert s.it.get("hello").state is ContainerState.RUNNING
        s.drivers[0].dead_on_arrival = s.bus.silent = False
        assert (await s.start(digest="1" * 64)).generation == 3
        assert s.bus.sessions[-1].took_over
        await s.until(s.drivers[0].started[0].ended.done)

    tell(story)


def test_a_newer_generation_that_is_not_agreed_to_leaves_the_older_one_alone(tell):
    async def story(s):
        await s.start()
        asked = []

        async def agree(session):
            asked.append(session.took_over)
            raise ConflictError("no", code="not_yet")

        with pytest.raises(ConflictError, match="no"):
            await s.it.start(s.request(), s.prepare, agree=agree)
        assert asked == [False]
        older, newer = s.drivers[0].started
        assert newer.ended.done()
        assert not older.ended.done()
        assert s.it.get("hello").generation == 1
        assert not s.bus.sessions[-1].took_over

    tell(story)


def test_a_pack_whose_handlers_hang_is_started_anew(tell, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.005)

    async def story(s):
        await s.start()
        s.bus.sessions[0].stuck = supervision.STUCK_MOST - 1
        await asyncio.sleep(0.03)
        assert s.it.get("hello").restarts == 0
        s.bus.sessions[0].stuck = supervision.STUCK_MOST
        await s.until(lambda: s.it.get("hello").restarts == 1)
        assert "unhealthy" in s.kinds()
        assert s.bus.sessions[0].closed.result().startswith("stuck: 24 handlers")

    tell(story)


def test_limits_that_the_counters_show_are_told(tell, monkeypatch):
    monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.005)

    async def story(s):
        await s.start()
        s.drivers[0].started[0].counted = {"pids_refused": 3.0, "cpu_periods": 100.0, "cpu_throttled": 90.0}
        await s.until(lambda: s.kinds().count("limited") >= 2)
        assert [(e.cause, e.detail) for e in s.events if e.kind == "limited"] == [
            ("processes", "3 attempts to start a process or thread were refused"),
            ("cpu", "it was held back in 90 of 100 periods"),
        ]
        await asyncio.sleep(0.03)
        assert s.kinds().count("limited") == 2, "told once for what was counted once"

    tell(story)


async def _ends_by_itself(s):
    s.drivers[0].started[0].end(9, "signal")
    await s.until(lambda: s.it.get("hello").restarts == 1)


async def _is_stopped(s):
    await s.it.stop("hello", reason="rejected")


async def _hangs(s):
    s.bus.sessions[0].stuck = supervision.STUCK_MOST
    await s.until(lambda: s.it.get("hello").restarts == 1)


@pytest.mark.parametrize("end", [_ends_by_itself, _is_stopped, _hangs])
def test_a_limit_met_since_the_last_look_is_told_however_the_generation_ends(tell, monkeypatch, end):
    async def story(s):
        await s.start()
        s.drivers[0].started[0].counted = {"pids_refused": 3.0}
        if end is _hangs:  # the look that finds it hanging is the first
            monkeypatch.setattr(supervision, "HEALTH_EVERY_S", 0.005)
            s.bus.sessions[0].stuck = supervision.STUCK_MOST
        await end(s)
        assert [(e.cause, e.generation) for e in s.events if e.kind == "limited"] == [("processes", 1)]

    tell(story)


def test_a_limit_met_while_it_starts_is_told(tell):
    async def story(s):
        async def prepare(_session):
            s.drivers[0].started[0].counted = {"oom_kills": 1.0}
            s.drivers[0].started[0].end(137, "oom")
            await asyncio.Event().wait()

        with pytest.raises(HostError):
            await s.it.start(s.request(), prepare)
        assert [(e.cause, e.generation) for e in s.events if e.kind == "limited"] == [("memory", 1)]

    tell(story)


def test_whoever_stops_a_pack_ends_the_older_generation_that_still_serves_calls(tell, monkeypatch):
    async def busy(self, grace_s):
        await asyncio.wait([self.closed], timeout=grace_s)

    async def story(s):
        monkeypatch.setattr(FakeSession, "shutdown", busy)
        await s.start()
        await s.start()
        older, newer = s.drivers[0].started
        assert not older.ended.done(), "it ends its calls"
        monkeypatch.undo()
        await s.it.stop("hello", reason="rejected")
        assert older.ended.done()
        assert newer.ended.done()

    tell(story)


def test_a_pack_that_is_stopped_while_a_newer_generation_starts_beside_does_not_come_back(tell):
    async def story(s):
        await s.start()
        ready = asyncio.Event()

        async def agree(session):
            ready.set()
            await asyncio.Event().wait()

        starting = asyncio.ensure_future(s.it.start(s.request(), s.prepare, agree=agree))
        await ready.wait()
        await s.it.stop("hello", reason="rejected")
        starting.cancel()
        await asyncio.wait([starting])
        assert all(sandbox.ended.done() for sandbox in s.drivers[0].started)
        assert s.it.list() == []

    tell(story)


def test_stop_ends_it_and_forgets_it(tell):
    async def story(s):
        await s.start()
        await s.it.stop("hello", reason="operator")
        assert s.it.get("hello") is None
        assert s.kinds() == ["started", "stopped"]
        with pytest.raises(NotFoundError):
            await s.it.stop("hello", reason="again")

    tell(story)


def test_a_failing_component_leaves_nothing(tell):
    async def story(s):
        async def broken(session):
            raise HostError("component")

        with pytest.raises(HostError):
            await s.it.start(s.request(), broken)
        assert s.bus.open_paths == set()

    tell(story)


def test_dying_while_components_start_is_told_at_once(tell):
    async def story(s):
        async def endless(session):
            s.drivers[0].started[-1].end(139, "signal")
            await asyncio.get_running_loop().create_future()

        with pytest.raises(HostError) as caught:
            await asyncio.wait_for(s.it.start(s.request(), endless), 5)
        assert "while its components started" in caught.value.title

    tell(story)


def test_starts_are_bounded(tell):
    async def story(s):
        await asyncio.gather(*(s.start(f"pack-{n}") for n in range(12)))
        assert s.drivers[0].peak <= container_orchestrator.PARALLEL_STARTS
        assert len(s.it.list()) == 12

    tell(story)


def test_two_starts_of_one_pack_at_once_conflict(tell):
    async def story(s):
        results = await asyncio.gather(s.start(), s.start(), return_exceptions=True)
        assert sorted(type(r).__name__ for r in results) == ["ConflictError", "ContainerInfo"]

    tell(story)


def test_nothing_starts_once_it_closes(tell):
    async def story(s):
        await s.it.close()
        with pytest.raises(ConflictError):
            await s.start()
        assert s.drivers[0].closed

    tell(story)


def test_stopping_while_it_starts_ends_the_start(tell):
    async def story(s):
        s.bus.silent = True
        task = asyncio.create_task(s.start())
        await s.until(lambda: s.drivers[0].started)
        await s.it.stop("hello", reason="operator")
        with pytest.raises(ConflictError):
            await asyncio.wait_for(task, 5)
        assert s.it.get("hello") is None

    tell(story)


def test_stopping_during_an_update_ends_both(tell):
    async def story(s):
        await s.start()
        s.bus.silent = True
        task = asyncio.create_task(s.start(digest="1" * 64))
        await s.until(lambda: len(s.drivers[0].started) == 2)
        await s.it.stop("hello", reason="operator")
        with pytest.raises(ConflictError):
            await asyncio.wait_for(task, 5)
        assert s.it.get("hello") is None

    tell(story)


def test_cancelling_a_start_leaves_nothing(tell):
    async def story(s):
        s.bus.silent = True
        task = asyncio.create_task(s.start())
        await s.until(lambda: s.drivers[0].started)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert s.drivers[0].started[0].ended.done()

    tell(story)


def test_what_a_host_killed_while_it_probed_left_is_removed_at_boot(tell, tmp_path):
    (tmp_path / "s/probe-x1/runtime").mkdir(parents=True)

    async def story(s):
        await s.it.remove_leftovers()
        assert not (tmp_path / "s/probe-x1").exists()

    tell(story)


def test_leftover_sockets_are_removed_at_boot(tell, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/old-1.sock").touch()

    async def story(s):
        await s.it.remove_leftovers()

    tell(story)
