"""The host's end of a connection: whichever way the bytes take to the kernel, they arrive whole and in order."""

import asyncio
import contextlib
import socket
import time

import msgpack
import pytest
import uvloop

from core_runtime.drivers.busy_poll import AFTER_ANSWER, AFTER_CALL, BusyPoll
from core_runtime.drivers.link import BUFFER_BYTES, LONG_READ_BYTES, attach
from core_runtime.drivers.turns import Partners, Turn
from core_runtime.rules import frames
from core_runtime.rules.frames import BusLimits, FrameError
from core_runtime.rules.sharing import MAX_REST_S, SHARED_FOR_S, SHARED_TURN_S, carried_rest_s, rest_s

COUNT, SIZE = 600, 20_000
"""Twelve megabytes: far more than a socket takes, so that most of it waits in the transport."""


class Nobody:
    """A peer that is sent nothing."""

    def on_frame(self, frame):
        raise AssertionError(bytes(frame))

    def on_lost(self, reason):
        self.reason = reason

    def on_long(self, frame):
        return False

    def on_room(self):
        pass


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_frames_keep_their_order_while_the_socket_is_full_and_when_it_has_room_again(factory):
    async def story():
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        link = await attach(near, Nobody(), BusLimits(), Turn())
        unpacker = msgpack.Unpacker()
        numbers, sent = [], 0
        received = b""
        while len(numbers) < COUNT:
            for _ in range(20):
                if sent < COUNT:
                    link.send((frames.STREAM_ITEM, sent, (), b"x" * SIZE))
                    sent += 1
            received += await asyncio.wait_for(loop.sock_recv(far, 65_536), 10)
            while len(received) >= 4 and len(received) - 4 >= int.from_bytes(received[:4], "little"):
                size = int.from_bytes(received[:4], "little")
                unpacker.feed(received[4 : 4 + size])
                received = received[4 + size :]
                kind, number, _, body = unpacker.unpack()
                assert (kind, len(body)) == (frames.STREAM_ITEM, SIZE)
                numbers.append(number)
        assert numbers == list(range(COUNT))
        assert received == b""
        link.abort("the end of the test")
        far.close()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


@pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_what_a_peer_gets_that_has_not_answered_yet_goes_in_one_write_a_turn(factory):
    async def story():
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        heard = asyncio.Event()

        class Answers(Nobody):
            def on_frame(self, frame):
                heard.set()

        link = await attach(near, Answers(), BusLimits(), Turn())

        def numbers():
            """Of the frames that lie at the other end now."""
            try:
                data = far.recv(65_536)
            except BlockingIOError:
                return []
            found = []
            while data:
                size = int.from_bytes(data[:4], "little")
                found.append(msgpack.unpackb(data[4 : 4 + size])[1])
                data = data[4 + size :]
            return found

        def item(number):
            link.send((frames.STREAM_ITEM, number, (), b"x"))

        item(1)
        assert numbers() == [1], "nothing is under way: it leaves at once"
        for number in (2, 3, 4):
            item(number)
        assert numbers() == []
        await asyncio.sleep(0.01)
        assert numbers() == [2, 3, 4]
        frame = msgpack.packb((frames.STREAM_END, 1, None))
        far.send(len(frame).to_bytes(4, "little") + frame)
        await asyncio.wait_for(heard.wait(), 10)
        item(5)
        assert numbers() == [5], "it has spoken since"
        item(6)
        link.abort("the end of the test")
        far.close()
        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


