"""What a Pack without any permission can cost its host and the others through the bus: memory, turns, threads."""

from __future__ import annotations

import asyncio
import statistics
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from backend_core.errors import PackTimeout
from core_runtime.bus import mirrors, pushes
from core_runtime.drivers import busy_poll
from core_runtime.rules import values
from core_runtime.rules.frames import BusLimits
from core_runtime.rules.schemas import MAX_PATTERNS, Checkers, SchemaRefused
from tests.support.raw_agent import (
    CALL,
    ERROR,
    LOG,
    PUBLISH,
    REGISTER,
    RELEASE,
    REQUEST,
    RESULT,
    UNREGISTER,
    RawAgent,
    eventually,
    rig,
)

OPTIONS = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}
MIB = 1024 * 1024


def run(main: Any, timeout_s: float = 60) -> None:
    asyncio.run(asyncio.wait_for(main, timeout_s))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def patterns(count: int, start: int = 0) -> dict[str, Any]:
    return {
        "properties": {f"p{i}": {"type": "string", "pattern": f"^a{{{i % 64 + 1}}}b{start}c{i}$"} for i in range(count)}
    }


STORMS: dict[str, Any] = {
    "many patterns": lambda n: (OPTIONS, None, {"input": patterns(300, n), "output": None}, 1),
    "patterns as allowed": lambda n: (OPTIONS, None, {"input": patterns(MAX_PATTERNS, n), "output": None}, 1),
    "metadata": lambda _: (OPTIONS, {"m": "v" * 900_000}, None, 1),
    "values": lambda _: (OPTIONS, None, None, b"v" * 900_000),
    "source texts": lambda _: ({**OPTIONS, "source": "v" * 900_000}, None, None, 1),
    "very many small values": lambda _: (OPTIONS, None, None, [{}] * 100_000),
}


@pytest.mark.parametrize("what", STORMS)
def test_what_a_pack_registers_is_bounded_in_bytes_and_costs_nobody_their_turn(tmp_path, what):
    async def main() -> None:
        async with rig(tmp_path) as r:
            evil, session = await r.agent("evil", provides={"evil.other"})
            good, _ = await r.agent("good", provides={"good.echo"}, calls={"good.echo"})
            await good.registered("good.echo")
            before, slowest, refusals = resident_bytes(), 0.0, set()
            for n in range(60):
                options, meta, schemas, value = STORMS[what](n)
                evil.send(REGISTER, n + 1000, "evil.other", options, meta, schemas, [], value)
                started = time.monotonic()
                frame = await evil.answer(n + 1000)
                slowest = max(slowest, time.monotonic() - started)
                if frame[0] == ERROR:
                    refusals.add(frame[2])
            assert refusals == ({"schema"} if what == "many patterns" else {"limit"})
            assert session.registry.held_bytes <= r.bus.limits.registry_bytes
            assert resident_bytes() - before < 64 * MIB
            assert slowest < 1.0, "a frame and all that it sets off took a second"
            call = asyncio.ensure_future(r.bus.call("good.echo"))
            asked = await good.until(CALL)
            good.result(asked[1], "alive")
            assert await call == "alive"
            await evil.close()
            await eventually(lambda: r.registry.slot("evil.other") is None)
            assert session.registry.held_bytes == 0

    run(main())


def test_the_budget_is_announced_and_names_itself(tmp_path):
    async def main() -> None:
        async with rig(tmp_path, limits=BusLimits(registry_bytes=10_000)) as r:
            agent, session = await r.agent("a", provides={"k"})
            assert r.bus.limits.told()["registry_bytes"] == 10_000
            frame = await agent.answer(agent.register("k", None, value=b"v" * 20_000))
            assert frame[2] == "limit"
            assert "10000 bytes" in frame[3]
            assert session.registry.held_bytes == 0

    run(main())


@pytest.mark.parametrize("how", ["unregister", "expiry"])
def test_what_is_gone_counts_no_longer(tmp_path, how):
    async def main() -> None:
        async with rig(tmp_path, limits=BusLimits(registry_bytes=10_000)) as r:
            agent, session = await r.agent("a", provides={"k"})
            for _ in range(20):
                options = {"ttl_ms": 1} if how == "expiry" else {}
                number = await agent.registered("k", None, value=b"v" * 8_000, **options)
                assert 8_000 < session.registry.held_bytes <= 10_000
                if how == "unregister":
                    request = agent.next_id()
                    agent.send(UNREGISTER, request, [number])
                    assert (await agent.answer(request))[4] == 1
                    assert session.registry.held_bytes == 0
                else:
                    await eventually(lambda: r.registry.slot("k") is None)
            assert len(session.registrations) <= 1

    run(main())


