"""Life of a session beside calls: phases, pings, logs, requests, registry options, mirrors, shutdown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend_core.errors import DeniedError, HostError, PackError, PackTimeout, TooLargeError
from core_runtime.bus.calls import Call
from core_runtime.bus.hub import Bus
from core_runtime.bus.in_flight import InFlight
from core_runtime.bus.sessions import LAST_ID
from core_runtime.diagnostics import Diagnostics
from core_runtime.event_bus import EventBus
from core_runtime.interface_registry import InterfaceRegistry
from core_runtime.rules.frames import BusLimits
from core_runtime.rules.limits_seen import LIMITS
from tests.support.raw_agent import (
    CALL,
    ERROR,
    EVENT,
    LOG,
    PHASE_DONE,
    PING,
    PONG,
    PUBLISH,
    RELEASE,
    REQUEST,
    RUN_PHASE,
    SHUTDOWN,
    SUBSCRIBE,
    UNREGISTER,
    UNSUBSCRIBE,
    WELCOME,
    Grant,
    eventually,
    issue_codes,
    reference,
    rig,
)  # fmt: skip

COMPONENT = {"full_id": "a:s:m", "type": "s", "id": "m", "pack_id": "a", "dir": "backend/components/m"}


def test_welcome_tells_limits_and_mirrors_come_before_any_phase(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            r.registry.register("k", {"n": 1})
            a, session = await r.agent("a", calls={"k"}, welcome=False)
            assert session.hello["probe"] == {"uid": 0}
            await session.welcome({"paths": {"pack": "/pack"}, "lock": {"x": 1}})
            told = (await a.until(WELCOME))[2]
            assert told["pack_id"] == "a"
            assert told["generation"] == 1
            assert told["lock"] == {"x": 1}
            assert told["limits"]["in_flight"] == 1024
            assert told["limits"]["stream_credit"] == 16
            phase = asyncio.ensure_future(session.run_phase(COMPONENT, "setup.py", {"phase": "setup"}, 5))
            frame = await a.until(RUN_PHASE)
            assert a.mirrors["k"][5] == [{"n": 1}]
            assert frame[2:] == [COMPONENT, "setup.py", {"phase": "setup"}]
            a.send(
                PHASE_DONE,
                frame[1],
                {"ok": True, "error": None, "registered": ["k"], "duration_us": 5, "asynchronous": False},
            )
            outcome = await phase
            assert outcome.ok
            assert outcome.registered == ("k",)
            assert outcome.duration_us == 5

    asyncio.run(main())


def test_phases_fail_time_out_and_die(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a")
            phase = asyncio.ensure_future(session.run_phase(COMPONENT, "x.py", {}, 5))
            frame = await a.until(RUN_PHASE)
            a.send(PHASE_DONE, frame[1], {"ok": False, "error": ["missing_file", "t", "d", False, ""]})
            outcome = await phase
            assert outcome.error is not None
            assert not outcome.ok
            assert outcome.error.type == "missing_file"
            phase = asyncio.ensure_future(session.run_phase(COMPONENT, "x.py", {}, 5))
            frame = await a.until(RUN_PHASE)
            a.send(PHASE_DONE, frame[1], 7)
            outcome = await phase
            assert outcome.error is not None
            assert not outcome.ok
            assert outcome.error.type == "error/Exception"
            with pytest.raises(PackTimeout):
                await session.run_phase(COMPONENT, "x.py", {}, 0.02)
            phase = asyncio.ensure_future(session.run_phase(COMPONENT, "x.py", {}, 5))
            await a.until(RUN_PHASE)
            await a.close()
            with pytest.raises(PackError) as caught:
                await phase
            assert caught.value.code == "unavailable"
            with pytest.raises(PackError):
                await session.ping(1)
            with pytest.raises(PackError):
                await session.welcome({})

    asyncio.run(main())


def test_ping_log_and_shutdown(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k")
            ping = asyncio.ensure_future(session.ping(5))
            a.send(PONG, (await a.until(PING))[1], {"threads": 1, "stuck": 0, "calls": 0})
            assert (await ping)["threads"] == 1
            a.send(LOG, 0, 30, "stderr", "warning")
            await eventually(lambda: r.logs == [("a", 1, 30, "stderr", "warning")])
            leaving = asyncio.ensure_future(session.shutdown(5))
            assert (await a.until(SHUTDOWN))[2] == 5000
            with pytest.raises(PackError) as caught:
                await r.bus.call("k")
            assert caught.value.code == "unavailable"
            await a.close()
            await leaving
            assert session.closed.result()
            assert "bus_protocol" not in issue_codes(r)

    asyncio.run(main())


def test_register_options(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k", "d"})
            first = await a.registered("k", 1, meta={"m": 1}, source="code")
            assert await a.registered("k", 2, if_absent=True) is False
            assert r.registry.get_source("k") == "code"
            await a.registered("k", 3, override=True)
            assert len(r.registry.get("k", "all")) == 1
            mirror = await a.mirror("k", lambda m: m[4] == [[1, 3]])
            assert mirror[3][0]["mine"]
            await a.registered("d", None, value={"list": [1, 2]}, ttl_ms=20)
            assert r.registry.get("d") == {"list": [1, 2]}
            await eventually(lambda: r.registry.get("d") is None)
            await a.mirror("d", lambda m: not m[3])
            a.send(UNREGISTER, 90, [first, 12345])
            assert (await a.answer(90))[4] == 1
            bad = await a.answer(a.register("k", 1, ttl_ms="soon"))
            assert bad[0] == ERROR
            assert bad[2] == "value.unsupported"

    asyncio.run(main())


def test_who_takes_back_is_told_what_answers_instead_before_it_is_answered(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k", 1)
            over = await a.registered("k", 2, override=True)
            await a.mirror("k", lambda m: m[4] == [[1, 2]])
            a.send(UNREGISTER, 90, [over])
            assert (await a.answer(90))[4] == 1
            assert a.mirrors["k"][4] == [[1, 1]], "else it would seem for a moment as if nothing were there"

    asyncio.run(main())


def test_data_with_callables_is_registered_mirrored_and_released(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"tools"})
            b, _ = await r.agent("b", calls={"tools"})
            request = a.next_id()
            a.send(
                32,
                request,
                "tools",
                {},
                None,
                None,
                [[0, 11], [0, 12], [0, 13]],
                {"x": reference(0), "y": reference(1)},
            )
            number = (await a.answer(request))[4]
            assert (await a.until(RELEASE))[2] == [13], "what the body does not use is given back"
            mirror = await b.mirror("tools", lambda m: m[3])
            assert [space for space, _ in mirror[4]] == [0, 0]
            assert mirror[3][0]["callable"] is False
            asked = b.call(mirror[4][1][1], "hi")
            frame = await a.until(CALL)
            assert frame[2] == 12
            a.result(frame[1], "there")
            assert (await b.answer(asked))[4] == "there"
            mine = await a.mirror("tools", lambda m: m[3])
            assert mine[4] == [[1, 11], [1, 12]]
            # releasing a mirrored number is a hint only: it lives as long as its registration
            b.send(RELEASE, 0, [mirror[4][1][1]])
            asked = b.call(mirror[4][1][1])
            frame = await a.until(CALL)
            a.result(frame[1], 1)
            await b.answer(asked)
            a.send(UNREGISTER, 91, [number])
            await a.answer(91)
            await b.mirror("tools", lambda m: not m[3])
            assert (await b.answer(b.call(mirror[4][1][1])))[2] == "dead_reference"
            await eventually(lambda: not sa.references._own)

    asyncio.run(main())


def test_references_of_a_refused_call_are_given_back(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            b, _ = await r.agent("b")
            assert (await b.answer(b.call("forbidden", reference(0), refs=[[0, 5]])))[2] == "denied"
            assert (await b.until(RELEASE))[2] == [5]

    asyncio.run(main())


def test_requests_are_served_by_whoever_is_bound(tmp_path):
    async def main():
        async def serve(session, operation, args):
            if operation == "secret.get":
                raise DeniedError("no", detail="why")
            if operation == "crash":
                raise ValueError("bug")
            return [session.pack_id, operation, args]

        async with rig(tmp_path, requests=serve) as r:
            a, _ = await r.agent("a")
            a.send(REQUEST, 1, "userdata.read", 0, [], {"path": "x"})
            assert (await a.answer(1))[4] == ["a", "userdata.read", {"path": "x"}]
            a.send(REQUEST, 2, "secret.get", 0, [], {})
            assert (await a.answer(2))[2:5] == ["denied", "no", "why"]
            a.send(REQUEST, 3, "crash", 0, [], {})
            assert (await a.answer(3))[2] == "error/ValueError"

    asyncio.run(main())


def test_without_a_request_handler_the_answer_says_so(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a")
            a.send(REQUEST, 1, "userdata.read", 0, [], {})
            assert (await a.answer(1))[2] == "unknown_operation"

    asyncio.run(main())


def test_events_between_host_and_packs(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", publish=("t.*",), subscribe=("t.*",))
            b, _ = await r.agent("b", subscribe=("t.*",))
            heard: list[Any] = []
            r.events.subscribe("t.*", heard.append)
            b.send(SUBSCRIBE, 1, "t.x")
            number = (await b.answer(1))[4]
            a.send(PUBLISH, 5, "t.x", [[0, 3]], {"cb": reference(0)})
            assert (await a.answer(5))[4] == 2
            event = await b.until(EVENT)
            assert event[2] == number
            assert event[4][0][0] == 0
            asked = b.call(event[4][0][1], "back")
            frame = await a.until(CALL)
            assert frame[2] == 3
            a.result(frame[1], 1)
            await b.answer(asked)
            assert callable(heard[0]["cb"])
            assert r.events.publish("t.x", {"from": "host"}) == 2
            event = await b.until(EVENT)
            assert event[3]["source"] == "rumi:host"
            assert event[-1] == {"from": "host"}
            b.send(UNSUBSCRIBE, 2, number)
            assert (await b.answer(2))[4] is True
            b.send(UNSUBSCRIBE, 3, number)
            assert (await b.answer(3))[4] is False
            assert r.events.publish("t.x") == 1

    asyncio.run(main())


def test_statistics_and_bus_misuse(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            call = asyncio.ensure_future(r.bus.call("k"))
            a.result((await a.until(CALL))[1], 1)
            await call
            statistics = r.bus.statistics()
            assert statistics["packs"]["a"]["calls"] == 1
            assert statistics["packs"]["a"]["p50_us"] > 0
            assert statistics["edges"][0]["key"] == "k"
            with pytest.raises(Exception, match="runs already"):
                await r.bus.start()
        stopped = Bus(InterfaceRegistry(), EventBus(), Diagnostics())
        with pytest.raises(HostError):
            await stopped.open("a", 1, Grant(), socket_path=str(tmp_path / "x"))

    asyncio.run(main())


def test_a_value_that_cannot_be_shown_is_an_issue_not_an_end(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", calls={"odd", "big"})
            r.registry.register("odd", {1, 2})
            r.registry.register("big", "x" * 2_000_000)
            await eventually(lambda: "mirror_failed" in issue_codes(r))
            ping = asyncio.ensure_future(session.ping(5))
            frame = await a.until(PING)
            a.send(PONG, frame[1], {})
            await ping
            assert a.mirrors["big"][3] == []

    asyncio.run(main())


def test_limits_of_single_calls_that_are_met_are_told(tmp_path):
    async def main():
        told: list[tuple[str, str, str]] = []
        limits = BusLimits(depth=1, frame_bytes=2_000, calls_per_s=8)
        async with rig(tmp_path, limits=limits, on_limit=lambda *limit: told.append(limit)) as r:
            a, _ = await r.agent("a", provides={"k"}, calls={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k", 1)
            assert (await b.answer(b.call("k", "x" * 1_960)))[2] == "value.too_large"
            outer = b.call("k")
            first = await a.until(CALL)
            a.call("k", parent=first[1])
            second = await a.until(CALL)
            assert (await a.answer(a.call("k", parent=second[1])))[2] == "depth"
            a.result(second[1], 1)
            a.result(first[1], 1)
            await b.answer(outer)
            answers = [b.call("k") for _ in range(7)]
            assert (await b.answer(answers[-1]))[2] == "limit"
            assert [(pack_id, limit) for pack_id, limit, _ in told] == [("b", "message"), ("a", "depth"), ("b", "rate")]
            assert all(limit in LIMITS and detail for _, limit, detail in told)

    asyncio.run(main())


def test_calls_that_are_refused_count_as_calls_of_the_second(tmp_path):
    """Asking for what it may not call is work for the host like any other; past the limit no right is asked for."""

    async def main():
        asked: list[str] = []
        async with rig(tmp_path, limits=BusLimits(calls_per_s=5)) as r:
            a, _ = await r.agent("a", provides={"k"})
            c, _ = await r.agent("c", calls=set())
            await a.registered("k", 1)
            r.grants["c"].may_call = lambda key: bool(asked.append(key))
            answers = [(await c.answer(c.call("k", {"n": 1})))[2] for _ in range(7)]
            assert answers == ["denied"] * 5 + ["limit"] * 2
            assert asked == ["k"] * 5

    asyncio.run(main())


def test_a_call_that_gets_what_is_left_to_its_parent_is_late_with_it_and_not_a_little_before():
    """Else the parent, whose time that call took, is looked at without it and seems slow by itself."""
    calls = InFlight(BusLimits(deadline_ms=2_000))
    parent, child, brief = (Call("k", None, None, 0, "", None, 0, (), "", None, None) for _ in range(3))
    calls.budget(parent, 0)
    for call in (child, brief):
        call.parent, call.started = parent, parent.started + 0.1234567
    calls.budget(child, 0)
    calls.budget(brief, 50)
    assert child.deadline == parent.deadline
    assert child.budget_s == 1.876
    assert brief.deadline == brief.started + 0.05


def test_who_answers_too_late_is_told_of_and_not_who_waits_for_it(tmp_path):
    async def main():
        told: list[tuple[str, str, str]] = []
        async with rig(tmp_path, limits=BusLimits(deadline_ms=2_000), on_limit=lambda *limit: told.append(limit)) as r:
            a, _ = await r.agent("a", provides={"k"}, calls={"l"})
            b, _ = await r.agent("b", provides={"l"})
            c, _ = await r.agent("c", calls={"k"})
            await a.registered("k", 1)
            await b.registered("l", 1)
            early = c.call("k", deadline_ms=50)
            await a.until(CALL)
            assert (await c.answer(early))[2] == "timeout"
            assert told == [], "its caller wanted it sooner than usual"
            waiting = c.call("k")
            outer = await a.until(CALL)
            a.call("l", parent=outer[1])
            await b.until(CALL)
            assert (await c.answer(waiting))[2] == "timeout"
            assert [(pack_id, limit) for pack_id, limit, _ in told] == [("b", "time")]

    asyncio.run(main())


def test_who_is_late_with_what_stands_behind_its_callers_own_calls_is_not_told_of(tmp_path):
    """A caller has a share of the threads: whoever keeps that busy waits for itself. Everybody else's calls count."""

    async def main():
        told: list[str] = []
        limits = BusLimits(deadline_ms=300)
        async with rig(tmp_path, limits=limits, on_limit=lambda _, limit, detail: told.append(f"{limit}: {detail}")) as r:
            a, _ = await r.agent("a", provides={"long", "k"})
            b, _ = await r.agent("b", calls={"long", "k"})
            c, _ = await r.agent("c", calls={"k"})
            await a.registered("long", 1)
            await a.registered("k", 2)
            for _ in range(8):
                b.call("long", deadline_ms=60_000)
                await a.until(CALL)
            behind = [b.call("k") for _ in range(12)]
            for number in behind:
                assert (await b.answer(number))[2] == "timeout"
            assert told == []
            assert (await c.answer(c.call("k")))[2] == "timeout"
            assert len(told) == 1
            assert "'k'" in told[0]

    asyncio.run(main())


