"""What a container is attached to: the bus among other output, read when its link has a turn and no faster."""

import asyncio
import contextlib
import random
import socket
import struct
import time
from types import SimpleNamespace

import msgpack
import pytest
import uvloop

from core_runtime.drivers.docker_stdio import BUFFER_BYTES, HEAD_BYTES, NARROW_BYTES, STDOUT, Attached
from core_runtime.drivers.link import attach
from core_runtime.drivers.turns import Turn
from core_runtime.rules import frames
from core_runtime.rules.frames import BusLimits

STDERR = 2
LOOPS = pytest.mark.parametrize("factory", [uvloop.new_event_loop, asyncio.new_event_loop])


def piece(data, kind=STDOUT):
    return struct.pack(">BxxxL", kind, len(data)) + data


def a_frame(number, size=1):
    data = number.to_bytes(4, "big") + b"x" * size
    return len(data).to_bytes(4, "little") + data


class Library(asyncio.Protocol):
    """The client library's, which connected."""

    lost = False

    def data_received(self, data):
        raise AssertionError("it is not asked any more")

    def connection_lost(self, exc):
        self.lost = True


class Counts:
    """A peer that notes the numbers of its frames."""

    def __init__(self, spends_s=0.0):
        self.numbers = []
        self.reason = ""
        self.room = asyncio.Event()
        self.spends_s = spends_s

    def on_frame(self, frame):
        self.numbers.append(int.from_bytes(frame[:4], "big"))
        until = time.thread_time() + self.spends_s
        while time.thread_time() < until:
            pass

    def on_lost(self, reason):
        self.reason = reason

    def on_long(self, frame):
        return False

    def on_room(self):
        self.room.set()


class World:
    """An attached connection, and the engine's end of it."""

    def __init__(self, far, transport, library, *, bus):
        self.far, self.transport, self.library = far, transport, library
        self.outside = b""
        stream = SimpleNamespace(_resp=SimpleNamespace(connection=SimpleNamespace(transport=transport, protocol=library)))
        self.attached = Attached(stream, self.wrote, bus=bus)

    def wrote(self, data):
        self.outside += data

    async def send(self, data):
        await asyncio.get_running_loop().sock_sendall(self.far, data)

    def flood(self, data):
        """As much of it as the kernel takes at once; how many bytes that were."""
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += self.far.send(data[sent % len(data) :])
        return sent

    async def received(self, size):
        got = b""
        while len(got) < size and (data := await asyncio.get_running_loop().sock_recv(self.far, 65_536)):
            got += data
        return got


@contextlib.asynccontextmanager
async def engine(*, bus=True):
    near, far = socket.socketpair()
    for end in (near, far):
        end.setblocking(False)
    transport, library = await asyncio.get_running_loop().create_connection(Library, sock=near)
    world = World(far, transport, library, bus=bus)
    try:
        yield world
    finally:
        world.attached.close()
        await asyncio.wait_for(world.attached.ended, 10)
        assert world.library.lost, "the library keeps count of its connections"
        far.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - turns of the loop are what is waited for
            await asyncio.sleep(0)


def run(factory, story):
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(story(), 30))


@LOOPS
@pytest.mark.parametrize("seed", range(4))
def test_the_bus_arrives_whole_and_in_order_whatever_it_is_cut_into(factory, seed):
    made = random.Random(seed)
    bus = b"".join(a_frame(number, made.choice((1, 50, 3000, 90_000))) for number in range(200))
    other, sent, pieces = b"", 0, []
    while sent < len(bus):
        size = made.choice((0, 1, 3, 9, 700, 5000, 70_000))
        pieces.append(piece(bus[sent : sent + size]))
        sent += size
        if made.random() < 0.3:
            line = made.randbytes(made.choice((1, 80, 400)))
            other += line
            pieces.append(piece(line, STDERR))
    stream = b"".join(pieces)

    async def story():
        async with engine() as world:
            peer = Counts()
            link = await attach(world.attached, peer, BusLimits(), Turn())
            at = 0
            while at < len(stream):
                size = made.choice((1, 5, 8, 13, 1000, 30_000, 200_000))
                await world.send(stream[at : at + size])
                at += size
                for _ in range(made.choice((0, 3))):  # so that it is often read as it was cut
                    await asyncio.sleep(0)
            await until(lambda: len(peer.numbers) == 200 and len(world.outside) == len(other))
            assert peer.numbers == list(range(200))
            assert world.outside == other
            assert link.bytes_in == len(bus)

    run(factory, story)


