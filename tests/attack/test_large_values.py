"""Attacks with values in chunks: lies about sizes and numbers, floods, values that never end, readers that never read."""

from __future__ import annotations

import asyncio
import os

import msgpack
import pytest

from core_runtime.bus import large
from core_runtime.rules.frames import BusLimits
from tests.support.raw_agent import CALL, CANCEL, ERROR, HELLO, RESULT, RawAgent, eventually, issue_codes, rig

CHUNK = 8
KIB = 1024
SMALL = BusLimits(frame_bytes=64 * KIB, value_bytes=256 * KIB, values=4, values_bytes=384 * KIB)


class Chunky(RawAgent):
    """Says that it takes chunks, and sends what it likes."""

    def hello(self) -> None:
        probe = {"protocols": [1], "agent": "raw", "python": "3", "codec": "c", "chunks": True, "probe": {"uid": 0}}
        self.send(HELLO, 0, probe)

    def chunks(self, number: int, data: bytes, size: int = 32 * KIB) -> msgpack.ExtType:
        for at in range(0, len(data), size):
            self.send(CHUNK, number, data[at : at + size])
        return mark(number, len(data))

    async def whole(self, kind: int) -> tuple[list, object]:
        """The next frame of ``kind``, and its body put together and decoded."""
        found: dict[int, bytes] = {}
        while True:
            frame = await self.read()
            if frame[0] == CHUNK:
                found[frame[1]] = found.get(frame[1], b"") + frame[2]
            elif frame[0] == kind:
                number, size = (int.from_bytes(frame[-1].data[n : n + 4], "little") for n in (0, 4))
                assert len(found[number]) == size
                return frame, msgpack.unpackb(found[number], strict_map_key=False)
            else:
                self.keep(frame)


def mark(number: int, size: int) -> msgpack.ExtType:
    return msgpack.ExtType(4, number.to_bytes(4, "little") + size.to_bytes(4, "little"))


@pytest.fixture(autouse=True)
def chunky(monkeypatch):
    monkeypatch.setattr("tests.support.raw_agent.RawAgent", Chunky)


def bus(test, tmp_path, limits=SMALL, **options):
    async def main():
        async with rig(tmp_path, limits=limits, **options) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            b, session = await r.agent("b", calls={"k"}, provides={"own"})
            await b.mirror("k")
            await test(r, a, b, session)
            for agent in r.agents:
                await agent.close()
            await eventually(lambda: not r.bus.router.sessions)
            assert r.bus.router.room.used_bytes == 0, "whatever happened, nothing is kept"

    asyncio.run(main())


def test_chunks_in_good_order_go_through(tmp_path):
    async def test(_r, a, b, _session):
        data = os.urandom(200 * KIB)
        asked = b.call("k", b.chunks(9, msgpack.packb(data)))
        frame, body = await a.whole(CALL)
        assert body == data
        a.result(frame[1], a.chunks(1, msgpack.packb(data[::-1])))
        answer, back = await b.whole(RESULT)
        assert (answer[1], back) == (asked, data[::-1])

    bus(test, tmp_path)


@pytest.mark.parametrize(
    "lie",
    [
        lambda b: b.call("k", mark(77, 10)),
        lambda b: (b.send(CHUNK, 1, b"x" * 10), b.call("k", mark(1, 11))),
        lambda b: (b.send(CHUNK, 1, b"x" * 10), b.call("k", mark(1, 9))),
        lambda b: (b.send(CHUNK, 1, b"x" * 10), b.call("k", mark(1, 2**32 - 1))),
        lambda b: (b.call("k", b.chunks(1, b"\xc0")), b.call("k", mark(1, 1))),
        lambda b: b.send(CHUNK, 1, b""),
        lambda b: b.send(CHUNK, 1, "text"),
        lambda b: b.send(CHUNK, 1, [1]),
        lambda b: b.send(CHUNK, -1, b"x"),
        lambda b: [b.send(CHUNK, number, b"x") for number in range(5)],
    ],
    ids=[
        "none came", "fewer came", "more came", "a huge size", "told twice", "an empty piece", "a text", "an array",
        "a number that is none", "one body too many",
    ],
)  # fmt: skip
def test_lies_about_chunks_end_the_liars_connection(tmp_path, lie):
    async def test(r, a, b, session):
        lie(b)
        await b.ended()
        await eventually(lambda: session.dead)
        assert "bus_protocol" in issue_codes(r)
        # the other Pack goes on
        call = asyncio.ensure_future(r.bus.call("k"))
        a.result((await a.until(CALL, lambda frame: frame[7][1] == ""))[1], "fine")
        assert await call == "fine"

    bus(test, tmp_path)


