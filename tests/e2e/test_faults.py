"""A running system is hit again and again; afterwards everything approved serves, nothing is left, no call was lost silently.

The seed is printed; ``RUMI_FAULT_SEED`` repeats a run, ``RUMI_FAULTS`` sets how many faults there are.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.own_engine import OwnEngine
from tests.support.restless import ANSWERS, DEADLINE_S, GRACE_S, Restless
from tests.support.running_host import RunningHost
from tests.support.sandboxes import STDIO
from tests.support.traces import Traces

pytestmark = pytest.mark.slow

SEED = int(os.environ.get("RUMI_FAULT_SEED", "0")) or random.SystemRandom().getrandbits(32)
GONE_S = 5.0
"""What was killed with the host, or by its engine, may take so long to go on a busy machine."""
COUNT = {"embedded": int(os.environ.get("RUMI_FAULTS", "140")), "docker": int(os.environ.get("RUMI_FAULTS", "60"))}
"""200 together."""
OVER_STDIO = ("kill_an_agent", "stop_an_agent_for_a_while", "close_the_socket", "kill_a_shim", "kill_the_host", "update", "kill_the_engine")
"""What befalls an attached connection, each once."""
EVERYWHERE = {
    "kill_an_agent": 12, "stop_an_agent_for_a_while": 6, "kill_the_host": 2, "fill_tmp": 4, "close_the_socket": 6,
    "leave_in_a_call": 6, "start_slowly": 3, "fail_a_trial": 4, "update": 4, "restart_by_the_operator": 3,
}  # fmt: skip
ONLY = {"embedded": {"kill_the_launcher": 4}, "docker": {"kill_a_shim": 5, "kill_the_engine": 2}}
LOOK_EVERY = 25
SPARE_THREADS = 14
"""Two pools of threads are filled as they are needed: six at most where work blocks, eight for what Packs ask."""


@contextlib.contextmanager
def restless(folder: Path, isolation: str) -> Iterator[Restless]:
    print(f"RUMI_FAULT_SEED={SEED}")
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(OwnEngine()) if isolation != "embedded" else None
        environment = {} if engine is None else {"DOCKER_HOST": engine.address}
        host = stack.enter_context(RunningHost(folder / "home", isolation, environment))
        client = engine.client if engine is not None else None
        yield stack.enter_context(Restless(host, lambda: Traces(host, client), engine, SEED))


def check(system: Restless) -> None:
    """No call was lost: each ended once, in time, with a result or an error that says which."""
    account = system.host.result("watcher.account")
    outcomes = Counter(account["outcomes"])
    for caller in system.callers:
        assert caller.wrong == []
        assert caller.outcomes["ok"] >= ANSWERS, caller.outcomes
        outcomes += caller.outcomes
    untyped = [outcome for outcome in outcomes if not outcome or outcome.startswith("UNTYPED")]
    assert untyped == []
    assert account["begun"] - account["ended"] <= 4, "one call at a time on each of its four threads"
    assert account["longest_s"] < DEADLINE_S + GRACE_S
    print(f"outcomes: {dict(outcomes)}")


def ends_without_a_trace(system: Restless) -> None:
    system.__exit__()
    system.traces.look()
    system.host.stop()
    assert system.traces.alive_after(GONE_S) == {}
    assert system.traces.parents() == set()
    assert system.traces.containers() == {}
    assert system.traces.images() == set()
    assert system.traces.sockets() == set()
    assert system.traces.temporary() == set()
    assert system.traces.mounts() == set()


def isolation_lost(host: RunningHost) -> list[dict[str, Any]]:
    return [one for one in host.ok("GET", "/api/issues") if one["code"] == "isolation_lost"]


@pytest.mark.timeout(580)
def test_random_faults(tmp_path: Path, isolation: str) -> None:
    kinds = {**EVERYWHERE, **ONLY[isolation]}
    done: Counter[str] = Counter()
    with restless(tmp_path, isolation) as system:
        for number in range(COUNT[isolation]):
            [kind] = system.chance.choices(list(kinds), list(kinds.values()))
            system.traces.look()
            print(f"{number}: {kind}")
            getattr(system, kind)()
            done[kind] += 1
            system.host.until(lambda: True, 1, "the host to live")
            if number % LOOK_EVERY == LOOK_EVERY - 1:
                system.quiet()
                system.nothing_leaks()
        system.quiet()
        system.nothing_leaks()
        check(system)
        ends_without_a_trace(system)
    print(f"faults: {dict(done)}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("isolation", [STDIO], indirect=True)
def test_faults_of_attached_stdio(tmp_path: Path, isolation: str) -> None:
    with restless(tmp_path, isolation) as system:
        for kind in system.chance.sample(OVER_STDIO, len(OVER_STDIO)):
            system.traces.look()
            print(kind)
            getattr(system, kind)()
        system.quiet()
        system.nothing_leaks()
        check(system)
        ends_without_a_trace(system)


@pytest.mark.timeout(300)
def test_a_host_killed_under_load_comes_back_and_leaves_nothing(tmp_path: Path, isolation: str) -> None:
    with restless(tmp_path, isolation) as system:
        for _ in range(3):
            system.kill_the_host()
            system.quiet()
            system.nothing_leaks()
        check(system)
        ends_without_a_trace(system)


@pytest.mark.docker
@pytest.mark.timeout(300)
def test_an_engine_killed_under_load_comes_back_and_leaves_nothing(tmp_path: Path) -> None:
    with restless(tmp_path, "docker") as system:
        system.traces.look()
        assert system.engine is not None
        system.engine.kill()
        codes = set()
        begun = time.monotonic()
        while not codes & {"missing", "unavailable"}:
            codes.add(system.host.call("p0.work", {"hops": 3}, timeout_s=DEADLINE_S)[1].get("code"))
            assert time.monotonic() - begun < DEADLINE_S, "calls of a Pack whose engine is gone fail at once"
        host = system.host
        host.until(lambda: isolation_lost(host), 30, "the operator to be told")
        assert not host.ok("GET", "/api/docker/status")["available"]
        assert host.ok("GET", "/api/isolation")["problem"]
        [told] = isolation_lost(host)
        assert (told["subject"], told["severity"]) == ("isolation", "error")
        assert "come back by themselves" in told["hint"]
        assert not host.ok("GET", "/api/doctor")["healthy"]
        system.engine.start()
        system.quiet()
        host.until(lambda: not isolation_lost(host), 30, "the issue to go with its cause")
        assert host.ok("GET", "/api/docker/status")["available"]
        for _ in range(2):
            system.kill_the_engine()
            system.quiet()
            system.nothing_leaks()
        check(system)
        ends_without_a_trace(system)


@pytest.mark.timeout(300)
def test_a_host_that_lives_through_many_faults_keeps_no_descriptor_and_no_thread(tmp_path: Path, isolation: str) -> None:
    kinds = ("kill_an_agent", "close_the_socket", "update", "fail_a_trial", "leave_in_a_call", "kill_the_launcher")
    with restless(tmp_path, isolation) as system:
        system.__exit__()

        def some() -> None:
            for kind in kinds[: 6 if isolation == "embedded" else 5]:
                getattr(system, kind)()
                system.quiet()
            system.nothing_leaks()

        some()
        before, threads = system.traces.descriptors(), system.traces.threads()
        for _ in range(3):
            some()
        try:
            system.host.until(lambda: not system.traces.descriptors() - before, 30, "no more descriptors than before")
        except AssertionError:
            pytest.fail(f"left open: {system.traces.descriptors() - before}; before: {before}")
        assert system.traces.threads() <= threads + SPARE_THREADS