@LOOPS
def test_a_head_that_comes_byte_by_byte(factory):
    async def story():
        async with engine() as world:
            peer = Counts()
            await attach(world.attached, peer, BusLimits(), Turn())
            attached, took = world.attached, []
            parted = attached._parted
            attached._parted = lambda view, end: took.append(end) or parted(view, end)
            stream = piece(b"", STDERR) + piece(a_frame(7, 300)) + piece(b"aside", STDERR) + piece(a_frame(8))
            for number in range(len(stream)):
                await world.send(stream[number : number + 1])
                await until(lambda sent=number + 1: sum(took) == sent)
            assert peer.numbers == [7, 8]
            assert world.outside == b"aside"

    run(factory, story)


@LOOPS
def test_what_came_before_the_bus_was_taken_is_its_beginning(factory):
    async def story():
        async with engine() as world:
            await world.send(piece(b"first words", STDERR) + piece(a_frame(0) + a_frame(1)[:3]))
            await until(lambda: world.outside == b"first words")
            await world.send(piece(a_frame(1)[3:] + a_frame(2)))
            peer = Counts()
            await attach(world.attached, peer, BusLimits(), Turn())
            await until(lambda: peer.numbers == [0, 1, 2])
            with pytest.raises(RuntimeError, match="taken before"):
                await attach(world.attached, Counts(), BusLimits(), Turn())

    run(factory, story)


@LOOPS
def test_nothing_more_than_one_read_is_taken_in_before_the_bus_is_taken(factory):
    async def story():
        async with engine() as world:
            frame = a_frame(0, 1000)
            sent = world.flood(piece(frame))
            for _ in range(50):
                await asyncio.sleep(0)
            assert len(world.attached._early) <= BUFFER_BYTES
            whole, peer = sent // (len(frame) + HEAD_BYTES), Counts()
            await attach(world.attached, peer, BusLimits(), Turn())
            await until(lambda: len(peer.numbers) == whole)

    run(factory, story)


