"""The host's end of a connection: whichever way the bytes take to the kernel, they arrive whole and in order."""

import asyncio
import socket

import msgpack
import pytest
import uvloop

from core_runtime.drivers.link import Turn, attach
from core_runtime.rules import frames
from core_runtime.rules.frames import BusLimits

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
        assert link.bytes_out == sum(4 + len(msgpack.packb((frames.STREAM_ITEM, n, (), b"x" * SIZE))) for n in numbers)
        link.abort("the end of the test")
        far.close()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(story())