@pytest.mark.parametrize(("given_up", "calls"), [(0, 20), (20, 1)])
def test_a_pack_that_answers_nobody_is_told_of_however_much_one_caller_calls(tmp_path, given_up, calls):
    """The first of very many calls count, and what was given up stands before nothing."""

    async def main():
        told: list[str] = []
        limits = BusLimits(deadline_ms=300)
        async with rig(tmp_path, limits=limits, on_limit=lambda _, limit, __: told.append(limit)) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k", 1)
            for number in [b.call("k", deadline_ms=20) for _ in range(given_up)]:
                assert (await b.answer(number))[2] == "timeout"
            assert told == [], "they wanted it sooner than usual"
            for number in [b.call("k") for _ in range(calls)]:
                assert (await b.answer(number))[2] == "timeout"
            assert told == ["time"]

    asyncio.run(main())


def test_whose_answer_the_host_has_not_read_yet_is_not_told_of(tmp_path, monkeypatch):
    """It may have answered long ago: who sends much while others are served is read from after a rest."""

    async def main():
        told: list[tuple[str, str, str]] = []
        async with rig(tmp_path, limits=BusLimits(deadline_ms=400), on_limit=lambda *limit: told.append(limit)) as r:
            a, _ = await r.agent("a", provides={"k"})
            c, _ = await r.agent("c", calls={"k"})
            await a.registered("k", 1)
            waiting = c.call("k")
            number = (await a.until(CALL))[1]
            with monkeypatch.context() as always:
                always.setattr("core_runtime.drivers.link.Turn.others", lambda *_: True)
                always.setattr("core_runtime.drivers.link.rest_s", lambda *_: 1.0)
                for _ in range(40):
                    a.send(LOG, 0, 20, "stdout", "x" * 100_000)
                a.result(number, 1)
                assert (await c.answer(waiting))[2] == "timeout"
                assert [limit for _, limit, _ in told if limit == "time"] == []
            # undone before the rig ends: what was sent is read to its end, which with such rests takes minutes

    asyncio.run(main())