def test_the_sign_of_chunks_reaches_nobody_where_it_means_nothing(tmp_path):
    """A body that names another's chunks would have the receiver put together what was meant for somebody else."""

    async def test(r, a, b, _session):
        # as data, inside a body, in another encoding, in an event: a value that means nothing
        assert (await b.answer(b.register("own", None, value=mark(1, 1))))[2] == "value.malformed"
        for body in (b"\xc7\x08\x04" + bytes(8), msgpack.packb([mark(1, 1)]), b"\xd6\x04" + bytes(4)):
            number = b.next_id()
            head = msgpack.packb([CALL, number, "k", 0, 0, 0, None, []])
            data = b"\x99" + head[1:] + body
            b.raw(len(data).to_bytes(4, "little") + data)
            frame = await a.until(CALL)
            a.send(ERROR, frame[1], "value.malformed", "", "", False, "")
            assert (await b.answer(number))[2] == "value.malformed"
        call = asyncio.ensure_future(r.bus.call("k"))
        a.result((await a.until(CALL))[1], [mark(1, 1)])
        with pytest.raises(Exception, match=r"malformed|extension"):
            await call

    bus(test, tmp_path)


def test_too_long_and_too_many_are_dropped_as_they_come_and_answered(tmp_path):
    async def test(r, a, b, _session):
        # longer than any may be: what came is forgotten, its frame is answered
        assert (await b.answer(b.call("k", b.chunks(1, bytes(300 * KIB)))))[2] == "value.too_large"
        # two that would fit alone
        first = b.chunks(2, msgpack.packb(bytes(200 * KIB)))
        second = b.chunks(3, msgpack.packb(bytes(100 * KIB)))
        refused = await b.answer(b.call("k", second))
        assert (refused[2], refused[5]) == ("limit", True)
        assert "limit_values" not in issue_codes(r), "the host tells its operator; a bus alone tells nobody"
        b.call("k", first)
        assert len((await a.whole(CALL))[1]) == 200 * KIB

    bus(test, tmp_path)


def test_all_packs_together_stay_within_the_hosts_room_and_nobody_else_pays(tmp_path):
    async def test(r, a, b, _session):
        c, _ = await r.agent("c", calls={"k"})
        await c.mirror("k")
        b.chunks(1, bytes(250 * KIB))
        await eventually(lambda: r.bus.router.room.used_bytes == 250 * KIB)
        c.chunks(1, bytes(200 * KIB))
        refused = await c.answer(c.call("k", mark(1, 200 * KIB)))
        assert (refused[2], refused[5]) == ("limit", True)
        asked = c.call("k", "small")
        a.result((await a.until(CALL))[1], "passes")
        assert (await c.answer(asked))[4] == "passes"

    bus(test, tmp_path)


def test_a_value_that_never_ends_is_dropped_and_its_frame_answered(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "STALL_S", 0.05)

    async def test(r, _a, b, _session):
        b.send(CHUNK, 1, bytes(100))
        await eventually(lambda: r.bus.router.room.used_bytes == 100)
        await eventually(lambda: r.bus.router.room.used_bytes == 0)
        assert (await b.answer(b.call("k", mark(1, 100))))[2] == "timeout"

    bus(test, tmp_path)


def test_a_value_that_dribbles_keeps_no_room_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "STALL_S", 0.2)

    async def test(r, _a, b, _session):
        b.send(CHUNK, 1, bytes(30 * KIB))
        size = 30 * KIB
        await eventually(lambda: r.bus.router.room.used_bytes == size)
        while r.bus.router.room.used_bytes:
            b.send(CHUNK, 1, b"x")
            size += 1
            await asyncio.sleep(0.01)
        refused = await b.answer(b.call("k", mark(1, size)))
        assert (refused[2], refused[3]) == ("timeout", "a value comes too slowly")

    bus(test, tmp_path)