def test_calls_and_answers_that_are_written_are_followed_by_something_and_nothing_else_is(monkeypatch):
    told = []
    monkeypatch.setattr(BusyPoll, "sent", lambda _poll, what, _loop: told.append(what))

    async def story():
        near, far = socket.socketpair()
        near.setblocking(False)
        link = await attach(near, Nobody(), BusLimits(), Turn())
        link.send((frames.RESULT, 1, 0, (), b"x"))
        assert told == [AFTER_ANSWER]
        for number in (2, 3):
            link.send((frames.CALL, number, 1, 1, 0, 0, 0, None, None, (), b"x"))
        assert told == [AFTER_ANSWER], "they wait for the end of the turn"
        await asyncio.sleep(0.01)
        assert told == [AFTER_ANSWER, AFTER_CALL], "two calls went in one write"
        for frame in ((frames.PING, 1), (frames.ERROR, 4, "x", "", "", False, "")):
            link.send(frame)
        await asyncio.sleep(0.01)
        assert told == [AFTER_ANSWER, AFTER_CALL]
        with pytest.raises(FrameError):
            link.send((frames.CALL, 5, 1, 1, 0, 0, 0, None, None, (), bytes(BusLimits().frame_bytes)))
        link.send((frames.PING, 2))
        await asyncio.sleep(0.01)
        assert told == [AFTER_ANSWER, AFTER_CALL], "what was too long was not written"
        link.abort("the end of the test")
        far.close()
        await asyncio.sleep(0.01)

    asyncio.run(story())


class Takes:
    """A peer that notes each frame by its name, and spends so much of the processor on it."""

    def __init__(self, name, order, spends_s=0.0):
        self.name = name
        self.order = order
        self.spends_s = spends_s

    def on_frame(self, frame):
        self.order.append(self.name)
        until = time.thread_time() + self.spends_s
        while time.thread_time() < until:
            pass

    def on_lost(self, reason):
        self.reason = reason


@contextlib.asynccontextmanager
async def two(turn, one, other):
    """Links of two peers, and the far end of each."""
    links, fars = [], []
    try:
        for peer in (one, other):
            near, far = socket.socketpair()
            for end in (near, far):
                end.setblocking(False)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            fars.append(far)
            links.append(await attach(near, peer, BusLimits(), turn))
        yield fars
    finally:
        for link in links:
            link.abort("the end of the test")
        for far in fars:
            far.close()
        await asyncio.sleep(0)


def a_frame(size):
    return size.to_bytes(4, "little") + b"\xc0" * size


async def noted(condition):
    while not condition():  # noqa: ASYNC110 - turns of the loop are what is measured
        await asyncio.sleep(0)


LOOPS = pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])


@LOOPS
def test_a_full_socket_is_read_once_before_everybody_else_has_a_turn(factory):
    size = 20_000  # so few frames that they take no turn's time

    async def story():
        order = []
        async with two(Turn(), Takes("flood", order), Takes("quiet", order)) as (flooding, asking):
            sent = flooding.send(a_frame(size) * 15)
            assert sent > 3 * BUFFER_BYTES
            asking.send(a_frame(1))
            await noted(lambda: "quiet" in order)
            assert order.index("quiet") <= BUFFER_BYTES // size
            await noted(lambda: len(order) > sent // (size + 4))

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())


@LOOPS
@pytest.mark.alone
def test_who_stalls_the_loop_rests_where_others_are_served_and_only_there(factory):
    async def story(*, beside):
        order = []
        async with two(Turn(), Takes("stall", order, spends_s=0.002), Takes("quiet", order)) as (stalling, asking):
            stalling.send(a_frame(LONG_READ_BYTES) * 8)
            while order.count("stall") < 8:
                if beside:
                    asking.send(a_frame(1))
                await asyncio.sleep(0)
        return order

    with asyncio.Runner(loop_factory=factory) as runner:
        alone = runner.run(story(beside=False))
        tries = ["".join(name[0] for name in runner.run(story(beside=True))) for _ in range(3)]
    assert alone == ["stall"] * 8
    # a tenth of a second lies between two stalls: hundreds of turns of somebody who asks in each. Once, at least: where
    # the machine stops the process for longer than a neighbour counts as one, nobody was there to rest for
    assert any(min(len(part) for part in shared.strip("q").split("s")[-4:-1]) > 20 for shared in tries), tries