def test_registering_is_limited_in_rate_but_hundreds_at_once_are_fine(tmp_path):
    async def main() -> None:
        async with rig(tmp_path, limits=BusLimits(register_burst=600, register_per_s=1)) as r:
            agent, _ = await r.agent("a", provides={"k"})
            asked = [agent.register("k") for _ in range(500)]
            assert all([(await agent.answer(n))[0] == RESULT for n in asked])
            refused = None
            for _ in range(200):
                frame = await agent.answer(agent.register("k"))
                if frame[0] == ERROR:
                    refused = frame
                    break
            assert refused is not None
            assert (refused[2], refused[5]) == ("limit", True)
            assert "Try again in" in refused[4]

    run(main())


@pytest.mark.parametrize(
    "schema",
    [
        patterns(MAX_PATTERNS + 1),
        {"patternProperties": {f"^p{i}$": {} for i in range(MAX_PATTERNS + 1)}},
        {"properties": {f"p{i}": {"pattern": "a" * 900} for i in range(10)}},
        {"properties": {f"p{i}": {"pattern": f"^.{{1,{600 + i}}}$"} for i in range(MAX_PATTERNS)}},
    ],
    ids=["patterns", "pattern properties", "long patterns", "patterns that grow"],
)
def test_a_schema_of_too_many_or_too_large_patterns_is_refused_by_name(schema):
    started = time.monotonic()
    with pytest.raises(SchemaRefused, match="patterns"):
        Checkers.of(schema, None)
    assert time.monotonic() - started < 1


def test_ordinary_patterns_stay_cheap():
    schema = {
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z0-9_.-]{1,64}$"},
            "mail": {"type": "string", "pattern": r"^[^@\s]+@[^@\s]+\.[a-z]{2,20}$"},
            "day": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"},
        }
    }
    checkers = Checkers.of(schema, None)
    assert checkers.compiled_bytes <= 128 * 1024
    assert checkers.input is not None
    assert checkers.input.problem({"name": "x.y", "mail": "a@b.cd", "day": "2024-01-31"}, 50) is None
    assert checkers.input.problem({"day": "tomorrow"}, 20) is not None


def test_one_index_named_very_often_is_one_callable(tmp_path):
    async def main() -> None:
        async with rig(tmp_path) as r:
            agent, _ = await r.agent("a", provides={"k"})
            value = [msgpack.ExtType(1, b"\x00")] * 2_000
            agent.send(REGISTER, 1, "k", OPTIONS, None, None, [[0, 5]], value)
            assert (await agent.answer(1))[0] == RESULT
            assert len({id(found) for found in r.registry.get("k")}) == 1

    run(main())


def test_an_entry_is_encoded_once_however_many_see_it(tmp_path, monkeypatch):
    encoded = 0
    real = values.pack

    def counting(value: Any, *rest: Any) -> bytes:
        nonlocal encoded
        encoded += isinstance(value, bytes) and len(value) == 100_000
        return real(value, *rest)

    monkeypatch.setattr(mirrors, "pack", counting)

    async def main() -> None:
        async with rig(tmp_path) as r:
            owner, _ = await r.agent("owner", provides={"k"})
            users = [(await r.agent(f"user{i}", calls={"k"}))[0] for i in range(6)]
            await owner.registered("k", None, value=b"v" * 100_000)
            await owner.registered("k", 7, meta={"n": 2})
            for user in users:
                shown = await user.mirror("k", lambda m: len(m[3]) == 2)
                assert shown[5][0] == b"v" * 100_000
                assert [entry["mine"] for entry in shown[3]] == [False, False]
                assert shown[3][1]["meta"] == {"n": 2}
            mine = await owner.mirror("k", lambda m: len(m[3]) == 2)
            assert [entry["mine"] for entry in mine[3]] == [True, True]
            assert mine[4] == [[1, 7]]

    run(main())
    assert encoded == 1