def test_a_pack_that_does_not_read_holds_up_its_own_large_values_only(tmp_path):
    limits = BusLimits(
        frame_bytes=64 * KIB, value_bytes=2048 * KIB, values=4, values_bytes=16 * 1024 * KIB, backlog_bytes=64 * KIB
    )

    async def test(r, a, b, _session):
        body = msgpack.packb(bytes(1000 * KIB))
        a.writer.transport.pause_reading()
        b.call("k", b.chunks(1, body), deadline_ms=60_000)
        await eventually(lambda: r.bus.sessions["a"].congested)  # it reads nothing
        for number in range(2, 6):
            assert (await b.answer(b.call("k", b.chunks(number, body))))[2] == "limit"
        assert 0 < r.bus.router.room.used_bytes <= 1001 * KIB
        a.writer.transport.resume_reading()
        assert len((await a.whole(CALL))[1]) == 1000 * KIB  # what was taken is there when it reads
        await eventually(lambda: r.bus.router.room.used_bytes == 0)

    bus(test, tmp_path, limits)


@pytest.mark.parametrize("times", [3, 1200], ids=["a few times", "without end"])
def test_a_used_number_of_a_pack_that_does_not_read_harms_nobody_who_answers_it(tmp_path, times):
    """What it is told then has to wait behind the first answer, and there is no room: that was its callee's fault once."""
    limits = BusLimits(frame_bytes=64 * KIB, value_bytes=2048 * KIB, values=1, values_bytes=16 * 1024 * KIB, backlog_bytes=64 * KIB)

    async def test(r, a, b, session):
        body = msgpack.packb(bytes(1000 * KIB))
        b.writer.transport.pause_reading()
        for n in range(times):
            b.call("k", None, id=5, deadline_ms=60_000)
            try:
                call = await a.until(CALL)
            except ConnectionError:
                break
            if n < 3:
                a.send(RESULT, call[1], 0, [], a.chunks(1, body))
            else:
                a.send(ERROR, call[1], "error/No", "no", "", False, "")
            await eventually(lambda: not r.bus.sessions["a"].incoming)
            if session.dead:
                break
        assert "a" in r.bus.sessions, "who answered was cut off"
        assert session.dead is (times > 1000), "who never reads is cut off in the end"
        if not session.dead:
            b.writer.transport.resume_reading()
            assert len((await b.whole(RESULT))[1]) == 1000 * KIB
            for _ in range(2):
                assert (await b.until(ERROR))[1:3] == [5, "limit"]
        question = asyncio.ensure_future(r.bus.call("k", "still there"))
        a.result((await a.until(CALL, lambda frame: frame[-1] == "still there"))[1], "yes")
        assert await question == "yes"

    bus(test, tmp_path, limits)


DEAF = BusLimits(frame_bytes=64 * KIB, value_bytes=2048 * KIB, values=2, values_bytes=16 * 1024 * KIB, backlog_bytes=64 * KIB)
"""Two values fill what waits for a reader."""
SHORT = {"text": "x" * 600}
"""Too long to wait for nothing behind a large value."""


def test_a_short_answer_to_a_used_number_of_a_pack_that_does_not_read_harms_nobody_who_gives_it(tmp_path):
    async def test(r, a, b, session):
        b.writer.transport.pause_reading()
        body = msgpack.packb(bytes(1000 * KIB))
        for number, answer in ((4, lambda: a.chunks(1, body)), (5, lambda: a.chunks(2, body)), (5, lambda: SHORT)):
            b.call("k", None, id=number, deadline_ms=60_000)
            a.result((await a.until(CALL))[1], answer())
            await eventually(lambda: not session.outgoing)
        assert "a" in r.bus.sessions, "who answered was cut off"
        b.writer.transport.resume_reading()
        for _ in range(2):
            assert len((await b.whole(RESULT))[1]) == 1000 * KIB
        assert (await b.until(ERROR))[1:3] == [5, "limit"]
        assert session.orphans == 0
        assert r.bus.sessions["a"].places._left == DEAF.in_flight

    bus(test, tmp_path, DEAF)