@LOOPS
def test_a_link_that_rests_is_not_read_for(factory):
    async def story():
        async with engine() as world:
            peer = Counts()
            link = await attach(world.attached, peer, BusLimits(), Turn())
            link._transport.pause_reading()
            sent = world.flood(piece(a_frame(0, 1000)))
            for _ in range(50):
                await asyncio.sleep(0)
            assert world.flood(piece(a_frame(0, 1000))) == 0, "the engine waits"
            assert (link.bytes_in, peer.numbers) == (0, [])
            link._transport.resume_reading()
            await until(lambda: len(peer.numbers) == sent // (1000 + 4 + 4 + HEAD_BYTES))

    run(factory, story)


@LOOPS
@pytest.mark.parametrize("size", [1, 20_000])
def test_a_flood_is_read_once_before_everybody_else_has_a_turn(factory, size):
    async def story():
        async with engine() as world, engine() as beside:
            order = []

            class Notes(Counts):
                def __init__(self, name):
                    super().__init__()
                    self.name = name

                def on_frame(self, frame):
                    order.append(self.name)

            turn = Turn()
            await attach(world.attached, Notes("flood"), BusLimits(), turn)
            await attach(beside.attached, Notes("quiet"), BusLimits(), turn)
            world.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            sent = world.flood(piece(a_frame(0, size)))
            await beside.send(piece(a_frame(0)))
            await until(lambda: "quiet" in order)
            assert order.index("quiet") <= BUFFER_BYTES // (size + 8)
            await until(lambda: order.count("flood") == sent // (size + 8 + HEAD_BYTES))

    run(factory, story)


@LOOPS
def test_taking_heads_out_is_a_part_of_the_links_turn(factory):
    spends_s = 0.002

    async def story():
        async with engine() as world:
            link = await attach(world.attached, Counts(), BusLimits(), Turn())
            attached, spent = world.attached, []
            parted, rest = attached._parted, link._rest

            def slowly(view, end):
                until = time.thread_time() + spends_s
                while time.thread_time() < until:
                    pass
                return parted(view, end)

            def noted(began, began_at):
                spent.append(time.thread_time() - began)
                rest(began, began_at)

            attached._parted, link._rest = slowly, noted
            await world.send(piece((1 << 19).to_bytes(4, "little") + b"\x00" * 4000))
            await until(lambda: spent)
            assert spent[0] >= spends_s, "nothing but the beginning of one frame, of which the link makes nothing yet"

    run(factory, story)


def test_after_a_read_of_many_pieces_less_is_read():
    async def story():
        async with engine() as world:
            await attach(world.attached, Counts(), BusLimits(), Turn())
            assert len(world.attached.get_buffer(-1)) == BUFFER_BYTES
            await world.send(piece(b"\x01") + piece(b"\x00") * 500)
            await until(lambda: len(world.attached._given) < BUFFER_BYTES or world.attached._narrow)
            assert len(world.attached.get_buffer(-1)) <= NARROW_BYTES

    run(uvloop.new_event_loop, story)


@LOOPS
def test_a_flood_outside_the_bus_is_drained_in_turns_of_one_read(factory):
    async def story():
        async with engine(bus=False) as world:
            looks = []
            wrote = world.attached._outside

            def look(data):
                looks.append(len(data))
                wrote(data)

            world.attached._outside = look
            sent = world.flood(piece(b"y" * 4000, STDERR))
            began = asyncio.get_running_loop().time()
            whole = sent // (4000 + HEAD_BYTES) * 4000
            await until(lambda: len(world.outside) >= whole)
            took_s = asyncio.get_running_loop().time() - began
            assert max(looks) <= BUFFER_BYTES
            assert took_s > 0.002 * (len([size for size in looks if size > 2048]) - 1), "it rests after each"

    run(factory, story)


@LOOPS
def test_what_the_link_sends_reaches_the_engine_in_order_while_that_does_not_read(factory):
    async def story():
        async with engine() as world:
            peer = Counts()
            limits = BusLimits()
            link = await attach(world.attached, peer, limits, Turn())
            number = 0
            while not link.congested:
                link.send((frames.STREAM_ITEM, number, (), b"x" * 20_000))
                number += 1
                await asyncio.sleep(0)
            assert world.transport.get_write_buffer_size() < limits.backlog_bytes + 100_000
            unpacker, got, numbers = msgpack.Unpacker(), b"", []
            while len(numbers) < number:
                got += await world.received(1)
                while len(got) >= 4 and len(got) - 4 >= (size := int.from_bytes(got[:4], "little")):
                    unpacker.feed(got[4 : 4 + size])
                    got = got[4 + size :]
                    numbers.append(unpacker.unpack()[1])
            assert numbers == list(range(number))
            await asyncio.wait_for(peer.room.wait(), 10)

    run(factory, story)


@LOOPS
def test_a_container_that_never_reads_is_cut_off_and_nothing_is_kept_for_it(factory):
    async def story():
        async with engine() as world:
            peer = Counts()
            limits = BusLimits()
            link = await attach(world.attached, peer, limits, Turn())
            sent = 0
            while not link.closed:
                link.send((frames.STREAM_ITEM, 0, (), b"x" * 60_000))
                sent += 60_000
                assert sent < 2 * limits.backlog_hard_bytes
                await asyncio.sleep(0)
            await until(lambda: "backlog" in peer.reason)
            await asyncio.wait_for(world.attached.ended, 10)

    run(factory, story)


@LOOPS
def test_the_end_of_the_container_ends_the_link(factory):
    async def story():
        async with engine() as world:
            peer = Counts()
            await attach(world.attached, peer, BusLimits(), Turn())
            await world.send(piece(a_frame(0)) + piece(b"last words", STDERR))
            world.far.shutdown(socket.SHUT_WR)
            await until(lambda: peer.reason)
            assert peer.numbers == [0]
            assert world.outside == b"last words"
            assert "closed" in peer.reason
            await asyncio.wait_for(world.attached.ended, 10)

    run(factory, story)


@LOOPS
def test_a_container_that_ended_before_its_bus_was_taken_is_heard_all_the_same(factory):
    async def story():
        async with engine() as world:
            await world.send(piece(a_frame(0)))
            await until(lambda: world.attached._early)
            world.attached.close()
            await world.attached.ended

            class Answers(Counts):
                def on_frame(self, frame):
                    super().on_frame(frame)
                    link.send((frames.STREAM_END, 0, None))  # nobody gets it: the descriptor may be another's by now

            peer = Answers()
            link = await attach(world.attached, peer, BusLimits(), Turn())
            assert link._fd < 0
            await until(lambda: peer.reason)
            assert peer.numbers == [0]

    run(factory, story)


@LOOPS
def test_a_link_that_ends_is_the_end_of_the_containers_input_and_its_output_is_drained(factory):
    async def story():
        async with engine() as world:
            peer = Counts()
            link = await attach(world.attached, peer, BusLimits(), Turn())
            link._transport.pause_reading()
            link.abort("the end of the test")
            await until(lambda: peer.reason)
            assert await world.received(1) == b"", "the end of its input"
            await world.send(piece(b"z" * 500_000) + piece(b"last words", STDERR))
            await until(lambda: world.outside == b"last words")
            assert peer.numbers == []

    run(factory, story)