def test_mirrors_cut_nobody_off_who_does_not_read(tmp_path):
    """Another Pack's churn must not fill the backlog of one that is busy, and it sees the newest state in the end."""

    async def main() -> None:
        limits = BusLimits(backlog_bytes=256 * 1024, backlog_hard_bytes=MIB)
        async with rig(tmp_path, limits=limits) as r:
            evil, _ = await r.agent("evil", provides={"k"})
            busy, session = await r.agent("busy", calls={"k"})
            transport: Any = busy.writer.transport
            transport.pause_reading()
            for n in range(12):
                number = await evil.registered("k", None, value=b"v" * 500_000 + bytes([n]))
                if n < 11:
                    request = evil.next_id()
                    evil.send(UNREGISTER, request, [number])
                    await evil.answer(request)
            await eventually(lambda: session.congested or session.dead)
            assert not session.dead
            transport.resume_reading()
            shown = await busy.mirror("k", lambda m: bool(m[5]) and m[5][-1][-1] == 11)
            assert len(shown[3]) == 1
            assert not session.dead

    run(main())


def packed(*frame: Any) -> bytes:
    body = msgpack.packb(list(frame), use_bin_type=True)
    return bytes(struct.pack("<I", len(body)) + body)


FLOODS = {
    "PUBLISH": packed(PUBLISH, 0, "a.b", [], None),
    "CALL": packed(CALL, 0, "good.echo", 0, 0, 0, None, [], None),
    "REQUEST": packed(REQUEST, 0, "slow", 0, [], None),
    "RELEASE": packed(RELEASE, 0, list(range(1000))),
    "UNREGISTER": packed(UNREGISTER, 0, list(range(1000))),
}
FLOODER = """
import socket, sys
s = socket.socket(fileno=0)
s.setblocking(True)
frame = bytes.fromhex(sys.argv[1])
data = frame * max(1, 60000 // len(frame))
try:
    while True:
        s.sendall(data)
except OSError:
    pass
"""
ECHO = """
import msgpack, socket, struct
s = socket.socket(fileno=0)
s.setblocking(True)
f = s.makefile("rb")
while True:
    head = f.read(4)
    if len(head) < 4:
        break
    frame = msgpack.unpackb(f.read(struct.unpack("<I", head)[0]), strict_map_key=False)
    if frame[0] == 1:
        body = msgpack.packb([2, frame[1], 0, [], frame[-1]])
        s.sendall(struct.pack("<I", len(body)) + body)
"""


@contextmanager
def taken_over(agent: RawAgent, program: str, *arguments: str):
    """A process of its own goes on with an agent's connection: it must not share the host's loop."""
    transport: Any = agent.writer.transport
    transport.pause_reading()
    sock = agent.writer.get_extra_info("socket")
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stdin=sock.fileno())
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def handled(link: Any) -> int:
    """Bytes of the frames that were dealt with; more of them lie in the buffer."""
    return int(link.bytes_in - link._end + link._start)


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_slows_the_others_down_by_a_small_factor_only(tmp_path, kind):
    async def main() -> None:
        async def slow(*_: Any) -> None:
            await asyncio.sleep(0.05)

        async with rig(tmp_path, requests=slow) as r:
            evil, session = await r.agent("evil")
            good, _ = await r.agent("good", provides={"good.echo"})
            await good.registered("good.echo")

            async def median_s(count: int) -> float:
                times: list[float] = []
                until = time.monotonic() + 8
                while len(times) < count and time.monotonic() < until:
                    started = time.perf_counter()
                    assert await r.bus.call("good.echo", 1) == 1
                    times.append(time.perf_counter() - started)
                return statistics.median(times)

            with taken_over(good, ECHO):
                await median_s(50)
                quiet = await median_s(300)
                with taken_over(evil, FLOODER, FLOODS[kind].hex()):
                    link: Any = session._link
                    seen = link.bytes_in
                    await eventually(lambda: link.bytes_in > seen + 500_000)
                    begun = handled(link)
                    flooded = await median_s(300)
                    # little, since it rests between its turns while somebody else is served
                    assert handled(link) > begun, "the flood went on"
                    assert not session.dead
            print(kind, f"quiet {quiet * 1e3:.2f} ms, flooded {flooded * 1e3:.2f} ms: {flooded / quiet:.1f}")
            assert flooded < 8 * max(quiet, 0.0005)

    run(main())