@pytest.mark.parametrize("who", ["another Pack", "on behalf of a call", "the host"])
def test_a_large_answer_under_the_number_of_the_hosts_next_call_holds_that_call_up_in_no_way(tmp_path, who):
    """The numbers of the host's calls are no secret: who provides a key may ask for a large value under the next."""

    async def test(r, a, b, session):
        provider = r.bus.sessions["a"]
        r.grants["a"].calls.add("own")
        await b.registered("own")
        await a.mirror("own")
        first = asyncio.ensure_future(r.bus.call("own", "first"))
        served = (await b.until(CALL))[1]
        a.writer.transport.pause_reading()
        for number in (1, 2):
            upcoming = provider._numbers + number
            a.call("own", None, id=upcoming, deadline_ms=60_000)
            b.result((await b.until(CALL))[1], b.chunks(number, msgpack.packb(bytes(1000 * KIB))))
            await eventually(lambda: provider.large.waits((RESULT, upcoming)))  # noqa: B023
        await eventually(lambda: provider.congested)
        if who == "the host":
            asked = asyncio.ensure_future(r.bus.call("k", SHORT))
        else:
            asked = b.call("k", SHORT, parent=served if who == "on behalf of a call" else 0)
        await eventually(lambda: provider.incoming)
        assert provider.large.waits((RESULT, next(iter(provider.incoming)))), "the call has the number of a value"
        a.writer.transport.resume_reading()
        while (frame := await a.read())[0] != CALL:
            assert frame[0] == CHUNK, "the call comes before the values that it has nothing to do with"
        assert frame[-1] == SHORT
        a.result(frame[1], "served")
        answer = await asked if who == "the host" else (await b.answer(asked))[4]
        assert answer == "served"
        assert session.orphans == 0
        assert (provider.places._left, provider.places._bytes_left) == (DEAF.in_flight, DEAF.in_flight_bytes)
        first.cancel()

    bus(test, tmp_path, DEAF)


def test_large_arguments_hold_up_no_answer_to_a_call_that_has_their_number(tmp_path):
    async def test(r, a, b, _session):
        provider = r.bus.sessions["a"]
        r.grants["a"].calls.add("own")
        await b.registered("own")
        await a.mirror("own")
        number = provider._numbers + 1
        a.writer.transport.pause_reading()
        call = asyncio.ensure_future(r.bus.call("k", bytes(1000 * KIB)))
        await eventually(lambda: provider.large.waits((CALL, number)))
        a.call("own", None, id=number)
        b.result((await b.until(CALL))[1], "answer")
        await eventually(lambda: not provider.outgoing)
        a.writer.transport.resume_reading()
        while (frame := await a.read())[0] != RESULT:
            assert frame[0] == CHUNK, "the answer comes before a call that it has nothing to do with"
        assert (frame[1], frame[-1]) == (number, "answer")
        call.cancel()
        assert (await a.until(CALL))[1] == number
        assert (await a.until(CANCEL))[1] == number, "what belongs to the call stays behind it"
        a.send(ERROR, number, "cancelled", "", "", False, "")
        await eventually(lambda: not provider.incoming)

    bus(test, tmp_path, DEAF)


def test_what_follows_a_large_value_stays_behind_it(tmp_path):
    """CANCEL of a call whose chunks are still going out must not arrive before the call."""

    async def test(r, a, b, _session):
        call = asyncio.ensure_future(r.bus.call("k", bytes(200 * KIB)))
        await asyncio.sleep(0)
        call.cancel()
        frame, _body = await a.whole(CALL)
        assert (await a.until(4))[1] == frame[1]
        a.send(ERROR, frame[1], "cancelled", "", "", False, "")
        await eventually(lambda: not r.bus.sessions["a"].incoming)

    bus(test, tmp_path)


def test_an_end_in_the_middle_gives_everything_back(tmp_path):
    limits = BusLimits(frame_bytes=64 * KIB, value_bytes=4096 * KIB, backlog_bytes=64 * KIB)

    async def test(r, a, b, session):
        a.writer.transport.pause_reading()
        b.chunks(1, bytes(100 * KIB))
        call = asyncio.ensure_future(r.bus.call("k", bytes(4000 * KIB), timeout_s=30))
        await eventually(lambda: r.bus.sessions["a"].congested)
        await eventually(lambda: r.bus.router.room.used_bytes > 4000 * KIB)
        session.abort("ends")
        r.bus.sessions["a"].abort("ends")
        with pytest.raises(Exception, match="went away"):
            await call

    bus(test, tmp_path, limits)


def test_an_agent_that_takes_no_chunks_is_sent_none(tmp_path, monkeypatch):
    async def main():
        async with rig(tmp_path, limits=SMALL) as r:
            monkeypatch.setattr("tests.support.raw_agent.RawAgent", RawAgent)
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            with pytest.raises(Exception, match="exceeds the limit"):
                await r.bus.call("k", bytes(100 * KIB))

    asyncio.run(main())