class Writes(Takes):
    """A peer whose frames are cheap to take, and for whose receiver writing them takes so much of the processor; then
    the receiver has it instead for as long as that.
    """

    only = None
    mixed_at = 0.0

    def __init__(self, name, order, turn, writing_s, stopped_s=0.0):
        super().__init__(name, order)
        self.turn = turn
        self.writing_s = writing_s
        self.stopped_s = stopped_s

    def on_frame(self, frame):
        super().on_frame(frame)
        self.turn.waiting.append(self)

    def flush(self):
        until = time.thread_time() + self.writing_s
        while time.thread_time() < until:
            pass
        if self.stopped_s:
            time.sleep(self.stopped_s)


@LOOPS
def test_that_the_receiver_takes_the_processor_meanwhile_is_rested_from_too(factory):
    async def story():
        order, turn = [], Turn()
        async with two(turn, Writes("stall", order, turn, 0.0003, 0.0006), Takes("quiet", order)) as (stalling, asking):
            stalling.send(a_frame(40_000) * 6)
            while order.count("stall") < 2:
                asking.send(a_frame(1))
                await asyncio.sleep(0)
            began = time.monotonic()
            while order.count("stall") < 6:
                asking.send(a_frame(1))
                await asyncio.sleep(0)
        return time.monotonic() - began

    # by the processor's time alone a rest would last a seventieth of a second
    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(story()) > 4 * rest_s(0.0009) / 2


@LOOPS
@pytest.mark.alone
def test_what_is_written_at_the_end_of_a_turn_is_rested_from_too(factory):
    async def story():
        order, turn = [], Turn()
        async with two(turn, Writes("stall", order, turn, 0.0007), Takes("quiet", order)) as (stalling, asking):
            # of this size one is taken in a turn
            stalling.send(a_frame(40_000) * 6)
            while order.count("stall") < 6:
                asking.send(a_frame(1))
                await asyncio.sleep(0)
        return "".join(name[0] for name in order)

    with asyncio.Runner(loop_factory=factory) as runner:
        tries = [runner.run(story()) for _ in range(3)]
    assert any(min(len(part) for part in shared.strip("q").split("s")[-4:-1]) > 20 for shared in tries), tries


class Sends(Nobody):
    """A peer that has something for these links at each frame, and notes whether its own shares the loop then."""

    def __init__(self):
        self.links = []
        self.own = None
        self.shared = []

    def on_frame(self, frame):
        for link in self.links:
            link.send((frames.CANCEL, 1))
        self.shared.append(self.own.shares())


@pytest.mark.parametrize(
    ("to", "answers", "shares"),
    [((1,), {1: (0,)}, False), ((1,), {1: ()}, False), ((1, 2), {1: (0, 2), 2: (1,)}, True), ((1,), {1: (0, 2)}, True)],
    ids=["two that call each other", "one that only hears", "two that call each other beside it", "one that serves others"],
)
def test_a_partner_that_serves_others_is_no_reason_not_to_rest(to, answers, shares):
    """A word for each of those whom one stalls makes them no partners: they have something for each other, too."""

    async def story():
        turn, peers, links, fars = Turn(), [Sends() for _ in range(3)], [], []
        for peer in peers:
            near, far = socket.socketpair()
            near.setblocking(False)
            fars.append(far)
            peer.own = await attach(near, peer, BusLimits(), turn)
            links.append(peer.own)
        for reader, wanted in {0: to, **answers}.items():
            peers[reader].links = [links[other] for other in wanted]
        for turns in range(1, 4):
            for reader in (*answers, 0):
                fars[reader].send(a_frame(1))
                await asyncio.wait_for(noted(lambda peer=peers[reader], turns=turns: len(peer.shared) == turns), 10)
        for link, far in zip(links, fars, strict=True):
            link.abort("the end of the test")
            far.close()
        await asyncio.sleep(0)
        return peers[0].shared[-1]

    assert asyncio.run(story()) is shares