def test_slow_requests_leave_threads_to_the_others(tmp_path):
    """The threads that serve requests serve everybody: one Pack gets a few of them, the others of its requests wait."""
    release = threading.Event()
    served: list[int] = []
    running = 0

    async def serve(session: Any, _operation: str, args: Any) -> Any:
        nonlocal running
        if session.pack_id == "good":
            return await asyncio.to_thread(lambda: "at once")
        running += 1
        served.append(args)
        try:
            await asyncio.to_thread(release.wait, 30)
        finally:
            running -= 1
        return args

    async def main() -> None:
        try:
            async with rig(tmp_path, requests=serve) as r:
                evil, _ = await r.agent("evil")
                good, _ = await r.agent("good")
                for n in range(1, 201):
                    evil.send(REQUEST, n, "slow", 0, [], n)
                # beyond what may be in flight: refused at once
                assert (await evil.answer(200))[2] == "limit"
                assert running == r.bus.limits.requests_at_once
                good.send(REQUEST, 1, "quick", 0, [], None)
                assert (await asyncio.wait_for(good.answer(1), 5))[4] == "at once"
                assert served == [1, 2, 3, 4]
                release.set()
                for n in range(1, r.bus.limits.requests + 1):
                    assert (await evil.answer(n))[4] == n
                assert served == list(range(1, r.bus.limits.requests + 1))
        finally:
            release.set()

    run(main())


def test_requests_that_wait_are_bounded_in_bytes_and_end_with_their_session(tmp_path):
    release = asyncio.Event()
    started = 0

    async def serve(*_: Any) -> None:
        nonlocal started
        started += 1
        await release.wait()

    async def main() -> None:
        async with rig(tmp_path, requests=serve, limits=BusLimits(request_bytes=100_000)) as r:
            evil, session = await r.agent("evil")
            for n in range(1, 31):
                evil.send(REQUEST, n, "slow", 0, [], b"v" * 30_000)
            assert (await evil.answer(30))[2] == "limit"
            assert len(session.requests._waiting) == 3
            await evil.close()
            await eventually(lambda: session.dead and not session.requests._tasks)
            assert started == r.bus.limits.requests_at_once

    run(main())


def test_mirrors_that_cost_much_are_told_less_often_but_the_newest_is_told(tmp_path, monkeypatch):
    """With next to no time for telling: one key a turn, and each rests before it is told of again."""
    monkeypatch.setattr(pushes, "PUSH_S", 1e-9)
    monkeypatch.setattr(pushes, "REST", 50)

    async def main() -> None:
        async with rig(tmp_path) as r:
            keys = {f"k{i}" for i in range(5)}
            owner, _ = await r.agent("owner", provides=keys)
            user, _ = await r.agent("user", calls=keys)
            asked = [
                owner.register(key, None, value=[n, key], override=True) for n in range(40) for key in sorted(keys)
            ]
            for number in asked:
                assert (await owner.answer(number))[0] == RESULT
            for key in sorted(keys):
                shown = await user.mirror(key, lambda m: bool(m[5]) and m[5][-1][0] == 39)
                assert shown[5] == [[39, key]]
            await owner.close()
            for key in sorted(keys):
                await user.mirror(key, lambda m: not m[3])
            await eventually(lambda: r.bus._pushes.told)

    run(main())


def test_packs_that_feed_the_polls_of_the_host_without_end_keep_nobody_waiting(tmp_path, monkeypatch):
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(busy_poll, "processors", lambda: 2)
    monkeypatch.setattr(busy_poll, "_give_way", look)

    async def main() -> None:
        async with rig(tmp_path) as r:
            fed = True
            evil, _ = await r.agent("evil", calls={"quick"})
            quick, _ = await r.agent("quick", provides={"quick"})
            await quick.registered("quick")
            good, _ = await r.agent("good", provides={"good"})
            await good.registered("good")

            async def calls() -> None:
                """Each call is answered in time, which pays for the next poll; what is logged ends one as well."""
                while fed:
                    number = evil.call("quick")
                    quick.result((await quick.until(CALL))[1], None)
                    await evil.answer(number)
                    quick.send(LOG, 0, 20, "x", "y")

            feeding = asyncio.ensure_future(calls())
            await eventually(lambda: looks > 100)
            for n in range(20):
                asked = asyncio.ensure_future(r.bus.call("good", n))
                good.result((await good.until(CALL))[1], n)
                assert await asked == n
            late = asyncio.ensure_future(r.bus.call("good", timeout_s=0.05))
            assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
            with pytest.raises(PackTimeout):
                await late
            fed = False
            await feeding
            await asyncio.sleep(0.05)
            idle = looks
            await asyncio.sleep(0.2)
            assert looks == idle, "nobody calls, nothing is polled"

    run(main())