def test_a_full_user_data_folder_is_told(tmp_path):
    async def main():
        told: list[tuple[str, str, str]] = []

        async def full(*_asked: Any) -> None:
            raise TooLargeError("Too much", code="quota", detail="9 bytes would be used; the quota is 8.")

        async with rig(tmp_path, on_limit=lambda *limit: told.append(limit), requests=full) as r:
            a, _ = await r.agent("a")
            a.send(REQUEST, 1, "userdata.write", 0, [], {})
            await eventually(lambda: told)
            assert told == [("a", "disk", "9 bytes would be used; the quota is 8.")]

    asyncio.run(main())


def test_limits_of_the_bus_that_are_met_are_told_once_a_second(tmp_path):
    async def main():
        told: list[tuple[str, str, str]] = []
        limits = BusLimits(in_flight=4, orphans=2, registrations=1, requests=1)
        async with rig(tmp_path, limits=limits, on_limit=lambda *limit: told.append(limit)) as r:
            a, _ = await r.agent("a", provides={"k", "l"}, calls={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k", 1)
            assert (await a.answer(a.register("l")))[2] == "limit"
            for caller in (b, b, b, b, a, a):
                caller.call("k")
            await eventually(lambda: len(told) == 3)
            for _ in range(9):
                a.send(LOG, 0, 20, "stdout", "x" * 8_000)
            await eventually(lambda: len(told) == 4)
            assert sorted((pack_id, limit) for pack_id, limit, _ in told) == [
                ("a", "busy"), ("a", "log"), ("a", "registrations"), ("b", "calls"),
            ]  # fmt: skip
            assert all(limit in LIMITS and detail for _, limit, detail in told)

    asyncio.run(main())


def test_ids_that_came_round_pass_over_those_still_in_use(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k", 1)
            first = asyncio.ensure_future(r.bus.call("k", 1))
            used = (await a.until(CALL))[1]
            session._numbers = LAST_ID - 1
            ids = []
            for _ in range(used + 3):
                answer = asyncio.ensure_future(r.bus.call("k", 2))
                ids.append((await a.until(CALL))[1])
                a.result(ids[-1], 2)
                assert await answer == 2
            assert ids[0] == LAST_ID
            assert ids[1:] == [n for n in range(1, used + 4) if n != used][: len(ids) - 1]
            a.result(used, 1)
            assert await first == 1

    asyncio.run(main())
