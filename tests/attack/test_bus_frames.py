"""Attacks on the bus from inside a sandbox: one named test for each."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
import uvloop

from backend_core.errors import ConflictError, HostError, PackError, PackTimeout
from core_runtime.bus.sessions import Session
from core_runtime.rules.frames import BusLimits
from tests.support.raw_agent import (
    CALL,
    CANCEL,
    CREDIT,
    END,
    ERROR,
    EVENT,
    HELLO,
    ITEM,
    LOG,
    MIRROR,
    PHASE_DONE,
    PONG,
    PUBLISH,
    REGISTER,
    RELEASE,
    RESULT,
    SUBSCRIBE,
    Grant,
    RawAgent,
    eventually,
    issue_codes,
    reference,
    rig,
)  # fmt: skip


def run(coro: Any) -> Any:
    """On the loop that the host uses; the unit tests run on asyncio's own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coro)


def buffer_of(session: Session) -> bytearray:
    assert session._link is not None
    return session._link._buffer


def packed(*frame: Any) -> bytes:
    body: bytes = msgpack.packb(list(frame))
    return struct.pack("<I", len(body)) + body


BAD_FRAMES = {
    "zero length": struct.pack("<I", 0),
    "one byte above the limit": struct.pack("<I", 1024 * 1024 + 1),
    "four gigabytes announced": struct.pack("<I", 0xFFFFFFFF),
    "no array": packed()[:4] + b"\x80",
    "an empty array": struct.pack("<I", 1) + b"\x90",
    "an unknown kind": packed(99, 1),
    "a kind for agents only": packed(17, 0, {}),
    "a host's CALL": packed(CALL, 1, 5, 0, 0, 0, 0, ["", "", [], None], None, [], None),
    "too many fields": packed(RESULT, 1, 0, [], None, None),
    "too few fields": packed(RESULT, 1, 0, []),
    "a negative id": packed(RESULT, -1, 0, [], None),
    "an id beyond 32 bits": packed(RESULT, 2**32, 0, [], None),
    "a text as id": packed(RESULT, "1", 0, [], None),
    "references that are none": packed(RESULT, 1, 0, [[2, 1]], None),
    "bytes after the array": struct.pack("<I", 7) + packed(4, 1)[4:] + b"\0\0\0\0",
    "an array that announces four billion references": struct.pack("<I", 10)
    + b"\x95\x02\x01\x00\xdd\xff\xff\xff\xff\xc0",
    "a body nested to the moon": struct.pack("<I", 500_005) + b"\x95\x02\x01\x00\x90" + b"\x91" * 499_999 + b"\xc0",
    "a truncated body": struct.pack("<I", 6) + b"\x95\x02\x01\x00\x90\xa5",
    "a second HELLO": packed(HELLO, 0, {"protocols": [1]}),
    "a RESULT flood of strangers": b"".join(packed(RESULT, 1000 + i, 0, [], None) for i in range(70)),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_malformed_frames_cut_off_this_pack_only(tmp_path, name):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            good, _ = await r.agent("good", provides={"g"})
            await good.registered("g")
            a.raw(BAD_FRAMES[name])
            reason = await asyncio.wait_for(sa.closed, 5)
            assert reason.startswith("protocol:"), reason
            assert "bus_protocol" in issue_codes(r)
            call = asyncio.ensure_future(r.bus.call("g"))
            frame = await good.until(CALL)
            good.result(frame[1], "fine")
            assert await call == "fine"

    run(main())


def test_half_frames_wait_without_cost_and_without_harm(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            whole = packed(REGISTER, 5, "k", {}, None, None, [[0, 1]], msgpack.ExtType(1, b"\0"))
            for i in range(len(whole)):
                a.raw(whole[i : i + 1])
                await a.writer.drain()
                await asyncio.sleep(0)
            assert (await a.answer(5))[0] == RESULT
            a.raw(struct.pack("<I", 1024 * 1024) + b"\x95")
            good, _ = await r.agent("good", provides={"g"})
            await good.registered("g")
            assert not sa.dead
            assert len(buffer_of(sa)) <= 1024 * 1024 + 4

    run(main())


def test_a_large_frame_passes_and_the_buffer_shrinks_again(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            blob = os.urandom(1_000_000)
            asked = b.call("k", blob)
            frame = await a.until(CALL)
            assert frame[-1] == blob
            a.result(frame[1], blob)
            assert (await b.answer(asked))[4] == blob
            assert len(buffer_of(sa)) <= 65_536
            # one that fits as a RESULT of the agent but not with the CALL header of the host
            asked = b.call("k", b"x" * (1024 * 1024 - 60))
            assert (await b.answer(asked))[2] == "value.too_large"

    run(main())


def test_nothing_is_served_before_welcome(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"}, welcome=False)
            a.register("k")
            assert "before WELCOME" in await asyncio.wait_for(sa.closed, 5)
            assert r.registry.get("k") is None

    run(main())


def test_silence_instead_of_hello_ends_in_time(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            endpoint = await r.bus.open("a", 1, Grant(), socket_path=str(tmp_path / "s"))
            waiting = asyncio.ensure_future(endpoint.connected(0.05))
            agent = await RawAgent.connect(endpoint.path)
            with pytest.raises(PackTimeout):
                await waiting
            await agent.ended()
            await agent.close()

    run(main())


def test_only_one_connection_is_accepted(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            await r.agent("a")
            with pytest.raises(OSError):
                await RawAgent.connect(f"{tmp_path}/a-1")

    run(main())


def test_a_stranger_of_another_user_is_refused(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            endpoint = await r.bus.open("a", 1, Grant(), socket_path=str(tmp_path / "s"), uid=os.getuid() + 4321)
            waiting = asyncio.ensure_future(endpoint.connected(0.3))
            if os.getuid() != 0:
                await asyncio.to_thread(Path(endpoint.path).chmod, 0o666)
            agent = await RawAgent.connect(endpoint.path)
            agent.hello()
            await agent.ended()
            with pytest.raises(PackTimeout):
                await waiting
            assert "socket_stranger" in issue_codes(r)
            await agent.close()

    run(main())


def test_a_replayed_generation_is_refused(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            await r.agent("a", 3)
            for generation in (3, 2):
                with pytest.raises(ConflictError) as caught:
                    await r.bus.open("a", generation, Grant(), socket_path=str(tmp_path / "again"))
                assert caught.value.code == "generation_replayed"

    run(main())


def test_registering_undeclared_keys_is_denied_and_audited(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            for key in ("flow.hooks.before_step", "service.other", "k2"):
                answer = await a.answer(a.register(key))
                assert answer[2] == "denied"
                assert r.registry.get(key) is None
            assert {d[2] for d in r.denials} == {"flow.hooks.before_step", "service.other", "k2"}

    run(main())


def test_shadowing_a_key_while_its_owner_is_down_yields_missing(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            owner, _ = await r.agent("owner", provides={"k"})
            r.registry.set_owner("k", "owner")
            await owner.registered("k")
            thief, _ = await r.agent("thief", provides={"k"})
            user, _ = await r.agent("user", calls={"k"})
            await thief.registered("k")
            asked = user.call("k", "secret")
            frame = await owner.until(CALL)
            owner.result(frame[1], "mine")
            assert (await user.answer(asked))[4] == "mine"
            mirror = await user.mirror("k", lambda m: len(m[3]) == 2)
            assert [e["owner"] for e in mirror[3]] == [True, False]
            await owner.close()
            await eventually(lambda: r.registry.get("k") is None)
            assert (await user.answer(user.call("k", "secret")))[2] == "missing"
            assert len(r.registry.get("k", "all")) == 1
            assert not any(f[0] == CALL for f in thief.frames)

    run(main())


def test_a_register_storm_is_bounded(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(registrations=50)) as r:
            a, _ = await r.agent("a", provides={"k"})
            numbers = [a.register("k", i) for i in range(200)]
            answers = [await a.answer(n) for n in numbers]
            assert sum(f[0] == RESULT for f in answers) == 50
            assert {f[2] for f in answers if f[0] == ERROR} == {"limit"}
            assert len(r.registry.get("k", "all")) == 50
            await a.close()
            await eventually(lambda: not r.registry.keys())

    run(main())


def test_forged_answers_reach_nobody(tmp_path):
    """Ids are per connection: an answer to somebody else's call is an answer to nothing."""

    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            evil, se = await r.agent("evil")
            await a.registered("k")
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            evil.result(frame[1], "forged")
            evil.send(ERROR, frame[1], "error/X", "", "", False, "")
            evil.send(END, frame[1], None)
            evil.send(ITEM, frame[1], [], 1)
            evil.send(PHASE_DONE, frame[1], {"ok": True})
            evil.send(PONG, frame[1], {})
            await eventually(lambda: se.handlers.strays == 6)
            assert not call.done()
            a.result(frame[1], "real")
            assert await call == "real"
            a.result(frame[1], "twice")
            await eventually(lambda: "stray_answer" in issue_codes(r))

    run(main())


def test_a_forged_parent_is_no_parent(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            evil, _ = await r.agent("evil", calls={"k"})
            await a.registered("k")
            host = asyncio.ensure_future(r.bus.call("k"))
            victim = await a.until(CALL)
            evil.call("k", parent=victim[1])
            frame = await a.until(CALL)
            assert frame[5] == 0
            assert frame[7][1:3] == ["evil", []]
            assert frame[6] == 0
            assert frame[7][0].split("-")[1] != victim[7][0].split("-")[1]
            host.cancel()

    run(main())


def test_forged_references_are_dead(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            evil, _ = await r.agent("evil", calls={"k"})
            await a.registered("k", 5)
            for number in (1, 5, 77):
                if number in r.bus.sessions["evil"].references.held:
                    continue
                assert (await evil.answer(evil.call(number)))[2] == "dead_reference"
                assert (await evil.answer(evil.call("k", reference(0), refs=[[1, number]])))[2] == "dead_reference"
            # releasing what was never held changes nothing
            evil.send(RELEASE, 0, [1, 2, 3, 5, 2**32 - 1])
            asked = evil.call("k")
            frame = await a.until(CALL)
            a.result(frame[1], 1)
            assert (await evil.answer(asked))[4] == 1
            assert not any(f[0] == RELEASE for f in a.frames)

    run(main())


def test_reused_call_ids_end_the_connection(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            evil, se = await r.agent("evil", calls={"k"})
            await a.registered("k")
            evil.call("k", id=9)
            evil.call("k", id=9)
            assert "in use" in await asyncio.wait_for(se.closed, 5)

    run(main())


def test_a_producer_beyond_its_credit_is_cut_off(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            evil, se = await r.agent("evil", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await evil.registered("k")
            asked = b.call("k")
            frame = await evil.until(CALL)
            evil.send(RESULT, frame[1], 1, [], None)
            for i in range(17):
                evil.send(ITEM, frame[1], [], i)
            assert "granted" in await asyncio.wait_for(se.closed, 5)
            end = await b.until(END)
            assert end[1] == asked
            assert end[2][0] == "unavailable"
            assert sum(f[0] == ITEM for f in b.frames) <= 16

    run(main())


def test_a_consumer_that_grants_everything_opens_a_bounded_window(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(credit_ahead=64)) as r:
            a, _ = await r.agent("a", provides={"k"})
            evil, _ = await r.agent("evil", calls={"k"})
            await a.registered("k")
            asked = evil.call("k")
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            await evil.answer(asked)
            for _ in range(5):
                evil.send(CREDIT, asked, 2**32 - 1)
            assert (await a.until(CREDIT))[2] == 48
            a.send(END, frame[1], None)
            await evil.until(END)
            assert not any(f[0] == CREDIT for f in a.frames)
            evil.send(CREDIT, asked, 5)
            evil.send(CREDIT, 12345, 5)

    run(main())


def test_a_pack_that_never_reads_is_cut_off_and_costs_bounded_memory(tmp_path):
    limits = BusLimits(backlog_bytes=256 * 1024, backlog_hard_bytes=1024 * 1024, in_flight=100_000, orphans=100_000)

    async def main():
        async with rig(tmp_path, limits=limits) as r:
            deaf, sd = await r.agent("deaf", provides={"k"}, subscribe=("*",))
            await deaf.registered("k")
            cast("asyncio.Transport", deaf.writer.transport).pause_reading()
            b, _ = await r.agent("b", calls={"k"})
            blob = "x" * 100_000
            asked = 0
            for _ in range(60):
                asked = b.call("k", blob)
                await b.writer.drain()
            answer = await b.answer(asked)
            assert answer[2] == "limit"
            assert sd.congested
            assert sd._link is not None
            assert sd._link._transport is not None
            assert sd._link._transport.get_write_buffer_size() < limits.backlog_hard_bytes
            # what must reach it all the same (answers, here a burst from the host) ends at the hard limit
            for _ in range(40):
                sd.send((PUBLISH, 0, blob))
                await asyncio.sleep(0)
            assert (await asyncio.wait_for(sd.closed, 5)).startswith("backlog")
            assert "bus_backlog" in issue_codes(r)

    run(main())


def test_a_flood_leaves_turns_for_everybody(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            flood, sf = await r.agent("flood", publish=("*",))
            good, _ = await r.agent("good", provides={"g"})
            await good.registered("g")
            flood.raw(packed(PUBLISH, 0, "t", [], None) * 60_000)
            for _ in range(20):
                call = asyncio.ensure_future(r.bus.call("g"))
                frame = await good.until(CALL)
                good.result(frame[1], 1)
                assert await asyncio.wait_for(call, 2) == 1
            assert not sf.dead

    run(main())


def test_log_floods_are_dropped_and_counted(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(log_bytes_per_s=10_000)) as r:
            a, sa = await r.agent("a")
            for _ in range(100):
                a.send(LOG, 0, 20, "stdout", "x" * 8_000)
            a.send(SUBSCRIBE, 1, "nothing")
            await a.answer(1)
            assert len(r.logs) == 1
            assert sa.log.lost == 99

    run(main())


def test_log_rate_counts_bytes_whatever_the_characters(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(log_bytes_per_s=10_000)) as r:
            a, sa = await r.agent("a")
            for _ in range(5):
                a.send(LOG, 0, 20, "stdout", "\U0001f600" * 2_000)  # 8,000 bytes
            a.send(SUBSCRIBE, 1, "nothing")
            await a.answer(1)
            assert (len(r.logs), sa.log.lost) == (1, 4)

    run(main())


def test_publishing_and_subscribing_need_rights_at_each_event(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", publish=("a.*",), subscribe=("a.*",))
            b, _ = await r.agent("b", subscribe=("a.*",))
            a.send(PUBLISH, 1, "b.x", [], 1)
            assert (await a.answer(1))[2] == "denied"
            b.send(SUBSCRIBE, 1, "secret.*")
            assert (await b.answer(1))[2] == "denied"
            b.send(SUBSCRIBE, 2, "a.*")
            assert (await b.answer(2))[0] == RESULT
            a.send(PUBLISH, 2, "a.x", [], {"v": 1})
            assert (await a.answer(2))[4] == 1
            event = await b.until(EVENT)
            assert event[3]["type"] == "a.x"
            assert event[3]["source"] == "rumi:pack/a"
            assert event[-1] == {"v": 1}
            r.grants["b"].subscribe = ()
            a.send(PUBLISH, 3, "a.x", [], {"v": 2})
            await a.answer(3)
            b.send(SUBSCRIBE, 4, "a.*")
            assert (await b.answer(4))[2] == "denied"
            assert not any(f[0] == EVENT for f in b.frames)

    run(main())


def test_a_pack_that_sits_on_cancelled_calls_is_cut_off(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(abandoned=10)) as r:
            a, sa = await r.agent("a", provides={"k"})
            await a.registered("k")
            for _ in range(11):
                with pytest.raises(PackError):
                    await r.bus.call("k", timeout_s=0.03)
            assert (await asyncio.wait_for(sa.closed, 5)).startswith("stuck")

    run(main())


def test_whoever_cancels_very_many_calls_gets_nobody_cut_off(tmp_path):
    """Four hundred CANCELs at once are the caller's doing: who gives the calls back in good time is not stuck."""

    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            evil, _ = await r.agent("evil", calls={"k"})
            await a.registered("k")
            asked = [evil.call("k") for _ in range(400)]
            served = [(await a.until(CALL))[1] for _ in asked]
            await evil.close()
            for _ in served:
                await a.until(CANCEL)
            assert not sa.dead
            for number in served:
                a.send(ERROR, number, "cancelled", "", "", False, "")
            await eventually(lambda: not sa.incoming)
            assert sa.abandoned == 0
            assert "bus_stuck" not in issue_codes(r)

    run(main())


def test_one_caller_leaves_places_to_the_others(tmp_path):
    """A Pack holds no more calls of another than there are free places: however many flood, one more finds room."""

    async def main():
        async with rig(tmp_path, limits=BusLimits(in_flight=32)) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            for name, share in (("evil", 16), ("worse", 8)):
                flood, _ = await r.agent(name, calls={"k"})
                asked = [flood.call("k") for _ in range(30)]
                assert {(await flood.answer(number))[2] for number in asked[share:]} == {"limit"}
            good, _ = await r.agent("good", calls={"k"})
            for _ in range(20):
                number = good.call("k", "mine")
                frame = await a.until(CALL, lambda f: f[-1] == "mine")
                a.result(frame[1], "served")
                assert (await good.answer(number))[4] == "served"

    run(main())


def test_one_value_that_takes_all_room_of_a_pack_leaves_the_others_some(tmp_path):
    """Its handler may take as long as a call may, and nobody else would have called it meanwhile."""

    async def main():
        async with rig(tmp_path, limits=BusLimits(in_flight_bytes=1_000_000)) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            evil, _ = await r.agent("evil", calls={"k"})
            good, _ = await r.agent("good", calls={"k"})
            evil.call("k", b"x" * 999_990)
            await a.until(CALL)
            number = good.call("k", b"y" * 10_000)
            a.result((await a.until(CALL))[1], "served")
            assert (await good.answer(number))[4] == "served"
            assert (await good.answer(good.call("k", b"y" * 500_000)))[2] == "limit"

    run(main())


def test_what_waits_inside_a_pack_is_bounded_in_bytes_too(tmp_path):
    """A Pack reads all that it is sent: a thousand calls of a megabyte would be its end."""

    async def main():
        async with rig(tmp_path, limits=BusLimits(in_flight_bytes=4_000_000)) as r:
            a, sa = await r.agent("a", provides={"k"})
            await a.registered("k")
            evil, _ = await r.agent("evil", calls={"k"})
            good, _ = await r.agent("good", calls={"k"})
            asked = [evil.call("k", b"x" * 900_000) for _ in range(12)]
            assert (await evil.answer(asked[-1]))[2] == "limit"
            assert len(sa.incoming) == 2
            number = good.call("k", b"y" * 900_000)
            frame = await a.until(CALL, lambda f: f[-1][:1] == b"y")
            a.result(frame[1], "served")
            assert (await good.answer(number))[4] == "served"
            for _ in range(2):
                a.result((await a.until(CALL))[1], None)
            again = evil.call("k", b"x" * 900_000)
            a.result((await a.until(CALL))[1], "again")
            assert (await evil.answer(again))[4] == "again"

    run(main())


def test_a_decoding_bomb_costs_its_sender_an_error(tmp_path):
    """1 MiB of empty maps would become 72 MiB."""

    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            bomb = b"\xdd" + struct.pack(">I", 1_000_000) + b"\x80" * 1_000_000
            body = b"\x95" + msgpack.packb(RESULT) + msgpack.packb(frame[1]) + b"\x00\x90" + bomb
            a.raw(struct.pack("<I", len(body)) + body)
            with pytest.raises(PackError) as caught:
                await call
            assert caught.value.code == "value.too_large"

    run(main())


def test_bad_utf8_in_a_body_fails_that_call_only(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            await a.registered("k")
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            body = b"\x95\x02" + msgpack.packb(frame[1]) + b"\x00\x90\xa2\xff\xff"
            a.raw(struct.pack("<I", len(body)) + body)
            with pytest.raises(PackError) as caught:
                await call
            assert caught.value.code == "value.malformed"
            assert not sa.dead

    run(main())


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/x"},
        {"$ref": "file:///etc/passwd"},
        {"pattern": "(a+)+\\1"},
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {
            "$defs": {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(30)} | {"d30": {}},
            "$ref": "#/$defs/d0",
        },
        {"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]},
        {
            "properties": {
                "x": {"anyOf": [{"additionalProperties": {"$ref": "#"}}, {"properties": {"x": {"$ref": "#"}}}]}
            }
        },
        {"enum": list(range(5_000))},
        {"type": "nonsense"},
        5,
    ],
)
def test_schema_bombs_are_refused_at_registration(tmp_path, schema):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            answer = await a.answer(a.register("k", schemas={"input": schema, "output": None}))
            assert [answer[0], answer[2]] == [ERROR, "schema"], answer
            assert r.registry.get("k") is None
            assert not sa.dead

    run(main())


def test_a_backtracking_pattern_stays_linear(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k", schemas={"input": {"type": "string", "pattern": "^(a+)+$"}, "output": None})
            started = asyncio.get_running_loop().time()
            assert (await b.answer(b.call("k", "a" * 200_000 + "!")))[2] == "schema"
            assert asyncio.get_running_loop().time() - started < 2

    run(main())


def test_mirrors_show_only_what_a_pack_may_reach(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"public", "private"})
            r.registry.register("host.data", {"x": 1})
            b, _ = await r.agent("b", calls={"public", "host.data"})
            await a.registered("public")
            await a.registered("private")
            await b.mirror("public", lambda m: m[3])
            data = await b.mirror("host.data")
            assert data[5] == [{"x": 1}]
            assert data[3][0]["callable"] is False
            assert "private" not in b.mirrors
            mine = await a.mirror("private", lambda m: m[3])
            assert mine[3][0]["mine"] is True
            assert mine[4] == [[1, 1]]

    run(main())


def test_a_socket_path_that_is_too_long_says_so(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            with pytest.raises(HostError) as caught:
                await r.bus.open("a", 1, Grant(), socket_path=str(tmp_path / ("x" * 120)))
            assert caught.value.code == "socket_path_too_long"

    run(main())


def test_the_socket_is_private(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            endpoint = await r.bus.open("a", 1, Grant(), socket_path=str(tmp_path / "s"))
            found = await asyncio.to_thread(Path(endpoint.path).stat)
            assert found.st_mode & 0o777 == 0o600
            await endpoint.close()
            assert not (tmp_path / "s").exists()
            with socket.socket(socket.AF_UNIX) as s, pytest.raises(OSError):
                s.connect(endpoint.path)

    run(main())


def test_mirror_kind_from_an_agent_is_no_frame(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a")
            a.send(MIRROR, 0, "k", [], [], [])
            assert (await asyncio.wait_for(sa.closed, 5)).startswith("protocol")

    run(main())


def test_rights_that_cannot_be_told_are_no_rights(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"}, calls={"k"})
            await a.registered("k")
            del r.grants["a"]
            assert (await a.answer(a.call("other")))[2] == "denied"
            assert (await a.answer(a.register("k")))[2] == "denied"
            assert not session.dead

    run(main())