@pytest.mark.parametrize(
    ("then", "shares"),
    [((), False), ((2,), True)],
    ids=["two that had something for each other alone", "one that had something for a third meanwhile"],
)
def test_turns_that_have_nothing_for_anybody_yet_belong_to_the_two_that_call_each_other(monkeypatch, then, shares):
    """Of a value in pieces nobody knows whose it is before it is whole, however long that takes."""
    now = [100.0]
    monkeypatch.setattr("core_runtime.drivers.turns.time.monotonic", lambda: now[0])
    turn, links = Turn(), [Link() for _ in range(3)]

    def read(reader, *receivers):
        turn.seen[links[reader]] = now[0]
        turn.waiting = [links[other] for other in receivers]
        turn.end(links[reader])

    read(0, 1)
    read(1, 0)
    now[0] += 10 * SHARED_FOR_S
    for third in then:
        read(1, third)
    read(1, 0)
    read(0)
    assert turn.others(links[0], Partners()) is shares


class Link:
    """What a turn knows of one."""

    only = None
    mixed_at = 0.0

    def flush(self):
        pass


@pytest.mark.parametrize("shares", [True, False])
def test_who_has_the_loop_carry_a_long_value_is_read_later_where_others_are_served(shares):
    rests_s = 0.2

    async def story():
        order, turn, held = [], Turn(), []

        class Carried(Takes):
            def on_frame(self, frame):
                super().on_frame(frame)
                if len(order) == 1 + shares:
                    held[0].rest_for(rests_s)

        (near, far), (others_near, others_far) = socket.socketpair(), socket.socketpair()
        for end in (near, far, others_near, others_far):
            end.setblocking(False)
        held.append(await attach(near, Carried("one", order), BusLimits(), turn))
        held.append(await attach(others_near, Takes("other", order), BusLimits(), turn))
        if shares:
            others_far.send(a_frame(1))
            await noted(lambda: order)
        began = time.monotonic()
        far.send(a_frame(1) * 3)
        await noted(lambda: order.count("one") == 3)
        assert (time.monotonic() - began >= rests_s) is shares
        for link in held:
            link.abort("the end of the test")
        far.close()
        others_far.close()
        await asyncio.sleep(0)

    asyncio.run(story())


def test_the_rest_for_a_long_value_is_not_hidden_by_the_short_one_of_its_turn():
    """The answer to a call comes while its caller rests from the call."""

    async def story():
        order, turn, loop = [], Turn(), asyncio.get_running_loop()

        class Slow(Takes):
            def on_frame(self, frame):
                super().on_frame(frame)
                until = time.thread_time() + 2 * SHARED_TURN_S
                while time.thread_time() < until:
                    pass

        (near, far), (others_near, others_far) = socket.socketpair(), socket.socketpair()
        for end in (near, far, others_near, others_far):
            end.setblocking(False)
        link = await attach(near, Slow("one", order), BusLimits(), turn)
        other = await attach(others_near, Takes("other", order), BusLimits(), turn)
        others_far.send(a_frame(1))
        await noted(lambda: order)
        far.send(a_frame(1) * 4)
        await noted(lambda: link.unread)
        came, began = order.count("one"), loop.time()
        assert came < 4
        for _ in range(2):
            link.rest_for(0.1)
        await noted(lambda: order.count("one") > came)
        assert loop.time() - began >= 0.19, "the rests of both values"
        for one in (link, other):
            one.abort("the end of the test")
        far.close()
        others_far.close()
        await asyncio.sleep(0)

    asyncio.run(story())


def test_a_value_that_is_carried_rests_by_its_size_and_not_for_ever():
    assert carried_rest_s(1_000_000) == pytest.approx(0.1)
    assert carried_rest_s(0) == 0
    assert carried_rest_s(1 << 40) == MAX_REST_S
